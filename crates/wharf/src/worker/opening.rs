//! Sessions begin: accepted, handed over by another worker, or connected.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use wharf_port::{AcceptEnd, AcceptFailure, Close, Op, Socket, TURNED_AWAY_MAX, UnboundSocket};

use super::{Name, Worker, orders::DRAINING};
use crate::{
    addresses::Refusal,
    connector::{Attempt, next_random},
    handle::{Command, WorkerLink},
    handler::SessionId,
    listener::{ACCEPT_PAUSE, Listener},
    session::{Meter, Receiving, Session, Stage, TimerKey},
};

impl Worker {
    pub(super) fn start_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        debug_assert!(listener.open && !listener.accept_in_flight);
        listener.accept_in_flight = true;
        let op = Op::Accept { listener: listener.socket };
        self.port.submit(op, Name::listener_token(index));
    }

    pub(super) fn on_accepted(&mut self, index: usize, socket: UnboundSocket) {
        self.shared.stats.accepted += 1;
        let links = Arc::clone(&self.shared.handle.0);
        let Listener { service, hand_over, .. } = self.listeners[index];
        let here = &links.workers[self.index];
        let target = if hand_over { links.least_busy() } else { here };
        let Some(peer) = self.peer_of(&socket) else { return };
        if self.draining || !links.take_place(target) {
            self.shared.stats.refused += 1;
            return; // dropping the socket closes it
        }
        let limits = &self.limits[usize::from(service)];
        if let Err(refusal) = links.addresses.admit(service, peer, limits, self.shared.now) {
            match refusal {
                Refusal::TooMany => self.shared.stats.refused_sessions_per_address += 1,
                Refusal::TooFast => self.shared.stats.refused_accepts_per_address += 1,
            }
            target.sessions.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if std::ptr::eq(target, here) {
            self.open(service, socket, peer);
        } else if target.post.post_now(Command::Adopt { service, socket, peer }).is_err() {
            self.give_back_place(target, service, peer);
            self.shared.stats.refused += 1;
        }
    }

    /// A connection that was reset while it waited has no peer any more.
    fn peer_of(&mut self, socket: &UnboundSocket) -> Option<SocketAddr> {
        let peer = socket.peer_addr();
        if let Err(error) = &peer {
            tracing::debug!(%error, "an accepted connection could not be used");
            self.shared.stats.accept_errors += 1;
        }
        peer.ok()
    }

    /// An accepted connection that was counted on `worker` becomes no session, or is one no longer.
    pub(super) fn give_back_place(&self, worker: &WorkerLink, service: u16, peer: SocketAddr) {
        worker.sessions.fetch_sub(1, Ordering::Relaxed);
        let limits = &self.limits[usize::from(service)];
        self.shared.handle.0.addresses.release(service, peer, limits);
    }

    /// Makes a session of an accepted connection. Its place has been counted already.
    pub(super) fn open(&mut self, service: u16, socket: UnboundSocket, peer: SocketAddr) {
        let socket = match self.port.adopt(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "an accepted connection could not be used");
                self.shared.stats.accept_errors += 1;
                return self.give_back_place(self.link(), service, peer);
            }
        };
        match self.insert(service, socket, peer) {
            Some(id) => {
                self.sessions.get(id).expect("just inserted").is_accepted = true;
                self.opened(id);
            }
            None => self.give_back_place(self.link(), service, peer),
        }
    }

    pub(super) fn insert(
        &mut self,
        service: u16,
        socket: Socket,
        peer: SocketAddr,
    ) -> Option<SessionId> {
        let limits = &self.limits[usize::from(service)];
        let now = self.shared.now;
        let make = |id| Session::new(id, service, socket, peer, limits, now);
        let session = self.sessions.insert(make);
        let sending = self.sending[usize::from(service)];
        let id = session.map(|session| {
            session.sending = sending;
            session.id
        });
        if id.is_none() {
            self.shared.stats.refused += 1;
            self.port.close(socket, Close::Reset);
        }
        id
    }

    /// The connection is there: tells the handler, then receives.
    pub(super) fn opened(&mut self, id: SessionId) {
        self.link().unsent.set_queued(id, 0);
        let session = self.sessions.get(id).expect("just inserted");
        let bytes_max = session.limits.send_queue_bytes_max;
        self.shared.link(id).set_live(id, bytes_max);
        session.stage = Stage::Open;
        session.receiving = Receiving::new(self.shared.now);
        let requires_login = self.services[usize::from(session.service)].requires_login();
        session.meter = Meter::new(&session.limits, requires_login);
        session.heartbeat = session.limits.heartbeat_interval.map(|_| Box::default());
        session.arm(&mut self.shared);
        self.services[usize::from(session.service)].on_open(session, &mut self.shared);
        self.after_call(id);
        self.start_receive(id);
    }

    pub(super) fn on_accept_ended(&mut self, index: usize, end: AcceptEnd) {
        self.listeners[index].accept_in_flight = false;
        if self.draining {
            self.close_listener(index);
            return;
        }
        let pauses = match end {
            AcceptEnd::Paused | AcceptEnd::Cancelled => false,
            AcceptEnd::Failed(error) => self.accept_failed(index, &error),
        };
        if pauses {
            let at = (self.shared.now + ACCEPT_PAUSE).as_nanos();
            let timer = self.shared.timers.insert(at, TimerKey::Accept(index as u16));
            self.listeners[index].accept_again = Some(timer);
        } else {
            self.start_accept(index);
        }
    }

    /// Whether accepting waits for a while. What concerned one connection costs the others nothing; where
    /// there is no descriptor, those who wait are turned away, so that they know.
    #[cold]
    fn accept_failed(&mut self, index: usize, error: &io::Error) -> bool {
        self.shared.stats.accept_errors += 1;
        let listener = &mut self.listeners[index];
        let turned_away = match AcceptFailure::of(error) {
            AcceptFailure::Connection => return false,
            AcceptFailure::Descriptors => self.port.turn_away(listener.socket),
            AcceptFailure::Other => 0,
        };
        self.shared.stats.refused_descriptors += turned_away as u64;
        if let Some(left_out) = listener.failures_logged.admit(self.shared.now) {
            let address = listener.address;
            tracing::warn!(%address, %error, turned_away, left_out, "cannot accept for now");
        }
        // More may wait: they have their turn after the others.
        turned_away < TURNED_AWAY_MAX
    }

    pub(super) fn close_listener(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        if listener.open && !listener.accept_in_flight {
            listener.open = false;
            if let Some(timer) = listener.accept_again.take() {
                self.shared.timers.cancel(timer);
            }
            self.port.close(listener.socket, Close::Graceful);
        }
    }

    /// Begins to connect. The session's place has been counted already.
    pub(super) fn start_connect(&mut self, attempt: Attempt) {
        let connector = &mut self.connectors[usize::from(attempt.connector)];
        let service = connector.service;
        let timeout = connector.options.connect_timeout;
        let mut options = self.socket_options.clone();
        options.source = connector.take_source().or(options.source);
        let socket = match self.port.stream(attempt.address, &options) {
            Ok(socket) => socket,
            Err(error) => {
                self.link().sessions.fetch_sub(1, Ordering::Relaxed);
                return self.connect_failed(attempt, &error);
            }
        };
        let Some(id) = self.insert(service, socket, attempt.address) else {
            self.link().sessions.fetch_sub(1, Ordering::Relaxed);
            return self.connect_failed(attempt, &io::Error::other("no session slot is free"));
        };
        let session = self.sessions.get(id).expect("just inserted");
        session.stage = Stage::Connecting;
        session.set_deadline(&mut self.shared, Some(timeout));
        self.outgoing.insert(id, attempt);
        self.port.submit(Op::Connect { socket, address: attempt.address }, Name::session_token(id));
    }

    pub(super) fn on_connected(&mut self, id: SessionId, result: io::Result<()>) {
        let session = self.sessions.get(id).expect("a connecting session waits for this");
        session.set_deadline(&mut self.shared, None);
        match (session.stage, result) {
            (Stage::Connecting, Ok(())) if !self.draining => {
                self.shared.stats.connected += 1;
                if let Some(attempt) = self.outgoing.get_mut(&id) {
                    attempt.failures = 0;
                }
                self.opened(id);
            }
            (stage, result) => {
                let error = match (stage, result) {
                    (Stage::Connecting, Err(error)) => error,
                    _ if self.draining => io::Error::other(DRAINING),
                    _ => io::ErrorKind::TimedOut.into(),
                };
                session.stage = Stage::Joining(Close::Reset);
                let attempt = self.outgoing.remove(&id);
                self.close_if_joined(id);
                if let Some(attempt) = attempt {
                    self.connect_failed(attempt, &error);
                }
            }
        }
    }

    pub(super) fn connect_failed(&mut self, mut attempt: Attempt, error: &io::Error) {
        self.shared.stats.connect_failures += 1;
        attempt.failures += 1;
        let retry_in = self.connect_later(attempt);
        let service = self.connectors[usize::from(attempt.connector)].service;
        let service = &mut self.services[usize::from(service)];
        service.on_connect_failed(&mut self.shared, attempt.address, error, retry_in);
    }

    /// Plans the next attempt, if the connector makes one.
    pub(super) fn connect_later(&mut self, attempt: Attempt) -> Option<Duration> {
        if self.draining {
            return None;
        }
        let random = next_random(&mut self.random);
        let reconnect = self.connectors[usize::from(attempt.connector)].options.reconnect;
        let pause = reconnect.pause(attempt.failures.max(1), random)?;
        self.next_waiting += 1;
        let at = (self.shared.now + pause).as_nanos();
        let timer = self.shared.timers.insert(at, TimerKey::Connect(self.next_waiting));
        self.waiting.insert(self.next_waiting, (attempt, timer));
        Some(pause)
    }
}
