//! The limit on open descriptors, which is also a limit on sessions.

use std::io;

/// How many descriptors this process may have open; `None` stands for "no limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorLimit {
    /// What counts now.
    pub(crate) soft: Option<u64>,
    /// Up to which the process may raise the soft limit by itself.
    pub(crate) hard: Option<u64>,
}

/// Descriptors that a server needs besides its sessions: listeners, rings, files, a reserve.
pub(crate) const RESERVED: u64 = 64;

impl DescriptorLimit {
    /// The sessions that fit once the soft limit is raised as far as it goes.
    pub(crate) fn sessions(self) -> Option<u64> {
        self.hard.map(|hard| hard.saturating_sub(RESERVED))
    }
}

/// Reads the limit; `None` where the system has none per process.
#[cfg(unix)]
pub(crate) fn limit() -> Option<DescriptorLimit> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some(DescriptorLimit { soft: limit.current, hard: limit.maximum })
}

/// Reads the limit; `None` where the system has none per process.
#[cfg(not(unix))]
pub(crate) fn limit() -> Option<DescriptorLimit> {
    None
}

/// Raises the soft limit far enough for this many sessions, or as far as the hard limit lets it,
/// and says what counts then.
///
/// The soft limit is commonly 1,024 only for programs that use `select`, which breaks above it.
///
/// # Errors
/// If the system refuses a value within the hard limit, as macOS does above its own maximum.
#[cfg(unix)]
pub(crate) fn raise(sessions: u64) -> io::Result<Option<DescriptorLimit>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let wanted = raised(before.current, before.maximum, sessions);
    if wanted != before.current {
        let limit = Rlimit { current: wanted, maximum: before.maximum };
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit())
}

/// Raises the soft limit; here the system has none per process.
#[cfg(not(unix))]
pub(crate) fn raise(_sessions: u64) -> io::Result<Option<DescriptorLimit>> {
    Ok(None)
}

#[cfg(unix)]
fn raised(soft: Option<u64>, hard: Option<u64>, sessions: u64) -> Option<u64> {
    let wanted = sessions.saturating_add(RESERVED);
    let reachable = hard.map_or(wanted, |hard| wanted.min(hard));
    soft.map(|soft| soft.max(reachable))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_but_never_lowered_and_never_above_the_hard_one() {
        for (soft, hard, sessions, expected) in [
            (Some(1_024), Some(524_288), 50_000, Some(50_064)),
            (Some(1_024), Some(4_096), 50_000, Some(4_096)),
            (Some(100_000), Some(524_288), 50_000, Some(100_000)),
            (Some(1_024), None, 50_000, Some(50_064)),
            (None, None, 50_000, None),
        ] {
            assert_eq!(raised(soft, hard, sessions), expected, "{soft:?} {hard:?}");
        }
    }

    #[test]
    fn this_process_has_a_limit_that_is_kept_when_it_is_enough() {
        let before = limit().unwrap();
        assert_eq!(raise(0).unwrap(), Some(before));
    }
}
