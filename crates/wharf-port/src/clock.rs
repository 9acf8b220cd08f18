//! The clock of the ports on an operating system: one start for the whole process, so that times
//! of different ports can be compared.

use std::{sync::OnceLock, time::Instant};

use crate::contract::Time;

/// The time since the first use of the clock in this process.
#[inline]
pub(crate) fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    let nanos = START.get_or_init(Instant::now).elapsed().as_nanos();
    Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_is_one_for_all_threads_and_never_goes_back() {
        let before = super::now();
        let between = std::thread::spawn(super::now).join().unwrap();
        assert!(before <= between && between <= super::now());
    }
}
