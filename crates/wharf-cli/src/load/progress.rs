//! How far the load is: a bar on a terminal, a line per second elsewhere, both on standard error.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::report::duration_text;
use super::series::Point;
use crate::settings::grouped;

/// Shows how far the load is.
pub(crate) struct Progress {
    /// `None`: standard error is no terminal.
    bar: Option<ProgressBar>,
    started: Instant,
    shown: Instant,
}

impl Progress {
    /// `expected` is how long it will take all in all.
    pub(crate) fn start(expected: Duration) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {msg}").expect("a valid template");
        let bar = io::stderr().is_terminal().then(|| {
            let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            ProgressBar::new(millis.max(1)).with_style(style)
        });
        let now = Instant::now();
        Self { bar, started: now, shown: now }
    }

    /// How long until something new should be shown.
    pub(crate) fn due_in(&self) -> Duration {
        INTERVAL.saturating_sub(self.shown.elapsed())
    }

    /// Shows what is going on; `latest` is the last interval that is over.
    pub(crate) fn show(&mut self, doing: &str, connections: u64, latest: Option<&Point>) {
        let now = Instant::now();
        self.shown = now;
        let elapsed = now.duration_since(self.started);
        let per_second = grouped(latest.map_or(0, |point| point.messages_per_second as u64));
        let p99 = latest.map_or("-".to_owned(), |point| duration_text(point.p99_ns));
        let line = format!(
            "{:3.0} s  {doing}  {per_second} messages/s  p99 {p99}  {connections} connections",
            elapsed.as_secs_f64()
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                bar.set_message(line);
            }
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away: the result comes next.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Often enough to see that it goes on.
const INTERVAL: Duration = Duration::from_secs(1);
