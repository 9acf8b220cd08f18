//! `wharf bench`: load that checks every byte of every answer, on connections of the library itself.
//!
//! `scenario` says what a load consists of, `engine` runs it once: opens connections, lets them warm
//! up, measures, stops. The workers do the rest: `echo`, `chat` and `arena` send and check, `schedule` says
//! when, `bounds` how much, `pattern` what a message contains, `meter` counts into a `tally`. `figures` makes rates and
//! percentiles of that, `report` and `page` show them, `progress` shows that it goes on.

mod arena;
mod bounds;
mod chat;
mod compare;
mod control;
mod echo;
mod engine;
mod figures;
mod machine;
mod meter;
mod mix;
mod page;
mod pattern;
mod plot;
mod process;
mod progress;
mod report;
mod scenario;
mod schedule;
mod series;
mod tally;

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

pub(crate) use arena::Walking;
pub(crate) use bounds::{CONNECTIONS_MAX, MESSAGES_MAX, time, visits, whole};
pub(crate) use chat::Talk;
pub(crate) use compare::{Measured, Tolerance, failures, table};
pub(crate) use engine::{Interrupted, Interrupts, Outcome};
pub(crate) use figures::Percentiles;
pub(crate) use mix::Mix;
pub(crate) use page::page;
pub(crate) use pattern::{Sizes, mix};
pub(crate) use report::{Report, duration_text};
pub(crate) use scenario::{Group, Kind, Scenario, Traffic};
pub(crate) use schedule::{Arrival, Rate};
pub(crate) use tally::ErrorKind;

/// Runs a scenario as often as it says.
///
/// # Errors
/// If the load cannot start, or not one connection can be made.
pub(crate) fn run(scenario: &Scenario, keeps_log: bool) -> Result<Report<'_>> {
    let machine = machine::Machine::read();
    let interrupts = Interrupts::handle()?;
    let mut runs: Vec<Outcome> = Vec::new();
    for repeat in 1..=scenario.repeats {
        let title = match scenario.repeats {
            1 => String::new(),
            repeats => format!("run {repeat} of {repeats}: "),
        };
        let setting = engine::Setting { title, keeps_log, interrupts: &interrupts };
        runs.push(engine::run(scenario, &setting)?);
        if runs.last().is_some_and(|run| run.was_interrupted) {
            break;
        }
    }
    Ok(Report { scenario, machine, runs })
}

/// Runs a scenario once, as a part of something else that `title` names.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_part(
    scenario: &Scenario,
    title: &str,
    interrupts: &Interrupts,
) -> Result<Outcome> {
    let setting = engine::Setting { title: title.to_owned(), keeps_log: false, interrupts };
    engine::run(scenario, &setting)
}

/// Writes the latencies of the shown run, interval by interval, as a log that HdrHistogram's own
/// tools read. Times count from the start of the load, which began so long before `ended`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_log(report: &Report<'_>, path: &Path, ended: SystemTime) -> Result<()> {
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut serializer = V2DeflateSerializer::new();
        let intervals = &report.shown().log;
        let lasted =
            intervals.last().map_or_else(Default::default, |last| last.starts + last.lasts);
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("latencies in nanoseconds, by wharf bench")
            .with_start_time(ended - lasted)
            .with_base_time(ended - lasted)
            .begin_log_with(&mut file, &mut serializer)?;
        for interval in intervals {
            let mut histogram = tally::histogram();
            for &(value, count) in &interval.counts {
                histogram.saturating_record_n(value, count);
            }
            log.write_histogram(&histogram, interval.starts, interval.lasts, None)
                .map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
