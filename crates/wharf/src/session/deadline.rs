//! The deadlines of a session: one timer for all of them.
//!
//! While a session is open its timer is set to the first deadline that runs, and never further ahead
//! than the shortest time that any deadline can be set for. A deadline that comes up later is
//! therefore not due before the timer is, which finds it then: activity only writes down a time, and
//! never touches the wheel. A session that is opening or closing has one deadline, and the timer is
//! set to that.

use std::time::Duration;

use wharf_port::Time;

use super::{Hold, Session, Shared, Stage, TimerKey};
use crate::{handler::CloseReason, limits::Limits, timer::TimerId};

/// A deadline of an open session has passed: what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Close(CloseReason),
    /// The peer is to be asked for a sign of life.
    Heartbeat,
    /// A rate holds receiving back no longer.
    Resume,
}

impl Session {
    /// Replaces the deadline of a session that is opening or closing.
    pub(crate) fn set_deadline(&mut self, shared: &mut Shared, after: Option<Duration>) {
        let at = after.map(|after| shared.now + after);
        self.set_timer_to(shared, at);
    }

    /// Sets the timer of an open session to what comes first.
    pub(crate) fn arm(&mut self, shared: &mut Shared) {
        debug_assert_eq!(self.stage, Stage::Open);
        let first = self.first_deadline().map(|(at, _)| at);
        let look_again = shortest(&self.limits).map(|after| shared.now + after);
        self.set_timer_to(shared, first.into_iter().chain(look_again).min());
    }

    /// A hold is over. Whether it was the last one, so that receiving goes on, and the deadlines with
    /// it.
    pub(crate) fn release(&mut self, shared: &mut Shared, hold: Hold) -> bool {
        let goes_on = self.receiving.release(hold, shared.now) && self.stage == Stage::Open;
        // On a logic thread nothing is received: the worker is told, and has the deadlines.
        if goes_on && !shared.is_remote {
            self.arm(shared);
        }
        goes_on
    }

    /// What has become due by now, the earliest first.
    pub(crate) fn due(&self, now: Time) -> Option<Due> {
        self.first_deadline().filter(|(at, _)| *at <= now).map(|(_, due)| due)
    }

    /// A timer of its deadline has fired; false if it has been cancelled or set anew since, by
    /// something that was due in the same turn.
    pub(crate) fn deadline_passed(&mut self, fired: TimerId) -> bool {
        self.deadline.take_if(|timer| *timer == fired).is_some()
    }

    /// The first of the deadlines that run, which may have passed already.
    fn first_deadline(&self) -> Option<(Time, Due)> {
        let limits = &self.limits;
        let on_clock = |since: Time, limit: Option<Duration>, reason| {
            let at = self.receiving.time_of(since + limit?)?;
            Some((at, Due::Close(reason)))
        };
        let heartbeat = (self.heartbeat_deadline())
            .and_then(|(reading, due)| Some((self.receiving.time_of(reading)?, due)));
        let first_frame = (!self.first_frame_seen)
            .then(|| {
                on_clock(Time::ZERO, limits.first_frame_timeout, CloseReason::FirstFrameTimeout)
            })
            .flatten();
        let frame = self.unread.as_ref().and_then(|unread| {
            on_clock(unread.since, limits.frame_timeout, CloseReason::FrameTimeout)
        });
        let idle_read =
            on_clock(self.receiving.last, limits.idle_read_timeout, CloseReason::IdleRead);
        let idle_write = (limits.idle_write_timeout)
            .filter(|_| self.send_in_flight)
            .map(|limit| (self.send_started + limit, Due::Close(CloseReason::IdleWrite)));
        let above = (limits.send_queue_soft_timeout)
            .zip(self.above_since())
            .map(|(limit, since)| (since + limit, Due::Close(CloseReason::SlowConsumer)));
        let login = (self.is_stranger())
            .then(|| {
                on_clock(Time::ZERO, limits.unauthenticated_timeout, CloseReason::Unauthenticated)
            })
            .flatten();
        // Of two that pass together, the one that says more comes first.
        let resume = self.rate_deadline();
        let all = [first_frame, login, frame, above, idle_write, idle_read, heartbeat, resume];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn set_timer_to(&mut self, shared: &mut Shared, at: Option<Time>) {
        if let Some(timer) = self.deadline.take() {
            shared.timers.cancel(timer);
        }
        self.deadline =
            at.map(|at| shared.timers.insert(at.as_nanos(), TimerKey::Deadline(self.id)));
    }
}

/// The shortest time that a deadline which comes up while the session is open may be set for.
fn shortest(limits: &Limits) -> Option<Duration> {
    let all = [
        limits.frame_timeout,
        limits.idle_read_timeout,
        limits.idle_write_timeout,
        limits.heartbeat_interval,
        limits.heartbeat_interval.and(limits.heartbeat_timeout),
    ];
    all.into_iter().flatten().min()
}
