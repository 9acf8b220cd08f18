//! The heartbeat of a session: when the peer is asked for a sign of life, how long it has to answer,
//! and how long that took.
//!
//! No message touches any of this. That the peer is to be asked, and that its answer is late, are two of
//! the session's deadlines, on the clock that stands while nothing is received from it.

use std::time::Duration;

use wharf_port::Time;

use super::{Due, Session, Shared};
use crate::{handle::Command, handler::CloseReason};

/// Made for a session whose limits have an interval.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    beat: Beat,
    /// When it opened, was asked or had answered, whichever came last, on the session's clock.
    since: Time,
    /// When it was asked, on the worker's.
    asked_at: Time,
    round_trip: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Beat {
    /// It is asked when the interval is over.
    #[default]
    Resting,
    /// Its logic thread is to ask it. Nothing is late before that has happened.
    Told,
    Asked,
}

impl Session {
    /// What the heartbeat waits for, and until when on the session's clock.
    pub(super) fn heartbeat_deadline(&self) -> Option<(Time, Due)> {
        let heartbeat = self.heartbeat.as_ref().filter(|_| !self.ending)?;
        let (limit, due) = match heartbeat.beat {
            Beat::Resting => (self.limits.heartbeat_interval, Due::Heartbeat),
            Beat::Told => return None,
            // What waits for the logic thread may be the answer.
            Beat::Asked if self.logic_bytes > 0 => return None,
            Beat::Asked => {
                (self.limits.heartbeat_timeout, Due::Close(CloseReason::HeartbeatTimeout))
            }
        };
        Some((heartbeat.since + limit?, due))
    }

    /// Its logic thread has been told to ask the peer.
    pub(crate) fn heartbeat_told(&mut self) {
        self.heartbeat.get_or_insert_default().beat = Beat::Told;
    }

    /// The handler has asked the peer, or did not want to.
    pub(crate) fn heartbeat_asked(&mut self, shared: &mut Shared, asked: bool) {
        let since = self.receiving.clock(shared.now);
        let heartbeat = self.heartbeat.get_or_insert_default();
        heartbeat.beat = if asked { Beat::Asked } else { Beat::Resting };
        (heartbeat.since, heartbeat.asked_at) = (since, shared.now);
        if shared.is_remote {
            let post = &shared.link(self.id).post;
            post.post_reserved(Command::HeartbeatAsked { id: self.id, asked });
        } else if asked {
            // The wait for the next flush is not the peer's.
            self.flush_now(shared);
        }
    }

    /// The peer has answered; whether that was measured. Nothing happens if it was not asked.
    pub(crate) fn heartbeat_answered(&mut self, shared: &mut Shared) -> bool {
        let clock = self.receiving.clock(shared.now);
        let Some(heartbeat) = self.heartbeat.as_mut().filter(|it| it.beat == Beat::Asked) else {
            return false;
        };
        heartbeat.beat = Beat::Resting;
        if shared.is_remote {
            let post = &shared.link(self.id).post;
            post.post_reserved(Command::HeartbeatAnswered { id: self.id });
            return false;
        }
        let took = shared.now.since(heartbeat.asked_at);
        // Where the clock stood meanwhile the answer may have waited for us: then it says nothing.
        let measured = took == clock.since(heartbeat.since);
        if measured {
            heartbeat.round_trip = Some(took);
        }
        heartbeat.since = clock;
        measured
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_asked(&self) -> bool {
        self.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.beat == Beat::Asked)
    }

    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.heartbeat.as_ref()?.round_trip
    }

    /// What the worker has measured, on the logic thread.
    pub(crate) fn set_round_trip(&mut self, round_trip: Duration) {
        self.heartbeat.get_or_insert_default().round_trip = Some(round_trip);
    }
}
