//! Whole servers on the simulated port: several workers, peers and a scheduler in one thread, where
//! a seed decides who is next, what is cut where, and what goes wrong.
//!
//! A run that fails prints how to repeat it: `WHARF_SEED=17 cargo test -p wharf --lib sim_tests`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use wharf_port::{
    Config, SocketOptions, inbox,
    sim::{Fault, Faults, PeerState, SimNet, SimPeer},
};

use crate::{
    CloseReason, ConnectorOptions, Context, Frame, Handle, Handler, Limits, Reconnect, Report,
    Result, SendError, SessionId,
    connector::{Connector, next_random},
    framing::{LengthField, Packet, append, frames},
    handle::{Ended, Links, WorkerLink},
    logic::{Logic, Pool, Service},
    memory::MemoryCap,
    session::Round,
    testing::for_seeds,
    worker::{ListenerParts, Worker, WorkerParts},
};

const FRAMING: LengthField = LengthField::u16_be();
const WORKERS: usize = 3;
/// Listened on by every worker.
const SHARED: ([u8; 4], u16) = ([10, 0, 0, 1], 9000);
/// Listened on by the first, which hands connections over.
const HANDED: ([u8; 4], u16) = ([10, 0, 0, 1], 9001);
/// First byte of a frame that tells a client its session's id.
const GREETING: u8 = 255;
/// First byte of a frame that was sent through a handle.
const POSTED: u8 = 254;
/// Anything that goes on for longer has got stuck.
const STEPS_MAX: usize = 400_000;
/// Less than a closing session may take to flush, or some would end by themselves.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A tick of the timers, and what operations take to end that were cancelled.
const LATE_MAX: Duration = Duration::from_millis(100);

// ---- the server --------------------------------------------------------------------------------

/// What happened to sessions, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Open(SessionId),
    Frame(SessionId, usize),
    Drain(SessionId),
    Close(SessionId, CloseReason),
    ConnectFailed(io::ErrorKind),
}

type Log = Rc<RefCell<Vec<Event>>>;

/// Greets, echoes, and does as a frame's second byte says.
struct Served(Log);

impl Handler for Served {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.0.borrow_mut().push(Event::Open(cx.id()));
        cx.send(&tagged(GREETING, cx.id(), 0))?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        self.0.borrow_mut().push(Event::Frame(cx.id(), frame.body().len()));
        cx.send(frame.body())?;
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.0.borrow_mut().push(Event::Drain(cx.id()));
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Context<'_, ()>, reason: CloseReason) {
        assert_eq!(cx.send(b"late"), Err(SendError::Closed));
        self.0.borrow_mut().push(Event::Close(cx.id(), reason));
    }
}

/// The outgoing side: asks three questions and closes after the answers.
struct Asking(Log);

impl Handler for Asking {
    type Session = usize;

    fn on_open(&mut self, cx: &mut Context<'_, usize>) -> Result {
        self.0.borrow_mut().push(Event::Open(cx.id()));
        (1..=3_u8).try_for_each(|n| cx.send(&[n; 300]))?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, usize>, frame: Frame<'_>) -> Result {
        self.0.borrow_mut().push(Event::Frame(cx.id(), frame.body().len()));
        assert!(*cx.data() < 3, "a frame behind the end that the handler has asked for");
        if frame.body()[0] < POSTED {
            *cx.data() += 1;
            let count = *cx.data();
            assert_eq!(frame.body(), [count as u8; 300], "answers in order");
            if count == 3 {
                cx.close();
            }
        }
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Context<'_, usize>) -> Result {
        self.0.borrow_mut().push(Event::Drain(cx.id()));
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Context<'_, usize>, reason: CloseReason) {
        self.0.borrow_mut().push(Event::Close(cx.id(), reason));
    }

    fn on_connect_failed(&mut self, _: SocketAddr, error: &io::Error, _: Option<Duration>) {
        self.0.borrow_mut().push(Event::ConnectFailed(error.kind()));
    }
}

fn tagged(tag: u8, id: SessionId, number: u32) -> Vec<u8> {
    [&[tag][..], &id.as_u64().to_be_bytes(), &number.to_be_bytes()].concat()
}

fn workers(net: &SimNet, seed: u64, limits: &Limits, log: &Log) -> (Vec<Worker>, Handle) {
    let config = Config { receive_buffers: 16, ..Config::default() };
    let (mut ports, mut links, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..WORKERS {
        let port = net.open(&config);
        let (post, inbox) = inbox(port.waker(), 64);
        links.push(WorkerLink::new(post, index, 100));
        ports.push(port);
        inboxes.push(inbox);
    }
    let handle = Handle(Arc::new(Links {
        workers: links,
        engines: ports.iter().map(|port| port.engine().clone()).collect(),
        local_addrs: vec![SHARED.into(), HANDED.into()],
        connectors: vec!["ask".to_owned()],
        max_sessions: 100,
        addresses: crate::addresses::Addresses::new(seed),
        runners: Vec::new(),
        pool: Pool::new(8),
        timed: Arc::default(),
        handler_times: Vec::new(),
        slow_calls: std::sync::atomic::AtomicU64::new(0),
        watchdog: None,
        memory: MemoryCap::new(64 << 20),
        running: AtomicUsize::new(WORKERS),
        watched: AtomicUsize::new(WORKERS),
        ended: Mutex::new(Ended::Running(Vec::new())),
    }));
    let mut shared = net.listen_shared(SHARED.into(), WORKERS).unwrap();
    let mut handed = Some(net.listen(HANDED.into()).unwrap());
    let reconnect =
        Reconnect::Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1) };
    let mut made = Vec::new();
    for (index, (port, inbox)) in ports.into_iter().zip(inboxes).enumerate() {
        let served = Box::new(Logic::new(FRAMING, Served(Rc::clone(log)), &Arc::default()))
            as Box<dyn Service>;
        let asking = Box::new(Logic::new(FRAMING, Asking(Rc::clone(log)), &Arc::default()));
        let limits = Arc::new(limits.clone());
        let options = ConnectorOptions { reconnect, ..ConnectorOptions::default() };
        let mut worker = Worker::new(
            port,
            WorkerParts {
                index: index as u8,
                handle: handle.clone(),
                inbox,
                services: vec![(served, Arc::clone(&limits)), (asking, limits)],
                connectors: vec![Connector { service: 1, options, next_source: 0 }],
                socket_options: SocketOptions::default(),
                round: Round::of(&config),
                timer_tick_ns: crate::timer::TICK_NS,
                seed,
                clock: Box::new(|| wharf_port::Time::ZERO),
            },
        );
        let listener = shared.remove(0);
        worker.listen(ListenerParts { listener, service: 0, hand_over: false }).unwrap();
        if let Some(listener) = handed.take() {
            worker.listen(ListenerParts { listener, service: 0, hand_over: true }).unwrap();
        }
        made.push(worker);
    }
    (made, handle)
}

// ---- the clients -------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Sends, ends its stream, reads to the end.
    Polite,
    /// Sends and never reads.
    Deaf,
    /// Resets when it has sent all.
    Rude,
}

struct Client {
    peer: Option<SimPeer>,
    manner: Manner,
    unsent: Vec<u8>,
    bodies: Vec<Vec<u8>>,
    received: Vec<u8>,
}

impl Client {
    fn new(net: &SimNet, random: &mut u64, manner: Manner) -> Self {
        let address = if next_random(random).is_multiple_of(2) { SHARED } else { HANDED };
        let count = next_random(random) % 12;
        let body = |n| vec![n as u8; 1 + (next_random(random) % 1500) as usize];
        let bodies: Vec<Vec<u8>> = (0..count).map(body).collect();
        let mut unsent = Vec::new();
        for body in &bodies {
            append(&FRAMING, Packet { id: 0, session: 0, body }, &mut unsent).unwrap();
        }
        // Not from loopback, which does not count.
        let peer = Some(net.connect_from(([10, 0, 2, 1], 0).into(), address.into()));
        Self { peer, manner, unsent, bodies, received: Vec::new() }
    }

    /// Does a little; whether that was anything.
    fn step(&mut self, random: &mut u64) -> bool {
        let Some(peer) = &mut self.peer else { return false };
        let piece = self.unsent.len().min(1 + (next_random(random) % 2000) as usize);
        let written = if piece == 0 { 0 } else { peer.write(&self.unsent[..piece]) };
        if written > 0 {
            self.unsent.drain(..written);
            if self.unsent.is_empty() && self.manner == Manner::Polite {
                peer.shutdown_write();
            }
            return true;
        }
        if self.bodies.is_empty() && self.manner == Manner::Polite {
            peer.shutdown_write(); // it had nothing to say
        }
        if self.unsent.is_empty() && self.manner == Manner::Rude {
            peer.reset();
            self.peer = None;
            return true;
        }
        let read = if self.manner == Manner::Deaf { Vec::new() } else { peer.read_arrived() };
        self.received.extend_from_slice(&read);
        if matches!(peer.state(), PeerState::Ended | PeerState::Failed(_)) {
            self.peer = None;
            return true;
        }
        !read.is_empty()
    }

    /// Whatever it received is for it, in order, and nothing else; says how much of it.
    fn check(&self) -> usize {
        let (mut id, mut echoes, mut posted) = (None, 0, 0);
        for frame in frames(&FRAMING, &self.received) {
            let body = frame.expect("a frame").body();
            match body[0] {
                tag @ (GREETING | POSTED) => {
                    let whose = u64::from_be_bytes(body[1..9].try_into().unwrap());
                    assert_eq!(*id.get_or_insert(whose), whose, "a frame for another session");
                    let number = u32::from_be_bytes(body[9..].try_into().unwrap());
                    assert!(tag == GREETING || number >= posted, "posted frames in order");
                    posted = number;
                }
                _ => {
                    assert_eq!(body, self.bodies[echoes], "echoes in order");
                    echoes += 1;
                }
            }
        }
        echoes
    }
}

// ---- a run -------------------------------------------------------------------------------------

/// What a run comes to: equal for equal seeds.
#[derive(Debug, PartialEq)]
struct Ending {
    trace: u64,
    log: Vec<Event>,
    report: Report,
}

struct Run {
    net: SimNet,
    workers: Vec<Worker>,
    handle: Handle,
    clients: Vec<Client>,
    log: Log,
    random: u64,
    posted: u32,
    /// Steps in a row that changed nothing.
    quiet: usize,
    /// Nothing will happen by itself any more: an operation that a fault has made silent until it
    /// is cancelled, for example.
    idle: bool,
}

impl Run {
    fn new(seed: u64, faults: Faults) -> Self {
        let net = SimNet::new(seed, faults);
        net.set_window(8 * 1024);
        let limits = Limits {
            first_frame_timeout: None,
            accepts_per_second_per_address: None,
            send_queue_bytes_soft: 8 * 1024,
            send_queue_bytes_max: 256 * 1024,
            receive_credit_bytes: 4 * 1024,
            ..Limits::default()
        };
        let log = Log::default();
        let (workers, handle) = workers(&net, seed, &limits, &log);
        let mut random = seed ^ 0x5eed;
        let clients = (0..12).map(|index| {
            let manner = match index {
                0..2 => Manner::Deaf,
                2..4 => Manner::Rude,
                _ => Manner::Polite,
            };
            Client::new(&net, &mut random, manner)
        });
        let clients = clients.collect();
        Self { net, workers, handle, clients, log, random, posted: 0, quiet: 0, idle: false }
    }

    /// Lets somebody do something: a worker, a client, another thread, or time.
    fn step(&mut self) {
        let pick = next_random(&mut self.random) as usize;
        let index = pick / 16;
        let moved = match pick % 16 {
            0..6 => self.turn(index % WORKERS),
            6..11 => {
                let client = index % self.clients.len();
                self.clients[client].step(&mut self.random)
            }
            11 if pick.is_multiple_of(5) => self.post(index),
            _ => self.net.step(),
        };
        self.quiet = if moved { 0 } else { self.quiet + 1 };
        // Nothing but a timer can happen any more: only then does time pass to the next one, so
        // that no limit is reached just because somebody was not picked.
        if self.quiet > 200 && self.net.next_event().is_none() {
            let at_work = self.workers.iter().filter(|worker| !worker.is_finished());
            if let Some(at) = at_work.filter_map(Worker::next_timer).min() {
                self.net.advance_to(at);
            } else {
                self.idle = true;
            }
            self.quiet = 0;
        }
    }

    fn turn(&mut self, index: usize) -> bool {
        let worker = &mut self.workers[index];
        if worker.is_finished() {
            return false;
        }
        let now = worker.poll().expect("a simulated port does not break");
        let moved = worker.completed() > 0;
        worker.turn(now);
        worker.check_limits();
        moved
    }

    /// Another thread sends to some session that is or was.
    fn post(&mut self, index: usize) -> bool {
        let ids: Vec<SessionId> = self
            .log
            .borrow()
            .iter()
            .filter_map(|event| if let Event::Open(id) = event { Some(*id) } else { None })
            .collect();
        let Some(id) = ids.get(index % ids.len().max(1)) else { return false };
        self.posted += 1;
        let sent = self.handle.send(*id, &tagged(POSTED, *id, self.posted));
        let over = self.log.borrow().iter().any(|e| matches!(e, Event::Close(i, _) if i == id));
        assert!(!over || sent == Err(SendError::Closed), "a send to a session that is over");
        sent.is_ok()
    }

    fn until(&mut self, mut so: impl FnMut(&Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if so(self) {
                return;
            }
            self.step();
        }
        panic!("stuck: {:?} {:?}", self.handle, self.log.borrow().last());
    }

    /// Runs until the polite and the rude are done, or for `steps`; then drains to the end.
    fn finish(mut self, steps: usize) -> (Ending, Vec<Client>) {
        for _ in 0..4 {
            self.handle.connect("ask", SHARED.into()).unwrap();
        }
        let mut left = steps;
        self.until(|run| {
            left = left.saturating_sub(1);
            let done = |client: &Client| client.peer.is_none() || client.manner == Manner::Deaf;
            left == 0 || run.idle || run.clients.iter().all(done)
        });
        let begun = self.net.now();
        self.handle.drain(DRAIN_TIMEOUT);
        self.quiet = 0; // somebody has something to do
        self.until(|run| run.workers.iter().all(Worker::is_finished));
        let late = self.net.now().since(begun + DRAIN_TIMEOUT);
        // To the end of a connect that nobody answers the clock jumps beyond any timer.
        let jumped = self.net.applied(Fault::ConnectTimedOut) > 0;
        assert!(jumped || late <= LATE_MAX, "the drain's deadline has passed {late:?} ago");
        let mut report = Report::default();
        for worker in &mut self.workers {
            let part = worker.report();
            assert!(part.leftover.is_nothing(), "{:?}", part.leftover);
            report.stats.add(&part.stats);
        }
        self.workers.clear();
        assert_eq!(self.handle.count(), 0, "a place is still counted");
        assert_eq!(self.handle.0.addresses.sessions(), 0, "an address still has a session");
        for client in &mut self.clients {
            client.step(&mut self.random);
            client.peer = None;
        }
        while self.net.step() {}
        assert_eq!(self.net.ends(), 0, "an end of a connection is left over");
        let log = self.log.take();
        check_lives(&log);
        (Ending { trace: self.net.trace_hash(), log, report }, self.clients)
    }
}

/// One `on_open` before and one `on_close` after all else, for every session (I9).
fn check_lives(log: &[Event]) {
    let (mut open, mut drained) = (BTreeMap::new(), BTreeSet::new());
    for event in log {
        match event {
            Event::Open(id) => assert_eq!(open.insert(*id, true), None, "{id} opened again"),
            Event::Frame(id, _) => assert_eq!(open.get(id), Some(&true), "{id}: a frame when over"),
            Event::Drain(id) => {
                assert_eq!(open.get(id), Some(&true), "{id}: told when over");
                assert!(drained.insert(*id), "{id}: told twice");
            }
            Event::Close(id, reason) => {
                assert_eq!(open.insert(*id, false), Some(true), "{id} closed");
                assert!(*reason != CloseReason::Drain || drained.contains(id), "{id} is not told");
            }
            Event::ConnectFailed(_) => {}
        }
    }
    assert!(open.values().all(|open| !open), "never closed: {open:?}");
}

#[test]
fn without_faults_everything_arrives() {
    for_seeds(0..40, |seed| {
        let (ending, clients) = Run::new(seed, Faults::none()).finish(usize::MAX);
        for client in &clients {
            let echoes = client.check();
            if client.manner == Manner::Polite {
                assert_eq!(echoes, client.bodies.len(), "{:?}", client.manner);
            }
        }
        assert_eq!(ending.report.stats.connected, 4);
        assert_eq!(ending.report.stats.closed_for(CloseReason::SlowConsumer), 0);
    });
}

/// Whatever goes wrong: no byte of anybody else's, nothing out of order, nothing left over, and an
/// end for every session.
#[test]
fn with_every_fault_order_and_accounts_are_kept() {
    for_seeds(100..160, |seed| {
        let (_, clients) = Run::new(seed, Faults::rough()).finish(usize::MAX);
        clients.iter().for_each(|client| _ = client.check());
    });
}

/// The drain comes at any time, to sessions in any state.
#[test]
fn a_drain_at_any_moment() {
    for_seeds(200..280, |seed| {
        let faults = if seed.is_multiple_of(2) { Faults::rough() } else { Faults::none() };
        let run = Run::new(seed, faults);
        let (_, clients) = run.finish((seed * 37 % 1500) as usize);
        clients.iter().for_each(|client| _ = client.check());
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for_seeds(300..310, |seed| {
        let run = |seed| Run::new(seed, Faults::rough()).finish(usize::MAX).0;
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second);
        assert_ne!(first.trace, run(seed + 1000).trace, "another seed is another run");
    });
}

/// Orders that reach a worker behind its last turn: who gave them was told that they were taken.
#[test]
fn orders_behind_the_last_turn_are_answered() {
    let mut run = Run::new(1, Faults::none());
    run.handle.drain(Duration::ZERO);
    run.until(|run| run.workers.iter().all(Worker::is_finished));
    for _ in 0..WORKERS {
        run.handle.connect("ask", SHARED.into()).unwrap();
    }
    let failures: u64 =
        run.workers.iter_mut().map(|worker| worker.report().stats.connect_failures).sum();
    assert_eq!(failures, WORKERS as u64);
    let told = |event: &&Event| matches!(event, Event::ConnectFailed(_));
    assert_eq!(run.log.borrow().iter().filter(told).count(), WORKERS, "the handlers are told");
    assert_eq!(run.handle.count(), 0, "no place is still counted");
    run.handle.connect("ask", SHARED.into()).unwrap_err();
    assert_eq!(run.handle.count(), 0);
}

/// The faults are not only asked for.
#[test]
fn every_kind_of_fault_strikes() {
    let run = Run::new(1, Faults::rough());
    let net = run.net.clone();
    run.finish(usize::MAX);
    for fault in [Fault::ShortSend, Fault::ShortReceive, Fault::LateCompletion, Fault::Reorder] {
        assert!(net.applied(fault) > 0, "{fault:?}");
    }
}
