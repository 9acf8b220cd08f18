//! Another process seen from outside: the processor time and the memory of the server under load.
//!
//! Linux only (proc(5)); elsewhere nothing is known. Read a few times a second, never per message.

use std::net::SocketAddr;
use std::time::Duration;

/// A process that may be looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
}

/// What it had used when it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) processor_time: Duration,
    pub(crate) resident_bytes: u64,
}

impl Process {
    /// The process that listens there, if it is on this machine and may be seen.
    pub(crate) fn listening_on(address: SocketAddr) -> Option<Self> {
        if !address.ip().is_loopback() || !cfg!(target_os = "linux") {
            return None;
        }
        let found =
            listeners::get_process_by_port(address.port(), listeners::Protocol::TCP).ok()?;
        Some(Self { pid: found.pid })
    }

    /// What it has used so far; `None` if it is gone or may not be looked at.
    pub(crate) fn usage(self) -> Option<Usage> {
        Some(Usage {
            processor_time: self.processor_time()?,
            resident_bytes: self.resident_bytes()?,
        })
    }

    /// The sum over all threads: the first number of each `schedstat` is nanoseconds on a processor.
    fn processor_time(self) -> Option<Duration> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let nanos = threads.flatten().filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Some(Duration::from_nanos(nanos.sum()))
    }

    fn resident_bytes(self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let this = Process { pid: std::process::id() };
        let before = this.usage().unwrap();
        let block = vec![1_u8; 32 << 20];
        let mut sum = 0_u64;
        // At least once: other tests of this process use its processor time as well.
        loop {
            sum += block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let enough = before.processor_time + Duration::from_millis(20);
            if this.processor_time().unwrap() >= enough {
                break;
            }
        }
        // Not against what it was before: other tests of this process give memory back meanwhile.
        let after = this.usage().unwrap();
        assert!(sum > 0 && after.resident_bytes >= block.len() as u64, "{after:?}");
        assert!(Process { pid: u32::MAX }.usage().is_none());
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Process::listening_on(listener.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(Process::listening_on("192.0.2.1:80".parse().unwrap()).is_none());
    }
}
