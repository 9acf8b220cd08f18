//! The end of a server: begun by a signal or through the control channel, all in the same way, shown
//! while it goes on, and over when no session is left or the time is up.

use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use wharf::{Handle, Report};

use crate::settings::{Bytes, LogFormat, grouped};

/// How a server comes to its end.
pub(crate) struct Drain {
    handle: Handle,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How long a drain takes at most if nothing else is said.
    timeout: Duration,
    /// When what is left is cut off; `None`: the server serves.
    deadline: Option<Instant>,
    is_over: bool,
}

/// What a drain still waits for.
pub(crate) struct Left {
    pub(crate) sessions: usize,
    pub(crate) queued_bytes: u64,
    /// Until what is left is cut off.
    pub(crate) time: Duration,
}

impl Drain {
    /// Nothing begins yet; when it does, it takes `timeout` at most.
    pub(crate) fn new(handle: Handle, timeout: Duration) -> Arc<Self> {
        let state = State { timeout, deadline: None, is_over: false };
        Arc::new(Self { handle, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// How long drains that begin from now on take at most.
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
    }

    /// Begins to drain, or brings the end of a drain nearer; never farther.
    pub(crate) fn begin(&self, timeout: Option<Duration>, by: &str) {
        let mut state = self.state();
        let timeout = timeout.unwrap_or(state.timeout).min(TIMEOUT_MAX);
        let deadline = Instant::now() + timeout;
        let is_first = state.deadline.is_none();
        state.deadline = Some(state.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        drop(state);
        // The drain comes before the log, which may have nowhere to go.
        self.handle.drain(timeout);
        self.changed.notify_all();
        if is_first {
            let sessions = self.handle.count();
            tracing::info!(by, sessions, timeout_ms = timeout.as_millis() as u64, "draining");
        }
    }

    /// Whether the server is on its way to the end.
    pub(crate) fn has_begun(&self) -> bool {
        self.state().deadline.is_some()
    }

    /// What a drain that goes on still waits for; `None` if none does.
    pub(crate) fn left(&self) -> Option<Left> {
        let deadline = match &*self.state() {
            State { is_over: true, .. } => return None,
            state => state.deadline?,
        };
        Some(self.waits_for(deadline.saturating_duration_since(Instant::now())))
    }

    /// What a drain would wait for that began now.
    pub(crate) fn outlook(&self, timeout: Option<Duration>) -> Left {
        let timeout = timeout.unwrap_or(self.state().timeout).min(TIMEOUT_MAX);
        self.waits_for(timeout)
    }

    fn waits_for(&self, time: Duration) -> Left {
        // Where workers have too much to do to be asked, the number of sessions is known all the same.
        let sessions = self.handle.sessions().unwrap_or_default();
        let queued_bytes = sessions.iter().map(|session| session.queued_bytes as u64).sum();
        Left { sessions: self.handle.count(), queued_bytes, time }
    }

    /// Waits, but not past the end.
    pub(crate) fn wait(&self, time: Duration) {
        let is_on = |state: &mut State| !state.is_over;
        let waited = self.changed.wait_timeout_while(self.state(), time, is_on);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until the server has ended, and shows how far a drain is meanwhile.
    ///
    /// # Errors
    /// The thread that shows it cannot be started.
    pub(crate) fn join(self: &Arc<Self>, format: LogFormat) -> Result<Report> {
        let watched = Arc::clone(self);
        let watcher = thread::Builder::new()
            .name("wharf-drain".to_owned())
            .spawn(move || watched.show(format))
            .context("cannot start the thread that shows a drain")?;
        let report = self.handle.join();
        self.state().is_over = true;
        self.changed.notify_all();
        // It writes to standard error, and no more than that can fail.
        let _ = watcher.join();
        Ok(report?)
    }

    /// Shows how far a drain is until it is over.
    fn show(&self, format: LogFormat) {
        let serves = |state: &mut State| state.deadline.is_none() && !state.is_over;
        drop(self.changed.wait_while(self.state(), serves).unwrap_or_else(PoisonError::into_inner));
        let mut shown = 0;
        // A drain of idle sessions is over before there is anything to show.
        self.wait(FIRST_SHOWN);
        while let Some(left) = self.left() {
            show(&left, format);
            shown += 1;
            let often = shown < SHOWN_OFTEN || left.time < SHOW_SELDOM;
            let pause = if often { SHOW_OFTEN } else { SHOW_SELDOM };
            // The last line is of the moment in which the rest is cut off.
            self.wait(if left.time.is_zero() { pause } else { pause.min(left.time) });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn show(left: &Left, format: LogFormat) {
    let Left { sessions, queued_bytes, time } = *left;
    if format == LogFormat::Json {
        tracing::info!(sessions, queued_bytes, left_ms = time.as_millis() as u64, "draining");
        return;
    }
    let plural = if sessions == 1 { "" } else { "s" };
    let (sessions, queued) = (grouped(sessions as u64), Bytes(queued_bytes));
    let then = if time.is_zero() {
        "time is up: they are cut off".to_owned()
    } else {
        let seconds = Duration::from_secs(time.as_millis().div_ceil(1000) as u64);
        format!("{} until they are cut off", humantime::format_duration(seconds))
    };
    let line = format!("  draining  {sessions} session{plural} left, {queued} queued, {then}\n");
    // Where nobody can read it, the drain goes on.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Longer ones are not waited for by anybody, and are within what clocks can add.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const FIRST_SHOWN: Duration = Duration::from_millis(200);

/// So many lines come one second apart, the rest ten, but for the last ten seconds.
const SHOWN_OFTEN: u32 = 10;
const SHOW_OFTEN: Duration = Duration::from_secs(1);
const SHOW_SELDOM: Duration = Duration::from_secs(10);
