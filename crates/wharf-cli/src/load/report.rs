//! The result, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::engine::Outcome;
use super::figures::{Figures, Median, Percentiles, medians};
use super::machine::Machine;
use super::scenario::{Group, Kind, Scenario};
use super::tally::{ErrorKind, Tally};
use crate::settings::{Bytes, grouped};

/// All that a load has found out, in one run or several.
pub(crate) struct Report<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) machine: Machine,
    /// At least one.
    pub(crate) runs: Vec<Outcome>,
}

impl Report<'_> {
    /// Whether every byte of every answer was right, and every connection held.
    pub(crate) fn is_right(&self) -> bool {
        self.runs.iter().all(|run| run.errors() == 0)
    }

    /// The run whose rate is in the middle: what is shown is what one run saw.
    pub(crate) fn shown(&self) -> &Outcome {
        let mut by_rate: Vec<_> = self.runs.iter().collect();
        by_rate.sort_by(|a, b| {
            a.figures().messages_per_second.total_cmp(&b.figures().messages_per_second)
        });
        by_rate[by_rate.len() / 2]
    }

    /// Everything of all runs, for the errors.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::new();
        self.runs.iter().for_each(|run| total.add(&run.total()));
        total
    }

    /// The result for people.
    pub(crate) fn text(&self) -> String {
        let run = self.shown();
        let mut text = self.heading(run);
        let figures = run.figures();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<10}  {value}");
        };
        let messages = grouped(figures.messages);
        let per_second = grouped(figures.messages_per_second as u64);
        row(self.unit(), format!("{messages}   {per_second}/s"));
        row("payload", format!("{:.2} MB/s each way", figures.payload_bytes_per_second / 1e6));
        row("latency", percentiles_text(&figures.latency_ns));
        if let Some(lateness) = &figures.lateness_ns {
            row("own delay", percentiles_text(lateness));
        }
        if figures.unsent > 0 {
            let unsent = grouped(figures.unsent);
            row("not sent", format!("{unsent} messages: too many were under way already"));
        }
        if let Some(share) = run.processor_share() {
            row("own CPU", format!("{:.0} % of a core for each worker", share * 100.0));
        }
        if let Some(server) = run.server_figures() {
            let per_message = server.processor_ns_per_message;
            row(
                "server",
                format!(
                    "pid {}   {:.0} % of a core{}   {:.1} MB resident",
                    server.pid,
                    server.processors * 100.0,
                    per_message
                        .map(|ns| format!(", {} a message", duration_text(ns as u64)))
                        .unwrap_or_default(),
                    server.resident_bytes as f64 / 1e6
                ),
            );
            if self.scenario.groups.iter().any(|group| matches!(group.kind, Kind::Idle { .. })) {
                let bytes = server.resident_bytes_per_session;
                row(
                    "memory",
                    format!("{bytes:.0} bytes for each of {} sessions", grouped(run.opened)),
                );
            }
        }
        self.write_medians(&mut text);
        write_steps(&mut text, run);
        self.write_groups(&mut text, run);
        self.write_errors(&mut text);
        self.write_warnings(&mut text, run);
        text
    }

    fn unit(&self) -> &'static str {
        let is = |wanted: fn(&Kind) -> bool| {
            self.scenario.groups.iter().all(|group| wanted(&group.kind))
        };
        if is(|kind| matches!(kind, Kind::Connect { .. })) {
            "visits"
        } else if is(|kind| matches!(kind, Kind::Chat(_))) {
            "deliveries"
        } else if is(|kind| matches!(kind, Kind::Arena(_))) {
            "turns"
        } else {
            "messages"
        }
    }

    fn heading(&self, run: &Outcome) -> String {
        let scenario = self.scenario;
        let first = &scenario.groups[0];
        let mut text = format!(
            "wharf bench {}   {}   {} framing   engine {}   {}\n",
            scenario.name,
            first.addr,
            first.framing,
            run.engine_detail,
            counted(run.workers as u64, "worker"),
        );
        for group in &scenario.groups {
            let name =
                if scenario.groups.len() > 1 { format!("{}: ", group.name) } else { String::new() };
            let _ = writeln!(text, "  {name}{}", description(group));
        }
        let _ = writeln!(
            text,
            "  {} measured after {} of warm-up{}\n",
            milliseconds(run.measured),
            milliseconds(scenario.warmup),
            match () {
                () if run.was_interrupted => " (interrupted)",
                () if run.ended_early => " (then no connection was left)",
                () => "",
            },
        );
        text
    }

    fn write_medians(&self, text: &mut String) {
        if self.runs.len() < 2 {
            return;
        }
        let _ = writeln!(text, "  {} runs: median (smallest to largest)", self.runs.len());
        for (name, Median { median, min, max }) in medians(&self.runs) {
            let shown = |value| metric_text(name, value);
            let _ = writeln!(
                text,
                "    {name:<14}  {} ({} to {})",
                shown(median),
                shown(min),
                shown(max)
            );
        }
    }

    fn write_groups(&self, text: &mut String, run: &Outcome) {
        if run.tallies.len() < 2 {
            return;
        }
        for (group, tally) in self.scenario.groups.iter().zip(&run.tallies) {
            let figures = Figures::new(tally, run.measured);
            let _ = writeln!(
                text,
                "  {:<10}  {}/s   {}",
                group.name,
                grouped(figures.messages_per_second as u64),
                percentiles_text(&figures.latency_ns)
            );
        }
    }

    fn write_errors(&self, text: &mut String) {
        let total = self.total();
        let verified = grouped(total.verified);
        if self.is_right() {
            let _ =
                writeln!(text, "  errors      none: all {verified} answers had every byte right");
            return;
        }
        let errors = grouped(total.errors());
        let _ = writeln!(text, "  errors      {errors}, beside {verified} right answers");
        for (kind, &errors) in &total.errors {
            let reasons = match kind {
                ErrorKind::ConnectFailed => self.connect_error().unwrap_or_default(),
                ErrorKind::ConnectionLost => reasons_text(&total.lost_connections),
                _ => String::new(),
            };
            let reasons = if reasons.is_empty() { reasons } else { format!(" ({reasons})") };
            let _ = writeln!(text, "    {:>9}  {}{reasons}", grouped(errors), kind.meaning());
        }
        if let Some(first) = &total.first_error {
            let _ = writeln!(text, "  first error\n    {first}");
        }
        if total.verified == 0 {
            self.write_advice(text);
        }
    }

    fn connect_error(&self) -> Option<String> {
        self.runs.iter().find_map(|run| run.connect_error.clone())
    }

    /// What to look at if not one answer was right.
    fn write_advice(&self, text: &mut String) {
        let group = &self.scenario.groups[0];
        let Some(sizes) = group.sizes() else { return };
        let _ = write!(text, "  Does {} echo in {} framing", group.addr, group.framing);
        if sizes.longest as u64 > USUAL_FRAME_BYTES_MAX {
            let usual = Bytes(USUAL_FRAME_BYTES_MAX);
            let _ = write!(
                text,
                ", and messages of {sizes} (wharf serve takes {usual} unless \
                 --limits-frame-bytes-max says more)"
            );
        }
        text.push_str("?\n");
    }

    fn write_warnings(&self, text: &mut String, run: &Outcome) {
        if run.is_client_the_limit() {
            text.push_str(
                "\nThe load itself used up its processors: it is the limit, not the server. Give it \
                 more --workers, or another machine.\n",
            );
        }
        if run.is_client_late() {
            text.push_str(
                "\nThe load itself sent late (own delay): a good part of the slowest latencies is its \
                 own.\n",
            );
        }
        if self.scenario.is_closed_loop() {
            text.push_str(CLOSED_LOOP);
        } else if self.scenario.groups.iter().any(|group| group.rate().is_some()) {
            text.push_str(OPEN_LOOP);
        }
    }

    /// The result for programs: one object.
    pub(crate) fn json(&self) -> Value {
        let run = self.shown();
        let total = self.total();
        let figures = run.figures();
        let errors: Map<String, Value> = ErrorKind::ALL
            .into_iter()
            .map(|kind| {
                let count = total.errors.get(&kind).copied().unwrap_or(0);
                (kind.name().to_owned(), count.into())
            })
            .collect();
        let mut object = json!({
            "settings": self.settings(run),
            "machine": self.machine,
            "closed_loop": self.scenario.is_closed_loop(),
            "interrupted": self.runs.iter().any(|run| run.was_interrupted),
            "ended_early": run.ended_early,
            "connections_opened": run.opened,
            "measured_s": run.measured.as_secs_f64(),
            "percentiles": percentile_curve(&run.total()),
            "errors_total": total.errors(),
            "errors": errors,
            "lost_connections": total.lost_connections,
            "closed_connections": run.total().closed,
            "connect_error": self.connect_error(),
            "first_error": total.first_error,
            "processor_time_s": run.processor_time.map(|time| time.as_secs_f64()),
            "processor_share_per_worker": run.processor_share(),
            "client_is_the_limit": run.is_client_the_limit(),
            "client_is_late": run.is_client_late(),
            "server": run.server_figures(),
            "steps": run.steps(),
            "groups": self.group_figures(run),
            "medians": medians(&self.runs),
            "repeats": self.runs.iter().map(Outcome::metrics).collect::<Vec<_>>(),
            "over_time": { "answers": run.points, "processes": run.samples },
            "right": self.is_right(),
        });
        if let (Value::Object(object), Ok(Value::Object(figures))) =
            (&mut object, serde_json::to_value(figures))
        {
            object.extend(figures);
        }
        // All runs are verified, not only the one shown.
        object["answers_verified"] = total.verified.into();
        object
    }

    fn settings(&self, run: &Outcome) -> Value {
        let scenario = self.scenario;
        let mut settings = json!({
            "scenario": scenario.name,
            "duration_s": scenario.duration.as_secs_f64(),
            "warmup_s": scenario.warmup.as_secs_f64(),
            "grace_s": scenario.grace.as_secs_f64(),
            "repeats": scenario.repeats,
            "workers": run.workers,
            "engine": run.engine,
            "connections": scenario.connections(),
        });
        // A single group's settings are the load's.
        if let ([group], Value::Object(settings)) = (&scenario.groups[..], &mut settings)
            && let Value::Object(group) = group_settings(group)
        {
            settings.extend(group);
        }
        settings
    }

    fn group_figures(&self, run: &Outcome) -> Vec<Value> {
        let groups = self.scenario.groups.iter().zip(&run.tallies);
        groups
            .map(|(group, tally)| {
                json!({
                    "settings": group_settings(group),
                    "figures": Figures::new(tally, run.measured),
                    "errors_total": tally.errors(),
                })
            })
            .collect()
    }
}

/// What a group was told to do.
fn group_settings(group: &Group) -> Value {
    let mut settings = json!({
        "name": group.name,
        "addr": group.addr.to_string(),
        "framing": group.framing.to_string(),
        "connections": group.connections,
        "does": description(group),
        "rate": group.rate().map(ToString::to_string),
    });
    if let Some(sizes) = group.sizes() {
        settings["size_bytes"] = sizes.longest.into();
        settings["size_bytes_min"] = sizes.shortest.into();
        settings["depth"] = group.depth().into();
    }
    settings
}

/// What a group does, in one line.
pub(crate) fn description(group: &Group) -> String {
    let connections = counted(group.connections.into(), "connection");
    match &group.kind {
        Kind::Echo(traffic) => {
            let size = format!("{} each", traffic.sizes);
            match &traffic.rate {
                None => format!(
                    "{connections} x {} under way, {size}",
                    counted(traffic.depth.into(), "message")
                ),
                Some(rate) => {
                    format!(
                        "{connections}, {rate} messages/s ({} arrivals), {size}",
                        traffic.arrival
                    )
                }
            }
        }
        Kind::Connect { messages, sizes, rate } => format!(
            "{} at a time{}: connect, {} of {sizes}, reset",
            counted(group.connections.into(), "visit"),
            rate.map(|rate| format!(", at most {rate}/s")).unwrap_or_default(),
            counted((*messages).into(), "message"),
        ),
        Kind::Idle { messages: 0, .. } => format!("{connections}, silent all the time"),
        Kind::Idle { messages, sizes } => {
            let messages = counted((*messages).into(), "message");
            format!("{connections}, silent after {messages} of {sizes}")
        }
        Kind::Arena(walking) => format!(
            "{}, {} turns/s ({} arrivals)",
            counted(group.connections.into(), "walker"),
            walking.rate,
            walking.arrival
        ),
        Kind::Chat(talk) => format!(
            "{} in {}, {} texts/s ({} arrivals) by {}, {} each",
            counted(group.connections.into(), "user"),
            counted(talk.rooms.into(), "room"),
            talk.rate,
            talk.arrival,
            grouped(talk.talkers(group.connections).into()),
            talk.sizes
        ),
    }
}

fn write_steps(text: &mut String, run: &Outcome) {
    let steps = run.steps();
    if steps.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "  steps            asked/s     answered/s        p50        p99      p99.9"
    );
    for (index, step) in steps.iter().enumerate() {
        let cell = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
        let _ = writeln!(
            text,
            "    {:>3}  {:>15}  {:>13} {:>10} {:>10} {:>10}{}",
            index + 1,
            grouped(step.asked_per_second as u64),
            grouped(step.answered_per_second as u64),
            cell(step.latency_ns.p50),
            cell(step.latency_ns.p99),
            cell(step.latency_ns.p99_9),
            if step.is_kept_up { "" } else { "   behind" }
        );
    }
    match steps.iter().take_while(|step| step.is_kept_up).last() {
        Some(step) => {
            let rate = grouped(step.answered_per_second as u64);
            let _ = writeln!(text, "    kept up to {rate}/s");
        }
        None => text.push_str("    did not keep up with the first step\n"),
    }
}

/// Points of the latency curve: how many in a hundred, and nanoseconds.
pub(crate) fn percentile_curve(tally: &Tally) -> Vec<(f64, u64)> {
    if tally.latency.is_empty() {
        return Vec::new();
    }
    let values = tally.latency.iter_quantiles(CURVE_STEPS);
    values.map(|value| (value.quantile_iterated_to() * 100.0, value.value_iterated_to())).collect()
}

/// A figure by its name in comparisons, with its unit.
pub(crate) fn metric_text(name: &str, value: f64) -> String {
    match name {
        "rate" => format!("{}/s", grouped(value.round() as u64)),
        "server_memory" => format!("{:.1} MB", value / 1e6),
        "session_memory" => format!("{value:.0} bytes"),
        _ => duration_text(value as u64),
    }
}

pub(crate) fn percentiles_text(percentiles: &Percentiles) -> String {
    let text = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
    format!(
        "p50 {}   p99 {}   p99.9 {}   max {}",
        text(percentiles.p50),
        text(percentiles.p99),
        text(percentiles.p99_9),
        text(percentiles.max)
    )
}

fn reasons_text(reasons: &BTreeMap<&str, u64>) -> String {
    let reasons = reasons.iter().map(|(reason, count)| format!("{reason} {count}"));
    reasons.collect::<Vec<_>>().join(", ")
}

pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A duration without what is below a millisecond.
fn milliseconds(time: Duration) -> impl std::fmt::Display {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis))
}

/// Three digits and a unit.
pub(crate) fn duration_text(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

pub(crate) const CLOSED_LOOP: &str = "
Closed loop: a connection sends its next message when an answer has come, so that a slow server is
also asked less. Latency is that of a client which waits, not the latency under a fixed rate (--rate).
";

pub(crate) const OPEN_LOOP: &str = "
Open loop: messages are sent at the given rate, whatever the server does, and latency counts from the
time at which each was meant to be sent.
";

/// Points of the latency curve for each halving of the distance to 100 %.
const CURVE_STEPS: u32 = 5;

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
