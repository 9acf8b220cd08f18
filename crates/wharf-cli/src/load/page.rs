//! `--report`: the result as one page of HTML that needs nothing else: no script, no request to any
//! network. The curves are SVG, coloured by the page's style, so that both colour schemes work.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::engine::Outcome;
use super::figures::{Figures, medians};
use super::plot::{Axis, Curve, Plot};
use super::report::{
    CLOSED_LOOP, OPEN_LOOP, Report, description, duration_text, metric_text, percentile_curve,
};
use super::tally::ErrorKind;
use crate::settings::grouped;

/// The whole page.
pub(crate) fn page(report: &Report<'_>) -> String {
    let run = report.shown();
    let title = format!("wharf bench {}", report.scenario.name);
    let body = html! {
        h1 { (title) }
        p.verdict.bad[!report.is_right()] {
            @if report.is_right() {
                "Every byte of all " (grouped(report.total().verified)) " answers was right."
            } @else {
                (grouped(report.total().errors())) " errors, beside "
                (grouped(report.total().verified)) " right answers."
            }
        }
        (cards(&run.figures(), run))
        @if run.is_client_the_limit() {
            p.verdict.bad { "The load itself used up its processors: it is the limit, not the server." }
        }
        @if run.is_client_late() {
            p.verdict.bad {
                "The load itself sent late: a good part of the slowest latencies is its own."
            }
        }
        section { h2 { "Latency" } (latency_plot(run)) (loop_note(report)) }
        (over_time(run))
        (steps(run))
        (repeats(report))
        (groups(report, run))
        (errors(report))
        (closed(run))
        (settings(report, run))
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

fn cards(figures: &Figures, run: &Outcome) -> Markup {
    let latency = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
    let mut cards = vec![
        ("answers per second", grouped(figures.messages_per_second as u64)),
        ("p50", latency(figures.latency_ns.p50)),
        ("p99", latency(figures.latency_ns.p99)),
        ("p99.9", latency(figures.latency_ns.p99_9)),
        ("slowest", latency(figures.latency_ns.max)),
    ];
    if let Some(server) = run.server_figures() {
        if let Some(ns) = server.processor_ns_per_message {
            cards.push(("server CPU a message", duration_text(ns as u64)));
        }
        cards.push(("server memory", metric_text("server_memory", server.resident_bytes as f64)));
    }
    if let Some(share) = run.processor_share() {
        cards.push(("load CPU, of its workers", format!("{:.0} %", share * 100.0)));
    }
    html! {
        div.cards { @for (name, value) in cards { div { b { (value) } span { (name) } } } }
    }
}

fn latency_plot(run: &Outcome) -> Markup {
    let curve = percentile_curve(&run.total());
    // 99.9 % lies three tens to the right: equal room for each further nine.
    let nines = |percent: f64| -(1.0 - percent / 100.0).max(1e-6).log10();
    let points: Vec<(f64, f64)> = curve
        .iter()
        .filter(|(percent, _)| *percent < 100.0)
        .map(|(percent, ns)| (nines(*percent), *ns as f64))
        .collect();
    let labels = [
        (0.0, "0"),
        (0.301, "50"),
        (1.0, "90"),
        (2.0, "99"),
        (3.0, "99.9"),
        (4.0, "99.99"),
        (5.0, "99.999"),
    ];
    Plot {
        title: "latency by percentile",
        x: Axis::Marks(labels.map(|(at, label)| (at, label.to_owned())).to_vec()),
        y_text: |ns| duration_text(ns as u64),
        curves: vec![Curve { name: "latency", class: "a", points }],
    }
    .svg()
}

fn over_time(run: &Outcome) -> Markup {
    let answers = |value: fn(&super::series::Point) -> f64| {
        run.points.iter().map(|point| (point.at_s, value(point))).collect::<Vec<_>>()
    };
    let samples = |value: fn(&super::series::Sample) -> Option<f64>| {
        run.samples
            .iter()
            .filter_map(|sample| Some((sample.at_s, value(sample)?)))
            .collect::<Vec<_>>()
    };
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let plots = [
        Plot {
            title: "answers per second",
            x: Axis::Seconds,
            y_text: |rate| grouped(rate as u64),
            curves: vec![Curve {
                name: "answers per second",
                class: "a",
                points: answers(|point| point.messages_per_second),
            }],
        },
        Plot {
            title: "latency over time",
            x: Axis::Seconds,
            y_text: |ns| duration_text(ns as u64),
            curves: vec![
                Curve { name: "p99", class: "b", points: answers(|point| point.p99_ns as f64) },
                Curve { name: "p50", class: "a", points: answers(|point| point.p50_ns as f64) },
            ],
        },
        Plot {
            title: "processors in use",
            x: Axis::Seconds,
            y_text: percent,
            curves: vec![
                Curve {
                    name: "server",
                    class: "a",
                    points: samples(|sample| sample.server_processors),
                },
                Curve {
                    name: "load",
                    class: "b",
                    points: samples(|sample| sample.load_processors),
                },
            ],
        },
        Plot {
            title: "resident memory of the server",
            x: Axis::Seconds,
            y_text: |bytes| format!("{:.1} MB", bytes / 1e6),
            curves: vec![Curve {
                name: "memory",
                class: "a",
                points: samples(|sample| sample.server_resident_bytes.map(|bytes| bytes as f64)),
            }],
        },
        Plot {
            title: "open connections",
            x: Axis::Seconds,
            y_text: |connections| grouped(connections as u64),
            curves: vec![Curve {
                name: "connections",
                class: "a",
                points: samples(|sample| Some(sample.connections as f64)),
            }],
        },
    ];
    html! {
        section {
            h2 { "Over time" }
            p.note { "In seconds since the load began, with the warm-up." }
            div.plots { @for plot in plots { @if plot.has_points() { (plot.svg()) } } }
        }
    }
}

fn steps(run: &Outcome) -> Markup {
    let steps = run.steps();
    let cell = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
    html! {
        @if !steps.is_empty() {
            section {
                h2 { "Steps of the rate" }
                div.scroll { table {
                    tr { th { "asked/s" } th { "answered/s" } th { "p50" } th { "p99" } th { "p99.9" } th {} }
                    @for step in steps {
                        tr {
                            td { (grouped(step.asked_per_second as u64)) }
                            td { (grouped(step.answered_per_second as u64)) }
                            td { (cell(step.latency_ns.p50)) }
                            td { (cell(step.latency_ns.p99)) }
                            td { (cell(step.latency_ns.p99_9)) }
                            td { @if !step.is_kept_up { "behind" } }
                        }
                    }
                } }
            }
        }
    }
}

fn repeats(report: &Report<'_>) -> Markup {
    html! {
        @if report.runs.len() > 1 {
            section {
                h2 { (report.runs.len()) " runs" }
                div.scroll { table {
                    tr { th { "figure" } th { "median" } th { "smallest" } th { "largest" } }
                    @for (name, median) in medians(&report.runs) {
                        tr {
                            td { (name) }
                            td { (metric_text(name, median.median)) }
                            td { (metric_text(name, median.min)) }
                            td { (metric_text(name, median.max)) }
                        }
                    }
                } }
                p.note { "The other figures and curves are those of the run in the middle." }
            }
        }
    }
}

fn groups(report: &Report<'_>, run: &Outcome) -> Markup {
    let cell = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
    html! {
        @if run.tallies.len() > 1 {
            section {
                h2 { "Groups" }
                div.scroll { table {
                    tr { th { "group" } th { "answers/s" } th { "p50" } th { "p99" } th { "errors" } }
                    @for (group, tally) in report.scenario.groups.iter().zip(&run.tallies) {
                        @let figures = Figures::new(tally, run.measured);
                        tr {
                            td { (group.name) }
                            td { (grouped(figures.messages_per_second as u64)) }
                            td { (cell(figures.latency_ns.p50)) }
                            td { (cell(figures.latency_ns.p99)) }
                            td { (grouped(tally.errors())) }
                        }
                    }
                } }
            }
        }
    }
}

fn errors(report: &Report<'_>) -> Markup {
    let total = report.total();
    html! {
        @if !report.is_right() {
            section {
                h2 { "Errors" }
                table {
                    @for kind in ErrorKind::ALL {
                        @if let Some(count) = total.errors.get(&kind) {
                            tr { td { (kind.meaning()) } td { (grouped(*count)) } }
                        }
                    }
                }
                @if let Some(first) = &total.first_error { pre { (first) } }
            }
        }
    }
}

fn closed(run: &Outcome) -> Markup {
    html! {
        section {
            h2 { "Why connections ended" }
            p.note { "As the load saw it; drain and handler are its own doing." }
            table {
                @for (reason, count) in run.total().closed {
                    tr { td { (reason) } td { (grouped(count)) } }
                }
            }
        }
    }
}

fn settings(report: &Report<'_>, run: &Outcome) -> Markup {
    let scenario = report.scenario;
    let mut rows =
        vec![("machine", report.machine.line()), ("server", scenario.groups[0].addr.to_string())];
    rows.extend(
        scenario
            .groups
            .iter()
            .map(|group| ("does", format!("{} ({} framing)", description(group), group.framing))),
    );
    rows.extend([
        ("measured", humantime::format_duration(scenario.duration).to_string()),
        ("warm-up", humantime::format_duration(scenario.warmup).to_string()),
        ("runs", scenario.repeats.to_string()),
        ("load", format!("{} workers, engine {}", run.workers, run.engine_detail)),
        ("wharf", report.machine.wharf.to_owned()),
    ]);
    if let Some(load) = report.machine.load_average {
        rows.push(("load average before", load.to_string()));
    }
    html! {
        section {
            h2 { "Settings and machine" }
            table { @for (name, value) in rows { tr { td { (name) } td { (value) } } } }
        }
    }
}

fn loop_note(report: &Report<'_>) -> Markup {
    let note = if report.scenario.is_closed_loop() { CLOSED_LOOP } else { OPEN_LOOP };
    html! { p.note { (note) } }
}

const STYLE: &str = "
:root{--ground:#fdfdfb;--ink:#1d2327;--faint:#66717a;--line:#d9dde0;--a:#0b63b8;--b:#b3470d;--good:#1c6b3a;--bad:#a8201a;--card:#f2f4f5}
@media(prefers-color-scheme:dark){:root{--ground:#14181b;--ink:#e6e9eb;--faint:#9aa5ad;--line:#343c42;--a:#6fb3f2;--b:#f0a066;--good:#74cf95;--bad:#ff8f87;--card:#1e2429}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.verdict{color:var(--good);font-weight:600;margin:.3rem 0}.verdict.bad{color:var(--bad)}
.note{color:var(--faint);font-size:.875rem;margin:.3rem 0;max-width:44rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.5rem;margin:1rem 0}
.cards div{background:var(--card);border-radius:.4rem;padding:.6rem .7rem}
.cards b{display:block;font-size:1.2rem;font-variant-numeric:tabular-nums}.cards span{color:var(--faint);font-size:.8rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:0;max-width:42rem}figcaption{font-size:.9rem;margin-bottom:.2rem}figcaption i{font-style:normal;margin-left:.8rem;color:var(--faint)}
figcaption i::before{content:'';display:inline-block;width:1rem;height:.2rem;margin-right:.3rem;vertical-align:middle;background:currentColor}
figcaption i.a::before{background:var(--a)}figcaption i.b::before{background:var(--b)}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--faint);font:13px system-ui,sans-serif}svg .grid{stroke:var(--line);stroke-width:1}
@media(max-width:40rem){svg text{font-size:18px}}
svg path{fill:none;stroke-width:2;stroke-linejoin:round}svg path.a{stroke:var(--a)}svg path.b{stroke:var(--b)}
.scroll{overflow-x:auto}.scroll td,.scroll th{white-space:nowrap}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td:first-child{overflow-wrap:break-word}
th{color:var(--faint);font-weight:500}
@media(max-width:40rem){td,th{padding-right:.6rem;font-size:.875rem}}
pre{overflow-x:auto;background:var(--card);padding:.6rem;border-radius:.4rem}
";
