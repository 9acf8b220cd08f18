//! `docs/performance.md` and its pictures, made of what was measured. What is open stands at its end, as
//! it is in `bench/open.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::fanout::{self, FanoutArgs};
use crate::goals;
use crate::suite::{self, Kind, OVERLOAD, Results, picture_folder, values};
use crate::table::{self, Spread};

/// One bar of a picture: its name and value.
type Bar = (String, f64);

/// Writes the page and its pictures.
///
/// # Errors
/// When a file cannot be written.
pub fn write(results: &Results, page: &Path) -> anyhow::Result<()> {
    let (folder, name) = picture_folder(page);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "{}\n", results.machine.line());
    text.push_str(&goals::markdown(results));
    let picture = |text: &mut String, file: &str, title: &str, bars: &[Bar]| {
        if bars.is_empty() {
            return Ok(());
        }
        let _ = writeln!(text, "![{title}]({name}/{file}.svg)\n");
        let path = folder.join(format!("{file}.svg"));
        fs::write(&path, bar_chart(title, bars))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    text.push_str("## Echo, closed loop\n");
    for cell in &results.cells {
        text.push_str(&table::markdown(&results.settings.echo, cell).replace("\n## ", "\n### "));
        let bars: Vec<Bar> = cell
            .summary
            .iter()
            .filter_map(|line| {
                Some((line.contestant.clone(), line.server_cpu_ns_per_message?.median))
            })
            .collect();
        text.push('\n');
        let title = format!("server CPU per message, ns: {}", cell.cell.title());
        picture(&mut text, &format!("echo-{}", cell.cell), &title, &bars)?;
    }
    text.push_str("## Fan-out, closed loop\n");
    let fanout = FanoutArgs::beside(&results.settings.echo);
    text.push_str(&fanout::markdown(&fanout, &results.fanout));
    text.push('\n');
    for section in sections(results) {
        let _ = write!(
            text,
            "## {}\n\n{}\n\n{}\n",
            section.title,
            section.note,
            section.table(results)
        );
        let (column, picture_title) = section.picture;
        let bars = contestants(results).into_iter().filter_map(|contestant| {
            let median = suite::median(results, section.kind, &contestant, column)?;
            Some((contestant, median))
        });
        picture(&mut text, section.file, picture_title, &bars.collect::<Vec<_>>())?;
    }
    if !results.failures.is_empty() {
        text.push_str("## Not measured\n\n");
        for failure in &results.failures {
            let _ = writeln!(text, "- {failure}");
        }
        text.push('\n');
    }
    let wrong: Vec<_> = results.runs.iter().filter(|run| !run.right).collect();
    if !wrong.is_empty() {
        text.push_str("## Wrong answers\n\nThese runs had errors and are in no figure.\n\n");
        for run in wrong {
            let _ = writeln!(text, "- {:?}, round {}: {}", run.kind, run.round + 1, run.contestant);
        }
        text.push('\n');
    }
    text.push_str(OPEN);
    fs::write(page, text.trim_end().to_owned() + "\n")
        .with_context(|| format!("cannot write {}", page.display()))
}

/// A table of one kind of run.
struct Section {
    kind: Kind,
    title: String,
    note: String,
    file: &'static str,
    /// Figures by name, each with its heading and what it is divided by.
    columns: Vec<(String, String, f64)>,
    picture: (&'static str, &'static str),
}

fn sections(results: &Results) -> Vec<Section> {
    let column = |name: &str, title: &str, unit: f64| (name.to_owned(), title.to_owned(), unit);
    let rate = results.rate.unwrap_or_default();
    vec![
        Section {
            kind: Kind::Storm,
            title: "Connections that come and go".to_owned(),
            note: "50 visitors at a time: connect, one echo of 32 bytes, reset; and again.".to_owned(),
            file: "storm",
            columns: vec![
                column("cpu_ns", "CPU us/visit", 1e3),
                column("visits_per_s", "visits/s", 1.0),
                column("p99_ns", "p99 ms", 1e6),
            ],
            picture: ("cpu_ns", "server CPU per visit, ns"),
        },
        Section {
            kind: Kind::Idle,
            title: "Memory of idle sessions".to_owned(),
            note: format!(
                "Resident memory that the server has grown by for each of {} connections, after each has \
                 had one message echoed. Before that, 600 others came and went, so that buffers which all \
                 share are not counted.",
                results.settings.idle_sessions
            ),
            file: "idle",
            columns: vec![column("bytes", "bytes/session", 1.0)],
            picture: ("bytes", "resident bytes per idle session"),
        },
        Section {
            kind: Kind::Rate,
            title: "Latency at a fixed rate".to_owned(),
            note: format!(
                "Open loop: {rate:.0} messages per second for everybody ({:.0} % of the slowest peak in the \
                 first cell), Poisson arrivals on 50 connections, latency from the time at which each \
                 message was meant to be sent. The last column is the load's own lateness, which is in \
                 the latencies.",
                results.settings.rate_share * 100.0
            ),
            file: "rate",
            columns: vec![
                column("p50_ns", "p50 us", 1e3),
                column("p99_ns", "p99 us", 1e3),
                column("p99_9_ns", "p99.9 us", 1e3),
                column("cpu_ns", "CPU ns/message", 1.0),
                column("late_p99_ns", "load late, p99 us", 1e3),
            ],
            picture: ("p99_ns", "p99 at a fixed rate, ns"),
        },
        Section {
            kind: Kind::Overload,
            title: "Overload".to_owned(),
            note: "Answers per second when so many times the contestant's own peak (first cell) is asked \
                   for. A server that stands it goes on at its peak. Where the load itself is at its \
                   limit, it is what the last columns show."
                .to_owned(),
            file: "overload",
            columns: OVERLOAD
                .iter()
                .map(|factor| column(&format!("goodput_{factor}"), &format!("answers/s at {factor} x"), 1.0))
                .collect(),
            picture: ("goodput_4", "answers per second at four times the peak"),
        },
    ]
}

impl Section {
    fn table(&self, results: &Results) -> String {
        let mut text = String::from("| server |");
        for (_, title, _) in &self.columns {
            let _ = write!(text, " {title} | min..max |");
        }
        text.push_str(" runs |\n|---|");
        text.push_str(&"---:|---:|".repeat(self.columns.len()));
        text.push_str("---:|\n");
        for contestant in contestants(results) {
            let _ = write!(text, "| {contestant} |");
            let mut runs = 0;
            for (name, _, unit) in &self.columns {
                let found = values(results, self.kind, &contestant, name);
                runs = runs.max(found.len());
                match Spread::of(found.into_iter().map(|(_, value)| value / unit)) {
                    Some(Spread { median, min, max }) => {
                        let digits = usize::from(median < 100.0);
                        let _ =
                            write!(text, " {median:.digits$} | {min:.digits$}..{max:.digits$} |");
                    }
                    None => text.push_str(" - | - |"),
                }
            }
            let _ = writeln!(text, " {runs} |");
        }
        text
    }
}

fn contestants(results: &Results) -> Vec<String> {
    let lines = results.cells.first().map_or(&[][..], |cell| &cell.summary);
    lines.iter().map(|line| line.contestant.clone()).collect()
}

/// Bars from the left, each with its name and value, in colours for both schemes.
fn bar_chart(title: &str, bars: &[Bar]) -> String {
    let largest = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let height = TOP + bars.len() as f64 * ROW + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{title}\">\n<style>{STYLE}</style>\n<rect class=\"ground\" width=\"{WIDTH}\" \
         height=\"{height}\"/>\n<text x=\"8\" y=\"20\" class=\"title\">{title}</text>\n"
    );
    for (index, (name, value)) in bars.iter().enumerate() {
        let y = TOP + index as f64 * ROW;
        let length = (WIDTH - LEFT - RIGHT) * value / largest;
        let class = if name.starts_with("wharf") { "own" } else { "peer" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{name}</text><rect class=\"{class}\" \
             x=\"{LEFT}\" y=\"{:.0}\" width=\"{length:.1}\" height=\"16\"/><text x=\"{:.1}\" \
             y=\"{:.0}\">{value:.0}</text>",
            LEFT - 8.0,
            y + 13.0,
            y,
            LEFT + length + 6.0,
            y + 13.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

const WIDTH: f64 = 640.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 34.0;
const ROW: f64 = 24.0;

const STYLE: &str = ".ground{fill:#fff}text{font:13px sans-serif;fill:#333}.title{font-weight:bold}\
.peer{fill:#8b98a5}.own{fill:#0b63b8}@media(prefers-color-scheme:dark){.ground{fill:#14181b}\
text{fill:#dde3e8}.peer{fill:#67727c}.own{fill:#6fb3f2}}";

/// The figures that wharf is meant to reach and does not, each with a profile and what was tried.
const OPEN: &str = include_str!("../open.md");

const HEAD: &str = "\
# Performance

Written by `cargo run --release --manifest-path bench/Cargo.toml --features glommio -- all`: tables and
pictures come from its runs, and nothing in them is typed by hand. What is compared, how, and what that
does not say is in [bench/README.md](../bench/README.md); what wharf is meant to reach and does not is at
the [end](#open). Loopback, one core for the server and one for the load.

The peers echo raw bytes: they do no framing and keep no session. wharf's figures are with its sessions,
limits and timers, `wharf-study` also with a framing header. Figures are medians over all runs, ratios
(\"x floor\") medians of those between two runs of one round; gaps under 5 % are ties. Peers run in the first
rounds only, the floor and wharf in all.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_for_each_and_the_longest_fills_it() {
        let bars = [("floor".to_owned(), 50.0), ("wharf-raw".to_owned(), 100.0)];
        let svg = bar_chart("a title", &bars);
        assert_eq!(svg.matches("height=\"16\"").count(), 2);
        assert!(svg.contains("class=\"own\" x=\"110\" y=\"58\" width=\"440.0\""), "{svg}");
        assert!(svg.contains("class=\"peer\" x=\"110\" y=\"34\" width=\"220.0\""), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
