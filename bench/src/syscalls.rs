//! System calls per message, counted in short runs of their own.
//!
//! A kernel counter on the tracepoint that every system call passes disturbs little. Where it is
//! not allowed strace counts instead; that slows the server much, so that a batching server finds
//! more to do per call: the figure is then a lower bound.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::child::Running;
use crate::compare::{EchoArgs, run_load, start_server};
use crate::contestant::Contestant;

const STRACE_ATTACHES_WITHIN: Duration = Duration::from_millis(500);

/// The figure, and how it was come by.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SyscallCount {
    /// System calls of the server divided by messages.
    pub per_message: f64,
    /// Who counted.
    pub source: Source,
}

impl SyscallCount {
    /// The one in the middle of several (of an even number the lower); `None` of none.
    pub fn middle_of(mut counts: Vec<SyscallCount>) -> Option<SyscallCount> {
        counts.sort_by(|one, other| one.per_message.total_cmp(&other.per_message));
        counts.get(counts.len().checked_sub(1)? / 2).copied()
    }
}

/// Who counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The tracepoint's counter.
    Perf,
    /// strace, which slows the server.
    Strace,
}

/// Counts with whatever this machine allows.
///
/// # Errors
/// When it allows neither, or the run itself fails.
pub fn count(args: &EchoArgs, contestant: &Contestant, cell: Cell) -> anyhow::Result<SyscallCount> {
    with_perf(args, contestant, cell).or_else(|perf| {
        with_strace(args, contestant, cell)
            .map_err(|strace| strace.context(format!("perf: {perf:#}; strace")))
    })
}

fn with_perf(args: &EchoArgs, contestant: &Contestant, cell: Cell) -> anyhow::Result<SyscallCount> {
    let (mut server, addr) = start_server(args, contestant, cell)?;
    let seconds = args.syscall_seconds;
    let report = run_load(args, contestant, cell, addr, server.id(), seconds, true)?;
    server.stop(Signal::SIGTERM)?;
    let syscalls = report.syscalls.context("the load generator did not count")?;
    if report.messages == 0 {
        bail!("no message was answered");
    }
    let per_message = syscalls as f64 / report.messages as f64;
    Ok(SyscallCount { per_message, source: Source::Perf })
}

fn with_strace(
    args: &EchoArgs,
    contestant: &Contestant,
    cell: Cell,
) -> anyhow::Result<SyscallCount> {
    let (mut server, addr) = start_server(args, contestant, cell)?;
    let summary = tempfile::NamedTempFile::new()?;
    let pid = server.id().to_string();
    let path = summary.path().to_string_lossy();
    let command = ["strace", "-c", "-f", "-q", "-p", &pid, "-o", &path].map(str::to_owned);
    let mut strace = Running::start(&command, args.load_core)?;
    thread::sleep(STRACE_ATTACHES_WITHIN);
    let seconds = args.syscall_seconds;
    let report = run_load(args, contestant, cell, addr, server.id(), seconds, false)?;
    strace.stop(Signal::SIGINT)?;
    server.stop(Signal::SIGTERM)?;
    let total = total_calls(&fs::read_to_string(summary.path())?)?;
    if report.messages_since_start == 0 {
        bail!("no message was answered");
    }
    let per_message = total as f64 / report.messages_since_start as f64;
    Ok(SyscallCount { per_message, source: Source::Strace })
}

/// The number of calls in the last line of `strace -c`: `100.00  1.234  5  CALLS [ERRORS] total`.
fn total_calls(summary: &str) -> anyhow::Result<u64> {
    let line = summary
        .lines()
        .rfind(|line| line.trim_end().ends_with(" total"))
        .ok_or_else(|| io::Error::other("strace has counted nothing"))?;
    let calls = line.split_whitespace().nth(3).context("strace's summary has another shape")?;
    calls.parse().with_context(|| format!("strace's summary says `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_counts_the_middle_one_is_taken() {
        let middle = |counts: &[f64]| {
            let count = |&per_message| SyscallCount { per_message, source: Source::Perf };
            Some(SyscallCount::middle_of(counts.iter().map(count).collect())?.per_message)
        };
        assert_eq!(middle(&[0.9, 0.1, 0.2]), Some(0.2));
        assert_eq!(middle(&[0.9, 0.1]), Some(0.1));
        assert_eq!(middle(&[]), None);
    }

    #[test]
    fn the_summary_of_strace_is_read() {
        let with_errors = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.51    0.120000          12     10000        12 read
  0.49    0.000600           6       100           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.120600          11     10100        12 total
";
        assert_eq!(total_calls(with_errors).unwrap(), 10100);
        assert_eq!(total_calls("100.00    0.120600          11     10100 total\n").unwrap(), 10100);
        assert!(total_calls("strace: Process 1 detached\n").is_err());
    }
}
