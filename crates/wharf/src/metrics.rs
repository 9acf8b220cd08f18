//! What a server counts.

use std::time::Duration;

use crate::handler::CloseReason;

/// Totals since the start, of one worker or of a whole server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions that are open or closing.
    pub sessions: usize,
    /// Memory of frames that wait to be sent, and of unfinished ones that have arrived.
    pub send_memory_bytes: usize,
    /// Sessions that were aborted because the process had no more memory for what waits to be sent.
    pub memory_aborts: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once because the server had as many sessions as it may.
    pub refused: u64,
    /// Connections closed at once because their address had as many sessions as it may.
    pub refused_sessions_per_address: u64,
    /// Connections closed at once because their address made more in a second than it may.
    pub refused_accepts_per_address: u64,
    /// Connections closed at once because the process had no descriptor left.
    pub refused_descriptors: u64,
    /// Times that accepting failed; a connection that was reset while it waited counts here.
    pub accept_errors: u64,
    /// Connections made by connectors.
    pub connected: u64,
    /// Connections that connectors could not make.
    pub connect_failures: u64,
    /// Calls of handlers that took longer than [`slow_handler`](crate::Builder::slow_handler); counted
    /// when they are found, also those that never return.
    pub slow_calls: u64,
    /// Frames handed to handlers.
    pub frames_received: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Times that a session was not received from for a while, since it had sent more than its rate
    /// allows.
    pub rate_delays: u64,
    /// Frames queued for peers.
    pub frames_sent: u64,
    /// Bytes handed to the system for peers.
    pub bytes_sent: u64,
    /// Sends completed; `frames_sent` over this is how many frames leave together.
    pub sends: u64,
    /// Buffers handed over in those sends.
    pub buffers_sent: u64,
    /// Sessions that were still there at the deadline of the drain, and were aborted.
    pub drain_aborted: u64,
    /// Bytes that were queued for sessions when they were aborted.
    pub bytes_lost: u64,
    /// Times that a session's send queue went above its soft mark.
    pub soft_marks_crossed: u64,
    /// Reliable frames that a session's send queue had no room for below its hard mark.
    pub hard_marks_reached: u64,
    /// Frames of [`Class::DropNewest`](crate::Class::DropNewest) that were dropped.
    pub dropped_newest: u64,
    /// Frames of [`Class::DropOldest`](crate::Class::DropOldest) that were dropped.
    pub dropped_oldest: u64,
    /// Frames of [`Class::Latest`](crate::Class::Latest) for which there was no room.
    pub dropped_latest: u64,
    /// Frames of [`Class::Latest`](crate::Class::Latest) in whose place a newer one was sent.
    pub replaced_latest: u64,
    /// Frames from other threads for sessions that were over.
    pub sends_too_late: u64,
    /// Jobs run.
    pub jobs: u64,
    /// Jobs that panicked.
    pub job_panics: u64,
    /// Calls and results of offloaded work that came for sessions which were over, and calls for
    /// sessions of another type: dropped.
    pub events_dropped: u64,
    /// Offloaded work that panicked, of sessions that were not over by then.
    pub offload_panics: u64,
    /// System calls made by the ports.
    pub system_calls: u64,
    /// Times that a receive had to wait for a buffer.
    pub buffer_shortages: u64,
    /// Bytes queued for peers now, of all sessions.
    pub queue_bytes: usize,
    /// Operations that the ports have in flight now.
    pub operations_in_flight: usize,
    /// Receive buffers that are lent now.
    pub buffers_lent: usize,
    /// Pooled blocks in use now.
    pub blocks_in_use: usize,
    /// Receives that wait for a buffer now.
    pub receives_parked: usize,
    /// Timers set now.
    pub timers: usize,
    /// What the workers' turns took; nothing in the simulator, where no time passes in a turn.
    pub turn_times: TurnTimes,
    /// Sessions closed, by reason, in the order of [`CloseReason::ALL`].
    pub closed: [u64; CloseReason::ALL.len()],
}

impl Stats {
    /// How many sessions ended for this reason.
    #[must_use]
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: &Stats) {
        self.sessions += other.sessions;
        self.send_memory_bytes += other.send_memory_bytes;
        self.memory_aborts += other.memory_aborts;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.refused_sessions_per_address += other.refused_sessions_per_address;
        self.refused_accepts_per_address += other.refused_accepts_per_address;
        self.refused_descriptors += other.refused_descriptors;
        self.accept_errors += other.accept_errors;
        self.connected += other.connected;
        self.connect_failures += other.connect_failures;
        self.slow_calls += other.slow_calls;
        self.frames_received += other.frames_received;
        self.bytes_received += other.bytes_received;
        self.rate_delays += other.rate_delays;
        self.frames_sent += other.frames_sent;
        self.bytes_sent += other.bytes_sent;
        self.sends += other.sends;
        self.buffers_sent += other.buffers_sent;
        self.drain_aborted += other.drain_aborted;
        self.bytes_lost += other.bytes_lost;
        self.soft_marks_crossed += other.soft_marks_crossed;
        self.hard_marks_reached += other.hard_marks_reached;
        self.dropped_newest += other.dropped_newest;
        self.dropped_oldest += other.dropped_oldest;
        self.dropped_latest += other.dropped_latest;
        self.replaced_latest += other.replaced_latest;
        self.sends_too_late += other.sends_too_late;
        self.jobs += other.jobs;
        self.job_panics += other.job_panics;
        self.events_dropped += other.events_dropped;
        self.offload_panics += other.offload_panics;
        self.system_calls += other.system_calls;
        self.buffer_shortages += other.buffer_shortages;
        self.queue_bytes += other.queue_bytes;
        self.operations_in_flight += other.operations_in_flight;
        self.buffers_lent += other.buffers_lent;
        self.blocks_in_use += other.blocks_in_use;
        self.receives_parked += other.receives_parked;
        self.timers += other.timers;
        self.turn_times.add(&other.turn_times);
        for (mine, theirs) in self.closed.iter_mut().zip(other.closed) {
            *mine += theirs;
        }
    }
}

/// How long turns took (from waking to having nothing left but to wait), or calls of a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnTimes {
    /// Turns that took up to each of [`BOUNDS`](Self::BOUNDS) and longer than the one before; then those that took
    /// longer than all.
    pub counts: [u64; TurnTimes::BOUNDS.len() + 1],
    /// What all of them took together, in nanoseconds.
    pub total_ns: u64,
}

impl TurnTimes {
    /// Each about three times the one before, from what handling one message takes to what people
    /// notice.
    pub const BOUNDS: [Duration; 12] = [
        Duration::from_micros(3),
        Duration::from_micros(10),
        Duration::from_micros(30),
        Duration::from_micros(100),
        Duration::from_micros(300),
        Duration::from_millis(1),
        Duration::from_millis(3),
        Duration::from_millis(10),
        Duration::from_millis(30),
        Duration::from_millis(100),
        Duration::from_millis(300),
        Duration::from_secs(1),
    ];

    pub(crate) const BUCKETS: usize = Self::BOUNDS.len() + 1;

    /// Which of `counts` counts this.
    #[inline]
    pub(crate) fn bucket(took: Duration) -> usize {
        let bucket = Self::BOUNDS.iter().position(|bound| took <= *bound);
        bucket.unwrap_or(Self::BOUNDS.len())
    }

    /// Counts one turn.
    #[inline]
    pub(crate) fn count(&mut self, took: Duration) {
        self.counts[Self::bucket(took)] += 1;
        self.total_ns = self.total_ns.saturating_add(took.as_nanos() as u64);
    }

    fn add(&mut self, other: &TurnTimes) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
    }
}

/// What a worker still held when it ended: all zero, or something was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Operations that the port still had in flight.
    pub operations_in_flight: usize,
    /// Receive buffers not given back.
    pub buffers_lent: usize,
    /// Pooled blocks still in use.
    pub blocks_in_use: usize,
    /// Sockets still open on the port.
    pub sockets: usize,
    /// Sessions still in the table.
    pub sessions: usize,
    /// Timers still set.
    pub timers: usize,
    /// Offloaded work that still waits or runs, or whose result nobody has consumed.
    pub offloads: usize,
    /// Bytes of frames that no logic thread has handled.
    pub logic_bytes: usize,
}

impl Leftover {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn add(&mut self, other: &Leftover) {
        self.operations_in_flight += other.operations_in_flight;
        self.buffers_lent += other.buffers_lent;
        self.blocks_in_use += other.blocks_in_use;
        self.sockets += other.sockets;
        self.sessions += other.sessions;
        self.timers += other.timers;
        self.offloads += other.offloads;
        self.logic_bytes += other.logic_bytes;
    }
}

/// What a server says when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it counted.
    pub stats: Stats,
    /// What it failed to give back.
    pub leftover: Leftover,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_below_the_bound_that_it_keeps() {
        let mut times = TurnTimes::default();
        for (nanos, bucket) in [(0, 0), (3_000, 0), (3_001, 1), (1_000_000_000, 11), (u64::MAX, 12)]
        {
            let before = times.counts[bucket];
            times.count(Duration::from_nanos(nanos));
            assert_eq!(times.counts[bucket], before + 1, "{nanos} ns");
        }
        let mut sum = times;
        sum.add(&times);
        assert_eq!(sum.counts.iter().sum::<u64>(), 10);
        assert!(TurnTimes::BOUNDS.is_sorted());
    }
}
