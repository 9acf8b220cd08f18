//! Sessions whose handlers are on logic threads: what comes back from there, and how they end.
//!
//! A session ends on its logic thread first, and only then here, so that its slot is not used again
//! while anything there still names it. A connection that is to be aborted is so at once; what is
//! queued waits for what the handler still had to say.

use super::Worker;
use crate::{
    framing::{Decoded, Framing, FramingError, Packet},
    handler::{CloseReason, SessionId},
    logic::{Entry, Notice},
    session::{Hold, Stage},
};

impl Worker {
    /// Asks a session's logic thread to end it.
    pub(super) fn end_in_logic(&mut self, id: SessionId, reason: CloseReason) {
        let links = std::sync::Arc::clone(&self.shared.handle.0);
        let session = self.sessions.get(id).expect("looked up by the caller");
        // The end of a stream may be waiting there for frames that are held back; nothing else does.
        let waits = matches!(reason, CloseReason::PeerClosed | CloseReason::Protocol);
        if !(session.ending && waits) {
            session.ending = true;
            self.services[usize::from(session.service)].on_close(session, &mut self.shared, reason);
        }
        if !reason.waits_for_logic() {
            links.workers[self.index].set_over(id);
        }
        if reason.aborts() {
            self.abort_in_logic(id);
        }
    }

    /// Ends the connection of a session that its logic thread has still to end.
    pub(super) fn abort_in_logic(&mut self, id: SessionId) {
        self.leave_topics(id);
        let session = self.sessions.get(id).expect("an open session");
        session.end_handling(&mut self.shared);
        self.abort(id);
    }

    /// The handler knows that the session is over, and why.
    pub(super) fn ended_in_logic(&mut self, id: SessionId, reason: CloseReason, bytes: u32) {
        self.consumed(id, bytes);
        let session = self.sessions.get(id).expect("it waits for this");
        debug_assert_eq!(session.logic_bytes, 0, "all that it was handed is handled");
        session.in_logic = false;
        let joining = matches!(session.stage, Stage::Joining(_));
        self.link().set_over(id);
        self.ended(id, reason);
        if joining {
            return self.close_if_joined(id);
        }
        self.leave_topics(id);
        let session = self.sessions.get(id).expect("nothing frees it");
        session.stage = Stage::Flushing;
        session.end_handling(&mut self.shared);
        self.flush_or_abort(id, reason);
        self.start_receive(id);
    }

    /// Queues frames that the session's logic thread has encoded.
    pub(super) fn encoded(&mut self, to: SessionId, bytes: &[u8], frames: u32) {
        let session =
            self.sessions.get(to).expect("it is there until its logic thread has ended it");
        if session.is_open() {
            let packet = Packet { id: 0, session: 0, body: bytes };
            match session.enqueue(&mut self.shared, &Verbatim, packet) {
                Ok(()) => self.shared.stats.frames_sent += u64::from(frames) - 1,
                // Others have filled the queue since the handler was told that there is room.
                Err(_) => session.request(CloseReason::SlowConsumer),
            }
        } else {
            self.shared.stats.sends_too_late += u64::from(frames);
        }
        let unsent = &self.shared.link(to).unsent;
        unsent.set_queued(to, session.queue.bytes());
        unsent.arrived(to, bytes.len());
        self.after_call(to);
    }

    /// A handler holds its session back, or does so no more. Frames that come meanwhile are kept back
    /// here, as those are there which it has been handed already.
    pub(super) fn hold(&mut self, id: SessionId, hold: Hold, on: bool) {
        let Some(session) = self.sessions.get(id) else { return };
        if on {
            session.receiving.hold(hold, self.shared.now);
        } else {
            session.release(&mut self.shared, hold);
        }
        self.after_event(id);
    }

    /// A logic thread has handled frames.
    pub(super) fn consumed(&mut self, id: SessionId, bytes: u32) {
        self.shared.lanes.consumed(id, self.sessions.get(id), bytes);
        // The answer to a heartbeat was not among them, and may be late by now.
        if let Some(session) = self.sessions.get(id)
            && session.stage == Stage::Open
            && session.is_asked()
        {
            session.arm(&mut self.shared);
        }
    }

    /// A handler has had the answer to its heartbeat; it is told what was measured.
    pub(super) fn heartbeat_answered(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.heartbeat_answered(&mut self.shared)
            && let Some(round_trip) = session.round_trip()
        {
            let notice = Notice::RoundTrip(round_trip);
            self.shared.lanes.push(id, Entry::Notice(id, notice));
        }
    }

    /// Receives from those whose logic thread has caught up.
    pub(super) fn receive_again(&mut self) {
        let mut ids = std::mem::take(&mut self.held);
        self.shared.lanes.take_held(&mut ids);
        for id in ids.drain(..) {
            let Some(session) = self.sessions.get(id) else { continue };
            if session.stage != Stage::Open || session.ending {
                continue;
            }
            if session.logic_bytes as usize > session.limits.logic_queue_bytes_max / 2 {
                self.shared.lanes.hold_still(id);
            } else if session.release(&mut self.shared, Hold::Logic) {
                self.start_receive(id);
            }
        }
        self.held = ids;
    }
}

/// What is encoded already.
#[derive(Clone, Copy)]
struct Verbatim;

impl Framing for Verbatim {
    fn decode(&self, _: &[u8], _: usize) -> Result<Decoded, FramingError> {
        Err(FramingError::Malformed("frames are decoded by the listener's framing"))
    }

    fn encoded_len(&self, body_len: usize) -> usize {
        body_len
    }

    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        out[..packet.body.len()].copy_from_slice(packet.body);
        Ok(packet.body.len())
    }
}
