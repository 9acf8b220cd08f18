//! Where a server's CPU time goes, and how often it allocates: each in a short run of its own, with
//! `perf`, where the machine has it and allows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::child::Running;
use crate::compare::{EchoArgs, run_load, start_server};
use crate::contestant::Contestant;
use crate::load::LoadReport;

const PERF_ATTACHES_WITHIN: Duration = Duration::from_millis(500);
/// Samples per second of CPU time. Odd, to keep no step with the timer.
const SAMPLES_PER_SECOND: &str = "1999";
/// Fewer say nothing.
const SAMPLES_MIN: usize = 200;
/// The two ways into the kernel's TCP; what stands below them in a stack is its work.
const TCP: [&str; 2] = ["tcp_sendmsg", "tcp_recvmsg"];
/// What of the C library gives memory.
const ALLOCATORS: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];

/// The share of a server's CPU time that is the kernel's TCP, from 0 to 1.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TcpShare(pub f64);

/// Samples the server's stacks under load.
///
/// # Errors
/// When there is no perf, or it may not sample, or the run fails.
pub fn tcp_share(args: &EchoArgs, contestant: &Contestant, cell: Cell) -> anyhow::Result<TcpShare> {
    let data = tempfile::NamedTempFile::new()?;
    let path = data.path().to_string_lossy().into_owned();
    let record = ["record", "-q", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "-g", "-o", &path];
    under_perf(args, contestant, cell, &record)?;
    let script = perf(&["script", "-i", &path, "-F", "ip,sym"])?;
    share_of(&script)
}

/// The calls that give memory, divided by messages.
///
/// # Errors
/// As [`tcp_share`]; also when the kernel allows no probes.
pub fn allocations(args: &EchoArgs, contestant: &Contestant, cell: Cell) -> anyhow::Result<f64> {
    let probes = Probes::set(&c_library()?)?;
    let counts = tempfile::NamedTempFile::new()?;
    let path = counts.path().to_string_lossy().into_owned();
    let stat = ["stat", "-x", ",", "-e", &probes.events(), "-o", &path];
    let report = under_perf(args, contestant, cell, &stat)?;
    let calls = sum_of(&fs::read_to_string(counts.path())?)?;
    Ok(calls as f64 / report.messages_since_start as f64)
}

/// Runs a load while perf watches the server.
fn under_perf(
    args: &EchoArgs,
    contestant: &Contestant,
    cell: Cell,
    what: &[&str],
) -> anyhow::Result<LoadReport> {
    let (mut server, addr) = start_server(args, contestant, cell)?;
    let pid = server.id().to_string();
    let command: Vec<String> =
        [&["perf"], what, &["-p", &pid]].concat().into_iter().map(str::to_owned).collect();
    let mut watcher = Running::start(&command, args.load_core)?;
    thread::sleep(PERF_ATTACHES_WITHIN);
    let report = run_load(args, contestant, cell, addr, server.id(), args.profile_seconds, false)?;
    watcher.stop(Signal::SIGINT)?;
    server.stop(Signal::SIGTERM)?;
    ensure!(report.messages_since_start > 0, "no message was answered");
    Ok(report)
}

/// What perf prints.
fn perf(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("perf").args(arguments).output().context("perf")?;
    ensure!(
        output.status.success(),
        "perf {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of `perf script`: stacks parted by empty lines, in each a function a line.
fn share_of(script: &str) -> anyhow::Result<TcpShare> {
    let stacks: Vec<&str> = script.split("\n\n").filter(|stack| !stack.trim().is_empty()).collect();
    ensure!(stacks.len() >= SAMPLES_MIN, "perf has taken {} samples only", stacks.len());
    let is_tcp = |stack: &&&str| {
        stack
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .any(|name| TCP.contains(&name))
    };
    let inside = stacks.iter().filter(is_tcp).count();
    Ok(TcpShare(inside as f64 / stacks.len() as f64))
}

/// Of `perf stat -x ,`: a count at the start of each line.
fn sum_of(summary: &str) -> anyhow::Result<u64> {
    let lines = summary.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let counts: Vec<u64> = lines
        .map(|line| {
            let count = line.split(',').next().unwrap_or_default();
            count.parse().with_context(|| format!("perf says `{line}`"))
        })
        .collect::<anyhow::Result<_>>()?;
    if counts.is_empty() {
        bail!("perf has counted nothing");
    }
    Ok(counts.iter().sum())
}

/// Which C library this process runs with, and so the contestants.
fn c_library() -> anyhow::Result<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| {
        Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().starts_with("libc."))
    });
    Ok(PathBuf::from(path.context("no C library is loaded")?))
}

/// Probes on the functions that give memory; dropping it takes them out.
struct Probes {
    /// In its name the process, so that two comparisons do not take out each other's.
    group: String,
}

impl Probes {
    fn set(library: &Path) -> anyhow::Result<Probes> {
        let probes = Probes { group: format!("wharf_bench_{}", std::process::id()) };
        let library = library.to_string_lossy();
        for function in ALLOCATORS {
            let probe = format!("{}:{function}={function}", probes.group);
            perf(&["probe", "-q", "-x", &library, "--add", &probe])?;
        }
        Ok(probes)
    }

    fn events(&self) -> String {
        ALLOCATORS.map(|function| format!("{}:{function}", self.group)).join(",")
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // Those that were never set are no loss.
        let _ = perf(&["probe", "-q", "-d", &format!("{}:*", self.group)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_tcp_if_one_of_its_functions_is() {
        let tcp = "  ffff1 copy_from_iter\n  ffff2 tcp_sendmsg\n  ffff3 do_syscall_64\n\n";
        let other = "  ffff1 epoll_wait\n  ffff3 do_syscall_64\n\n";
        // A name that only begins so is another function.
        let near = "  ffff1 tcp_sendmsg_of_mine\n\n";
        let script = format!("{}{}{}", tcp.repeat(150), other.repeat(40), near.repeat(10));
        assert!((share_of(&script).unwrap().0 - 0.75).abs() < 1e-9);
        assert!(share_of(tcp).is_err(), "too few");
    }

    #[test]
    fn counts_are_added() {
        let summary = "# started on\n\n12,,g:malloc,100,100.00,,\n0,,g:calloc,100,100.00,,\n";
        assert_eq!(sum_of(summary).unwrap(), 12);
        assert!(sum_of("# started\n").is_err());
        assert!(sum_of("<not counted>,,g:malloc,0,100.00,,\n").is_err());
    }

    #[test]
    fn this_process_has_a_c_library() {
        assert!(c_library().unwrap().exists());
    }
}
