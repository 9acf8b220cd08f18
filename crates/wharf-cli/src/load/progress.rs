//! How far the load is: a bar on a terminal, a line per second elsewhere, both on standard error.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::settings::grouped;

/// Shows how far the load is.
pub(crate) struct Progress {
    /// `None`: standard error is no terminal.
    bar: Option<ProgressBar>,
    started: Instant,
    shown: Shown,
}

/// What was shown last.
struct Shown {
    at: Instant,
    bytes: u64,
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
        Self { bar, started: now, shown: Shown { at: now, bytes: 0 } }
    }

    /// How long until something new should be shown.
    pub(crate) fn due_in(&self) -> Duration {
        INTERVAL.saturating_sub(self.shown.at.elapsed())
    }

    /// Shows what is going on. `bytes` have come back in all, `message_bytes` in each message.
    pub(crate) fn show(&mut self, doing: &str, connections: u64, bytes: u64, message_bytes: u64) {
        let now = Instant::now();
        let seconds = now.duration_since(self.shown.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let messages = bytes.saturating_sub(self.shown.bytes) as f64 / message_bytes as f64;
        let per_second = grouped((messages / seconds) as u64);
        self.shown = Shown { at: now, bytes };
        let elapsed = now.duration_since(self.started);
        let line = format!(
            "{:3.0} s  {doing}  {per_second} messages/s  {connections} connections",
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
