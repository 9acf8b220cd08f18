//! Holding a session's receiving back, and the clock that stands still meanwhile.
//!
//! The deadlines that a peer has to keep (its first frame, the rest of a frame, a sign of life) are
//! counted on a clock of the session's own, which stands while the server itself does not receive
//! from it: nobody is late because we did not listen.

use wharf_port::{Config, Time};

/// Why nothing is received from a session. Each comes and goes by itself; receiving goes on when
/// none is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Hold {
    /// The send queue is above its soft mark. What the system has under way still comes.
    SoftMark = 1,
    /// The handler called [`Context::pause`](crate::Context::pause).
    Paused = 2,
    /// The handler called [`Context::hold`](crate::Context::hold): no frames come either.
    Frames = 4,
    /// It has sent more than its rate allows.
    Rate = 8,
    /// Too much waits for its logic thread.
    Logic = 16,
}

/// The [`Hold`]s of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds(u8);

impl Holds {
    #[inline]
    pub(crate) fn any(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub(crate) fn has(self, hold: Hold) -> bool {
        self.0 & hold as u8 != 0
    }

    /// Whether a receive that is in flight is to end early, too.
    pub(crate) fn end_receive(self) -> bool {
        self.0 & !(Hold::SoftMark as u8) != 0
    }
}

/// What a session has to know of its receiving.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) in_flight: bool,
    /// The receive in flight has been asked to end early.
    pub(crate) pausing: bool,
    /// The stream has ended or failed: no receive will be submitted again.
    pub(crate) over: bool,
    holds: Holds,
    /// Its share of a [`Round`], in bytes: the next credit, unless that is less than anybody has.
    share: u32,
    /// How many bytes the worker had received when a credit was spent last; wraps around.
    spent_at: u32,
    /// Bytes read and thrown away since the session began to close.
    pub(crate) discarded_bytes: u32,
    /// While it runs: the time at which the clock would have shown 0. While it stands: what it shows.
    clock_ns: u64,
    /// What the clock showed when bytes arrived last.
    pub(crate) last: Time,
}

impl Receiving {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            in_flight: false,
            pausing: false,
            over: false,
            holds: Holds::default(),
            share: 0,
            spent_at: 0,
            discarded_bytes: 0,
            clock_ns: now.as_nanos(),
            last: Time::ZERO,
        }
    }

    /// A credit is spent, when the worker has received `received_bytes` in all. What it received since
    /// the one before says how many send as much as this one, and so how large the next may be.
    pub(crate) fn spent(&mut self, received_bytes: u32, round: Round, bytes_max: u32) {
        let spent = self.share(round, bytes_max);
        let brought = received_bytes.wrapping_sub(self.spent_at).max(spent);
        let share = round.bytes * u64::from(spent) / u64::from(brought);
        self.share = u32::try_from(share).unwrap_or(u32::MAX);
        self.spent_at = received_bytes;
    }

    /// How many bytes the next receive may bring, of `bytes_max` at most.
    #[inline]
    pub(crate) fn share(&self, round: Round, bytes_max: u32) -> u32 {
        self.share.max(round.least_bytes).min(bytes_max)
    }

    #[inline]
    pub(crate) fn holds(&self) -> Holds {
        self.holds
    }

    /// What the session's clock shows; it began at 0.
    #[inline]
    pub(crate) fn clock(&self, now: Time) -> Time {
        if self.holds.any() {
            Time::from_nanos(self.clock_ns)
        } else {
            Time::from_nanos(now.as_nanos().saturating_sub(self.clock_ns))
        }
    }

    /// When the session's clock will show `reading`; `None` while it stands.
    pub(crate) fn time_of(&self, reading: Time) -> Option<Time> {
        let started = Time::from_nanos(self.clock_ns);
        (!self.holds.any()).then(|| started + reading.since(Time::ZERO))
    }

    pub(crate) fn hold(&mut self, hold: Hold, now: Time) {
        if !self.holds.any() {
            self.clock_ns = now.as_nanos().saturating_sub(self.clock_ns);
        }
        self.holds.0 |= hold as u8;
    }

    /// Whether that was the last one: receiving may go on.
    pub(crate) fn release(&mut self, hold: Hold, now: Time) -> bool {
        let held = self.holds.any();
        self.holds.0 &= !(hold as u8);
        let goes_on = held && !self.holds.any();
        if goes_on {
            self.clock_ns = now.as_nanos().saturating_sub(self.clock_ns);
        }
        goes_on
    }
}

/// What a worker receives in one round of all that send as much as they can. It follows from the receive
/// buffers that its port has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    bytes: u64,
    /// The least that a session may send in a round, however many others do: what one buffer takes, and no
    /// more than a page, so that the others' turn comes soon.
    least_bytes: u32,
}

impl Round {
    /// The least of 400 that send, and no more than fills 25 in 32 of the port's buffers, 400 of the 512
    /// that there are by default: none is missing then.
    pub(crate) fn of(port: &Config) -> Self {
        let buffers = (u64::from(port.receive_buffers) * 25 / 32).max(1);
        let room = buffers * u64::from(port.receive_buffer_bytes);
        let bytes = room.min(400 * u64::from(PAGE_BYTES));
        Self { bytes, least_bytes: port.receive_buffer_bytes.min(PAGE_BYTES) }
    }
}

const PAGE_BYTES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Of so many that all send, each has its part of a round, and from the first credit on.
    #[test]
    fn a_credit_is_larger_where_there_are_few_others() {
        const KIB: u32 = 1024;
        for (senders, credit) in
            [(1, 64 * KIB), (25, 64 * KIB), (50, 32 * KIB), (400, 4 * KIB), (1000, 4 * KIB)]
        {
            assert_eq!(credit_among(senders, &Config::default(), 64 * KIB), credit, "{senders}");
        }
        assert_eq!(credit_among(50, &Config::default(), 100), 100);
    }

    /// What all that send have together is less than the port's buffers hold, whatever their number and
    /// size, or one buffer each, and never more than by default.
    #[test]
    fn a_credit_is_a_share_of_the_buffers_that_there_are() {
        for (buffers, bytes, senders, credit) in [
            (512, 17_408, 50, 32_768),
            (512, 17_408, 200, 8192),
            (512, 17_408, 1000, 4096),
            (512, 512, 10, 20_480),
            (512, 512, 1000, 512),
            (64, 4096, 10, 20_480),
            (64, 4096, 50, 4096),
            (1, 4096, 1, 4096),
        ] {
            let port = Config {
                receive_buffers: buffers,
                receive_buffer_bytes: bytes,
                ..Config::default()
            };
            let found = credit_among(senders, &port, 65_536);
            assert_eq!(found, credit, "{senders} senders, {buffers} buffers of {bytes} bytes");
            assert!(found <= bytes || found * senders <= u32::from(buffers) * bytes);
        }
    }

    /// The credit that each of so many sessions has when all send as much as they may.
    fn credit_among(senders: u32, port: &Config, bytes_max: u32) -> u32 {
        let round = Round::of(port);
        let mut receiving = Receiving::new(Time::ZERO);
        let mut received = u32::MAX - 3_000_000;
        receiving.spent(received, round, bytes_max);
        let credits: Vec<_> = (0..5)
            .map(|_| {
                received = received.wrapping_add(senders * receiving.share(round, bytes_max));
                receiving.spent(received, round, bytes_max);
                receiving.share(round, bytes_max)
            })
            .collect();
        assert!(credits.iter().all(|credit| *credit == credits[0]), "{credits:?}");
        credits[0]
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// Two holds that overlap stop it once, from the first to the last.
    #[test]
    fn the_clock_stands_while_anything_holds() {
        let mut receiving = Receiving::new(at(100));
        assert_eq!(receiving.clock(at(103)), at(3));
        receiving.hold(Hold::SoftMark, at(105));
        receiving.hold(Hold::Paused, at(107));
        receiving.hold(Hold::Paused, at(108));
        assert_eq!((receiving.clock(at(109)), receiving.time_of(at(9))), (at(5), None));
        assert!(!receiving.release(Hold::SoftMark, at(110)));
        assert_eq!(receiving.clock(at(111)), at(5));
        assert!(receiving.release(Hold::Paused, at(120)));
        assert!(!receiving.release(Hold::Paused, at(121)), "nothing is left to release");
        assert_eq!(receiving.clock(at(122)), at(7));
        assert_eq!(receiving.time_of(at(9)), Some(at(124)));
    }
}
