//! What one worker counts for one group: each kind of client has one and calls it for every message.
//!
//! Hot path. It touches only what belongs to its worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use wharf::{CloseReason, SessionId};

use super::control::{Control, Event};
use super::schedule::{Arrivals, Schedule};
use super::tally::{Difference, ErrorKind, FirstError, Tally, histogram};

/// Counts what happens on one worker's connections of one group.
pub(crate) struct Meter {
    control: Arc<Control>,
    group: usize,
    schedule: Option<Arc<Schedule>>,
    pub(crate) tally: Tally,
    under_way: Arc<AtomicU64>,
    /// Answers of the current interval.
    recent: Histogram<u64>,
    interval: u64,
}

impl Meter {
    /// `schedule` is that of an open loop: messages are then told apart by when they were meant.
    pub(crate) fn new(
        control: Arc<Control>,
        group: usize,
        schedule: Option<Arc<Schedule>>,
    ) -> Self {
        let under_way = control.new_under_way();
        Self {
            control,
            group,
            schedule,
            tally: Tally::new(),
            under_way,
            recent: histogram(),
            interval: 0,
        }
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        self.control.now_ns()
    }

    #[inline]
    pub(crate) fn sends(&self) -> bool {
        self.control.sends()
    }

    /// One more answer is waited for.
    #[inline]
    pub(crate) fn sent(&self) {
        self.change_under_way(1);
    }

    /// So many answers are waited for no longer.
    #[inline]
    pub(crate) fn settled(&self, messages: u64) {
        self.change_under_way(messages.wrapping_neg());
    }

    #[inline]
    fn change_under_way(&self, by: u64) {
        // Nobody else writes it: no atomic addition is needed.
        let now = self.under_way.load(Ordering::Relaxed).wrapping_add(by);
        self.under_way.store(now, Ordering::Relaxed);
    }

    /// A message meant for `meant_ns` was sent only at `sent_ns`, by nobody's fault but the load's.
    #[inline]
    pub(crate) fn late(&mut self, meant_ns: u64, sent_ns: u64) {
        if self.control.counts(meant_ns) {
            self.tally.lateness.saturating_record(sent_ns.saturating_sub(meant_ns));
        }
    }

    /// A right answer has come, of so many bytes, to a message that was meant to be sent then.
    #[inline]
    pub(crate) fn answered(&mut self, meant_ns: u64, received_ns: u64, bytes: usize) {
        let latency_ns = received_ns.saturating_sub(meant_ns);
        if self.control.counts(received_ns) {
            self.tally.answered += 1;
            self.tally.answered_bytes += bytes as u64;
            if let Some(step) = self.step(received_ns) {
                self.tally.step(step).answered += 1;
            }
        }
        self.measured(meant_ns, received_ns, latency_ns, 1);
        let interval = received_ns / self.control.interval_ns();
        if interval != self.interval {
            self.hand_in_interval();
            self.interval = interval;
        }
        self.recent.saturating_record(latency_ns);
    }

    /// What is left of a connection's messages for the measured time is never sent.
    pub(crate) fn never_sent(&mut self, arrivals: &mut Arrivals) {
        if self.control.measured_from_ns().is_some() {
            self.never_sent_before(arrivals, self.control.until_ns());
        }
    }

    /// What a connection was meant to send before that time is never sent, because as many messages as
    /// may be are under way. They count with the time that they will have waited by the end, so that a
    /// server which is behind does not look better for it; in slices of that time, since there may be
    /// billions of them.
    pub(crate) fn never_sent_before(&mut self, arrivals: &mut Arrivals, ends_ns: u64) {
        let Some(schedule) = self.schedule.clone() else { return };
        let (from_ns, until_ns) = (self.control.measured_from_ns(), self.control.until_ns());
        let mut meant_ns = schedule.next_ns(arrivals, from_ns);
        let slice_ns = ends_ns.saturating_sub(meant_ns) / UNSENT_SLICES;
        while meant_ns < ends_ns {
            let slice_ends_ns = meant_ns.saturating_add(slice_ns).min(ends_ns);
            let messages = schedule.pass(arrivals, meant_ns, slice_ends_ns, from_ns);
            if self.control.counts(meant_ns) {
                self.tally.unsent += messages;
            }
            self.measured(meant_ns, until_ns, until_ns.saturating_sub(meant_ns), messages);
            meant_ns = schedule.next_ns(arrivals, from_ns);
        }
    }

    #[inline]
    fn measured(&mut self, meant_ns: u64, received_ns: u64, latency_ns: u64, messages: u64) {
        // In a closed loop nothing is meant for a time: the answer decides.
        let decides_ns = if self.schedule.is_some() { meant_ns } else { received_ns };
        if !self.control.counts(decides_ns) {
            return;
        }
        self.tally.latency.saturating_record_n(latency_ns, messages);
        if let Some(step) = self.step(decides_ns) {
            let step = self.tally.step(step);
            step.asked += messages;
            step.latency.saturating_record_n(latency_ns, messages);
        }
    }

    #[inline]
    fn step(&self, at_ns: u64) -> Option<usize> {
        let from_ns = self.control.measured_from_ns()?;
        self.schedule.as_ref()?.step(at_ns.saturating_sub(from_ns))
    }

    /// Notes an error, and keeps it if it is the first.
    pub(crate) fn note(
        &mut self,
        connection: SessionId,
        kind: ErrorKind,
        sequence: Option<u64>,
        what: String,
        bytes: Option<Difference>,
    ) {
        let at = Instant::now();
        self.tally.note(kind, || FirstError { at, kind, what, connection, sequence, bytes });
    }

    pub(crate) fn opened(&self) {
        self.control.tell(Event::Opened(self.group));
    }

    /// A connection could not be made; once the load has ended, it is the load that gave it up.
    pub(crate) fn connect_failed(&self, error: &std::io::Error) {
        if self.sends() {
            self.control.tell(Event::ConnectFailed(self.group, error.to_string()));
        }
    }

    /// A connection was made and asks to be let in, before it is opened or turned away.
    pub(crate) fn taken(&self) {
        self.control.tell(Event::Taken(self.group));
    }

    /// Whoever is on the other side did not let a connection in.
    pub(crate) fn turned_away(&self, why: String) {
        self.control.tell(Event::TurnedAway(self.group, why));
    }

    pub(crate) fn closed(&mut self, reason: CloseReason) {
        *self.tally.closed.entry(reason.name()).or_default() += 1;
        self.control.tell(Event::Closed(self.group));
    }

    fn hand_in_interval(&mut self) {
        if !self.recent.is_empty() {
            let recent = std::mem::replace(&mut self.recent, histogram());
            self.control.tell(Event::Interval(self.interval, Box::new(recent)));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.hand_in_interval();
        self.control.add(self.group, &self.tally);
    }
}

/// A thousandth of a time is as exact as a latency is kept.
const UNSENT_SLICES: u64 = 1000;
