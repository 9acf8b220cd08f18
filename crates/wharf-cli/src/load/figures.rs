//! From what was counted to figures: rates, percentiles, shares, and medians over repeats.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::engine::Outcome;
use super::tally::Tally;

/// The figures of one run, or of one group in it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Answers that came in the measured time.
    pub(crate) messages: u64,
    pub(crate) messages_per_second: f64,
    pub(crate) payload_bytes_per_second: f64,
    pub(crate) latency_ns: Percentiles,
    /// How late the load itself sent the messages of an open loop.
    pub(crate) lateness_ns: Option<Percentiles>,
    /// Messages of an open loop that were never sent.
    pub(crate) unsent: u64,
    pub(crate) answers_verified: u64,
}

/// Nanoseconds that so many in a hundred took at most; `None` without values.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: Option<u64>,
    pub(crate) p90: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) p99_9: Option<u64>,
    pub(crate) p99_99: Option<u64>,
    pub(crate) max: Option<u64>,
}

/// One step of the rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StepFigures {
    pub(crate) asked_per_second: f64,
    pub(crate) answered_per_second: f64,
    pub(crate) latency_ns: Percentiles,
    /// Whether the server kept up: hardly fewer answers than messages.
    pub(crate) is_kept_up: bool,
}

/// What the server's process did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ServerFigures {
    pub(crate) pid: u32,
    /// Processors in use over the measured time.
    pub(crate) processors: f64,
    pub(crate) processor_ns_per_message: Option<f64>,
    pub(crate) resident_bytes_before: u64,
    pub(crate) resident_bytes: u64,
    /// What it grew by since before the first connection, for each of them.
    pub(crate) resident_bytes_per_session: f64,
}

/// The middle of several runs, and how far they are apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Median {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Figures {
    pub(crate) fn new(tally: &Tally, measured: Duration) -> Self {
        Self {
            messages: tally.answered,
            messages_per_second: per_second(tally.answered as f64, measured),
            payload_bytes_per_second: per_second(tally.answered_bytes as f64, measured),
            latency_ns: Percentiles::new(&tally.latency),
            lateness_ns: (!tally.lateness.is_empty()).then(|| Percentiles::new(&tally.lateness)),
            unsent: tally.unsent,
            answers_verified: tally.verified,
        }
    }
}

impl Percentiles {
    pub(crate) fn new(values: &Histogram<u64>) -> Self {
        let at = |quantile| (!values.is_empty()).then(|| values.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: (!values.is_empty()).then(|| values.max()),
        }
    }
}

impl Outcome {
    /// All groups together.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::new();
        self.tallies.iter().for_each(|tally| total.add(tally));
        total
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures::new(&self.total(), self.measured)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.tallies.iter().map(Tally::errors).sum()
    }

    /// Processor time over time and workers: at 1, the load could not do more.
    pub(crate) fn processor_share(&self) -> Option<f64> {
        let cores = per_second(self.processor_time?.as_secs_f64(), self.measured);
        Some(cores / self.workers as f64)
    }

    /// Whether the load itself could do no more. Where nothing was answered rightly, that is not what is
    /// wrong.
    pub(crate) fn is_client_the_limit(&self) -> bool {
        let is_busy = self.processor_share().is_some_and(|share| share > BUSY_SHARE);
        is_busy && self.tallies.iter().any(|tally| tally.answered > 0)
    }

    /// Whether a good part of the slowest latencies is the load's own lateness.
    pub(crate) fn is_client_late(&self) -> bool {
        let figures = self.figures();
        let late = figures.lateness_ns.and_then(|lateness| lateness.p99);
        late.zip(figures.latency_ns.p99).is_some_and(|(late, latency)| late > latency / 2)
    }

    pub(crate) fn server_figures(&self) -> Option<ServerFigures> {
        let (process, [before, began, ended]) = self.server?;
        let used = ended.processor_time.saturating_sub(began.processor_time);
        let messages = self.total().answered;
        let grown = ended.resident_bytes as f64 - before.resident_bytes as f64;
        Some(ServerFigures {
            pid: process.pid,
            processors: per_second(used.as_secs_f64(), self.measured),
            processor_ns_per_message: (messages > 0)
                .then(|| used.as_nanos() as f64 / messages as f64),
            resident_bytes_before: before.resident_bytes,
            resident_bytes: ended.resident_bytes,
            resident_bytes_per_session: grown / self.opened.max(1) as f64,
        })
    }

    /// The steps of the rate, if it has any.
    pub(crate) fn steps(&self) -> Vec<StepFigures> {
        let total = self.total();
        let each = self.measured / u32::try_from(total.steps.len().max(1)).unwrap_or(u32::MAX);
        let figures = |step: &super::tally::Step| StepFigures {
            asked_per_second: per_second(step.asked as f64, each),
            answered_per_second: per_second(step.answered as f64, each),
            latency_ns: Percentiles::new(&step.latency),
            is_kept_up: step.answered as f64 >= step.asked as f64 * KEPT_UP,
        };
        total.steps.iter().map(figures).collect()
    }

    /// Figures by the names that comparisons use.
    pub(crate) fn metrics(&self) -> BTreeMap<&'static str, f64> {
        let figures = self.figures();
        let latency = figures.latency_ns;
        let server = self.server_figures();
        let all = [
            ("rate", Some(figures.messages_per_second)),
            ("p50", latency.p50.map(|ns| ns as f64)),
            ("p90", latency.p90.map(|ns| ns as f64)),
            ("p99", latency.p99.map(|ns| ns as f64)),
            ("p99.9", latency.p99_9.map(|ns| ns as f64)),
            ("max", latency.max.map(|ns| ns as f64)),
            ("server_cpu", server.and_then(|server| server.processor_ns_per_message)),
            ("server_memory", server.map(|server| server.resident_bytes as f64)),
            (
                "session_memory",
                server
                    .filter(|server| server.processor_ns_per_message.is_none())
                    .map(|server| server.resident_bytes_per_session),
            ),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The medians over all runs, by the names that comparisons use.
pub(crate) fn medians(runs: &[Outcome]) -> BTreeMap<&'static str, Median> {
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flat_map(Outcome::metrics) {
        all.entry(name).or_default().push(value);
    }
    all.into_iter().map(|(name, values)| (name, Median::of(values))).collect()
}

impl Median {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self { median: f64::midpoint(low, high), min: values[0], max: values[values.len() - 1] }
    }
}

fn per_second(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

/// From here on the load cannot be said to have waited for the server.
const BUSY_SHARE: f64 = 0.9;

/// The part of the messages that must be answered in time; the rest is at the edges.
const KEPT_UP: f64 = 0.97;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        for (values, expected) in [
            (vec![3.0], (3.0, 3.0, 3.0)),
            (vec![9.0, 1.0, 5.0], (5.0, 1.0, 9.0)),
            (vec![4.0, 1.0, 2.0, 9.0], (3.0, 1.0, 9.0)),
        ] {
            let Median { median, min, max } = Median::of(values);
            assert_eq!((median, min, max), expected);
        }
    }

    /// A second of two workers, which used so much processor time, sent so late and were answered so
    /// late.
    fn second(processor_ms: u64, late_us: u64, answered_us: u64) -> Outcome {
        let mut tally = Tally::new();
        tally.lateness.record(late_us * 1000).unwrap();
        tally.latency.record(answered_us * 1000).unwrap();
        tally.answered = 1;
        Outcome {
            engine: "uring".to_owned(),
            engine_detail: String::new(),
            workers: 2,
            opened: 1,
            measured: Duration::from_secs(1),
            processor_time: Some(Duration::from_millis(processor_ms)),
            server: None,
            was_interrupted: false,
            ended_early: false,
            connect_error: None,
            tallies: vec![tally],
            points: Vec::new(),
            samples: Vec::new(),
            log: Vec::new(),
        }
    }

    #[test]
    fn a_load_that_is_itself_the_limit_or_late_knows_it() {
        for (processor_ms, late_us, answered_us, limit, late) in [
            (100, 10, 1000, false, false),
            (1700, 10, 1000, false, false),
            (1900, 10, 1000, true, false),
            (100, 400, 1000, false, false),
            (100, 600, 1000, false, true),
        ] {
            let outcome = second(processor_ms, late_us, answered_us);
            assert_eq!(outcome.is_client_the_limit(), limit, "{processor_ms} ms of 2 s");
            assert_eq!(outcome.is_client_late(), late, "{late_us} us of {answered_us} us");
        }
        let mut unanswered = second(1900, 10, 1000);
        unanswered.tallies = vec![Tally::new()];
        assert!(!unanswered.is_client_the_limit());
    }
}
