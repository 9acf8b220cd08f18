//! The result, for people and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::tally::{ErrorKind, Tally};
use crate::bench::Options;
use crate::settings::{Bytes, grouped};

/// All that a load has found out.
pub(crate) struct Outcome<'a> {
    pub(crate) options: &'a Options,
    /// The engine of the load itself, as programs and as people are told it.
    pub(crate) engine: String,
    pub(crate) engine_detail: String,
    pub(crate) workers: usize,
    /// Connections that were made.
    pub(crate) opened: u64,
    /// How long answers were counted.
    pub(crate) measured: Duration,
    /// Processor time of this process meanwhile, where the system tells.
    pub(crate) processor_time: Option<Duration>,
    pub(crate) was_interrupted: bool,
    /// No connection was left before the time was over.
    pub(crate) ended_early: bool,
    /// Why connections could not be made, if some could not: the first reason.
    pub(crate) connect_error: Option<String>,
    pub(crate) tally: Tally,
}

impl Outcome<'_> {
    /// Whether every byte of every answer was right, and every connection held.
    pub(crate) fn is_right(&self) -> bool {
        self.tally.errors() == 0
    }

    fn messages(&self) -> u64 {
        self.tally.latency.len()
    }

    fn messages_per_second(&self) -> f64 {
        per_second(self.messages() as f64, self.measured)
    }

    fn bytes_per_second(&self) -> f64 {
        self.messages_per_second() * self.options.size.0 as f64
    }

    /// Processor time over time and workers: at 1, the load could not do more.
    fn processor_share(&self) -> Option<f64> {
        let cores = per_second(self.processor_time?.as_secs_f64(), self.measured);
        Some(cores / self.workers as f64)
    }

    fn is_client_the_limit(&self) -> bool {
        self.processor_share().is_some_and(|share| share > BUSY_SHARE)
    }

    /// Nanoseconds that this part of all answers took at most; `None` without answers.
    fn latency(&self, quantile: f64) -> Option<u64> {
        (self.messages() > 0).then(|| self.tally.latency.value_at_quantile(quantile))
    }

    fn latency_max(&self) -> Option<u64> {
        (self.messages() > 0).then(|| self.tally.latency.max())
    }

    /// The result for people.
    pub(crate) fn text(&self) -> String {
        let options = self.options;
        let mut text = format!(
            "wharf bench echo   {}   {} framing   engine {}   {}\n  {} x {} under way, {} each, {} \
             measured after {} of warm-up{}\n\n",
            options.addr,
            options.framing,
            self.engine_detail,
            counted(self.workers as u64, "worker"),
            counted(self.opened, "connection"),
            counted(options.depth.into(), "message"),
            options.size,
            milliseconds(self.measured),
            milliseconds(options.warmup),
            match () {
                () if self.was_interrupted => " (interrupted)",
                () if self.ended_early => " (then no connection was left)",
                () => "",
            },
        );
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<10}  {value}");
        };
        let messages = grouped(self.messages());
        row("messages", format!("{messages}   {}/s", grouped(self.messages_per_second() as u64)));
        row("payload", format!("{:.2} MB/s each way", self.bytes_per_second() / 1e6));
        let latency = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
        row(
            "latency",
            format!(
                "p50 {}   p99 {}   p99.9 {}   max {}",
                latency(self.latency(0.5)),
                latency(self.latency(0.99)),
                latency(self.latency(0.999)),
                latency(self.latency_max())
            ),
        );
        if let Some(share) = self.processor_share() {
            row("own CPU", format!("{:.0} % of a core for each worker", share * 100.0));
        }
        self.write_errors(&mut text);
        if self.is_client_the_limit() {
            text.push_str(
                "\nThe load itself used up its processors: it is the limit, not the server. Give it \
                 more --workers, or another machine.\n",
            );
        }
        text.push_str(CLOSED_LOOP);
        text
    }

    fn write_errors(&self, text: &mut String) {
        let verified = grouped(self.tally.verified);
        if self.is_right() {
            let _ =
                writeln!(text, "  errors      none: all {verified} answers had every byte right");
            return;
        }
        let _ = writeln!(
            text,
            "  errors      {}, beside {verified} right answers",
            grouped(self.tally.errors())
        );
        for (kind, &errors) in &self.tally.errors {
            let reasons = match kind {
                ErrorKind::ConnectFailed => self.connect_error.clone().unwrap_or_default(),
                ErrorKind::ConnectionLost => {
                    let lost = self.tally.lost_connections.iter();
                    lost.map(|(reason, count)| format!("{reason} {count}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                }
                _ => String::new(),
            };
            let reasons = if reasons.is_empty() { reasons } else { format!(" ({reasons})") };
            let _ = writeln!(text, "    {:>9}  {}{reasons}", grouped(errors), kind.meaning());
        }
        if let Some(first) = &self.tally.first_error {
            let _ = writeln!(text, "  first error\n    {first}");
        }
        if self.tally.verified == 0 {
            self.write_advice(text);
        }
    }

    /// What to look at if not one answer was right.
    fn write_advice(&self, text: &mut String) {
        let Options { addr, framing, size, .. } = self.options;
        let _ = write!(text, "  Does {addr} echo in {framing} framing");
        if size.0 > USUAL_FRAME_BYTES_MAX {
            let usual = Bytes(USUAL_FRAME_BYTES_MAX);
            let _ = write!(
                text,
                ", and messages of {size} (wharf serve takes {usual} unless \
                 --limits-frame-bytes-max says more)"
            );
        }
        text.push_str("?\n");
    }

    /// The result for programs: one object.
    pub(crate) fn json(&self) -> Value {
        let options = self.options;
        let errors: Map<String, Value> = ErrorKind::ALL
            .into_iter()
            .map(|kind| {
                let count = self.tally.errors.get(&kind).copied().unwrap_or(0);
                (kind.name().to_owned(), count.into())
            })
            .collect();
        json!({
            "settings": {
                "addr": options.addr.to_string(),
                "framing": options.framing.to_string(),
                "connections": options.connections,
                "size_bytes": options.size.0,
                "depth": options.depth,
                "duration_s": options.duration.as_secs_f64(),
                "warmup_s": options.warmup.as_secs_f64(),
                "grace_s": options.grace.as_secs_f64(),
                "workers": self.workers,
                "engine": self.engine,
            },
            "closed_loop": true,
            "interrupted": self.was_interrupted,
            "ended_early": self.ended_early,
            "connections_opened": self.opened,
            "measured_s": self.measured.as_secs_f64(),
            "messages": self.messages(),
            "messages_per_second": self.messages_per_second(),
            "payload_bytes_per_second": self.bytes_per_second(),
            "latency_ns": {
                "p50": self.latency(0.5),
                "p99": self.latency(0.99),
                "p99_9": self.latency(0.999),
                "max": self.latency_max(),
            },
            "answers_verified": self.tally.verified,
            "errors_total": self.tally.errors(),
            "errors": errors,
            "lost_connections": self.tally.lost_connections,
            "connect_error": self.connect_error,
            "first_error": self.tally.first_error,
            "processor_time_s": self.processor_time.map(|time| time.as_secs_f64()),
            "processor_share_per_worker": self.processor_share(),
            "client_is_the_limit": self.is_client_the_limit(),
            "right": self.is_right(),
        })
    }
}

fn per_second(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A duration without what is below a millisecond.
fn milliseconds(time: Duration) -> impl std::fmt::Display {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis))
}

/// Three digits and a unit.
fn duration_text(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

const CLOSED_LOOP: &str = "
Closed loop: a connection sends its next message when an answer has come, so that a slow server is
also asked less. Latency is that of a client which waits, not the latency under a fixed rate.
";

/// From here on the load cannot be said to have waited for the server.
const BUSY_SHARE: f64 = 0.9;

/// What `wharf serve` takes by default.
const USUAL_FRAME_BYTES_MAX: u64 = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        for (ns, expected) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (123_456, "123 us"),
            (9_999_999, "10.0 ms"),
            (1_500_000_000, "1.50 s"),
        ] {
            assert_eq!(duration_text(ns), expected);
        }
    }
}
