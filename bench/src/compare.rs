//! The comparison: A B C A B C over several rounds, each run between two looks at the distance of
//! the two cores.

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cell::{Cell, DEFAULT_CELLS};
use crate::child::{Running, check_interrupted};
use crate::contestant::{self, Contestant, FLOOR};
use crate::load::{Framing, LoadReport};
use crate::machine::{self, Machine};
use crate::profile::{self, TcpShare};
use crate::syscalls::{self, SyscallCount};
use crate::table::{self, Summary};

/// What a run may take beside its own time.
const LOAD_ENDS_WITHIN: Duration = Duration::from_secs(30);
/// Runs that count a contestant's system calls: enough for a middle one.
const SYSCALL_RUNS: usize = 3;
/// The same of those that are compared closely.
const CLOSE_SYSCALL_RUNS: usize = 7;

/// The settings of a comparison.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct EchoArgs {
    /// Rounds; each runs every contestant once per cell
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Rounds after these in which only the floor, wharf and what `--extra` adds run: their ratios need more
    #[arg(long, default_value_t = 8)]
    pub close_rounds: usize,
    /// Seconds measured per run
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before that, per run
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Cells, as CONNECTIONSxDEPTHxSIZE
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_CELLS)]
    pub cells: Vec<Cell>,
    /// Only these contestants [default: all that are built in, wharf-raw and wharf-study]
    #[arg(long, value_delimiter = ',')]
    pub contestants: Vec<String>,
    /// One more contestant, NAME=FRAMING:'COMMAND' (repeatable); the command prints `ready` and
    /// its address; {size} and {core} in it are filled in
    #[arg(long)]
    pub extra: Vec<Contestant>,
    /// The wharf program
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/wharf"))]
    #[serde(skip)]
    pub wharf: PathBuf,
    /// Arguments added to both wharf contestants, in one string
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub wharf_args: String,
    /// The core that every server is pinned to
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// The core that the load is pinned to
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Cores whose cache-line round trip is shorter are near each other
    #[arg(long, default_value_t = 200.0)]
    pub near_below_ns: f64,
    /// Seconds of each of the runs that count system calls (0: do not count)
    #[arg(long, default_value_t = 1.0)]
    pub syscall_seconds: f64,
    /// Seconds of the two runs that share out CPU time and count allocations (0: do neither)
    #[arg(long, default_value_t = 1.0)]
    pub profile_seconds: f64,
    /// Write every run and the summary to this file
    #[arg(long)]
    #[serde(skip)]
    pub json: Option<PathBuf>,
}

/// How far the two cores were from each other during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// Near before and after.
    Near,
    /// Far before and after.
    Far,
    /// It changed: the run is not used.
    Changed,
}

/// One run of one contestant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// In which round, from 0.
    pub round: usize,
    /// Whose run.
    pub contestant: String,
    /// Cache-line round trips before and after.
    pub distance_ns: [f64; 2],
    /// What follows from them.
    pub distance: Distance,
    /// What the load generator saw.
    pub report: LoadReport,
}

/// Everything about one cell.
#[derive(Debug, Serialize, Deserialize)]
pub struct CellResult {
    /// The load.
    pub cell: Cell,
    /// All runs in the order in which they were made.
    pub runs: Vec<Run>,
    /// Contestant and figure, or why there is none.
    pub syscalls: Vec<(String, Result<SyscallCount, String>)>,
    /// Contestant and the share of the kernel's TCP, or why there is none.
    pub tcp_shares: Vec<(String, Result<TcpShare, String>)>,
    /// Contestant and allocations per message, or why there is no figure.
    pub allocations: Vec<(String, Result<f64, String>)>,
    /// Contestants that could not be measured, and why.
    pub failures: Vec<(String, String)>,
    /// The lines of the table.
    pub summary: Vec<Summary>,
}

impl EchoArgs {
    /// Rounds in all.
    pub fn all_rounds(&self) -> usize {
        self.rounds + self.close_rounds
    }

    /// Whether somebody runs in a round.
    pub fn takes_part(&self, contestant: &str, round: usize) -> bool {
        round < self.rounds || self.is_close(contestant)
    }

    /// Whether somebody is of those that are compared closely.
    fn is_close(&self, contestant: &str) -> bool {
        contestant == FLOOR
            || contestant.starts_with("wharf-")
            || self.extra.iter().any(|extra| extra.name == contestant)
    }
}

impl CellResult {
    /// Whether every answer was right and every contestant ran.
    pub fn is_right(&self) -> bool {
        self.failures.is_empty() && self.runs.iter().all(|run| run.report.errors == 0)
    }
}

/// Compares, prints, and says whether every answer was right and every contestant ran.
///
/// # Errors
/// When nothing can be measured, or after Ctrl+C.
pub fn run(args: &EchoArgs) -> anyhow::Result<bool> {
    let (machine, results) = measure_cells(args)?;
    if let Some(path) = &args.json {
        #[derive(Serialize)]
        struct Everything<'a> {
            machine: &'a Machine,
            settings: &'a EchoArgs,
            cells: &'a [CellResult],
        }
        let file = File::create(path).with_context(|| format!("cannot write {path:?}"))?;
        let everything = Everything { machine: &machine, settings: args, cells: &results };
        serde_json::to_writer_pretty(BufWriter::new(file), &everything)?;
    }
    Ok(results.iter().all(CellResult::is_right))
}

/// Who takes part.
///
/// # Errors
/// When one is named that there is not.
pub fn contestants(args: &EchoArgs) -> anyhow::Result<Vec<Contestant>> {
    Ok(choose(args)?.0)
}

/// Measures and prints every cell; also on which machine.
///
/// # Errors
/// When nothing can be measured, or after Ctrl+C.
pub fn measure_cells(args: &EchoArgs) -> anyhow::Result<(Machine, Vec<CellResult>)> {
    if args.rounds == 0 || args.seconds <= 0.0 {
        bail!("a comparison needs at least one round and more than zero seconds");
    }
    let (contestants, missing) = choose(args)?;
    machine::pin_to(args.load_core)?;
    let machine = Machine::read(args.server_core, args.load_core)?;
    println!("{}", machine.line());
    for name in &missing {
        println!("{name}: not measured, there is no {}", args.wharf.display());
    }
    let progress = Progress::new(args.all_rounds() * args.cells.len() * contestants.len());
    let mut results = Vec::new();
    for &cell in &args.cells {
        let mut result = measure(args, &contestants, cell, &progress)?;
        result.summary = table::summarize(&contestants, &result);
        progress.bar.suspend(|| table::print(args, &result));
        results.push(result);
    }
    progress.bar.finish_and_clear();
    Ok((machine, results))
}

/// The time that a cache line takes between the two cores and back, in nanoseconds.
///
/// # Errors
/// When one of the cores cannot be used.
pub fn distance(args: &EchoArgs) -> anyhow::Result<f64> {
    machine::core_distance_ns(args.server_core, args.load_core)
}

/// How far the cores were from each other since `before` was measured.
///
/// # Errors
/// When one of the cores cannot be used.
pub fn distance_over(args: &EchoArgs, before: f64) -> anyhow::Result<Distance> {
    Ok(classify(args.near_below_ns, [before, distance(args)?]))
}

/// What follows from the distances before and after a run.
pub fn classify(near_below_ns: f64, distances_ns: [f64; 2]) -> Distance {
    match distances_ns.map(|distance| distance < near_below_ns) {
        [true, true] => Distance::Near,
        [false, false] => Distance::Far,
        _ => Distance::Changed,
    }
}

/// The contestants to run, and the names of those whose program is not there.
fn choose(args: &EchoArgs) -> anyhow::Result<(Vec<Contestant>, Vec<String>)> {
    let own_program = std::env::current_exe()?.to_string_lossy().into_owned();
    let wharf_arguments = shell_words::split(&args.wharf_args).context("--wharf-args")?;
    let known = contestant::known(&own_program, &args.wharf, &wharf_arguments);
    let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
    for name in &args.contestants {
        if !names.contains(&name.as_str()) {
            bail!("there is no contestant `{name}`; there are {}", names.join(", "));
        }
    }
    let mut chosen: Vec<Contestant> = known
        .into_iter()
        .filter(|known| args.contestants.is_empty() || args.contestants.contains(&known.name))
        .collect();
    let mut missing = Vec::new();
    if !args.wharf.exists() {
        let (wharf, others) =
            chosen.into_iter().partition(|chosen: &Contestant| chosen.name.starts_with("wharf-"));
        chosen = others;
        missing = wharf.into_iter().map(|wharf: Contestant| wharf.name).collect();
    }
    for extra in &args.extra {
        if chosen.iter().any(|chosen| chosen.name == extra.name) {
            bail!("two contestants are called `{}`", extra.name);
        }
        chosen.push(extra.clone());
    }
    if chosen.is_empty() {
        bail!("there is no contestant to run");
    }
    Ok((chosen, missing))
}

fn measure(
    args: &EchoArgs,
    contestants: &[Contestant],
    cell: Cell,
    progress: &Progress,
) -> anyhow::Result<CellResult> {
    let mut result = CellResult {
        cell,
        runs: Vec::new(),
        syscalls: Vec::new(),
        tcp_shares: Vec::new(),
        allocations: Vec::new(),
        failures: Vec::new(),
        summary: Vec::new(),
    };
    for round in 0..args.all_rounds() {
        for contestant in contestants {
            progress.bar.inc(1);
            let name = &contestant.name;
            if !args.takes_part(name, round)
                || result.failures.iter().any(|(failed, _)| failed == name)
            {
                continue;
            }
            progress.say(&format!("{cell} round {}/{} {name}", round + 1, args.all_rounds()));
            match run_once(args, contestant, cell, round) {
                Ok(run) => result.runs.push(run),
                Err(error) => {
                    check_interrupted()?;
                    result.failures.push((name.clone(), format!("{error:#}")));
                }
            }
        }
    }
    let failed = |name| result.failures.iter().any(|(failed, _)| failed == name);
    let running: Vec<_> = contestants.iter().filter(|running| !failed(&running.name)).collect();
    if args.syscall_seconds > 0.0 {
        result.syscalls = count_syscalls(args, &running, cell, progress)?;
    }
    for contestant in running {
        let name = &contestant.name;
        if args.profile_seconds > 0.0 {
            progress.say(&format!("{cell} profile {name}"));
            let share =
                profile::tcp_share(args, contestant, cell).map_err(|why| format!("{why:#}"));
            result.tcp_shares.push((name.clone(), share));
            let count =
                profile::allocations(args, contestant, cell).map_err(|why| format!("{why:#}"));
            result.allocations.push((name.clone(), count));
        }
        check_interrupted()?;
    }
    Ok(result)
}

/// Counts system calls in several runs of each, in turn, and takes the middle one. How many completions a
/// turn finds hangs on how fast the two sides are at the moment, so that a single run can be off by half.
fn count_syscalls(
    args: &EchoArgs,
    contestants: &[&Contestant],
    cell: Cell,
    progress: &Progress,
) -> anyhow::Result<Vec<(String, Result<SyscallCount, String>)>> {
    let mut counted: Vec<_> =
        contestants.iter().map(|one| (one.name.clone(), Ok(Vec::new()))).collect();
    for run in 1..=CLOSE_SYSCALL_RUNS {
        for (contestant, (name, counts)) in contestants.iter().zip(&mut counted) {
            let Ok(counted) = counts else { continue };
            if run > SYSCALL_RUNS && !args.is_close(name) {
                continue;
            }
            progress.say(&format!("{cell} system calls, run {run}, {name}"));
            match syscalls::count(args, contestant, cell) {
                Ok(count) => counted.push(count),
                Err(why) => *counts = Err(format!("{why:#}")),
            }
            check_interrupted()?;
        }
    }
    let middle = |counts: Vec<_>| SyscallCount::middle_of(counts).ok_or("no run".to_owned());
    Ok(counted.into_iter().map(|(name, counts)| (name, counts.and_then(middle))).collect())
}

fn run_once(
    args: &EchoArgs,
    contestant: &Contestant,
    cell: Cell,
    round: usize,
) -> anyhow::Result<Run> {
    let (mut server, addr) = start_server(args, contestant, cell)?;
    let before = distance(args)?;
    let report = run_load(args, contestant, cell, addr, server.id(), args.seconds, false)?;
    let after = distance(args)?;
    server.stop(Signal::SIGTERM)?;
    let distance = classify(args.near_below_ns, [before, after]);
    let contestant = contestant.name.clone();
    Ok(Run { round, contestant, distance_ns: [before, after], distance, report })
}

/// Starts a contestant on the server's core and waits until it listens.
///
/// # Errors
/// When it does not.
pub fn start_server(
    args: &EchoArgs,
    contestant: &Contestant,
    cell: Cell,
) -> anyhow::Result<(Running, SocketAddr)> {
    let mut server =
        Running::start(&contestant.command_for(cell, args.server_core), args.server_core)?;
    let addr = server.wait_until_ready()?;
    Ok((server, addr))
}

/// Puts a server under load from a process of its own.
///
/// # Errors
/// When the load cannot be run; wrong answers are in the report.
pub fn run_load(
    args: &EchoArgs,
    contestant: &Contestant,
    cell: Cell,
    addr: SocketAddr,
    server: u32,
    seconds: f64,
    count_syscalls: bool,
) -> anyhow::Result<LoadReport> {
    let mut command = vec![std::env::current_exe()?.to_string_lossy().into_owned(), "load".into()];
    let framing = match contestant.framing {
        Framing::Raw => "raw",
        Framing::Study => "study",
    };
    for (flag, value) in [
        ("--addr", addr.to_string()),
        ("--connections", cell.connections.to_string()),
        ("--depth", cell.depth.to_string()),
        ("--size", cell.size.to_string()),
        ("--duration", seconds.to_string()),
        ("--warmup", args.warmup.to_string()),
        ("--framing", framing.to_owned()),
        ("--core", args.load_core.to_string()),
        ("--pid", server.to_string()),
    ] {
        command.extend([flag.to_owned(), value]);
    }
    if count_syscalls {
        command.push("--count-syscalls".to_owned());
    }
    let within = Duration::from_secs_f64(seconds + args.warmup) + LOAD_ENDS_WITHIN;
    let mut load = Running::start(&command, args.load_core)?;
    let (line, _) = load.wait_for_result(within)?;
    serde_json::from_str(&line).with_context(|| format!("the load generator printed `{line}`"))
}

/// A bar on a terminal, plain lines in a pipe. It moves between runs only: drawing takes CPU time
/// from the load's core.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(runs: usize) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(runs as u64);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
        bar.set_style(style.expect("a constant"));
        Progress { bar }
    }

    fn say(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
        } else {
            self.bar.set_message(what.to_owned());
        }
    }
}
