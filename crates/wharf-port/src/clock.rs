//! The clock of the ports that use a system's sockets: one start for all ports of a process.

use std::{sync::OnceLock, time::Instant};

use crate::contract::Time;

static START: OnceLock<Instant> = OnceLock::new();

/// The time now: the system's monotonic clock, counted from the first use in this process.
#[inline]
pub(crate) fn now() -> Time {
    let start = *START.get_or_init(Instant::now);
    let nanos = Instant::now().saturating_duration_since(start).as_nanos();
    Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let (first, second) = (now(), now());
        assert!(first <= second);
    }
}
