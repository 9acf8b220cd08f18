//! What is measured of some sessions only: how fast they send, and what strangers use.

use std::time::Duration;

use wharf_port::Time;

use super::{Due, Hold, Round, Session, Shared};
use crate::{
    handler::CloseReason,
    limits::{Limits, OverRate},
};

/// Made for a session with a rate, or one that has to log in.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// By when what has come would have come at its rate; each is a token bucket, whose level is how
    /// far it lies ahead of now (the "generic cell rate algorithm", ITU-T I.371).
    frames_due: Time,
    bytes_due: Time,
    /// Until it is authenticated.
    stranger: Option<Used>,
}

/// What a session has used of the budget of those that have not logged in.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    received_bytes: usize,
    sent_bytes: usize,
}

impl Meter {
    pub(crate) fn new(limits: &Limits, requires_login: bool) -> Option<Box<Self>> {
        let stranger = requires_login.then(Used::default);
        let measures = stranger.is_some() || has_rate(limits);
        measures.then(|| Box::new(Self { stranger, ..Self::default() }))
    }

    /// When the rates allow more again.
    fn allowed_at(&self, limits: &Limits) -> Time {
        debug_assert!(has_rate(limits));
        // The one that has no rate stays at zero.
        let due = self.frames_due.max(self.bytes_due);
        Time::ZERO + due.since(Time::ZERO + BURST)
    }
}

impl Session {
    /// Counts what arrives from a stranger. False if that is more than it may say: then none of it
    /// is handled.
    #[cold]
    pub(crate) fn may_receive(&mut self, bytes: usize) -> bool {
        let Some(used) = self.meter.as_mut().and_then(|meter| meter.stranger.as_mut()) else {
            return true;
        };
        used.received_bytes += bytes;
        used.received_bytes <= self.limits.unauthenticated_receive_bytes_max
    }

    /// Counts what is queued for a stranger. False if that is more than it may be told: then the
    /// session is to end.
    #[cold]
    pub(crate) fn may_send(&mut self, bytes: usize) -> bool {
        let Some(used) = self.meter.as_mut().and_then(|meter| meter.stranger.as_mut()) else {
            return true;
        };
        let sent_bytes = used.sent_bytes.saturating_add(bytes);
        let may = sent_bytes <= self.limits.unauthenticated_send_bytes_max;
        if may {
            used.sent_bytes = sent_bytes;
        } else {
            self.request(CloseReason::Unauthenticated);
        }
        may
    }

    /// Counts what has been received against the session's rates. Above one of them the session is
    /// not received from until it is below again, or is to end.
    #[cold]
    pub(crate) fn keep_rate(&mut self, shared: &mut Shared, frames: u64, bytes: usize) {
        let now = shared.now;
        let Some(meter) = self.meter.as_mut().filter(|_| has_rate(&self.limits)) else { return };
        add(&mut meter.frames_due, now, frames, self.limits.frames_per_second.map(u64::from));
        add(&mut meter.bytes_due, now, bytes as u64, self.limits.bytes_per_second);
        if meter.allowed_at(&self.limits) <= now || self.receiving.holds().has(Hold::Rate) {
            return;
        }
        match self.limits.over_rate {
            OverRate::Close => self.request(CloseReason::RateLimit),
            OverRate::Delay => {
                shared.stats.rate_delays += 1;
                self.receiving.hold(Hold::Rate, now);
                self.arm(shared);
            }
        }
    }

    /// How many bytes the next receive may bring: what the rate allows, if that is less than a turn.
    #[inline]
    pub(crate) fn receive_credit_bytes(&self, round: Round, now: Time) -> u32 {
        let turn_bytes = self.receiving.share(round, self.limits.receive_credit_bytes);
        match (&self.meter, self.limits.bytes_per_second) {
            (Some(meter), Some(rate)) => {
                let room = (now + BURST).since(meter.bytes_due).min(BURST);
                let bytes = room.as_nanos() * u128::from(rate) / BURST.as_nanos();
                u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, turn_bytes)
            }
            _ => turn_bytes,
        }
    }

    /// The budget of those that have not logged in counts no longer.
    pub(crate) fn authenticated(&mut self) {
        match &mut self.meter {
            Some(meter) if has_rate(&self.limits) => meter.stranger = None,
            meter => *meter = None,
        }
    }

    pub(crate) fn is_stranger(&self) -> bool {
        self.meter.as_ref().is_some_and(|meter| meter.stranger.is_some())
    }

    /// When receiving goes on that a rate holds back.
    pub(super) fn rate_deadline(&self) -> Option<(Time, Due)> {
        let held = self.receiving.holds().has(Hold::Rate);
        let meter = self.meter.as_ref().filter(|_| held)?;
        Some((meter.allowed_at(&self.limits), Due::Resume))
    }
}

fn has_rate(limits: &Limits) -> bool {
    limits.frames_per_second.is_some() || limits.bytes_per_second.is_some()
}

fn add(due: &mut Time, now: Time, count: u64, rate: Option<u64>) {
    if let Some(rate) = rate {
        let nanos = u128::from(count) * BURST.as_nanos() / u128::from(rate);
        *due = (*due).max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }
}

/// A bucket holds as much as its rate allows in this time.
const BURST: Duration = Duration::from_secs(1);
