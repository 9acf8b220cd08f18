//! What the thread that runs a load and its workers share: one clock, the phase, and a way back.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::tally::Tally;

/// Shared by all of a load. Written a few times in a whole run, read for every message.
#[derive(Debug)]
pub(crate) struct Control {
    base: Instant,
    phase: AtomicU8,
    /// The measured time: messages meant for it, and answers that come in it, are counted.
    from_ns: AtomicU64,
    until_ns: AtomicU64,
    interval_ns: u64,
    events: Sender<Event>,
    /// By group: where each worker puts what it counted, as its last act.
    totals: Vec<Mutex<Tally>>,
    /// Messages under way, by worker and group: written by one worker each.
    under_way: Mutex<Vec<Arc<AtomicU64>>>,
}

/// What a worker tells the thread that runs the load.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection of this group was made.
    Opened(usize),
    ConnectFailed(usize, String),
    /// A connection was made; now it waits to be let in.
    Taken(usize),
    /// It was not.
    TurnedAway(usize, String),
    /// A connection that was made is over.
    Closed(usize),
    /// What was answered in one interval.
    Interval(u64, Box<Histogram<u64>>),
    Interrupted,
}

impl Control {
    /// Messages are sent, but answers not yet counted.
    const WARM_UP: u8 = 0;
    const MEASURE: u8 = 1;
    /// Nothing more is sent.
    const STOP: u8 = 2;

    pub(crate) fn new(groups: usize, interval: Duration, events: Sender<Event>) -> Self {
        Self {
            base: Instant::now(),
            phase: AtomicU8::new(Self::WARM_UP),
            from_ns: AtomicU64::new(u64::MAX),
            until_ns: AtomicU64::new(u64::MAX),
            interval_ns: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
            events,
            totals: (0..groups).map(|_| Mutex::new(Tally::new())).collect(),
            under_way: Mutex::new(Vec::new()),
        }
    }

    /// Nanoseconds since the load began: the time that all of it goes by.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Begins to measure, for so long.
    pub(crate) fn measure(&self, measured: Duration) {
        let from_ns = self.now_ns();
        let until_ns = from_ns.saturating_add(measured.as_nanos() as u64);
        self.until_ns.store(until_ns, Ordering::Relaxed);
        self.from_ns.store(from_ns, Ordering::Relaxed);
        self.phase.store(Self::MEASURE, Ordering::Release);
    }

    /// Ends the load; nothing that is meant for later counts.
    pub(crate) fn stop(&self) {
        self.until_ns.fetch_min(self.now_ns(), Ordering::Relaxed);
        self.phase.store(Self::STOP, Ordering::Release);
    }

    /// Whether messages are still sent.
    #[inline]
    pub(crate) fn sends(&self) -> bool {
        self.phase.load(Ordering::Acquire) != Self::STOP
    }

    /// Whether that time is in the measured time, as far as it is known.
    #[inline]
    pub(crate) fn counts(&self, at_ns: u64) -> bool {
        // Relaxed: a message more or less at the edges is as right.
        self.from_ns.load(Ordering::Relaxed) <= at_ns
            && at_ns < self.until_ns.load(Ordering::Relaxed)
    }

    /// When measuring began, once it has.
    #[inline]
    pub(crate) fn measured_from_ns(&self) -> Option<u64> {
        Some(self.from_ns.load(Ordering::Relaxed)).filter(|from| *from != u64::MAX)
    }

    /// When measuring ends or has ended; the end of time before it begins.
    pub(crate) fn until_ns(&self) -> u64 {
        self.until_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    pub(crate) fn tell(&self, event: Event) {
        // Whoever runs the load may have stopped listening.
        let _ = self.events.send(event);
    }

    /// A counter of messages under way that one worker writes.
    pub(crate) fn new_under_way(&self) -> Arc<AtomicU64> {
        let counter = Arc::new(AtomicU64::new(0));
        lock(&self.under_way).push(Arc::clone(&counter));
        counter
    }

    /// Messages under way on all connections.
    pub(crate) fn under_way(&self) -> u64 {
        // An answer may come on another worker than that of its message, so that one counter alone may
        // be below zero.
        let counters = lock(&self.under_way);
        counters.iter().fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
    }

    pub(crate) fn add(&self, group: usize, tally: &Tally) {
        lock(&self.totals[group]).add(tally);
    }

    /// What all workers have counted, by group.
    pub(crate) fn take_totals(&self) -> Vec<Tally> {
        self.totals.iter().map(|total| std::mem::replace(&mut *lock(total), Tally::new())).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
