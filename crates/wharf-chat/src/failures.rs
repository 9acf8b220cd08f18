//! Failed logins by address: whoever guesses passwords is slowed down. Pure code.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Counts failed logins, and only those: a login that works costs nobody anything. Loopback is exempt,
/// where all of a machine's users share an address.
#[derive(Debug)]
pub(crate) struct Failures {
    per_minute: u32,
    by_network: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// When all is forgotten, in nanoseconds on the workers' clock.
    forgotten_at_ns: u64,
}

impl Failures {
    /// At most `per_minute` failures a minute for an address; 0 for no limit.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute, by_network: Mutex::default() }
    }

    /// Whether the address may try a password now.
    pub(crate) fn allow(&self, address: IpAddr, now_ns: u64) -> bool {
        let Some(network) = self.counted(address) else { return true };
        let by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_network.get(&network).copied().unwrap_or_default();
        count.forgotten_at_ns.saturating_sub(now_ns) + self.each_ns() <= MINUTE_NS
    }

    /// A login from the address failed.
    pub(crate) fn record(&self, address: IpAddr, now_ns: u64) {
        let Some(network) = self.counted(address) else { return };
        let mut by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        if by_network.len() >= NETWORKS_MAX && !by_network.contains_key(&network) {
            by_network.retain(|_, count| count.forgotten_at_ns > now_ns);
            // Guessed from so many networks at once, no count of single ones helps: begin anew.
            if by_network.len() >= NETWORKS_MAX {
                by_network.clear();
            }
        }
        let count = by_network.entry(network).or_default();
        count.forgotten_at_ns = count.forgotten_at_ns.max(now_ns) + self.each_ns();
    }

    /// Under which network an address is counted; `None` if it is not.
    fn counted(&self, address: IpAddr) -> Option<IpAddr> {
        let address = address.to_canonical();
        if self.per_minute == 0 || address.is_loopback() {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => address,
            // A customer gets a /64 at least, and has as many addresses as they like in it.
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & NETWORK_MASK).into()),
        })
    }

    fn each_ns(&self) -> u64 {
        MINUTE_NS / u64::from(self.per_minute)
    }
}

const MINUTE_NS: u64 = Duration::from_secs(60).as_nanos() as u64;
const NETWORK_MASK: u128 = !(u64::MAX as u128);
/// About 3 MiB.
const NETWORKS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail_until_refused(failures: &Failures, from: &str, now_s: u64) -> usize {
        let (from, now_ns) = (address(from), now_s * 1_000_000_000);
        (0..100)
            .take_while(|_| {
                let allowed = failures.allow(from, now_ns);
                if allowed {
                    failures.record(from, now_ns);
                }
                allowed
            })
            .count()
    }

    #[test]
    fn failures_are_counted_by_network_and_forgotten() {
        let failures = Failures::new(20);
        assert_eq!(fail_until_refused(&failures, "192.0.2.1", 1_000), 20);
        assert_eq!(fail_until_refused(&failures, "::ffff:192.0.2.1", 1_000), 0);
        assert_eq!(fail_until_refused(&failures, "192.0.2.2", 1_000), 20);
        assert_eq!(fail_until_refused(&failures, "192.0.2.1", 1_030), 10);
        assert_eq!(fail_until_refused(&failures, "192.0.2.1", 1_100), 20);
        assert_eq!(fail_until_refused(&failures, "2001:db8::1", 1_000), 20);
        assert_eq!(fail_until_refused(&failures, "2001:db8::ffff:1", 1_000), 0);
        assert_eq!(fail_until_refused(&failures, "2001:db8:0:1::1", 1_000), 20);
    }

    #[test]
    fn loopback_is_exempt_and_zero_is_no_limit() {
        let failures = Failures::new(20);
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(fail_until_refused(&failures, loopback, 0), 100, "{loopback}");
        }
        assert_eq!(fail_until_refused(&Failures::new(0), "192.0.2.1", 0), 100);
    }

    #[test]
    fn the_table_does_not_grow_without_bound() {
        let failures = Failures::new(1);
        for network in 0..NETWORKS_MAX as u32 + 10 {
            failures.record(IpAddr::V4((0x0a00_0000 + network).into()), 0);
        }
        assert_eq!(failures.by_network.lock().unwrap().len(), 10);
    }
}
