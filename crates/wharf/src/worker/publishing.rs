//! Topics on a worker: what was published in a turn reaches the queues of its subscribers.

use std::sync::Arc;

use wharf_port::Frame;

use super::Worker;
use crate::{
    error::SendError,
    framing::Packet,
    handle::{Filter, WorkerLink},
    handler::SessionId,
    logic::guard,
    sending::{Class, encode_alone},
    session::Shared,
    topic::{Membership, Part, Topic},
    watch::Doing,
};

impl Shared {
    /// The way to the worker of this session.
    pub(crate) fn link(&self, id: SessionId) -> &WorkerLink {
        &self.handle.0.workers[usize::from(id.worker())]
    }

    /// Writes a frame for the subscribers on this worker.
    pub(crate) fn publish(
        &mut self,
        topic: Topic,
        class: Class,
        packet_id: u32,
        body: &[u8],
    ) -> Result<(), SendError> {
        let packet = Packet { id: packet_id, session: 0, body };
        self.topics.publish(&self.pool, topic, class, packet)
    }
}

impl Worker {
    /// Another thread has subscribed a session, and noted it already.
    pub(super) fn subscribe(&mut self, id: SessionId, topic: Topic) {
        let subscribed = match self.sessions.get(id) {
            Some(session) => session.subscribe(&mut self.shared, topic),
            None => Err(SendError::Closed),
        };
        match subscribed {
            Ok(true) => return,
            Ok(false) | Err(SendError::Closed) => {}
            Err(error) => tracing::warn!(session = %id, ?topic, %error, "cannot subscribe"),
        }
        self.link().topics.remove(topic);
    }

    pub(super) fn unsubscribe(&mut self, id: SessionId, topic: Topic) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.unsubscribe(&mut self.shared, topic) {
            self.link().topics.remove(topic);
        }
        self.after_call(id);
    }

    /// Ends all subscriptions of a session that is about to close.
    pub(super) fn leave_topics(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("still open");
        if session.memberships.is_some() {
            let links = Arc::clone(&self.shared.handle.0);
            let link = &links.workers[self.index];
            session.unsubscribe_all(&mut self.shared, |topic| link.topics.remove(topic));
        }
    }

    /// Another thread has published something.
    pub(super) fn publish(&mut self, topic: Topic, class: Class, packet_id: u32, body: &[u8]) {
        let shared = &mut self.shared;
        let mut published = guard(|| shared.publish(topic, class, packet_id, body));
        if published == Some(Err(SendError::WouldExceed)) {
            self.settle();
            let shared = &mut self.shared;
            published = guard(|| shared.publish(topic, class, packet_id, body));
        }
        match published {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(?topic, %error, "cannot publish"),
            None => tracing::error!(?topic, "a framing panicked"),
        }
    }

    /// Another thread sends something to all sessions that a filter wants.
    pub(super) fn broadcast(&mut self, packet_id: u32, body: &[u8], filter: Filter) {
        let packet = Packet { id: packet_id, session: 0, body };
        let mut frames: Vec<Option<Frame>> = vec![None; self.services.len()];
        for id in self.sessions.ids() {
            let Some(session) = self.sessions.get(id).filter(|session| session.is_open()) else {
                continue;
            };
            let (shared, service) = (&mut self.shared, usize::from(session.service));
            let watch = Arc::clone(&shared.watch);
            watch.begin(Doing::Filter, id.as_u64());
            let prepared = guard(|| -> Result<_, SendError> {
                if !filter(&session.describe(shared)) {
                    return Ok(None);
                }
                if frames[service].is_none() {
                    let framing = &*shared.framings[service];
                    frames[service] = encode_alone(&shared.pool, framing, packet)?;
                }
                Ok(frames[service].clone())
            });
            watch.end();
            match prepared {
                Some(Ok(Some(frame))) => {
                    session.settle(shared);
                    session.deliver(shared, Class::Reliable, frame, 1);
                    self.after_call(id);
                }
                Some(Ok(None)) => {}
                Some(Err(error)) => tracing::debug!(session = %id, %error, "cannot broadcast"),
                None => {
                    tracing::error!("a filter or a framing panicked");
                    break;
                }
            }
        }
        guard(|| drop(filter));
    }

    /// Puts all that was published into the queues of those whom it is for.
    #[inline]
    pub(super) fn settle(&mut self) {
        // Sessions that end meanwhile may publish again; each ends once.
        while !self.shared.topics.is_settled() {
            self.deliver_pending();
        }
    }

    fn deliver_pending(&mut self) {
        let mut pieces = std::mem::take(&mut self.pieces);
        self.shared.topics.take_pending(&mut pieces);
        for piece in &pieces {
            for place in 0..self.shared.topics.places(piece.group) {
                let member = self.shared.topics.member(piece.group, place);
                let Some((slot, part)) = piece.part_for(member) else { continue };
                let Part { class, frame, frames, .. } = part;
                let session = self.sessions.at(slot).expect("a member is a session");
                session.deliver(&mut self.shared, class, frame, frames);
                if session.needs_attention() {
                    self.attention.push(session.id);
                }
            }
        }
        for piece in pieces.drain(..) {
            self.shared.topics.delivered(piece.group);
            if self.shared.topics.has_many_holes(piece.group) {
                let sessions = &mut self.sessions;
                let moved = |slot, now: Membership| {
                    sessions.at(slot).expect("a member is a session").moved(now);
                };
                self.shared.topics.close_ranks(piece.group, moved);
            }
        }
        self.pieces = pieces;
        let mut attention = std::mem::take(&mut self.attention);
        for id in attention.drain(..) {
            self.after_call(id);
        }
        self.attention = attention;
    }
}
