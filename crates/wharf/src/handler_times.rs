//! What calls of handlers take, by packet id: sampled, because reading a clock twice for each frame
//! would cost about as much as handling one.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use wharf_port::Time;

use crate::{handle::Handle, metrics::TurnTimes};

/// What the calls of a listener's handlers took: [`Handle::handler_times`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerTimes {
    /// The listener's address, as in [`Handle::local_addrs`]; `None` for a connector's sessions.
    pub listener: Option<SocketAddr>,
    /// Frames of each packet that the handler [registers](crate::Handler::packets), by rising id.
    pub packets: Vec<PacketTimes>,
    /// All other frames.
    pub other: TurnTimes,
}

/// What handling the frames of one packet id took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketTimes {
    /// The packet id.
    pub id: u32,
    /// The packet's name.
    pub name: &'static str,
    /// One frame in 61 is measured, of all frames of its thread.
    pub times: TurnTimes,
}

impl Handle {
    /// What calls of [`Handler::on_frame`](crate::Handler::on_frame) took, for each listener and then
    /// each connector. One call in 61 of each thread is measured: of many each is as likely to be among
    /// them. Waits for nobody.
    #[must_use]
    pub fn handler_times(&self) -> Vec<HandlerTimes> {
        let listeners = self.0.local_addrs.iter().map(Some).chain(std::iter::repeat(None));
        let all = self.0.handler_times.iter().zip(listeners);
        all.map(|(times, listener)| times.read(listener.copied())).collect()
    }

    /// Calls of handlers that were found to take longer than
    /// [`slow_handler`](crate::Builder::slow_handler), also those that have not returned. Waits for
    /// nobody.
    #[must_use]
    pub fn slow_calls(&self) -> u64 {
        self.0.slow_calls.load(Ordering::Relaxed)
    }
}

/// What was measured of one listener or connector, by all threads.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// By rising id.
    packets: OnceLock<Vec<(u32, &'static str)>>,
    lanes: Mutex<Vec<Arc<[Slot]>>>,
}

/// What one thread has measured. It alone writes.
#[derive(Debug)]
pub(crate) struct Lane {
    measured: Arc<Measured>,
    /// One for each packet, and one for all others.
    slots: Arc<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    counts: [AtomicU64; TurnTimes::BUCKETS],
    total_ns: AtomicU64,
}

impl Measured {
    /// A lane for one more handler; what the first one registers counts.
    pub(crate) fn open(
        self: &Arc<Self>,
        packets: impl FnOnce() -> Vec<(u32, &'static str)>,
    ) -> Lane {
        let packets = self.packets.get_or_init(|| {
            let mut packets = packets();
            packets.sort_unstable();
            packets.dedup_by_key(|(id, _)| *id);
            packets.truncate(PACKETS_MAX);
            packets
        });
        let slots: Arc<[Slot]> = (0..=packets.len()).map(|_| Slot::default()).collect();
        self.lanes().push(Arc::clone(&slots));
        Lane { measured: Arc::clone(self), slots }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<[Slot]>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, listener: Option<SocketAddr>) -> HandlerTimes {
        let packets = self.packets.get().map_or(&[][..], Vec::as_slice);
        let mut sums = vec![TurnTimes::default(); packets.len() + 1];
        for lane in &*self.lanes() {
            sums.iter_mut().zip(&**lane).for_each(|(sum, slot)| slot.add_to(sum));
        }
        let other = sums.pop().expect("the last one is for all others");
        let times = |(&(id, name), times)| PacketTimes { id, name, times };
        HandlerTimes { listener, packets: packets.iter().zip(sums).map(times).collect(), other }
    }
}

impl Lane {
    /// Counts a frame of this packet id.
    #[cold]
    pub(crate) fn count(&self, packet_id: u32, took: Duration) {
        let packets = self.measured.packets.get().expect("set when it was opened");
        let place = packets.binary_search_by_key(&packet_id, |(id, _)| *id);
        let slot = &self.slots[place.unwrap_or(packets.len())];
        add(&slot.counts[TurnTimes::bucket(took)], 1);
        add(&slot.total_ns, took.as_nanos() as u64);
    }
}

impl Slot {
    fn add_to(&self, sum: &mut TurnTimes) {
        for (sum, count) in sum.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        sum.total_ns = sum.total_ns.saturating_add(self.total_ns.load(Ordering::Relaxed));
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

/// What a thread measures its handlers with.
pub(crate) struct Stopwatch {
    clock: Clock,
    /// The frame that is measured next, by the count of frames.
    next: u64,
}

/// The clock of the ports, or the simulator's.
pub(crate) type Clock = Box<dyn Fn() -> Time>;

impl Stopwatch {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, next: EVERY }
    }

    /// The time now, if this frame is to be measured.
    #[inline]
    pub(crate) fn begin_if_due(&mut self, frames: u64) -> Option<Time> {
        (frames == self.next).then(|| self.begin())
    }

    #[cold]
    fn begin(&mut self) -> Time {
        self.next += EVERY;
        self.read()
    }

    /// The time now.
    pub(crate) fn read(&self) -> Time {
        (self.clock)()
    }
}

/// One frame in so many is measured: what that costs is then below what can be noticed. A prime, so that
/// no pattern of packets falls into step with it.
const EVERY: u64 = 61;

/// Packet ids with times of their own; what is registered beyond that counts among the others. Each
/// costs 112 bytes per thread, and 14 lines on a page of metrics.
const PACKETS_MAX: usize = 256;
