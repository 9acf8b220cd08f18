//! Reads what the doctor needs to know of this machine and this process.

use super::ports::Port;
use crate::descriptors::{self, DescriptorLimit};
use crate::network::EngineProbe;
use crate::settings::Workers;

/// What was found. `None`: this system has no such thing or does not show it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) operating_system: String,
    pub(crate) kernel_release: Option<String>,
    pub(crate) cores: usize,
    pub(crate) engines: Vec<EngineProbe>,
    /// What a server of the settings would listen on.
    pub(crate) ports: Vec<Port>,
    pub(crate) descriptors: Option<DescriptorLimit>,
    /// Bytes that this process may lock in memory.
    pub(crate) memlock: Option<MemlockLimit>,
    /// The system's cap on a listening socket's backlog.
    pub(crate) somaxconn: Option<u64>,
    /// 0: everyone may use io_uring, 1: some may, 2: nobody may.
    pub(crate) io_uring_disabled: Option<u64>,
    /// 0: no filter on system calls, 1: strict, 2: a filter.
    pub(crate) seccomp: Option<u64>,
}

/// A limit on locked memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemlockLimit {
    /// `None`: no limit.
    pub(crate) bytes: Option<u64>,
}

impl Facts {
    /// Reads the machine.
    pub(crate) fn gather(engines: Vec<EngineProbe>, ports: Vec<Port>) -> Self {
        Self {
            operating_system: std::env::consts::OS.to_owned(),
            kernel_release: kernel_release(),
            cores: Workers::Auto.count(),
            engines,
            ports,
            descriptors: descriptors::limit(),
            memlock: memlock(),
            somaxconn: number_in("/proc/sys/net/core/somaxconn"),
            io_uring_disabled: number_in("/proc/sys/kernel/io_uring_disabled"),
            seccomp: seccomp_mode(),
        }
    }

    /// The system and its release in one line.
    pub(crate) fn system(&self) -> String {
        let release = self.kernel_release.as_deref().unwrap_or("");
        format!("{} {release}", self.operating_system).trim_end().to_owned()
    }
}

#[cfg(unix)]
fn kernel_release() -> Option<String> {
    Some(rustix::system::uname().release().to_string_lossy().into_owned())
}

#[cfg(not(unix))]
fn kernel_release() -> Option<String> {
    None
}

#[cfg(target_os = "linux")]
fn memlock() -> Option<MemlockLimit> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    Some(MemlockLimit { bytes: limit.current })
}

#[cfg(not(target_os = "linux"))]
fn memlock() -> Option<MemlockLimit> {
    None
}

/// A sysctl; systems other than Linux have no such file.
fn number_in(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn seccomp_mode() -> Option<u64> {
    seccomp_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The field `Seccomp` of `/proc/PID/status` (proc_pid_status(5)).
fn seccomp_in(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seccomp_mode_is_found_among_its_neighbours() {
        assert_eq!(seccomp_in("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"), Some(2));
        assert_eq!(seccomp_in("Seccomp_filters:\t1\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_shows_all_of_it() {
        let facts = Facts::gather(Vec::new(), Vec::new());
        assert!(facts.system().starts_with("linux "), "{facts:?}");
        assert!(facts.cores >= 1);
        assert!(facts.descriptors.is_some() && facts.memlock.is_some(), "{facts:?}");
        assert!(facts.somaxconn.is_some(), "{facts:?}");
    }
}
