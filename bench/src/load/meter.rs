//! What is read at both ends of the measured window.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter};

/// Reads the server's and its own CPU clocks, and counts the server's system calls if asked to.
pub struct Meter {
    server: Option<(Pid, ClockId)>,
    syscalls: Vec<Counter>,
}

/// One reading.
pub struct Reading {
    pub at: Instant,
    /// User and system time of the whole server process, in the kernel's own resolution.
    pub server_cpu: Option<Duration>,
    pub load_cpu: Duration,
    /// Time that all processes together spent on all cores (resolution: a clock tick).
    pub machine_cpu: Option<Duration>,
    pub server_resident_bytes: Option<u64>,
    pub server_private_bytes: Option<u64>,
    pub syscalls: Option<u64>,
}

impl Meter {
    /// `count_syscalls` puts a counter on every thread that the server has now.
    ///
    /// # Errors
    /// When the process does not exist, or counting is not allowed.
    pub fn new(server: Option<u32>, count_syscalls: bool) -> anyhow::Result<Meter> {
        let server = server
            .map(|id| {
                let pid = Pid::from_raw(id as i32);
                let clock = clock_getcpuclockid(pid)
                    .with_context(|| format!("no CPU clock of process {id}"))?;
                anyhow::Ok((pid, clock))
            })
            .transpose()?;
        let syscalls = match server {
            Some((pid, _)) if count_syscalls => {
                count_of_all_threads(pid).context("cannot count system calls")?
            }
            _ => Vec::new(),
        };
        Ok(Meter { server, syscalls })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When a clock cannot be read, mostly because the server has ended.
    pub fn read(&mut self) -> anyhow::Result<Reading> {
        let own = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
        let mut server_cpu = None;
        let mut memory = (None, None);
        if let Some((pid, clock)) = self.server {
            server_cpu = Some(clock_gettime(clock).context("the server has ended")?.into());
            memory = resident_bytes(pid);
        }
        let mut syscalls = (!self.syscalls.is_empty()).then_some(0);
        for counter in &mut self.syscalls {
            *syscalls.get_or_insert(0) += counter.read()?;
        }
        Ok(Reading {
            at: Instant::now(),
            server_cpu,
            load_cpu: own,
            machine_cpu: machine_cpu(),
            server_resident_bytes: memory.0,
            server_private_bytes: memory.1,
            syscalls,
        })
    }
}

fn count_of_all_threads(pid: Pid) -> anyhow::Result<Vec<Counter>> {
    let mut counters = Vec::new();
    let id = syscall_tracepoint()?;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
        let event = Tracepoint::with_id(id);
        let mut counter =
            Builder::new(event).observe_pid(thread).any_cpu().include_kernel().build()?;
        counter.enable()?;
        counters.push(counter);
    }
    Ok(counters)
}

/// The number of the tracepoint that every system call passes. Where tracefs is mounted differs.
fn syscall_tracepoint() -> anyhow::Result<u64> {
    let text = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .iter()
        .find_map(|root| {
            fs::read_to_string(format!("{root}/events/raw_syscalls/sys_enter/id")).ok()
        })
        .context("tracefs is not mounted, or may not be read")?;
    Ok(text.trim().parse()?)
}

/// Resident memory, and the part of it that no file backs.
fn resident_bytes(pid: Pid) -> (Option<u64>, Option<u64>) {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return (None, None);
    };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes * 1024)
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// User, nice and system time of all cores since the machine started.
fn machine_cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut fields = text.lines().next()?.split_whitespace().skip(1);
    let mut ticks = 0_u64;
    for _ in 0..3 {
        ticks += fields.next()?.parse::<u64>().ok()?;
    }
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
