//! A worker: one port, its sessions, and the turn that moves everything.
//!
//! [`Worker::wait`] is the only place that blocks. [`Worker::turn`] does the rest: it routes what
//! completed, runs handlers, takes orders from other threads, runs timers, and starts one send for
//! each session that has something to say. It knows no clock; the same completions, orders and times
//! make the same turn.

#[cfg(any(unix, windows))]
mod checks;
mod ending;
mod logic;
mod memory;
mod opening;
mod orders;
mod publishing;

use std::{collections::BTreeMap, io, sync::Arc};

use wharf_port::{
    Close, CompletionPort, Done, Gather, Inbox, Op, Outcome, ReceiveEnd,
    SendError as PortSendError, SocketOptions, Time, Token, UnboundListener,
};

use crate::{
    connector::{Attempt, Connector},
    handle::{Command, Handle, WorkerLink},
    handler::{CloseReason, SessionId},
    handler_times::Clock,
    limits::Limits,
    listener::Listener,
    log_limit::LogLimit,
    logic::{Jobs, Outbox, Service},
    metrics::{Leftover, Report, Stats},
    sending::Sending,
    session::{Hold, Round, SessionTable, Shared, Stage, TimerKey},
    timer::{TimerId, Wheel},
    topic::Piece,
};

/// One port and all that runs on it. Belongs to one thread.
pub(crate) struct Worker {
    port: Box<dyn CompletionPort>,
    sessions: SessionTable,
    services: Vec<Box<dyn Service>>,
    /// By service.
    limits: Vec<Arc<Limits>>,
    /// By service.
    sending: Vec<Sending>,
    listeners: Vec<Listener>,
    connectors: Vec<Connector>,
    /// Outgoing sessions and what they were made from.
    outgoing: BTreeMap<SessionId, Attempt>,
    /// Connections to be made again, by the number that their timer carries.
    waiting: BTreeMap<u64, (Attempt, TimerId)>,
    next_waiting: u64,
    inbox: Inbox<Command>,
    jobs: Jobs,
    /// `None` during a turn: then the thread has it.
    outbox: Option<Box<Outbox>>,
    shared: Shared,
    socket_options: SocketOptions,
    round: Round,
    random: u64,
    index: usize,
    draining: bool,
    /// When what is left is aborted.
    drain_deadline: Option<(Time, TimerId)>,
    // Kept between turns for their room.
    done: Vec<Done>,
    commands: Vec<Command>,
    command_bytes: Vec<u8>,
    due: Vec<(TimerId, TimerKey)>,
    /// Of the memory for what waits to be sent.
    leased_pieces: usize,
    /// What aborted sessions have in flight.
    releasing_bytes: usize,
    pieces: Vec<Piece>,
    attention: Vec<SessionId>,
    held: Vec<SessionId>,
}

/// What a worker is made of, besides its port.
pub(crate) struct WorkerParts {
    pub(crate) index: u8,
    pub(crate) handle: Handle,
    pub(crate) inbox: Inbox<Command>,
    pub(crate) services: Vec<(Box<dyn Service>, Arc<Limits>)>,
    pub(crate) connectors: Vec<Connector>,
    pub(crate) socket_options: SocketOptions,
    pub(crate) round: Round,
    pub(crate) timer_tick_ns: u64,
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
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
        let (services, limits): (Vec<Box<dyn Service>>, _) = parts.services.into_iter().unzip();
        let sending = services.iter().map(|service| service.sending()).collect();
        let framings = services.iter().map(|service| service.framing()).collect();
        let outbox = Some(Outbox::new(&parts.handle));
        let link = &parts.handle.0.workers[usize::from(parts.index)];
        let (slots_max, watch) = (link.slots(), Arc::clone(&link.watch));
        let timers = Wheel::new(now.as_nanos(), parts.timer_tick_ns);
        let pool = port.buffers().clone();
        let watched = (watch, parts.clock);
        let shared = Shared::new(now, pool, timers, parts.handle, framings, watched, false);
        Self {
            port,
            sessions: SessionTable::new(parts.index, slots_max),
            services,
            limits,
            sending,
            listeners: Vec::new(),
            connectors: parts.connectors,
            outgoing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_waiting: 0,
            inbox: parts.inbox,
            jobs: Jobs::default(),
            outbox,
            shared,
            socket_options: parts.socket_options,
            round: parts.round,
            random: parts.seed.wrapping_add(u64::from(parts.index)),
            index: usize::from(parts.index),
            draining: false,
            drain_deadline: None,
            done: Vec::new(),
            commands: Vec::new(),
            command_bytes: Vec::new(),
            due: Vec::new(),
            leased_pieces: 0,
            releasing_bytes: 0,
            pieces: Vec::new(),
            attention: Vec::new(),
            held: Vec::new(),
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
            failures_logged: LogLimit::of(1),
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
        debug_assert!(self.shared.topics.is_settled(), "a turn leaves nothing undelivered");
        let now = self.port.now();
        self.shared.stats.turn_times.count(now.since(self.shared.now));
        let deadline = self.shared.timers.next_deadline_ns();
        let timeout = deadline.map(|at| Time::from_nanos(at).since(now));
        self.port.wait(timeout, &mut self.done)
    }

    /// As [`wait`](Self::wait) for a scheduler that decides itself when time passes.
    pub(crate) fn poll(&mut self) -> io::Result<Time> {
        self.port.wait(Some(std::time::Duration::ZERO), &mut self.done)
    }

    /// When the first of its timers is due.
    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.shared.timers.next_deadline_ns().map(Time::from_nanos)
    }

    /// How much has completed and waits for a turn.
    pub(crate) fn completed(&self) -> usize {
        self.done.len()
    }

    /// Whether other threads want something.
    pub(crate) fn has_orders(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// One turn: everything that has come up, until nothing is left but to wait.
    pub(crate) fn turn(&mut self, now: Time) {
        self.shared.now = now;
        self.outbox.take().expect("turns do not nest").enter();
        let mut done = std::mem::take(&mut self.done);
        for completion in done.drain(..) {
            self.route(completion);
        }
        self.done = done;
        self.run_commands();
        self.run_timers();
        if Outbox::is_used() {
            self.run_own_commands();
        }
        self.settle();
        self.check_memory();
        self.settle();
        self.flush();
        self.return_memory();
        self.shared.lanes.hand_over(&self.shared.handle);
        self.outbox = Some(Outbox::leave());
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
        self.refuse_commands();
        self.jobs.end_waiting(&mut self.shared);
        debug_assert!(self.sessions.len() > 0 || self.shared.places == 0, "places are counted");
        self.shared.end_flushes();
        self.shared.handle.0.memory.give_back(std::mem::take(&mut self.leased_pieces));
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
                offloads: 0,
                logic_bytes: self.shared.lanes.waiting_bytes(),
            },
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let counts = self.port.counts();
        Stats {
            sessions: self.sessions.len(),
            send_memory_bytes: self.shared.memory_bytes(),
            system_calls: counts.system_calls,
            buffer_shortages: counts.buffer_shortages,
            queue_bytes: self.sessions.iter().map(|session| session.queue.bytes()).sum(),
            operations_in_flight: counts.operations_in_flight,
            buffers_lent: counts.buffers_lent,
            blocks_in_use: counts.blocks_in_use,
            receives_parked: counts.receives_parked,
            timers: self.shared.timers.len(),
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
            Outcome::ReceivedOnce(_) => unreachable!("a session's receives stream"),
        }
    }

    fn on_received(&mut self, id: SessionId, bytes: &[u8]) {
        let Some(session) = self.sessions.get(id) else { return };
        self.shared.stats.bytes_received += bytes.len() as u64;
        session.receiving.last = session.receiving.clock(self.shared.now);
        match session.stage {
            Stage::Open if !session.ending => {
                if session.meter.is_some() && !session.may_receive(bytes.len()) {
                    return self.end(id, CloseReason::Unauthenticated);
                }
                let frames_before = self.shared.frames_found;
                self.shared.answer_hint_bytes = bytes.len();
                let service = &mut self.services[usize::from(session.service)];
                service.on_received(session, &mut self.shared, bytes);
                self.shared.answer_hint_bytes = 0;
                if session.meter.is_some() {
                    let frames = self.shared.frames_found - frames_before;
                    session.keep_rate(&mut self.shared, frames, bytes.len());
                }
                self.after_call(id);
            }
            Stage::Open | Stage::Flushing | Stage::Lingering => {
                let bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let discarded_bytes = &mut session.receiving.discarded_bytes;
                *discarded_bytes = discarded_bytes.saturating_add(bytes);
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
            return self.end(id, reason);
        }
        if session.queue.bytes() > session.limits.send_queue_bytes_soft && !session.is_above {
            return self.on_above_soft_mark(id);
        }
        if session.receiving.holds().any() || !session.receiving.in_flight {
            self.hold_or_receive(id);
        }
        self.check_memory();
    }

    /// The send queue has gone above its soft mark.
    #[cold]
    fn on_above_soft_mark(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("an open session");
        self.shared.stats.soft_marks_crossed += 1;
        session.rise_above(self.shared.now);
        session.arm(&mut self.shared);
        // One that has not yet gone down to half of it is told nothing new.
        if !session.receiving.holds().has(Hold::SoftMark) {
            session.receiving.hold(Hold::SoftMark, self.shared.now);
            let service = &mut self.services[usize::from(session.service)];
            service.on_backpressure(session, &mut self.shared);
        }
        self.after_event(id);
    }

    /// The send queue has gone down to half of its soft mark after it was above.
    #[cold]
    fn on_below_half_of_soft_mark(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("looked up before");
        session.release(&mut self.shared, Hold::SoftMark);
        if session.is_open() {
            self.services[usize::from(session.service)].on_writable(session, &mut self.shared);
            self.after_event(id);
        }
    }

    /// Ends the receive that is in flight if it is to be held back, or starts one if it is not.
    #[cold]
    fn hold_or_receive(&mut self, id: SessionId) {
        let session = self.sessions.get(id).expect("an open session");
        let receiving = &mut session.receiving;
        if receiving.in_flight && receiving.holds().end_receive() && !receiving.pausing {
            receiving.pausing = true;
            self.port.pause(session.socket);
        } else {
            self.start_receive(id);
        }
    }

    /// As [`after_call`](Self::after_call), after a call that may have released the session: then the
    /// frames that were kept back come, and the end of the stream behind them.
    fn after_event(&mut self, id: SessionId) {
        self.after_call(id);
        let Some(session) = self.sessions.get(id) else { return };
        if session.stage != Stage::Open || session.is_held() {
            return;
        }
        if let Some(bytes) = session.take_kept_back() {
            let service = &mut self.services[usize::from(session.service)];
            service.on_received(session, &mut self.shared, &bytes);
            self.after_call(id);
        }
        let Some(session) = self.sessions.get(id) else { return };
        if session.stage == Stage::Open && session.receiving.over && !session.is_held() {
            self.end(id, CloseReason::PeerClosed);
        }
    }

    fn on_receive_ended(&mut self, id: SessionId, end: ReceiveEnd) {
        let Some(session) = self.sessions.get(id) else { return };
        session.receiving.in_flight = false;
        session.receiving.pausing = false;
        let failed = match end {
            ReceiveEnd::CreditSpent => {
                let received = self.shared.stats.bytes_received as u32;
                session.receiving.spent(received, self.round, session.limits.receive_credit_bytes);
                None
            }
            ReceiveEnd::Paused | ReceiveEnd::Cancelled => None,
            ReceiveEnd::EndOfStream => {
                session.receiving.over = true;
                None
            }
            ReceiveEnd::Failed(error) => {
                session.receiving.over = true;
                Some(failure_reason(id, &error))
            }
        };
        match (session.stage, failed) {
            (Stage::Joining(_), _) => self.close_if_joined(id),
            (_, Some(reason)) => self.fail(id, reason),
            // Frames that are held back come before the end of the stream.
            (Stage::Open, None) if session.receiving.over && session.is_held() => {}
            (Stage::Open, None) if session.receiving.over => self.end(id, CloseReason::PeerClosed),
            (Stage::Lingering, None) if session.receiving.over => self.join(id, Close::Graceful),
            (Stage::Open | Stage::Flushing | Stage::Lingering, None) => self.start_receive(id),
            (Stage::Connecting, None) => unreachable!("no receive before the connection is there"),
        }
    }

    fn on_sent(&mut self, id: SessionId, mut gather: Gather, result: Result<(), PortSendError>) {
        let (bytes, buffers) = (gather.bytes(), gather.frames().len());
        gather.clear();
        if self.shared.gathers.len() < GATHERS_KEPT_MAX {
            self.shared.gathers.push(gather);
        }
        let Some(session) = self.sessions.get(id) else { return };
        session.send_in_flight = false;
        session.queue.on_sent();
        if matches!(session.stage, Stage::Joining(_)) {
            self.releasing_bytes = self.releasing_bytes.saturating_sub(bytes);
        }
        self.shared.link(id).unsent.set_queued(id, session.queue.bytes());
        match result {
            Ok(()) => {
                self.shared.stats.sends += 1;
                self.shared.stats.buffers_sent += buffers as u64;
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
            Stage::Open => {
                self.shared.places -= session.queue.places();
                session.queue.release();
            }
            Stage::Connecting | Stage::Lingering => {}
        }
        let (bytes, soft) = (session.queue.bytes(), session.limits.send_queue_bytes_soft);
        session.is_above &= bytes > soft;
        if session.receiving.holds().has(Hold::SoftMark) && bytes <= soft / 2 {
            self.on_below_half_of_soft_mark(id);
        }
    }

    // ---- receiving and sending -----------------------------------------------------------------

    fn start_receive(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let held = session.receiving.holds().any() && session.stage == Stage::Open;
        let receives = match session.stage {
            Stage::Open => !session.ending,
            // Beyond that nothing more is read; the connection stays until its deadline, because
            // closing it with unread input would destroy what the peer has not yet got.
            Stage::Flushing | Stage::Lingering => {
                session.receiving.discarded_bytes as usize <= session.limits.linger_bytes_max
            }
            Stage::Connecting | Stage::Joining(_) => false,
        };
        if session.receiving.in_flight || session.receiving.over || held || !receives {
            return;
        }
        session.receiving.in_flight = true;
        let credit_bytes = session.receive_credit_bytes(self.round, self.shared.now);
        self.port
            .submit(Op::Receive { socket: session.socket, credit_bytes }, Name::session_token(id));
    }

    /// Starts one send for each session that has something to say and none in flight.
    fn flush(&mut self) {
        if self.shared.dirty.is_empty() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.shared.dirty);
        for slot in dirty.drain(..) {
            let Some(session) = self.sessions.at(slot) else { continue };
            session.dirty = false;
            if session.send_in_flight || session.queue.is_empty() {
                continue;
            }
            let mut gather = self.shared.gathers.pop().unwrap_or_default();
            self.shared.places -= session.queue.places();
            session.queue.fill(&mut gather);
            self.shared.places += session.queue.places();
            session.flushing &= !session.queue.is_empty();
            self.shared.link(session.id).unsent.set_queued(session.id, session.queue.bytes());
            session.send_in_flight = true;
            session.send_started = self.shared.now;
            let op = Op::Send { socket: session.socket, gather };
            self.port.submit(op, Name::session_token(session.id));
        }
        self.shared.dirty = dirty;
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
