//! How many sessions each address has, and how fast it makes them.
//!
//! An address is known only when its connection has been accepted, so that one above its limit is
//! closed as it is accepted. One table for all workers: an address counts wherever its connections
//! land. It is locked for each connection that comes or goes, never for a message.

use std::{
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hasher},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use wharf_port::Time;

use crate::limits::Limits;

/// The addresses that have sessions, or have had one lately.
#[derive(Debug)]
pub(crate) struct Addresses(Mutex<Table>);

#[derive(Debug)]
struct Table {
    by_address: HashMap<Key, Entry, Seed>,
    /// When there are so many, those of no consequence are thrown away.
    clean_at: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    sessions: u32,
    /// A token bucket: by when all of its connections would have come at its rate.
    accepts_due: Time,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    TooMany,
    TooFast,
}

/// A listener's number and a network: an IPv4 address, or the /64 of an IPv6 address, which is what
/// one customer has.
type Key = (u16, u128);

impl Addresses {
    /// `seed` keys the hash: which addresses share a bucket is not for peers to know.
    pub(crate) fn new(seed: u64) -> Self {
        let by_address = HashMap::with_hasher(Seed(seed));
        Self(Mutex::new(Table { by_address, clean_at: CLEAN_AT_LEAST }))
    }

    /// Counts one more session of this address on this listener, if it may have one.
    pub(crate) fn admit(
        &self,
        listener: u16,
        peer: SocketAddr,
        limits: &Limits,
        now: Time,
    ) -> Result<(), Refusal> {
        let Some(key) = key(listener, peer, limits) else { return Ok(()) };
        let mut table = self.table();
        if table.by_address.len() >= table.clean_at {
            table.by_address.retain(|_, entry| entry.sessions > 0 || entry.accepts_due > now);
            table.clean_at = CLEAN_AT_LEAST.max(2 * table.by_address.len());
        }
        let entry = table.by_address.entry(key).or_default();
        if limits.sessions_per_address.is_some_and(|max| entry.sessions >= max) {
            return Err(Refusal::TooMany);
        }
        if let Some(rate) = limits.accepts_per_second_per_address {
            let due = entry.accepts_due.max(now) + SECOND / rate;
            // A bucket holds what its rate allows in a second.
            if due > now + SECOND {
                return Err(Refusal::TooFast);
            }
            entry.accepts_due = due;
        }
        entry.sessions += 1;
        Ok(())
    }

    /// A session that was admitted is over.
    pub(crate) fn release(&self, listener: u16, peer: SocketAddr, limits: &Limits) {
        let Some(key) = key(listener, peer, limits) else { return };
        if let Some(entry) = self.table().by_address.get_mut(&key) {
            entry.sessions = entry.sessions.saturating_sub(1);
        }
    }

    /// Sessions that are counted; for tests.
    #[cfg(test)]
    pub(crate) fn sessions(&self) -> u64 {
        self.table().by_address.values().map(|entry| u64::from(entry.sessions)).sum()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here calls anybody else's code.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` for an address that is not counted.
fn key(listener: u16, peer: SocketAddr, limits: &Limits) -> Option<Key> {
    let counts =
        limits.sessions_per_address.is_some() || limits.accepts_per_second_per_address.is_some();
    let ip = peer.ip().to_canonical();
    if !counts || ip.is_loopback() {
        return None;
    }
    let network = match ip {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    };
    Some((listener, network))
}

/// Keys the standard library's SipHash with a seed.
#[derive(Clone, Copy, Debug)]
struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

const SECOND: Duration = Duration::from_secs(1);

const CLEAN_AT_LEAST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(sessions: Option<u32>, rate: Option<u32>) -> Limits {
        Limits {
            sessions_per_address: sessions,
            accepts_per_second_per_address: rate,
            ..Limits::default()
        }
    }

    fn peer(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 7)
    }

    #[test]
    fn each_address_has_so_many_sessions_on_each_listener() {
        let (addresses, limits) = (Addresses::new(1), limits(Some(2), None));
        let admit = |listener, ip| addresses.admit(listener, peer(ip), &limits, Time::ZERO);
        for (listener, ip, expected) in [
            (0, "10.0.0.1", Ok(())),
            (0, "::ffff:10.0.0.1", Ok(())), // the same address
            (0, "10.0.0.1", Err(Refusal::TooMany)),
            (1, "10.0.0.1", Ok(())),
            (0, "10.0.0.2", Ok(())),
            (0, "2001:db8:0:1::1", Ok(())),
            (0, "2001:db8:0:1::2", Ok(())),
            (0, "2001:db8:0:1:ffff::3", Err(Refusal::TooMany)), // the same network
            (0, "2001:db8:0:2::1", Ok(())),
        ] {
            assert_eq!(admit(listener, ip), expected, "{listener} {ip}");
        }
        addresses.release(0, peer("10.0.0.1"), &limits);
        assert_eq!(admit(0, "10.0.0.1"), Ok(()));
        assert_eq!(admit(0, "10.0.0.1"), Err(Refusal::TooMany));
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!((0..99).all(|_| admit(0, ip).is_ok()), "{ip}");
        }
    }

    /// A second's worth at once, then one at a time; a refusal costs nothing.
    #[test]
    fn each_address_makes_so_many_per_second() {
        let (addresses, limits) = (Addresses::new(1), limits(None, Some(10)));
        let admitted = |ip, millis| {
            let now = Time::ZERO + Duration::from_millis(millis);
            (0..100).filter(|_| addresses.admit(0, peer(ip), &limits, now).is_ok()).count()
        };
        assert_eq!([0, 50, 100, 150, 400].map(|at| admitted("10.0.0.1", at)), [10, 0, 1, 0, 3]);
        assert_eq!((admitted("10.0.0.2", 400), admitted("10.0.0.1", 9000)), (10, 10));
    }

    /// Addresses that come once are forgotten.
    #[test]
    fn the_table_is_as_large_as_what_it_must_know() {
        let (addresses, limits) = (Addresses::new(1), limits(Some(1), Some(1)));
        for n in 0..100_000_u32 {
            let peer = SocketAddr::new(IpAddr::V4(n.into()), 7);
            let now = Time::ZERO + SECOND * n;
            addresses.admit(0, peer, &limits, now).unwrap();
            addresses.release(0, peer, &limits);
        }
        assert!(addresses.table().by_address.len() <= CLEAN_AT_LEAST);
    }
}
