//! All comparisons in one command, and the page and pictures that are made of them.
//!
//! The cells of a closed echo loop are those of `echo`. The others are measured with `wharf bench`,
//! which checks every byte as well: connections that come and go, idle memory, latency at one fixed
//! rate, and overload. Everything alternates, between two looks at the distance of the cores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cell::Cell;
use crate::child::{Running, check_interrupted};
use crate::compare::{self, CellResult, Distance, EchoArgs};
use crate::contestant::Contestant;
use crate::fanout::{self, FanResults, FanoutArgs};
use crate::load::Framing;
use crate::machine::{self, Machine};
use crate::page;
use crate::table::{ByRound, Spread};

/// The settings of all comparisons.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct SuiteArgs {
    #[command(flatten)]
    pub echo: EchoArgs,
    /// The page to write; its pictures go to a folder of the same name beside it
    #[arg(long, default_value = PAGE)]
    #[serde(skip)]
    pub out: PathBuf,
    /// Idle sessions of the memory cell
    #[arg(long, default_value_t = 10_000)]
    pub idle_sessions: usize,
    /// The fixed rate, as a share of the slowest contestant's peak
    #[arg(long, default_value_t = 0.5)]
    pub rate_share: f64,
    /// Measure only these again; everything else stays as it is in the file that `--json` names
    #[arg(long, value_delimiter = ',', requires = "json")]
    #[serde(skip)]
    pub again: Vec<Kind>,
}

/// What the tool measures beside the closed loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Connect, one message, reset.
    Storm,
    /// Memory of idle sessions.
    Idle,
    /// Latency at one rate for all.
    Rate,
    /// Steps up to four times one's own peak.
    Overload,
}

/// One run of the tool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ToolRun {
    pub kind: Kind,
    pub round: usize,
    pub contestant: String,
    pub distance: Distance,
    /// Whether every byte was right.
    pub right: bool,
    /// By name; see `figures`.
    pub figures: BTreeMap<String, f64>,
}

/// Everything that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub settings: SuiteArgs,
    pub cells: Vec<CellResult>,
    pub fanout: FanResults,
    /// The fixed rate, messages per second.
    pub rate: Option<f64>,
    pub runs: Vec<ToolRun>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

/// Where the page is.
pub const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");
/// Loads by rounds: more of them where a figure drifts.
const IDLE_ROUNDS_MAX: usize = 3;
/// Multiples of one's own peak.
pub const OVERLOAD: [f64; 4] = [0.5, 1.0, 2.0, 4.0];
/// What the tool may take beside its own time.
const TOOL_ENDS_WITHIN: Duration = Duration::from_secs(90);

/// Measures everything and writes the page; whether everything was right.
///
/// # Errors
/// When nothing can be measured, the page cannot be written, or after Ctrl+C.
pub fn run(args: &SuiteArgs) -> anyhow::Result<bool> {
    ensure!(
        args.echo.wharf.exists(),
        "build wharf first: there is no {}",
        args.echo.wharf.display()
    );
    let mut results = if args.again.is_empty() { first_part(args)? } else { kept(args)? };
    let kinds = [Kind::Storm, Kind::Idle, Kind::Rate, Kind::Overload];
    let wanted = |kind: &Kind| args.again.is_empty() || args.again.contains(kind);
    for kind in kinds.into_iter().filter(wanted) {
        measure_kind(args, kind, &mut results)?;
    }
    if let Some(path) = &args.echo.json {
        std::fs::write(path, serde_json::to_vec_pretty(&results)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    page::write(&results, &args.out)?;
    eprintln!("wrote {}", args.out.display());
    let all_echoes_right = results.cells.iter().all(CellResult::is_right);
    Ok(all_echoes_right
        && results.fanout.is_right()
        && results.failures.is_empty()
        && results.runs.iter().all(|run| run.right))
}

/// The cells of `echo` and `fanout`, and the rate that follows from them.
fn first_part(args: &SuiteArgs) -> anyhow::Result<Results> {
    let (machine, cells) = compare::measure_cells(&args.echo)?;
    let slowest = peaks(&cells).values().copied().reduce(f64::min);
    Ok(Results {
        machine,
        settings: args.clone(),
        cells,
        fanout: fanout::measure(&FanoutArgs::beside(&args.echo))?,
        rate: slowest.map(|peak| peak * args.rate_share),
        runs: Vec::new(),
        failures: Vec::new(),
    })
}

/// What was measured before, without what is to be measured again.
fn kept(args: &SuiteArgs) -> anyhow::Result<Results> {
    let path = args.echo.json.as_deref().context("`--again` needs `--json`")?;
    machine::pin_to(args.echo.load_core)?;
    let mut results = read(path)?;
    results.runs.retain(|run| !args.again.contains(&run.kind));
    Ok(results)
}

fn measure_kind(args: &SuiteArgs, kind: Kind, results: &mut Results) -> anyhow::Result<()> {
    let rounds = match kind {
        Kind::Storm => args.echo.all_rounds(),
        Kind::Idle => args.echo.rounds.min(IDLE_ROUNDS_MAX),
        Kind::Rate | Kind::Overload => args.echo.rounds,
    };
    let peaks = peaks(&results.cells);
    let contestants = compare::contestants(&args.echo)?;
    for round in 0..rounds {
        for contestant in contestants.iter().filter(|one| args.echo.takes_part(&one.name, round)) {
            eprintln!("{kind:?} round {}/{rounds} {}", round + 1, contestant.name);
            let peak = peaks.get(&contestant.name).copied();
            match measure(args, kind, contestant, round, results.rate, peak) {
                Ok(run) => results.runs.push(run),
                Err(error) => {
                    check_interrupted()?;
                    let failure = format!("{kind:?} {}: {error:#}", contestant.name);
                    eprintln!("  {failure}");
                    results.failures.push(failure);
                }
            }
        }
    }
    Ok(())
}

/// Writes the page again of what was measured before, where only its text has changed.
///
/// # Errors
/// When the results cannot be read or the page cannot be written.
pub fn write_again(json: &Path, out: &Path) -> anyhow::Result<()> {
    page::write(&read(json)?, out)?;
    eprintln!("wrote {}", out.display());
    Ok(())
}

fn read(json: &Path) -> anyhow::Result<Results> {
    let text = std::fs::read(json).with_context(|| format!("cannot read {}", json.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not what `all --json` writes", json.display()))
}

/// Each contestant's median rate in the first cell, messages per second: over all runs, near or far,
/// since it only says how much to ask for.
fn peaks(cells: &[CellResult]) -> BTreeMap<String, f64> {
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in cells.first().map_or(&[][..], |cell| &cell.runs) {
        if run.report.errors == 0 && run.report.elapsed_s > 0.0 {
            let rate = run.report.messages as f64 / run.report.elapsed_s;
            rates.entry(run.contestant.clone()).or_default().push(rate);
        }
    }
    let median = |rates: Vec<f64>| Spread::of(rates.into_iter()).map(|spread| spread.median);
    rates.into_iter().filter_map(|(name, rates)| Some((name, median(rates)?))).collect()
}

fn measure(
    args: &SuiteArgs,
    kind: Kind,
    contestant: &Contestant,
    round: usize,
    rate: Option<f64>,
    peak: Option<f64>,
) -> anyhow::Result<ToolRun> {
    let echo = &args.echo;
    let cell = Cell { connections: 50, depth: 1, size: 32 };
    let (mut server, addr) = compare::start_server(echo, contestant, cell)?;
    let framing = match contestant.framing {
        Framing::Raw => "raw",
        Framing::Study => "study",
    };
    let seconds = |seconds: f64| format!("{seconds}s");
    let mut command = vec![echo.wharf.to_string_lossy().into_owned(), "bench".to_owned()];
    let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
    match kind {
        Kind::Storm => add(&["connect", "--duration", &seconds(echo.seconds)]),
        Kind::Idle => {
            add(&["idle", "--duration", "1s", "--connections", &args.idle_sessions.to_string()]);
        }
        Kind::Rate => {
            let rate = rate.context("no contestant has a peak")?.max(1.0);
            add(&["echo", "--duration", &seconds(echo.seconds), "--rate", &format!("{rate:.0}")]);
        }
        Kind::Overload => {
            let peak = peak.context("it has no peak")?;
            let steps = OVERLOAD.map(|factor| format!("{:.0}", (peak * factor).max(1.0))).join(",");
            let all = seconds(echo.seconds * OVERLOAD.len() as f64);
            add(&["echo", "--duration", &all, "--rate", &steps]);
        }
    }
    if kind != Kind::Idle {
        add(&["--connections", "50"]);
    }
    let (addr, pid) = (addr.to_string(), server.id().to_string());
    if kind == Kind::Idle {
        warm(args, &addr, framing)?;
    }
    let warmup = seconds(echo.warmup);
    add(&["--addr", &addr, "--framing", framing, "--size", "32", "--pid", &pid]);
    add(&["--workers", "1", "--warmup", &warmup, "--grace", "20s", "--json"]);
    let before = compare::distance(echo)?;
    let mut load = Running::start(&command, echo.load_core)?;
    let (output, status) = load.wait_for_output(TOOL_ENDS_WITHIN)?;
    let distance = compare::distance_over(echo, before)?;
    server.stop(Signal::SIGTERM)?;
    let result: Value = serde_json::from_str(&output)
        .with_context(|| format!("`{}` ended with {status}", command.join(" ")))?;
    let figures = figures(kind, &result);
    if figures.is_empty() {
        bail!("the result has no figures");
    }
    Ok(ToolRun {
        kind,
        round,
        contestant: contestant.name.clone(),
        distance,
        right: result["right"] == true,
        figures,
    })
}

/// Has a server touch what all its connections share: buffers that a burst takes would be counted as the
/// idle sessions' otherwise, with those servers that have not touched them from the start.
fn warm(args: &SuiteArgs, addr: &str, framing: &str) -> anyhow::Result<()> {
    let wharf = args.echo.wharf.to_string_lossy().into_owned();
    let mut command = vec![wharf, "bench".to_owned()];
    command.extend(WARMING.split(' ').map(str::to_owned));
    command.extend(["--addr", addr, "--framing", framing].map(str::to_owned));
    let mut load = Running::start(&command, args.echo.load_core)?;
    let (_, status) = load.wait_for_output(TOOL_ENDS_WITHIN)?;
    ensure!(status.success(), "`{}` ended with {status}", command.join(" "));
    Ok(())
}

/// A burst of more connections than any of the servers has buffers that are shared, and few enough that what
/// each leaves behind to be used again is hardly seen.
const WARMING: &str =
    "idle --connections 600 --size 32 --duration 200ms --warmup 0s --workers 1 --json";

/// The figures of a result that the page shows, by the names of its columns.
fn figures(kind: Kind, result: &Value) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let mut take = |name: &str, value: &Value| {
        if let Some(value) = value.as_f64() {
            figures.insert(name.to_owned(), value);
        }
    };
    let server = &result["server"];
    match kind {
        Kind::Storm => {
            take("visits_per_s", &result["messages_per_second"]);
            take("cpu_ns", &server["processor_ns_per_message"]);
            take("p99_ns", &result["latency_ns"]["p99"]);
        }
        Kind::Idle => take("bytes", &server["resident_bytes_per_session"]),
        Kind::Rate => {
            for name in ["p50", "p99", "p99_9"] {
                take(&format!("{name}_ns"), &result["latency_ns"][name]);
            }
            take("cpu_ns", &server["processor_ns_per_message"]);
            take("late_p99_ns", &result["lateness_ns"]["p99"]);
        }
        Kind::Overload => {
            for (step, factor) in result["steps"].as_array().into_iter().flatten().zip(OVERLOAD) {
                take(&format!("goodput_{factor}"), &step["answered_per_second"]);
            }
        }
    }
    figures
}

/// The figures of a contestant's runs of one kind: near runs if there are any, far ones otherwise.
pub fn values(results: &Results, kind: Kind, contestant: &str, name: &str) -> ByRound {
    let of_kind = || results.runs.iter().filter(|run| run.kind == kind && run.right);
    let near = of_kind().any(|run| run.distance == Distance::Near);
    let wanted = if near { Distance::Near } else { Distance::Far };
    of_kind()
        // Memory is the same at any distance.
        .filter(|run| {
            run.contestant == contestant && (run.distance == wanted || kind == Kind::Idle)
        })
        .filter_map(|run| Some((run.round, *run.figures.get(name)?)))
        .collect()
}

/// The median of them.
pub fn median(results: &Results, kind: Kind, contestant: &str, name: &str) -> Option<f64> {
    let values = values(results, kind, contestant, name);
    Spread::of(values.into_iter().map(|(_, value)| value)).map(|spread| spread.median)
}

/// Where the pictures of a page go, and how the page names that folder.
pub fn picture_folder(page: &Path) -> (PathBuf, String) {
    let folder = page.with_extension("");
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (folder, name)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    #[test]
    fn figures_come_from_the_tools_results() {
        let result = serde_json::json!({
            "messages_per_second": 5.0,
            "latency_ns": { "p50": 1, "p99": 2, "p99_9": 3 },
            "lateness_ns": null,
            "server": { "processor_ns_per_message": 7.5, "resident_bytes_per_session": 210.0 },
            "steps": [{ "answered_per_second": 10.0 }, { "answered_per_second": 11.0 }],
        });
        let names = |kind| figures(kind, &result).into_keys().collect::<Vec<_>>();
        assert_eq!(names(Kind::Storm), ["cpu_ns", "p99_ns", "visits_per_s"]);
        assert_eq!(figures(Kind::Idle, &result)["bytes"], 210.0);
        assert_eq!(names(Kind::Rate), ["cpu_ns", "p50_ns", "p99_9_ns", "p99_ns"]);
        assert_eq!(names(Kind::Overload), ["goodput_0.5", "goodput_1"]);
    }

    #[test]
    fn the_page_can_be_written_again_of_what_was_saved() {
        let settings = SuiteArgs::augment_args(clap::Command::new("all")).get_matches_from(["all"]);
        let run = |contestant: &str, cpu_ns| ToolRun {
            kind: Kind::Storm,
            round: 0,
            contestant: contestant.to_owned(),
            distance: Distance::Near,
            right: true,
            figures: BTreeMap::from([("cpu_ns".to_owned(), cpu_ns)]),
        };
        let results = Results {
            machine: Machine::read(0, 0).unwrap(),
            settings: SuiteArgs::from_arg_matches(&settings).unwrap(),
            cells: Vec::new(),
            fanout: FanResults::default(),
            rate: None,
            runs: vec![run("floor", 10_000.0), run("wharf-raw", 10_500.0)],
            failures: Vec::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let (json, page) = (folder.path().join("p.json"), folder.path().join("p.md"));
        std::fs::write(&json, serde_json::to_vec(&results).unwrap()).unwrap();
        write_again(&json, &page).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(
            text.contains("| a visit: CPU, wharf-raw | 1.050 | 1.100 | x floor | yes |"),
            "{text}"
        );
        assert!(
            text.contains("| a visit: CPU, wharf-study | - | 1.100 | x floor | not measured |")
        );
        assert!(text.ends_with(include_str!("../open.md")), "{text}");
        std::fs::write(&json, "{}").unwrap();
        let error = write_again(&json, &page).unwrap_err().to_string();
        assert!(error.contains("is not what `all --json` writes"), "{error}");
    }

    #[test]
    fn pictures_lie_beside_their_page() {
        let (folder, name) = picture_folder(Path::new("a/docs/performance.md"));
        assert_eq!(
            (folder.as_path(), name.as_str()),
            (Path::new("a/docs/performance"), "performance")
        );
    }
}
