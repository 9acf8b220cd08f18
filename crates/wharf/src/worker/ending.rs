//! Sessions end: flushed and lingering after a close, at once after an abort, and in either case only
//! when nothing is in flight.

use std::sync::atomic::Ordering;

use wharf_port::Close;

use super::Worker;
use crate::{
    handler::{CloseReason, SessionId},
    session::Stage,
};

impl Worker {
    /// Ends a session: the handler is told, then it is flushed or aborted as the reason says.
    pub(super) fn end(&mut self, id: SessionId, reason: CloseReason) {
        let Some(session) = self.sessions.get(id) else { return };
        match session.stage {
            Stage::Open if session.in_logic => return self.end_in_logic(id, reason),
            Stage::Open => self.leave_topics(id),
            Stage::Connecting => return self.join(id, Close::Reset),
            Stage::Flushing | Stage::Lingering | Stage::Joining(_) => return,
        }
        self.link().set_over(id);
        let session = self.sessions.get(id).expect("looked up above");
        session.stage = Stage::Flushing;
        session.end_handling(&mut self.shared);
        self.services[usize::from(session.service)].on_close(session, &mut self.shared, reason);
        self.ended(id, reason);
        self.flush_or_abort(id, reason);
    }

    /// Notes why a session has ended; an outgoing one may be made again.
    pub(super) fn ended(&mut self, id: SessionId, reason: CloseReason) {
        let session = self.sessions.get(id).expect("it has just ended");
        self.shared.stats.closed[reason as usize] += 1;
        if let Some(left_out) = self.shared.closes_logged.admit(self.shared.now) {
            tracing::debug!(session = %id, peer = %session.peer(), %reason, left_out, "session closed");
        }
        if let Some(attempt) = self.outgoing.remove(&id)
            && !matches!(
                reason,
                CloseReason::Handler
                    | CloseReason::HandlerAbort
                    | CloseReason::Requested
                    | CloseReason::Drain
            )
        {
            self.connect_later(attempt);
        }
    }

    /// Goes on to the end of a session that the handler has been told of.
    pub(super) fn flush_or_abort(&mut self, id: SessionId, reason: CloseReason) {
        let session = self.sessions.get(id).expect("still flushing");
        let flush_timeout = session.limits.close_flush_timeout;
        let drained = session.queue.is_empty() && !session.send_in_flight;
        if reason.aborts() {
            self.abort(id);
        } else if drained {
            self.end_stream(id);
        } else {
            session.set_deadline(&mut self.shared, Some(flush_timeout));
            session.mark_dirty(&mut self.shared);
        }
    }

    /// The connection failed: whatever the session was about to do, it cannot.
    pub(super) fn fail(&mut self, id: SessionId, reason: CloseReason) {
        match self.sessions.get(id).map(|session| session.stage) {
            Some(Stage::Flushing | Stage::Lingering) => self.abort(id),
            _ => self.end(id, reason),
        }
    }

    /// Everything is sent: ends our stream, then reads the peer's to its end.
    pub(super) fn end_stream(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("ends its stream once");
        self.port.shutdown_write(session.socket);
        if session.receiving.over {
            return self.join(id, Close::Graceful);
        }
        session.stage = Stage::Lingering;
        let linger_timeout = session.limits.linger_timeout;
        session.set_deadline(&mut self.shared, Some(linger_timeout));
        self.start_receive(id);
    }

    /// Throws away what is queued and resets the connection.
    pub(super) fn abort(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("aborted once");
        self.shared.places -= session.queue.places();
        self.shared.stats.bytes_lost += session.queue.clear() as u64;
        if session.send_in_flight {
            self.releasing_bytes += session.queue.in_flight_bytes();
        }
        self.join(id, Close::Reset);
    }

    /// Waits for everything in flight, then closes the socket.
    pub(super) fn join(&mut self, id: SessionId, how: Close) {
        let session = self.sessions.get(id).expect("joined once");
        let connecting = session.stage == Stage::Connecting;
        session.stage = Stage::Joining(how);
        session.set_deadline(&mut self.shared, None);
        if connecting || session.receiving.in_flight || session.send_in_flight {
            self.port.cancel(session.socket);
        }
        if !connecting {
            self.close_if_joined(id);
        }
    }

    pub(super) fn close_if_joined(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Stage::Joining(how) = session.stage else { return };
        if session.receiving.in_flight || session.send_in_flight || session.in_logic {
            return;
        }
        self.port.close(session.socket, how);
        // Only places of frames that were dropped are left.
        self.shared.places -= session.queue.places();
        let accepted = session.is_accepted.then_some((session.service, session.peer()));
        self.sessions.remove(id);
        match accepted {
            Some((service, peer)) => self.give_back_place(self.link(), service, peer),
            None => _ = self.link().sessions.fetch_sub(1, Ordering::Relaxed),
        }
    }
}
