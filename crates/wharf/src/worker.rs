//! A worker: one port, its sessions, and the turn that moves everything.
//!
//! [`Worker::wait`] is the only place that blocks. [`Worker::turn`] does the rest: it routes what
//! completed, runs handlers, takes orders from other threads, runs timers, and starts one send for
//! each session that has something to say. It knows no clock; the same completions, orders and times
//! make the same turn.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use wharf_port::{
    AcceptEnd, Close, CompletionPort, Done, Gather, Inbox, Op, Outcome, ReceiveEnd, RecvBuffer,
    SendError as PortSendError, Socket, SocketOptions, Time, Token, UnboundListener, UnboundSocket,
};

use crate::{
    connector::{Attempt, Connector, next_random},
    handle::{Command, Handle, SessionInfo, WorkerLink},
    handler::{CloseReason, SessionId},
    limits::Limits,
    listener::{Listener, accept_pause},
    logic::Service,
    metrics::{Leftover, Report, Stats},
    session::{Session, SessionTable, Shared, Stage, TimerKey},
    timer::{TimerId, Wheel},
};

/// One port and all that runs on it. Belongs to one thread.
pub(crate) struct Worker {
    port: Box<dyn CompletionPort>,
    sessions: SessionTable,
    services: Vec<Box<dyn Service>>,
    /// By service.
    limits: Vec<Rc<Limits>>,
    listeners: Vec<Listener>,
    connectors: Vec<Connector>,
    /// Outgoing sessions and what they were made from.
    outgoing: BTreeMap<SessionId, Attempt>,
    /// Connections to be made again, by the number that their timer carries.
    waiting: BTreeMap<u64, (Attempt, TimerId)>,
    next_waiting: u64,
    inbox: Inbox<Command>,
    shared: Shared,
    socket_options: SocketOptions,
    random: u64,
    index: usize,
    draining: bool,
    /// When what is left is aborted.
    drain_deadline: Option<(Time, TimerId)>,
    // Kept between turns for their room.
    done: Vec<Done>,
    commands: Vec<Command>,
    due: Vec<TimerKey>,
}

/// What a worker is made of, besides its port.
pub(crate) struct WorkerParts {
    pub(crate) index: u8,
    pub(crate) handle: Handle,
    pub(crate) inbox: Inbox<Command>,
    pub(crate) services: Vec<(Box<dyn Service>, Rc<Limits>)>,
    pub(crate) connectors: Vec<Connector>,
    pub(crate) socket_options: SocketOptions,
    pub(crate) seed: u64,
}

/// A listening socket for a worker.
pub(crate) struct ListenerParts {
    pub(crate) listener: UnboundListener,
    pub(crate) service: u16,
    pub(crate) hand_over: bool,
}

impl Worker {
    pub(crate) fn new(port: Box<dyn CompletionPort>, parts: WorkerParts) -> Self {
        let now = port.now();
        let (services, limits) = parts.services.into_iter().unzip();
        let shared = Shared {
            now,
            pool: port.buffers().clone(),
            timers: Wheel::new(now.as_nanos()),
            dirty: Vec::new(),
            gathers: Vec::new(),
            handle: parts.handle,
            stats: Stats::default(),
            answer_hint_bytes: 0,
        };
        Self {
            port,
            sessions: SessionTable::new(parts.index),
            services,
            limits,
            listeners: Vec::new(),
            connectors: parts.connectors,
            outgoing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_waiting: 0,
            inbox: parts.inbox,
            shared,
            socket_options: parts.socket_options,
            random: parts.seed.wrapping_add(u64::from(parts.index)),
            index: usize::from(parts.index),
            draining: false,
            drain_deadline: None,
            done: Vec::new(),
            commands: Vec::new(),
            due: Vec::new(),
        }
    }

    /// Takes a listening socket and starts to accept.
    pub(crate) fn listen(&mut self, parts: ListenerParts) -> io::Result<()> {
        let address = parts.listener.local_addr();
        let socket = self.port.adopt_listener(parts.listener)?;
        self.listeners.push(Listener {
            socket,
            address,
            service: parts.service,
            hand_over: parts.hand_over,
            accept_in_flight: false,
            accept_again: None,
            open: true,
        });
        self.start_accept(self.listeners.len() - 1);
        Ok(())
    }

    /// Hands over what was submitted and waits for something to do; returns the time afterwards.
    ///
    /// # Errors
    /// The port is broken.
    pub(crate) fn wait(&mut self) -> io::Result<Time> {
        debug_assert!(self.shared.dirty.is_empty(), "a turn leaves nothing unsent (U16b)");
        let deadline = self.shared.timers.next_deadline_ns();
        let timeout = deadline.map(|at| Time::from_nanos(at).since(self.port.now()));
        self.port.wait(timeout, &mut self.done)
    }

    /// As [`wait`](Self::wait) for a scheduler that decides itself when time passes.
    #[cfg(test)]
    pub(crate) fn poll(&mut self) -> io::Result<Time> {
        self.port.wait(Some(Duration::ZERO), &mut self.done)
    }

    /// When the first of its timers is due.
    #[cfg(test)]
    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.shared.timers.next_deadline_ns().map(Time::from_nanos)
    }

    /// How much has completed and waits for a turn.
    #[cfg(test)]
    pub(crate) fn completed(&self) -> usize {
        self.done.len()
    }

    /// One turn: everything that has come up, until nothing is left but to wait.
    pub(crate) fn turn(&mut self, now: Time) {
        self.shared.now = now;
        let mut done = std::mem::take(&mut self.done);
        for completion in done.drain(..) {
            self.route(completion);
        }
        self.done = done;
        self.run_commands();
        self.run_timers();
        self.flush();
    }

    /// Whether the worker has drained: nothing will ever happen on it again.
    pub(crate) fn is_finished(&self) -> bool {
        self.draining
            && self.sessions.len() == 0
            && self.listeners.iter().all(|listener| !listener.open)
            && self.port.counts().operations_in_flight == 0
    }

    /// What it counted, and what it has not given back. Call it when it has finished.
    pub(crate) fn report(&mut self) -> Report {
        if let Some((_, timer)) = self.drain_deadline.take() {
            self.shared.timers.cancel(timer);
        }
        let counts = self.port.counts();
        Report {
            stats: self.stats(),
            leftover: Leftover {
                operations_in_flight: counts.operations_in_flight,
                buffers_lent: counts.buffers_lent,
                blocks_in_use: counts.blocks_in_use,
                sockets: counts.sockets,
                sessions: self.sessions.len(),
                timers: self.shared.timers.len(),
            },
        }
    }

    fn stats(&self) -> Stats {
        let counts = self.port.counts();
        Stats {
            sessions: self.sessions.len(),
            system_calls: counts.system_calls,
            buffer_shortages: counts.buffer_shortages,
            ..self.shared.stats
        }
    }

    fn link(&self) -> &WorkerLink {
        &self.shared.handle.0.workers[self.index]
    }

    // ---- what completed ------------------------------------------------------------------------

    #[inline]
    fn route(&mut self, done: Done) {
        let name = Name(done.token);
        match done.outcome {
            Outcome::Received(buffer) => self.on_received(name.session(), &buffer),
            Outcome::Sent { gather, result } => self.on_sent(name.session(), gather, result),
            Outcome::ReceiveEnded(end) => self.on_receive_ended(name.session(), end),
            Outcome::Accepted(socket) => self.on_accepted(name.listener(), socket),
            Outcome::AcceptEnded(end) => self.on_accept_ended(name.listener(), end),
            Outcome::Connected(result) => self.on_connected(name.session(), result),
        }
    }

    fn on_received(&mut self, id: SessionId, buffer: &RecvBuffer) {
        let Some(session) = self.sessions.get(id) else { return };
        self.shared.stats.bytes_received += buffer.len() as u64;
        match session.stage {
            Stage::Open => {
                self.shared.answer_hint_bytes = buffer.len();
                self.services[usize::from(session.service)].on_received(
                    session,
                    &mut self.shared,
                    buffer,
                );
                self.shared.answer_hint_bytes = 0;
                self.after_call(id);
            }
            Stage::Flushing | Stage::Lingering => {
                session.discarded_bytes += buffer.len();
            }
            Stage::Connecting | Stage::Joining(_) => {}
        }
    }

    /// Does what a handler asked for during its call.
    #[inline]
    fn after_call(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.stage != Stage::Open {
            return;
        }
        if let Some(reason) = session.take_request() {
            self.end(id, reason);
        } else if session.queue.bytes() > session.limits.send_queue_bytes_soft {
            session.receive_held = true;
        }
    }

    fn on_receive_ended(&mut self, id: SessionId, end: ReceiveEnd) {
        let Some(session) = self.sessions.get(id) else { return };
        session.receive_in_flight = false;
        let failed = match end {
            ReceiveEnd::CreditSpent | ReceiveEnd::Paused | ReceiveEnd::Cancelled => None,
            ReceiveEnd::EndOfStream => {
                session.receive_over = true;
                None
            }
            ReceiveEnd::Failed(error) => {
                session.receive_over = true;
                Some(failure_reason(id, &error))
            }
        };
        match (session.stage, failed) {
            (Stage::Joining(_), _) => self.close_if_joined(id),
            (_, Some(reason)) => self.fail(id, reason),
            (Stage::Open, None) if session.receive_over => self.end(id, CloseReason::PeerClosed),
            (Stage::Lingering, None) if session.receive_over => self.join(id, Close::Graceful),
            (Stage::Open | Stage::Flushing | Stage::Lingering, None) => self.start_receive(id),
            (Stage::Connecting, None) => unreachable!("no receive before the connection is there"),
        }
    }

    fn on_sent(&mut self, id: SessionId, mut gather: Gather, result: Result<(), PortSendError>) {
        let bytes = gather.bytes();
        gather.clear();
        if self.shared.gathers.len() < GATHERS_KEPT_MAX {
            self.shared.gathers.push(gather);
        }
        let Some(session) = self.sessions.get(id) else { return };
        session.send_in_flight = false;
        session.queue.on_sent();
        match result {
            Ok(()) => {
                self.shared.stats.sends += 1;
                self.shared.stats.bytes_sent += bytes as u64;
            }
            Err(error) => {
                self.shared.stats.bytes_lost += bytes as u64;
                if let PortSendError::Failed(error) = &error
                    && matches!(session.stage, Stage::Open | Stage::Flushing)
                {
                    let reason = failure_reason(id, error);
                    return self.fail(id, reason);
                }
            }
        }
        match session.stage {
            Stage::Open | Stage::Flushing if !session.queue.is_empty() => {
                session.mark_dirty(&mut self.shared);
            }
            Stage::Flushing => return self.end_stream(id),
            Stage::Joining(_) => return self.close_if_joined(id),
            Stage::Open => session.queue.release(),
            Stage::Connecting | Stage::Lingering => {}
        }
        if session.receive_held && session.queue.bytes() <= session.limits.send_queue_bytes_soft / 2
        {
            session.receive_held = false;
            self.start_receive(id);
        }
    }

    // ---- accepting and connecting --------------------------------------------------------------

    fn start_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        debug_assert!(listener.open && !listener.accept_in_flight);
        listener.accept_in_flight = true;
        let op = Op::Accept { listener: listener.socket };
        self.port.submit(op, Name::listener_token(index));
    }

    fn on_accepted(&mut self, index: usize, socket: UnboundSocket) {
        self.shared.stats.accepted += 1;
        let links = Arc::clone(&self.shared.handle.0);
        if self.draining || links.sessions() >= links.max_sessions {
            self.shared.stats.refused += 1;
            return; // dropping the socket closes it
        }
        let Listener { service, hand_over, .. } = self.listeners[index];
        let here = &links.workers[self.index];
        let target = if hand_over { links.least_busy() } else { here };
        target.sessions.fetch_add(1, Ordering::Relaxed);
        if std::ptr::eq(target, here) {
            self.open(service, socket);
        } else if target.post.post(Command::Adopt { service, socket }).is_err() {
            target.sessions.fetch_sub(1, Ordering::Relaxed);
            self.shared.stats.refused += 1;
        }
    }

    /// Makes a session of an accepted connection. Its place has been counted already.
    fn open(&mut self, service: u16, socket: UnboundSocket) {
        // A connection that was reset while it waited has no peer any more.
        let bound = socket.peer_addr().and_then(|peer| Ok((peer, self.port.adopt(socket)?)));
        let (peer, socket) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                tracing::debug!(%error, "an accepted connection could not be used");
                self.shared.stats.accept_errors += 1;
                self.link().sessions.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        };
        if let Some(id) = self.insert(service, socket, peer) {
            self.opened(id);
        }
    }

    fn insert(&mut self, service: u16, socket: Socket, peer: SocketAddr) -> Option<SessionId> {
        let limits = &self.limits[usize::from(service)];
        let now = self.shared.now;
        let full = self.sessions.len() >= self.link().slots();
        let make = |id| Session::new(id, service, socket, peer, limits, now);
        let session = if full { None } else { self.sessions.insert(make) };
        let id = session.map(|session| session.id);
        if id.is_none() {
            self.shared.stats.refused += 1;
            self.port.close(socket, Close::Reset);
            self.link().sessions.fetch_sub(1, Ordering::Relaxed);
        }
        id
    }

    /// The connection is there: tells the handler, then receives.
    fn opened(&mut self, id: SessionId) {
        self.link().set_live(id, true);
        let session = self.sessions.get(id).expect("just inserted");
        session.stage = Stage::Open;
        let timeout = session.limits.first_frame_timeout;
        session.set_deadline(&mut self.shared, timeout);
        self.services[usize::from(session.service)].on_open(session, &mut self.shared);
        self.after_call(id);
        self.start_receive(id);
    }

    fn on_accept_ended(&mut self, index: usize, end: AcceptEnd) {
        let listener = &mut self.listeners[index];
        listener.accept_in_flight = false;
        if self.draining {
            self.close_listener(index);
            return;
        }
        let pause = match end {
            AcceptEnd::Paused | AcceptEnd::Cancelled => None,
            AcceptEnd::Failed(error) => {
                self.shared.stats.accept_errors += 1;
                let pause = accept_pause(&error);
                if pause.is_some() {
                    tracing::warn!(address = %listener.address, %error, "cannot accept for now");
                }
                pause
            }
        };
        match pause {
            None => self.start_accept(index),
            Some(pause) => {
                let at = (self.shared.now + pause).as_nanos();
                let timer = self.shared.timers.insert(at, TimerKey::Accept(index as u16));
                self.listeners[index].accept_again = Some(timer);
            }
        }
    }

    fn close_listener(&mut self, index: usize) {
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
    fn start_connect(&mut self, attempt: Attempt) {
        let connector = &self.connectors[usize::from(attempt.connector)];
        let service = connector.service;
        let timeout = connector.options.connect_timeout;
        let socket = match self.port.stream(attempt.address, &self.socket_options) {
            Ok(socket) => socket,
            Err(error) => {
                self.link().sessions.fetch_sub(1, Ordering::Relaxed);
                return self.connect_failed(attempt, &error);
            }
        };
        let Some(id) = self.insert(service, socket, attempt.address) else {
            return self.connect_failed(attempt, &io::Error::other("no session slot is free"));
        };
        let session = self.sessions.get(id).expect("just inserted");
        session.stage = Stage::Connecting;
        session.set_deadline(&mut self.shared, Some(timeout));
        self.outgoing.insert(id, attempt);
        self.port.submit(Op::Connect { socket, address: attempt.address }, Name::session_token(id));
    }

    fn on_connected(&mut self, id: SessionId, result: io::Result<()>) {
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
                let timed_out = matches!(stage, Stage::Joining(_));
                let error = match result {
                    Err(error) if !timed_out => error,
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

    fn connect_failed(&mut self, mut attempt: Attempt, error: &io::Error) {
        self.shared.stats.connect_failures += 1;
        attempt.failures += 1;
        let retry_in = self.connect_later(attempt);
        let service = self.connectors[usize::from(attempt.connector)].service;
        self.services[usize::from(service)].on_connect_failed(attempt.address, error, retry_in);
    }

    /// Plans the next attempt, if the connector makes one.
    fn connect_later(&mut self, attempt: Attempt) -> Option<Duration> {
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

    // ---- receiving and sending -----------------------------------------------------------------

    fn start_receive(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let held = session.receive_held && session.stage == Stage::Open;
        let receives = match session.stage {
            Stage::Open => true,
            // Beyond that nothing more is read; the connection stays until its deadline, because
            // closing it with unread input would destroy what the peer has not yet got.
            Stage::Flushing | Stage::Lingering => {
                session.discarded_bytes <= session.limits.linger_bytes_max
            }
            Stage::Connecting | Stage::Joining(_) => false,
        };
        if session.receive_in_flight || session.receive_over || held || !receives {
            return;
        }
        session.receive_in_flight = true;
        let credit_bytes = session.limits.receive_credit_bytes;
        self.port
            .submit(Op::Receive { socket: session.socket, credit_bytes }, Name::session_token(id));
    }

    /// Starts one send for each session that has something to say and none in flight.
    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.shared.dirty);
        for slot in dirty.drain(..) {
            let Some(session) = self.sessions.at(slot) else { continue };
            session.dirty = false;
            if session.send_in_flight || session.queue.is_empty() {
                continue;
            }
            let mut gather = self.shared.gathers.pop().unwrap_or_default();
            session.queue.fill(&mut gather);
            session.send_in_flight = true;
            let op = Op::Send { socket: session.socket, gather };
            self.port.submit(op, Name::session_token(session.id));
        }
        self.shared.dirty = dirty;
    }

    // ---- ending --------------------------------------------------------------------------------

    /// Ends a session: the handler is told, then it is flushed or aborted as the reason says.
    fn end(&mut self, id: SessionId, reason: CloseReason) {
        let Some(session) = self.sessions.get(id) else { return };
        match session.stage {
            Stage::Open => session.stage = Stage::Flushing,
            Stage::Connecting => return self.join(id, Close::Reset),
            Stage::Flushing | Stage::Lingering | Stage::Joining(_) => return,
        }
        self.link().set_live(id, false);
        let session = self.sessions.get(id).expect("looked up above");
        session.end_handling(&mut self.shared);
        self.shared.stats.closed[reason as usize] += 1;
        tracing::debug!(session = %id, peer = %session.peer, %reason, "session closed");
        self.services[usize::from(session.service)].on_close(session, &mut self.shared, reason);
        let session = self.sessions.get(id).expect("on_close frees no session");
        let flush_timeout = session.limits.close_flush_timeout;
        let drained = session.queue.is_empty() && !session.send_in_flight;
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
        if reason.aborts() {
            self.abort(id);
        } else if drained {
            self.end_stream(id);
        } else {
            let session = self.sessions.get(id).expect("still flushing");
            session.set_deadline(&mut self.shared, Some(flush_timeout));
            session.mark_dirty(&mut self.shared);
        }
    }

    /// The connection failed: whatever the session was about to do, it cannot.
    fn fail(&mut self, id: SessionId, reason: CloseReason) {
        match self.sessions.get(id).map(|session| session.stage) {
            Some(Stage::Flushing | Stage::Lingering) => self.abort(id),
            _ => self.end(id, reason),
        }
    }

    /// Everything is sent: ends our stream, then reads the peer's to its end.
    fn end_stream(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("ends its stream once");
        self.port.shutdown_write(session.socket);
        if session.receive_over {
            return self.join(id, Close::Graceful);
        }
        session.stage = Stage::Lingering;
        let linger_timeout = session.limits.linger_timeout;
        session.set_deadline(&mut self.shared, Some(linger_timeout));
        self.start_receive(id);
    }

    /// Throws away what is queued and resets the connection.
    fn abort(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("aborted once");
        self.shared.stats.bytes_lost += session.queue.clear() as u64;
        self.join(id, Close::Reset);
    }

    /// Waits for everything in flight, then closes the socket.
    fn join(&mut self, id: SessionId, how: Close) {
        let session = self.sessions.get(id).expect("joined once");
        let connecting = session.stage == Stage::Connecting;
        session.stage = Stage::Joining(how);
        session.set_deadline(&mut self.shared, None);
        if connecting || session.receive_in_flight || session.send_in_flight {
            self.port.cancel(session.socket);
        }
        if !connecting {
            self.close_if_joined(id);
        }
    }

    fn close_if_joined(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Stage::Joining(how) = session.stage else { return };
        if session.receive_in_flight || session.send_in_flight {
            return;
        }
        self.port.close(session.socket, how);
        self.sessions.remove(id);
        self.link().sessions.fetch_sub(1, Ordering::Relaxed);
    }

    // ---- timers and orders ---------------------------------------------------------------------

    fn run_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.shared.timers.expire(self.shared.now.as_nanos(), &mut due);
        for key in due.drain(..) {
            match key {
                TimerKey::Deadline(id) => self.on_deadline(id),
                TimerKey::User(id, key) => self.on_user_timer(id, key),
                TimerKey::Accept(index) => {
                    self.listeners[usize::from(index)].accept_again = None;
                    self.start_accept(usize::from(index));
                }
                TimerKey::Connect(number) => self.connect_again(number),
                TimerKey::DrainDeadline => self.abort_all(),
            }
        }
        self.due = due;
    }

    fn on_deadline(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if !session.deadline_passed(&self.shared.timers) {
            return;
        }
        match session.stage {
            Stage::Open if session.first_frame_seen => {}
            Stage::Open => self.end(id, CloseReason::FirstFrameTimeout),
            Stage::Flushing => self.abort(id),
            Stage::Lingering => self.join(id, Close::Graceful),
            Stage::Connecting => self.join(id, Close::Reset),
            Stage::Joining(_) => {}
        }
    }

    fn on_user_timer(&mut self, id: SessionId, key: u64) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.timer_fired(&self.shared.timers, key) && session.is_open() {
            self.services[usize::from(session.service)].on_timer(session, &mut self.shared, key);
            self.after_call(id);
        }
    }

    fn connect_again(&mut self, number: u64) {
        let Some((attempt, _)) = self.waiting.remove(&number) else { return };
        self.link().sessions.fetch_add(1, Ordering::Relaxed);
        self.start_connect(attempt);
    }

    fn run_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.inbox.drain(&mut commands);
        let asked = !commands.is_empty();
        for command in commands.drain(..) {
            self.run_command(command);
        }
        self.commands = commands;
        if asked && let Some(within) = self.link().take_drain() {
            self.drain(within);
        }
    }

    fn run_command(&mut self, command: Command) {
        match command {
            Command::Send { to, packet_id, body } => self.send(to, packet_id, &body),
            Command::Close { id, reason } => self.end(id, reason),
            Command::Adopt { service, socket } => self.adopt(service, socket),
            Command::Connect { connector, address } if !self.draining => {
                self.start_connect(Attempt { connector, address, failures: 0 });
            }
            Command::Connect { connector, address } => {
                self.link().sessions.fetch_sub(1, Ordering::Relaxed);
                let attempt = Attempt { connector, address, failures: 0 };
                self.connect_failed(attempt, &io::Error::other("the server is draining"));
            }
            // Whoever asked may have stopped waiting.
            Command::Sessions { only, answer } => drop(answer.send(self.describe(only))),
            Command::Stats { answer } => drop(answer.send(self.stats())),
            Command::Drain => {} // when all others have been run
        }
    }

    fn send(&mut self, to: SessionId, packet_id: u32, body: &[u8]) {
        match self.sessions.get(to) {
            Some(session) if session.is_open() => {
                let service = &mut self.services[usize::from(session.service)];
                if let Err(error) = service.send(session, &mut self.shared, packet_id, body) {
                    tracing::debug!(session = %to, %error, "a frame from another thread was refused");
                }
                self.after_call(to);
            }
            _ => self.shared.stats.sends_too_late += 1,
        }
    }

    /// Takes a connection that another worker has accepted.
    fn adopt(&mut self, service: u16, socket: UnboundSocket) {
        if self.draining {
            self.shared.stats.refused += 1;
            self.link().sessions.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.open(service, socket);
        }
    }

    fn describe(&self, only: Option<SessionId>) -> Vec<SessionInfo> {
        let wanted = |session: &&Session| only.is_none_or(|id| id == session.id);
        let describe = |session: &Session| SessionInfo {
            id: session.id,
            peer: session.peer,
            opened: session.opened,
            age: self.shared.now.since(session.opened),
            queued_bytes: session.queue.bytes(),
            closing: session.stage != Stage::Open,
        };
        self.sessions.iter().filter(wanted).map(describe).collect()
    }

    fn drain(&mut self, deadline: Duration) {
        let at = self.shared.now + deadline;
        match self.drain_deadline {
            Some((earlier, _)) if earlier <= at => return,
            Some((_, timer)) => drop(self.shared.timers.cancel(timer)),
            None => {}
        }
        let timer = self.shared.timers.insert(at.as_nanos(), TimerKey::DrainDeadline);
        self.drain_deadline = Some((at, timer));
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        for index in 0..self.listeners.len() {
            self.port.cancel(self.listeners[index].socket);
            self.close_listener(index);
        }
        for (_, timer) in std::mem::take(&mut self.waiting).into_values() {
            self.shared.timers.cancel(timer);
        }
        for id in self.sessions.ids() {
            self.end(id, CloseReason::Drain);
        }
    }

    fn abort_all(&mut self) {
        for id in self.sessions.ids() {
            match self.sessions.get(id).map(|session| session.stage) {
                Some(Stage::Connecting) => self.join(id, Close::Reset),
                Some(Stage::Open | Stage::Flushing | Stage::Lingering) => self.abort(id),
                Some(Stage::Joining(_)) | None => {}
            }
        }
    }
}

/// What a completion's token names: a session, or a listener by its number.
#[derive(Clone, Copy)]
struct Name(Token);

impl Name {
    fn session_token(id: SessionId) -> Token {
        Token(id.as_u64())
    }

    fn listener_token(index: usize) -> Token {
        Token(index as u64)
    }

    #[inline]
    fn session(self) -> SessionId {
        SessionId::from_u64(self.0.0)
    }

    fn listener(self) -> usize {
        self.0.0 as usize
    }
}

fn failure_reason(id: SessionId, error: &io::Error) -> CloseReason {
    tracing::debug!(session = %id, %error, "the connection failed");
    if error.kind() == io::ErrorKind::TimedOut { CloseReason::TimedOut } else { CloseReason::Reset }
}

/// Empty gathers that a worker keeps.
const GATHERS_KEPT_MAX: usize = 1024;
