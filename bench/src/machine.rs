//! The machine under the measurement: pinning, the distance of two cores, the line that names it.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Pins the calling thread, and the threads that it will start, to one core.
///
/// # Errors
/// When the core does not exist or may not be used.
pub fn pin_to(core: usize) -> anyhow::Result<()> {
    let set = cpu_set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot pin to core {core}; may this process use it?"))
}

/// The set of that one core.
///
/// # Errors
/// When the number is larger than any core's.
pub fn cpu_set(core: usize) -> anyhow::Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("there is no core {core}"))?;
    Ok(set)
}

/// Raises the soft limit on descriptors to the hard one; children inherit it.
///
/// # Errors
/// When the limit cannot be read or set.
pub fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the descriptor limit")
}

const BATCHES: usize = 15;
const ROUND_TRIPS: u32 = 4000;

/// The time that a cache line takes from one core to the other and back, in nanoseconds: the
/// median of several batches, so that a preempted batch does not count.
///
/// # Errors
/// When one of the cores cannot be used.
pub fn core_distance_ns(near: usize, far: usize) -> anyhow::Result<f64> {
    /// Alone on its cache line, and away from the neighbour that a prefetch would bring.
    #[repr(align(128))]
    struct Line(AtomicU32);
    let line = Line(AtomicU32::new(0));
    let hand_over = |core: usize, parity: u32| -> anyhow::Result<Vec<f64>> {
        let pinned = pin_to(core);
        let mut nanoseconds = Vec::with_capacity(BATCHES);
        let mut turn = parity;
        for _ in 0..BATCHES {
            let start = Instant::now();
            for _ in 0..ROUND_TRIPS {
                // No pause instruction: it takes longer than the cache line.
                while line.0.load(Ordering::Acquire) != turn {}
                line.0.store(turn + 1, Ordering::Release);
                turn += 2;
            }
            nanoseconds.push(start.elapsed().as_nanos() as f64 / f64::from(ROUND_TRIPS));
        }
        // Only now: the other thread would wait for ever for one that left early.
        pinned.map(|()| nanoseconds)
    };
    let mut batches = thread::scope(|scope| {
        let other = scope.spawn(|| hand_over(far, 1));
        let own = scope.spawn(|| hand_over(near, 0));
        let other = other.join().expect("the thread does not panic");
        let own = own.join().expect("the thread does not panic");
        other.and(own)
    })?;
    batches.sort_by(f64::total_cmp);
    Ok(batches[batches.len() / 2])
}

/// What a table of figures needs beside it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    server_core: usize,
    load_core: usize,
    congestion_control: String,
    load_average: String,
}

impl Machine {
    /// Reads it from the system.
    ///
    /// # Errors
    /// When the system does not tell its name.
    pub fn read(server_core: usize, load_core: usize) -> anyhow::Result<Machine> {
        let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        let cpu = fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| {
                let line = text.lines().find(|line| line.starts_with("model name"))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            })
            .unwrap_or_else(|| "unknown processor".to_owned());
        let cores = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)?;
        Ok(Machine {
            kernel,
            cpu,
            cores: cores.unwrap_or(0) as usize,
            server_core,
            load_core,
            congestion_control: read_word("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_average: read_word("/proc/loadavg"),
        })
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "machine: Linux {}, {}, {} cores; server on core {}, load on core {}; loopback, \
             congestion control {}; load average at the start {}",
            self.kernel,
            self.cpu,
            self.cores,
            self.server_core,
            self.load_core,
            self.congestion_control,
            self.load_average,
        )
    }
}

fn read_word(path: &str) -> String {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.split_whitespace().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}
