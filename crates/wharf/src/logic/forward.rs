//! The worker's half of a service whose handlers are on logic threads: finds frames, and forwards.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    Service,
    decode::{self, Receiver},
    event::Event,
    finish_call,
    lane::{ConnectFailure, Entry, Notice, Opening},
    send_from_outside,
};
use crate::{
    error::SendError,
    framing::{Frame, Framing},
    handler::CloseReason,
    sending::{Class, Sending, Sent},
    session::{Session, Shared},
    watch::Doing,
};

pub(crate) struct Forward<F> {
    framing: F,
    /// Its number among the services.
    service: u16,
    /// Says whether its handlers require a login, when the first of them has been made.
    requires_login: Arc<OnceLock<bool>>,
    sending: Sending,
}

impl<F: Framing> Forward<F> {
    pub(crate) fn new(
        framing: F,
        service: u16,
        requires_login: Arc<OnceLock<bool>>,
        sending: Sending,
    ) -> Self {
        Self { framing, service, requires_login, sending }
    }
}

/// The way to the session's logic thread.
struct ToLane<'a> {
    session: &'a mut Session,
    shared: &'a mut Shared,
}

impl Receiver for ToLane<'_> {
    fn parts(&mut self) -> (&mut Session, &mut Shared) {
        (self.session, self.shared)
    }

    fn on_frame(&mut self, frame: Frame<'_>) -> crate::error::Result {
        self.shared.lanes.push_frame(self.session, frame);
        Ok(())
    }
}

impl<F: Framing + Clone> Service for Forward<F> {
    fn framing(&self) -> Rc<dyn Framing> {
        Rc::new(self.framing.clone())
    }

    fn requires_login(&self) -> bool {
        *self.requires_login.get().expect("logic threads start before workers")
    }

    fn sending(&self) -> Sending {
        self.sending
    }

    fn on_open(&mut self, session: &mut Session, shared: &mut Shared) {
        let Session { service, socket, opened, .. } = *session;
        let (peer, limits) = (session.peer(), Arc::clone(&session.limits));
        (session.in_logic, session.ending) = (true, false);
        let opening = Opening { service, socket, peer, opened, limits };
        shared.lanes.push(session.id, Entry::Open(session.id, Box::new(opening)));
    }

    fn on_received(&mut self, session: &mut Session, shared: &mut Shared, bytes: &[u8]) {
        finish_call(session, shared, Doing::Decode, |session, shared| {
            decode::frames(&self.framing, &mut ToLane { session, shared }, bytes)
        });
        shared.lanes.hold_if_full(session, shared.now);
    }

    fn on_frame(&mut self, _: &mut Session, _: &mut Shared, _: Frame<'_>) {
        unreachable!("frames are forwarded");
    }

    fn on_timer(&mut self, _: &mut Session, _: &mut Shared, _: u64) {
        unreachable!("timers of handlers are on their thread");
    }

    fn on_heartbeat(&mut self, session: &mut Session, shared: &mut Shared) {
        session.heartbeat_told();
        shared.lanes.push(session.id, Entry::Notice(session.id, Notice::Heartbeat));
    }

    fn on_event(&mut self, session: &mut Session, shared: &mut Shared, event: Event) {
        shared.lanes.push(session.id, Entry::Event(session.id, event));
    }

    fn on_backpressure(&mut self, session: &mut Session, shared: &mut Shared) {
        shared.lanes.push(session.id, Entry::Notice(session.id, Notice::Backpressure));
    }

    fn on_writable(&mut self, session: &mut Session, shared: &mut Shared) {
        shared.lanes.push(session.id, Entry::Notice(session.id, Notice::Writable));
    }

    fn on_drain(&mut self, session: &mut Session, shared: &mut Shared) {
        shared.lanes.push(session.id, Entry::Notice(session.id, Notice::Drain));
    }

    fn on_close(&mut self, session: &mut Session, shared: &mut Shared, reason: CloseReason) {
        let in_order = reason.waits_for_logic();
        shared.lanes.push(session.id, Entry::Close { id: session.id, reason, in_order });
    }

    fn on_connect_failed(
        &mut self,
        shared: &mut Shared,
        address: SocketAddr,
        error: &io::Error,
        retry_in: Option<Duration>,
    ) {
        let error = io::Error::new(error.kind(), error.to_string());
        let failure = ConnectFailure { address, error, retry_in };
        shared.lanes.push_connect_failure(self.service, failure);
    }

    fn send(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        class: Class,
        id: u32,
        body: &[u8],
    ) -> Result<Sent, SendError> {
        send_from_outside(&self.framing, session, shared, class, id, body)
    }
}
