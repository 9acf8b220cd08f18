//! Outgoing sessions: when to try again.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// How a connector makes its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorOptions {
    /// How long making one connection may take (10 s).
    pub connect_timeout: Duration,
    /// What happens when a connection cannot be made or is lost (nothing).
    pub reconnect: Reconnect,
    /// The addresses that connections come from, used in turn by each worker (none: the system
    /// chooses). One address has some 28,000 ports for connections to one other address; a load
    /// generator that needs more takes several.
    pub sources: Vec<IpAddr>,
}

impl Default for ConnectorOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            reconnect: Reconnect::Never,
            sources: Vec::new(),
        }
    }
}

/// Whether a connection that failed or was lost is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// No.
    Never,
    /// After a pause that doubles with each failure in a row. Each pause is drawn between half of
    /// its length and all of it, so that clients which lost their server together do not come back
    /// together. A session that this side closed is not made again.
    Backoff {
        /// The first pause.
        first: Duration,
        /// No pause is longer.
        max: Duration,
    },
}

/// A connector on its worker.
pub(crate) struct Connector {
    pub(crate) service: u16,
    pub(crate) options: ConnectorOptions,
    /// Which of the sources is next.
    pub(crate) next_source: usize,
}

impl Connector {
    /// The address that the next connection comes from, if that matters.
    pub(crate) fn take_source(&mut self) -> Option<SocketAddr> {
        let source = *self.options.sources.get(self.next_source)?;
        self.next_source = (self.next_source + 1) % self.options.sources.len();
        Some(SocketAddr::new(source, 0))
    }
}

/// A connection that is being made, or to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) connector: u16,
    pub(crate) address: SocketAddr,
    /// Failures in a row so far.
    pub(crate) failures: u32,
}

impl Reconnect {
    /// The pause after `failures` failures in a row; `random` decides its length. `None`: no other try.
    #[must_use]
    pub fn pause(self, failures: u32, random: u64) -> Option<Duration> {
        let Reconnect::Backoff { first, max } = self else { return None };
        let doubled =
            first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let longest = doubled.min(max);
        let half = longest / 2;
        let span = u64::try_from((longest - half).as_nanos()).unwrap_or(u64::MAX).max(1);
        Some(half + Duration::from_nanos(random % span))
    }
}

/// The next number of a seeded sequence (splitmix64: Steele, Lea, Flood, 2014).
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let reconnect = Reconnect::Backoff { first, max };
        let mut state = 7;
        for (failures, longest) in [(1, 100), (2, 200), (3, 400), (7, 5000), (40, 5000)] {
            let longest = Duration::from_millis(longest);
            let pauses: Vec<_> = (0..50)
                .map(|_| reconnect.pause(failures, next_random(&mut state)).unwrap())
                .collect();
            assert!(
                pauses.iter().all(|pause| (longest / 2..longest).contains(pause)),
                "{failures}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
        assert_eq!(Reconnect::Never.pause(1, 0), None);
    }
}
