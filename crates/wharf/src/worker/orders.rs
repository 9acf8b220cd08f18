//! What comes up beside completions: timers, and orders from other threads.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use wharf_port::{Close, UnboundSocket};

use super::Worker;
use crate::{
    connector::Attempt,
    handle::{Command, SessionInfo},
    handler::{CloseReason, SessionId},
    logic::{Event, KEPT_BYTES_MAX, Outbox},
    sending::Class,
    session::{Due, Hold, Session, Stage, TimerKey},
    timer::TimerId,
};

impl Worker {
    pub(super) fn run_timers(&mut self) {
        self.shared.timers.expire(self.shared.now.as_nanos(), &mut self.due);
        if self.due.is_empty() {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        for (timer, key) in due.drain(..) {
            match key {
                TimerKey::Deadline(id) => self.on_deadline(id, timer),
                TimerKey::User(id) => self.on_user_timer(id, timer),
                TimerKey::Job(number) => self.jobs.due(number, &mut self.shared),
                TimerKey::Accept(index) => {
                    self.listeners[usize::from(index)].accept_again = None;
                    self.start_accept(usize::from(index));
                }
                TimerKey::Connect(number) => self.connect_again(number),
                TimerKey::DrainDeadline => self.abort_all(),
                TimerKey::Flush(index) => self.flush_held_back(index),
            }
        }
        self.due = due;
    }

    pub(super) fn on_deadline(&mut self, id: SessionId, timer: TimerId) {
        let Some(session) = self.sessions.get(id) else { return };
        if !session.deadline_passed(timer) {
            return;
        }
        match session.stage {
            Stage::Open => match session.due(self.shared.now) {
                Some(Due::Close(reason)) => self.end(id, reason),
                Some(Due::Resume) => {
                    if session.release(&mut self.shared, Hold::Rate) {
                        self.start_receive(id);
                    } else {
                        session.arm(&mut self.shared);
                    }
                }
                Some(Due::Heartbeat) => {
                    let service = &mut self.services[usize::from(session.service)];
                    service.on_heartbeat(session, &mut self.shared);
                    session.arm(&mut self.shared);
                    self.after_event(id);
                }
                None => session.arm(&mut self.shared),
            },
            Stage::Flushing => self.abort(id),
            Stage::Lingering => self.join(id, Close::Graceful),
            Stage::Connecting => self.join(id, Close::Reset),
            Stage::Joining(_) => {}
        }
    }

    /// The moment for which these sessions have waited.
    fn flush_held_back(&mut self, index: u16) {
        let slots = self.shared.take_held_back(index);
        for slot in &slots {
            // Who has the slot now may be another one, who waits for nothing.
            if let Some(session) = self.sessions.at(*slot)
                && std::mem::take(&mut session.held_back)
                && !session.queue.is_empty()
            {
                session.flushing = true;
                session.mark_dirty(&mut self.shared);
            }
        }
        self.shared.flushed(index, slots);
    }

    pub(super) fn on_user_timer(&mut self, id: SessionId, timer: TimerId) {
        let Some(session) = self.sessions.get(id) else { return };
        if let Some(key) = session.timer_fired(timer)
            && session.is_open()
        {
            self.services[usize::from(session.service)].on_timer(session, &mut self.shared, key);
            self.after_event(id);
        }
    }

    pub(super) fn connect_again(&mut self, number: u64) {
        let Some((attempt, _)) = self.waiting.remove(&number) else { return };
        if self.shared.handle.0.take_place(self.link()) {
            self.start_connect(attempt);
        } else {
            self.connect_failed(attempt, &io::Error::other("the server has all sessions it may"));
        }
    }

    pub(super) fn run_commands(&mut self) {
        if self.inbox.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut self.commands);
        let mut bytes = std::mem::take(&mut self.command_bytes);
        self.inbox.drain_with(&mut commands, &mut bytes);
        for command in commands.drain(..) {
            self.run_command(command, &bytes);
        }
        self.commands = commands;
        if bytes.capacity() <= KEPT_BYTES_MAX {
            bytes.clear();
            self.command_bytes = bytes;
        }
        // Only an order tells that a logic thread has caught up.
        self.receive_again();
        if let Some(within) = self.link().post.take_drain() {
            self.drain(within);
        }
    }

    /// Runs what this turn has ordered of its own worker: so a frame's job, and what that sends and
    /// publishes, leave in the turn of the frame, together with what came with it. What goes on from there
    /// is of the next turn, so that no job keeps the worker from the others.
    pub(super) fn run_own_commands(&mut self) {
        for _ in 0..OWN_ROUNDS_MAX {
            if !Outbox::deliver_to_own(self.index, &mut self.inbox) {
                return;
            }
            self.run_commands();
        }
    }

    /// Takes no more orders, and runs those that have come since the last turn: a draining worker
    /// refuses them, and tells whom they concern.
    pub(super) fn refuse_commands(&mut self) {
        debug_assert!(self.draining);
        self.inbox.close();
        self.run_commands();
        self.shared.lanes.hand_over(&self.shared.handle);
    }

    /// Runs one order; `beside` are the bytes that came with it and others.
    fn run_command(&mut self, command: Command, beside: &[u8]) {
        match command {
            Command::Send { to, class, packet_id, bytes } => {
                self.send(to, class, packet_id, &beside[bytes]);
            }
            Command::Broadcast { packet_id, body, filter } => {
                self.broadcast(packet_id, &body, filter);
            }
            Command::Subscribe { id, topic } => self.subscribe(id, topic),
            Command::Unsubscribe { id, topic } => self.unsubscribe(id, topic),
            Command::Publish { topic, class, packet_id, body } => {
                self.publish(topic, class, packet_id, &body);
            }
            Command::Close { id, reason } => self.end(id, reason),
            Command::Event { id, event } => self.event(id, event),
            Command::Job(posted) => self.jobs.run(posted, &mut self.shared),
            Command::Encoded { to, bytes, frames } => self.encoded(to, &beside[bytes], frames),
            Command::Hold { id, hold, on } => self.hold(id, hold, on),
            Command::Authenticated { id } => {
                if let Some(session) = self.sessions.get(id) {
                    session.authenticated();
                }
            }
            Command::HeartbeatAsked { id, asked } => {
                if let Some(session) = self.sessions.get(id) {
                    session.heartbeat_asked(&mut self.shared, asked);
                }
            }
            Command::HeartbeatAnswered { id } => self.heartbeat_answered(id),
            Command::FlushNow { id } => {
                if let Some(session) = self.sessions.get(id) {
                    session.flush_now(&mut self.shared);
                    // What was published before may have filled its queue.
                    self.after_call(id);
                }
            }
            Command::Consumed { id, bytes } => self.consumed(id, bytes),
            Command::EndInLogic { id, reason } => self.end(id, reason),
            Command::EndedInLogic { id, reason, bytes } => self.ended_in_logic(id, reason, bytes),
            Command::Adopt { service, socket, peer } => self.adopt(service, socket, peer),
            Command::Connect { connector, address } if !self.draining => {
                self.start_connect(Attempt { connector, address, failures: 0 });
            }
            Command::Connect { connector, address } => {
                self.link().sessions.fetch_sub(1, Ordering::Relaxed);
                let attempt = Attempt { connector, address, failures: 0 };
                self.connect_failed(attempt, &io::Error::other(DRAINING));
            }
            // Whoever asked may have stopped waiting.
            Command::Sessions { only, answer } => drop(answer.send(self.describe(only))),
            Command::Stats { answer } => drop(answer.send(self.stats())),
            Command::Limits { service, limits } => {
                self.limits[usize::from(service)] = Arc::new(*limits);
            }
            Command::Drain => {} // when all others have been run
        }
    }

    pub(super) fn send(&mut self, to: SessionId, class: Class, packet_id: u32, body: &[u8]) {
        self.link().taken(to, body.len());
        match self.sessions.get(to) {
            Some(session) if session.is_open() => {
                let service = &mut self.services[usize::from(session.service)];
                let sent = service.send(session, &mut self.shared, class, packet_id, body);
                if let Err(error) = sent {
                    tracing::debug!(session = %to, %error, "a frame from another thread was refused");
                }
                self.after_call(to);
            }
            _ => self.shared.stats.sends_too_late += 1,
        }
    }

    pub(super) fn event(&mut self, id: SessionId, event: Event) {
        match self.sessions.get(id) {
            Some(session) if session.is_open() => {
                let service = &mut self.services[usize::from(session.service)];
                service.on_event(session, &mut self.shared, event);
                self.after_event(id);
            }
            _ => {
                self.shared.stats.events_dropped += 1;
                event.drop_guarded();
            }
        }
    }

    /// Takes a connection that another worker has accepted.
    pub(super) fn adopt(&mut self, service: u16, socket: UnboundSocket, peer: SocketAddr) {
        if self.draining {
            self.shared.stats.refused += 1;
            self.give_back_place(self.link(), service, peer);
        } else {
            self.open(service, socket, peer);
        }
    }

    pub(super) fn describe(&self, only: Option<SessionId>) -> Vec<SessionInfo> {
        let wanted = |session: &&Session| only.is_none_or(|id| id == session.id);
        let describe = |session: &Session| session.describe(&self.shared);
        self.sessions.iter().filter(wanted).map(describe).collect()
    }

    pub(super) fn drain(&mut self, deadline: Duration) {
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
            self.drain_session(id);
        }
    }

    fn drain_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.is_open() {
            self.services[usize::from(session.service)].on_drain(session, &mut self.shared);
        }
        let reason = session.take_request().unwrap_or(CloseReason::Drain);
        self.end(id, reason);
    }

    /// The drain's deadline: whoever is still there is cut off.
    pub(super) fn abort_all(&mut self) {
        let (mut sessions, mut bytes_lost) = (0_u64, 0);
        for id in self.sessions.ids() {
            let Some(session) = self.sessions.get(id) else { continue };
            match session.stage {
                Stage::Connecting => self.join(id, Close::Reset),
                Stage::Open | Stage::Flushing | Stage::Lingering => {
                    sessions += 1;
                    bytes_lost += session.queue.bytes();
                    if session.stage == Stage::Open {
                        // Only its logic thread has not yet ended it.
                        self.abort_in_logic(id);
                    } else {
                        self.abort(id);
                    }
                }
                Stage::Joining(_) => {}
            }
        }
        self.shared.stats.drain_aborted += sessions;
        if sessions > 0 {
            tracing::warn!(sessions, bytes_lost, "cut off at the deadline of the drain");
        }
    }
}

/// Why a connection is not made any more.
pub(super) const DRAINING: &str = "the server is draining";

/// A job that a frame has posted, and what the job sends.
const OWN_ROUNDS_MAX: usize = 2;

#[cfg(all(test, any(unix, windows)))]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use wharf_port::sim::{Faults, SimNet, SimPeer};

    use super::Worker;
    use crate::{Class, Context, Frame, Handle, Handler, Result, Server, Topic, framing::Lines};

    const ADDRESS: ([u8; 4], u16) = ([10, 0, 0, 1], 1);

    /// A worker with so many sessions of this handler.
    fn worker<H: Handler>(
        net: &SimNet,
        handler: impl Fn() -> H + Send + Sync + 'static,
        count: usize,
    ) -> (Worker, Vec<SimPeer>) {
        let builder = Server::builder().workers(1);
        let builder = builder.listen(SocketAddr::from(ADDRESS), Lines, handler);
        let (mut workers, _, handle) = builder.assemble(net, 1).unwrap();
        let mut worker = workers.remove(0);
        let peers: Vec<SimPeer> = (0..count).map(|_| net.connect(ADDRESS.into())).collect();
        while net.step() || handle.count() < count {
            turn(&mut worker);
        }
        (worker, peers)
    }

    fn turn(worker: &mut Worker) {
        let now = worker.poll().unwrap();
        worker.turn(now);
    }

    /// What its members say is published by a job, which answers, too.
    struct Room;

    impl Handler for Room {
        type Session = ();

        fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
            Ok(cx.subscribe(Topic(1))?)
        }

        fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
            let (id, text) = (cx.id(), frame.body().to_vec());
            cx.post(7, move |job| {
                job.handle().send(id, b"yes").unwrap();
                job.handle().publish(Topic(1), Class::Reliable, 0, &text).unwrap();
            })?;
            Ok(())
        }
    }

    /// By way of a job, too, what came in one turn leaves in it, and in one send for each.
    #[test]
    fn what_a_frames_job_sends_leaves_in_the_frames_turn() {
        let net = SimNet::new(1, Faults::none());
        let (mut worker, mut peers) = worker(&net, || Room, 3);
        for (peer, text) in peers.iter_mut().zip(["a\n", "b\n", "c\n"]) {
            assert_eq!(peer.write(text.as_bytes()), 2);
        }
        while net.step() {}
        let now = worker.poll().unwrap();
        assert_eq!(worker.completed(), 3, "all that was said has come");
        worker.turn(now);
        assert!(!worker.has_orders(), "nothing is left for the next turn");
        while net.step() {}
        let heard = peers.iter_mut().map(|peer| String::from_utf8(peer.read_arrived()).unwrap());
        let heard: Vec<_> = heard.collect();
        for (own, said) in heard.iter().zip(["a", "b", "c"]) {
            assert!(own.contains(&format!("yes\n{said}\n")), "{heard:?}");
            assert_eq!((own.len(), own.replace("yes\n", "")), (10, heard[0].replace("yes\n", "")));
        }
        turn(&mut worker);
        assert_eq!(worker.stats().sends, 3, "one for each");
    }

    /// Answers each frame, and at `go` posts a job that posts itself, [`JOBS`] times.
    struct Busy(Arc<AtomicUsize>);

    const JOBS: usize = 1000;

    impl Handler for Busy {
        type Session = ();

        fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
            if frame.body() == b"go" {
                post_again(cx.handle(), Arc::clone(&self.0));
            }
            Ok(cx.send(b"yes")?)
        }
    }

    fn post_again(handle: &Handle, ran: Arc<AtomicUsize>) {
        let job = move |job: &mut crate::Job<'_>| {
            if ran.fetch_add(1, Ordering::Relaxed) + 1 < JOBS {
                post_again(job.handle(), ran);
            }
        };
        handle.post(7, job).unwrap();
    }

    /// What a job goes on with waits for the next turn: the others have theirs meanwhile.
    #[test]
    fn a_job_that_posts_itself_keeps_its_worker_from_nobody() {
        let net = SimNet::new(1, Faults::none());
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ran);
        let (mut worker, mut peers) = worker(&net, move || Busy(Arc::clone(&counted)), 2);
        for (peer, text) in peers.iter_mut().zip(["go\n", "me\n"]) {
            let before = ran.load(Ordering::Relaxed);
            assert_eq!(peer.write(text.as_bytes()), 3);
            while net.step() {}
            turn(&mut worker);
            let jobs = ran.load(Ordering::Relaxed) - before;
            assert!((1..=3).contains(&jobs) && worker.has_orders(), "{jobs} jobs in one turn");
            while net.step() {}
            assert_eq!(peer.read_arrived(), b"yes\n");
        }
        (0..JOBS).for_each(|_| turn(&mut worker));
        assert_eq!((ran.load(Ordering::Relaxed), worker.has_orders()), (JOBS, false));
    }
}
