//! Medians, spread and ratios, and the table that shows them with what must be said beside it.

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::compare::{CellResult, Distance, EchoArgs, Run};
use crate::contestant::{Contestant, FLOOR};
use crate::load::Framing;
use crate::syscalls::{Source, SyscallCount};

/// Above this share of its core the load generator is what limits the rate.
const LOAD_LIMIT: f64 = 0.9;
/// Above this many cores of other processes the figures are disturbed.
pub const DISTURBED: f64 = 0.05;

/// The middle of several values, and their ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread { median, min, max })
    }
}

/// Values, each with the round that it comes from.
pub type ByRound = Vec<(usize, f64)>;

/// The median of what `compare` says of two values of one round. What drifts over minutes moves both runs of
/// a round, and so their ratio less than it moves a median over all rounds. `None` if no round has both.
pub fn paired(own: &ByRound, base: &ByRound, compare: fn(f64, f64) -> f64) -> Option<f64> {
    let pairs = own.iter().filter_map(|&(round, own)| {
        let &(_, base) = base.iter().find(|(of, _)| *of == round)?;
        Some(compare(own, base))
    });
    Spread::of(pairs).map(|spread| spread.median)
}

/// One line of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Whose line.
    pub contestant: String,
    /// What it speaks.
    pub framing: Framing,
    /// Runs of the distance that is compared, without errors.
    pub runs_used: usize,
    /// Runs made.
    pub runs: usize,
    /// Which runs are compared in this cell.
    pub distance: Distance,
    /// Wrong answers and broken connections over all runs.
    pub errors: u64,
    /// Connections that got no answer in a window, over all runs.
    pub starved_connections: usize,
    pub wire_bytes_per_message: Option<usize>,
    pub server_cpu_ns_per_message: Option<Spread>,
    /// How many times the CPU time of the floor's run in the same round, the median (of the first
    /// contestant's, if the floor does not run).
    pub ratio: Option<f64>,
    /// How much more than that run's, ns per message, the median.
    pub above_ns: Option<f64>,
    pub messages_per_s: Option<Spread>,
    /// Shares of one core.
    pub server_cpu_share: Option<Spread>,
    pub load_cpu_share: Option<Spread>,
    pub others_cpu_cores: Option<Spread>,
    pub server_resident_bytes: Option<Spread>,
    pub server_private_bytes: Option<Spread>,
    pub syscalls: Option<SyscallCount>,
    /// CPU time outside the kernel's TCP: the median by the share of samples outside it.
    pub other_than_tcp_ns_per_message: Option<f64>,
    pub allocations_per_message: Option<f64>,
}

/// One line per contestant, in their order.
pub fn summarize(contestants: &[Contestant], result: &CellResult) -> Vec<Summary> {
    let distance = compared_distance(&result.runs);
    let mut lines: Vec<Summary> =
        contestants.iter().map(|contestant| summarize_one(contestant, result, distance)).collect();
    let base = lines.iter().find(|line| line.contestant == FLOOR).or(lines.first());
    let Some(base) = base.map(|line| line.contestant.clone()) else { return lines };
    let cpu = |name: &str| -> ByRound {
        used(result, name, distance).filter_map(|run| Some((run.round, cpu_ns(run)?))).collect()
    };
    let base = cpu(&base);
    for line in &mut lines {
        let own = cpu(&line.contestant);
        line.ratio = paired(&own, &base, |own, base| own / base);
        line.above_ns = paired(&own, &base, |own, base| own - base);
    }
    lines
}

/// A contestant's runs of the distance that is compared, without errors.
fn used<'a>(
    result: &'a CellResult,
    contestant: &'a str,
    distance: Distance,
) -> impl Iterator<Item = &'a Run> {
    result.runs.iter().filter(move |run| {
        run.contestant == contestant
            && run.distance == distance
            && run.report.errors == 0
            && run.report.messages > 0
    })
}

/// What a message took of the server's CPU.
fn cpu_ns(run: &Run) -> Option<f64> {
    Some(run.report.server_cpu_s? * 1e9 / run.report.messages as f64)
}

/// Near runs if there are any; otherwise far ones.
fn compared_distance(runs: &[Run]) -> Distance {
    let near = runs.iter().any(|run| run.distance == Distance::Near);
    if near { Distance::Near } else { Distance::Far }
}

fn summarize_one(contestant: &Contestant, result: &CellResult, distance: Distance) -> Summary {
    let all: Vec<&Run> =
        result.runs.iter().filter(|run| run.contestant == contestant.name).collect();
    let used: Vec<&Run> = used(result, &contestant.name, distance).collect();
    let spread =
        |value: fn(&Run) -> Option<f64>| Spread::of(used.iter().filter_map(|run| value(run)));
    let syscalls = of(&result.syscalls, contestant);
    let server_cpu_ns_per_message = spread(cpu_ns);
    let other_than_tcp_ns_per_message = server_cpu_ns_per_message
        .zip(of(&result.tcp_shares, contestant))
        .map(|(cpu, tcp)| cpu.median * (1.0 - tcp.0));
    Summary {
        contestant: contestant.name.clone(),
        framing: contestant.framing,
        runs_used: used.len(),
        runs: all.len(),
        distance,
        errors: all.iter().map(|run| run.report.errors).sum(),
        starved_connections: all.iter().map(|run| run.report.starved_connections).sum(),
        wire_bytes_per_message: all.first().map(|run| run.report.wire_bytes_per_message),
        server_cpu_ns_per_message,
        ratio: None,
        above_ns: None,
        messages_per_s: spread(|run| Some(run.report.messages as f64 / run.report.elapsed_s)),
        server_cpu_share: spread(|run| Some(run.report.server_cpu_s? / run.report.elapsed_s)),
        load_cpu_share: spread(|run| Some(run.report.load_cpu_s / run.report.elapsed_s)),
        others_cpu_cores: spread(|run| Some(run.report.others_cpu_s? / run.report.elapsed_s)),
        server_resident_bytes: spread(|run| Some(run.report.server_resident_bytes? as f64)),
        server_private_bytes: spread(|run| Some(run.report.server_private_bytes? as f64)),
        syscalls,
        other_than_tcp_ns_per_message,
        allocations_per_message: of(&result.allocations, contestant),
    }
}

/// A contestant's figure out of a list, if it has one.
fn of<T: Copy>(figures: &[(String, Result<T, String>)], contestant: &Contestant) -> Option<T> {
    let (_, figure) = figures.iter().find(|(name, _)| *name == contestant.name)?;
    figure.as_ref().ok().copied()
}

/// Prints a cell's table and its notes on standard output.
pub fn print(args: &EchoArgs, result: &CellResult) {
    print!("{}", markdown(args, result));
}

/// A cell's table and its notes.
pub fn markdown(args: &EchoArgs, result: &CellResult) -> String {
    let base = result.summary.iter().find(|line| line.contestant == FLOOR);
    let base = base.or(result.summary.first()).map_or("-", |line| line.contestant.as_str());
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "server".to_owned(),
        "framing".to_owned(),
        "bytes on the wire".to_owned(),
        "CPU ns/message".to_owned(),
        "min..max".to_owned(),
        format!("x {base}"),
        "of it not TCP".to_owned(),
        "system calls/message".to_owned(),
        "allocations/message".to_owned(),
        "messages/s".to_owned(),
        "server CPU".to_owned(),
        "load CPU".to_owned(),
        "resident (private) KiB".to_owned(),
        "runs used".to_owned(),
    ]);
    for line in &result.summary {
        table.add_row(cells_of(line));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let notes: String = notes(args, result).into_iter().map(|note| format!("- {note}\n")).collect();
    format!("\n## {}\n\n{table}\n\n{notes}", result.cell.title())
}

fn cells_of(line: &Summary) -> Vec<String> {
    let show = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let percent = |spread: Option<Spread>| {
        show(spread.map(|spread| format!("{:.0} %", spread.median * 100.0)))
    };
    let kibibytes = |spread: Spread| spread.median / 1024.0;
    let framing = match line.framing {
        Framing::Raw => "raw",
        Framing::Study => "study",
    };
    let cpu = line.server_cpu_ns_per_message;
    let memory = line.server_resident_bytes.zip(line.server_private_bytes);
    vec![
        line.contestant.clone(),
        framing.to_owned(),
        show(line.wire_bytes_per_message.map(|bytes| bytes.to_string())),
        show(cpu.map(|cpu| format!("{:.0}", cpu.median))),
        show(cpu.map(|cpu| format!("{:.0}..{:.0}", cpu.min, cpu.max))),
        show(line.ratio.map(|ratio| format!("{ratio:.3}"))),
        show(line.other_than_tcp_ns_per_message.map(|ns| format!("{ns:.0}"))),
        line.syscalls.map_or_else(
            || "not measured".to_owned(),
            |count| {
                let mark = if count.source == Source::Strace { " (strace)" } else { "" };
                format!("{:.3}{mark}", count.per_message)
            },
        ),
        show(line.allocations_per_message.map(|count| format!("{count:.3}"))),
        show(line.messages_per_s.map(|rate| format!("{:.0}", rate.median))),
        percent(line.server_cpu_share),
        percent(line.load_cpu_share),
        show(memory.map(|(resident, private)| {
            format!("{:.0} ({:.0})", kibibytes(resident), kibibytes(private))
        })),
        format!("{}/{}", line.runs_used, line.runs),
    ]
}

/// What the figures do not say by themselves.
fn notes(args: &EchoArgs, result: &CellResult) -> Vec<String> {
    let mut notes = vec![
        "The peers echo raw bytes: they do no framing and keep no session. \
         wharf's figures are with its framing and with sessions."
            .to_owned(),
    ];
    notes.push(distance_note(args, result));
    let most = |value: fn(&Summary) -> Option<Spread>| {
        result.summary.iter().filter_map(value).map(|spread| spread.max).fold(0.0, f64::max)
    };
    let load_share = most(|line| line.load_cpu_share);
    if load_share > LOAD_LIMIT {
        notes.push(format!(
            "The load generator used up to {:.0} % of its core: it limits messages/s. CPU per \
             message is the figure to compare.",
            load_share * 100.0
        ));
    }
    let others = most(|line| line.others_cpu_cores);
    if others > DISTURBED {
        notes.push(format!(
            "DISTURBED: other processes used up to {others:.2} cores while this was measured."
        ));
    }
    notes.push("Gaps under 5 % are ties.".to_owned());
    if result
        .summary
        .iter()
        .any(|line| line.syscalls.is_some_and(|count| count.source == Source::Strace))
    {
        notes.push(
            "strace slows a server, which then finds more to do per system call: its counts are \
             lower bounds."
                .to_owned(),
        );
    }
    for line in &result.summary {
        if line.errors > 0 {
            let error = result
                .runs
                .iter()
                .filter(|run| run.contestant == line.contestant)
                .find_map(|run| run.report.first_error.as_deref());
            notes.push(format!(
                "ERRORS: {} had {} ({}); those runs are not used.",
                line.contestant,
                line.errors,
                error.unwrap_or("no text")
            ));
        }
        if line.starved_connections > 0 {
            notes.push(format!(
                "{}: {} connections (over all runs) got no answer in the measured time.",
                line.contestant, line.starved_connections
            ));
        }
    }
    for (name, why) in &result.failures {
        notes.push(format!("FAILED: {name}: {why}"));
    }
    let missing = |what: &str, (name, why): (&String, &String)| {
        format!("{what} of {name}: not measured: {why}")
    };
    notes.extend(reasons(&result.syscalls).map(|why| missing("system calls", why)));
    notes.extend(reasons(&result.tcp_shares).map(|why| missing("CPU time outside TCP", why)));
    notes.extend(reasons(&result.allocations).map(|why| missing("allocations", why)));
    notes
}

/// Who has no figure, and why.
fn reasons<T>(figures: &[(String, Result<T, String>)]) -> impl Iterator<Item = (&String, &String)> {
    figures.iter().filter_map(|(name, figure)| Some((name, figure.as_ref().err()?)))
}

fn distance_note(args: &EchoArgs, result: &CellResult) -> String {
    let count = |distance| result.runs.iter().filter(|run| run.distance == distance).count();
    let (near, far, changed) =
        (count(Distance::Near), count(Distance::Far), count(Distance::Changed));
    let all = result.runs.len();
    let threshold = args.near_below_ns;
    if near > 0 {
        format!(
            "Near runs only (cache-line round trip below {threshold} ns before and after): {} of \
             {all} dropped ({far} far, {changed} changed).",
            far + changed
        )
    } else {
        format!(
            "NO NEAR RUN (cache-line round trip below {threshold} ns): far runs are compared with \
             far ones; {changed} of {all} dropped because the distance changed."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LoadReport;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!(spread, Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        let spread = Spread::of([9.0, 1.0, 3.0].into_iter());
        assert_eq!(spread, Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn runs_of_one_round_are_compared_with_each_other() {
        // The machine was slower in round 1, for both; in round 2 only one of them ran.
        let floor = vec![(0, 10.0), (1, 20.0), (3, 10.0)];
        let own = vec![(0, 11.0), (1, 22.0), (2, 90.0), (3, 12.0)];
        let ratio = paired(&own, &floor, |own, base| own / base);
        assert_eq!(ratio, Some(1.1));
        assert_eq!(paired(&own, &floor, |own, base| own - base), Some(2.0));
        assert_eq!(paired(&own, &vec![(7, 1.0)], |own, base| own / base), None);
    }

    fn run(name: &str, distance: Distance, server_cpu_s: f64, errors: u64) -> Run {
        let report = LoadReport {
            messages: 1_000_000,
            messages_since_start: 1_200_000,
            errors,
            first_error: None,
            starved_connections: 0,
            wire_bytes_per_message: 32,
            elapsed_s: 5.0,
            load_cpu_s: 2.5,
            server_cpu_s: Some(server_cpu_s),
            others_cpu_s: Some(0.0),
            server_resident_bytes: None,
            server_private_bytes: None,
            syscalls: None,
        };
        let contestant = name.to_owned();
        Run { round: 0, contestant, distance_ns: [0.0; 2], distance, report }
    }

    fn summary_of(runs: Vec<Run>) -> Vec<Summary> {
        let contestants: Vec<Contestant> =
            ["mio=raw:mio", "floor=raw:floor"].map(|text| text.parse().unwrap()).to_vec();
        let result = CellResult {
            cell: "50x1x32".parse().unwrap(),
            runs,
            syscalls: Vec::new(),
            tcp_shares: Vec::new(),
            allocations: Vec::new(),
            failures: Vec::new(),
            summary: Vec::new(),
        };
        summarize(&contestants, &result)
    }

    #[test]
    fn only_near_runs_without_errors_count() {
        let summary = summary_of(vec![
            run("floor", Distance::Near, 4.0, 0),
            run("mio", Distance::Near, 5.0, 0),
            run("floor", Distance::Far, 8.0, 0),
            run("mio", Distance::Changed, 9.0, 0),
            run("mio", Distance::Near, 1.0, 2),
        ]);
        assert_eq!(summary[0].server_cpu_ns_per_message.unwrap().median, 5000.0);
        assert_eq!(summary[0].ratio, Some(1.25));
        assert_eq!((summary[0].runs_used, summary[0].runs, summary[0].errors), (1, 3, 2));
        assert_eq!((summary[1].runs_used, summary[1].runs), (1, 2));
    }

    #[test]
    fn far_runs_are_compared_when_none_is_near() {
        let summary = summary_of(vec![
            run("floor", Distance::Far, 8.0, 0),
            run("mio", Distance::Far, 6.0, 0),
            run("mio", Distance::Changed, 1.0, 0),
        ]);
        assert_eq!(summary[0].distance, Distance::Far);
        assert_eq!(summary[0].ratio, Some(0.75));
    }

    #[test]
    fn without_a_near_run_of_its_own_a_contestant_has_no_figure() {
        let summary = summary_of(vec![
            run("floor", Distance::Near, 4.0, 0),
            run("mio", Distance::Far, 6.0, 0),
        ]);
        assert_eq!((summary[0].runs_used, summary[0].ratio), (0, None));
    }
}
