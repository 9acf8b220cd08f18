//! Your own server in a simulator: the same handlers, framings and limits, on a network in memory
//! with a virtual clock, where a seed decides who is next and what is cut where.
//!
//! [`Builder::simulate`] takes the place of [`Builder::start`]. Everything runs on the test's own
//! thread, nothing waits for a real clock, and the same seed gives the same run: a failure that
//! needs an unlucky order of events is found by trying seeds, and then happens every time.
//!
//! Here a handler introduces each second session to the first, and forgets that the first may have
//! left. Most orders are harmless; [`for_seeds`] finds one that is not and prints its seed.
//!
//! ```should_panic
//! use wharf::{Context, Frame, Handler, Server, SessionId, framing::Lines, testing};
//!
//! struct Pairs(Option<SessionId>);
//! impl Handler for Pairs {
//!     type Session = ();
//!     fn on_frame(&mut self, cx: &mut Context<'_, ()>, _: Frame<'_>) -> wharf::Result {
//!         match self.0.take() {
//!             Some(first) => cx.handle().send(first, b"found").expect("it waits for this"),
//!             None => self.0 = Some(cx.id()),
//!         }
//!         Ok(())
//!     }
//! }
//! testing::for_seeds(0..100, |seed| {
//!     let server = Server::builder().workers(1).listen("127.0.0.1:9000", Lines, || Pairs(None));
//!     let mut sim = server.simulate(seed, testing::Faults::none()).unwrap();
//!     for _ in 0..2 {
//!         let client = sim.connect("127.0.0.1:9000", Lines);
//!         client.send(b"pair me");
//!         client.end(); // leaves when that is said
//!     }
//!     sim.finish();
//! });
//! ```
//!
//! After each turn of a worker the simulation looks whether every limit has been kept, and fails if one
//! has not. A panic of a handler fails the simulation, unlike a server, where it ends one session: see
//! [`Simulation::expect_panics`].

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    ops::Range,
    rc::Rc,
    time::Duration,
};

#[cfg(test)]
mod instructions;

pub use wharf_port::sim::{Fault, Faults};
use wharf_port::{
    Time,
    sim::{PeerState, SimNet, SimPeer},
};

use crate::{
    CloseReason, Handle, Report, Stats,
    connector::next_random,
    error::Result,
    framing::{self, Framing, Packet},
    handle::ThreadKind,
    logic::{Runner, forget_turn},
    server::Builder,
    worker::Worker,
};

impl Builder {
    /// Makes the server on a simulated network instead of the system's; two workers unless
    /// [`workers`](Builder::workers) was called. `seed` decides everything that is left to chance,
    /// `faults` what goes wrong beside: [`Faults::none`], or [`Faults::rough`] for short reads and
    /// writes, resets, exhausted buffers and descriptors.
    ///
    /// # Errors
    /// As for [`start`](Builder::start), but for what only a real system refuses.
    pub fn simulate(self, seed: u64, faults: Faults) -> Result<Simulation> {
        let net = SimNet::new(seed, faults);
        let (workers, runners, handle) = self.assemble(&net, seed)?;
        // Whoever waits for a worker on this thread would wait for ever.
        ThreadKind::Worker.enter();
        Ok(Simulation {
            net,
            workers,
            runners,
            handle,
            clients: Vec::new(),
            random: seed ^ 0x5eed,
            panics_expected: false,
            logic_runs: true,
        })
    }
}

fn resolve(address: impl ToSocketAddrs + fmt::Debug) -> SocketAddr {
    let resolved = address.to_socket_addrs().ok().and_then(|mut all| all.next());
    resolved.unwrap_or_else(|| panic!("{address:?} is no address"))
}

/// A server, its clients, and the network between them, all on the calling thread.
pub struct Simulation {
    net: SimNet,
    workers: Vec<Worker>,
    runners: Vec<Runner>,
    handle: Handle,
    clients: Vec<Rc<RefCell<Peer>>>,
    random: u64,
    panics_expected: bool,
    logic_runs: bool,
}

impl Simulation {
    /// A new client of the server's listener on `address`, speaking `framing`. It is connected when
    /// the simulation goes on.
    ///
    /// # Panics
    /// `address` is none.
    pub fn connect<F: Framing>(
        &mut self,
        address: impl ToSocketAddrs + fmt::Debug,
        framing: F,
    ) -> Client<F> {
        let resolved = resolve(address);
        let socket = self.net.connect(resolved);
        self.client(socket, framing)
    }

    /// As [`connect`](Self::connect), from this address instead of the loopback one; a port number of
    /// 0 becomes a free one.
    ///
    /// # Panics
    /// One of the two is no address.
    pub fn connect_from<F: Framing>(
        &mut self,
        from: impl ToSocketAddrs + fmt::Debug,
        address: impl ToSocketAddrs + fmt::Debug,
        framing: F,
    ) -> Client<F> {
        let socket = self.net.connect_from(resolve(from), resolve(address));
        self.client(socket, framing)
    }

    fn client<F: Framing>(&mut self, socket: SimPeer, framing: F) -> Client<F> {
        let peer = Rc::new(RefCell::new(Peer {
            socket: Some(socket),
            unsent: Unsent::default(),
            received: Vec::new(),
            then: Then::Stay,
            reads: true,
            keeps: true,
        }));
        self.clients.push(Rc::clone(&peer));
        Client { peer, framing }
    }

    /// Reaches the server as other threads do. What waits for workers answers
    /// [`Error::OnWorker`](crate::Error::OnWorker).
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A number below `below`, decided by the seed, for the test's own choices.
    ///
    /// # Panics
    /// `below` is 0.
    pub fn random(&mut self, below: u64) -> u64 {
        next_random(&mut self.random) % below
    }

    /// The time on the virtual clock, which starts at zero.
    #[must_use]
    pub fn now(&self) -> Time {
        self.net.now()
    }

    /// A hash of all that has been completed so far, and when: equal for equal seeds.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.net.trace_hash()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.workers.iter().for_each(|worker| stats.add(&worker.stats()));
        self.runners.iter().for_each(|runner| stats.add(&runner.stats()));
        stats
    }

    /// Logic threads do nothing, as if their handlers took their time; `true` lets them go on. Without
    /// [`Dispatch::Threads`](crate::Dispatch::Threads) there are none.
    pub fn set_logic_running(&mut self, runs: bool) {
        self.logic_runs = runs;
    }

    /// Changes what goes wrong from now on: [`Faults::none`] is the end of it.
    pub fn set_faults(&mut self, faults: Faults) {
        self.net.set_faults(faults);
    }

    /// How many bytes may be under way or unread in each direction of connections made from now on;
    /// 64 KiB if never set.
    pub fn set_window(&mut self, bytes: usize) {
        self.net.set_window(bytes);
    }

    /// Handlers that panic are part of the test: their sessions end with
    /// [`CloseReason::HandlerPanic`], and the simulation goes on.
    pub fn expect_panics(&mut self) {
        self.panics_expected = true;
    }

    /// Lets one of them do something, whoever the seed says: a worker, a logic thread, a client, the
    /// network, or the pool that runs offloaded work. Whether anything came of it.
    pub fn step(&mut self) -> bool {
        let servers = self.workers.len() + self.runners.len();
        let clients = self.clients.len();
        let pick = next_random(&mut self.random) as usize % self.parties();
        if pick < self.workers.len() {
            self.turn(pick)
        } else if pick < servers {
            self.turn_logic(pick - self.workers.len())
        } else if pick < servers + clients {
            self.clients[pick - servers].borrow_mut().step(&mut self.random)
        } else if pick == servers + clients {
            self.handle.0.pool.turn()
        } else {
            self.net.step()
        }
    }

    /// Goes on until only a timer could change anything. Little time passes: what the network needs.
    ///
    /// # Panics
    /// A handler panicked; or it never comes to rest.
    pub fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            let tries = 2 * self.parties();
            if (0..tries).any(|_| self.step()) {
                continue;
            }
            if !self.sweep() {
                return self.check();
            }
        }
        panic!("the simulation does not come to rest: {:?}", self.handle);
    }

    /// Lets this much time pass, and everything happen that is due by then.
    ///
    /// # Panics
    /// As for [`run`](Self::run).
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now() + time;
        self.run();
        while let Some(at) = self.next_timer().filter(|at| *at <= until) {
            self.net.advance_to(at);
            self.run();
        }
        self.net.advance_to(until);
        self.run();
    }

    /// Ends the server as a drain without a deadline does, after the clients have said all that they
    /// were told to say, and checks that nothing is left over: no operation, no buffer, no socket, no
    /// timer.
    ///
    /// # Panics
    /// As for [`run`](Self::run); or something is left over; or the server does not end.
    pub fn finish(mut self) -> Report {
        self.run();
        self.handle.drain(DRAIN_TIMEOUT);
        let until = self.now() + 2 * DRAIN_TIMEOUT;
        while !self.workers.iter().all(Worker::is_finished) {
            assert!(self.now() < until, "the server does not end: {:?}", self.handle);
            self.run_for(DRAIN_TIMEOUT / 10);
        }
        let mut report = Report::default();
        let mut add = |part: Report| {
            assert!(part.leftover.is_nothing(), "left over: {:?}", part.leftover);
            report.stats.add(&part.stats);
        };
        for worker in &mut self.workers {
            add(worker.report());
            self.handle.0.worker_ended();
        }
        for runner in &mut self.runners {
            runner.turn(self.net.now());
            assert!(runner.is_finished(), "a logic thread does not end");
            add(runner.report());
        }
        assert_eq!(self.handle.0.pool.outstanding(), 0, "offloaded work is left over");
        report
    }

    /// One after the other, so that none is left out. Whether anything came of it.
    fn sweep(&mut self) -> bool {
        let mut moved = self.net.step() | self.handle.0.pool.turn();
        for index in 0..self.workers.len() {
            moved |= self.turn(index);
        }
        for index in 0..self.runners.len() {
            moved |= self.turn_logic(index);
        }
        for client in &self.clients {
            moved |= client.borrow_mut().step(&mut self.random);
        }
        moved
    }

    fn turn(&mut self, index: usize) -> bool {
        let worker = &mut self.workers[index];
        if worker.is_finished() {
            return false;
        }
        let now = worker.poll().expect("a simulated port does not break");
        let due = worker.next_timer().is_some_and(|at| at <= now);
        let moved = due || worker.completed() > 0 || worker.has_orders();
        worker.turn(now);
        worker.check_limits();
        moved
    }

    fn turn_logic(&mut self, index: usize) -> bool {
        let (runner, now) = (&mut self.runners[index], self.net.now());
        if !self.logic_runs {
            return false;
        }
        let moved = runner.has_orders() || runner.next_timer().is_some_and(|at| at <= now);
        runner.turn(now);
        moved
    }

    /// Who may be picked, counted as often as it is picked.
    fn parties(&self) -> usize {
        let servers = self.workers.len() + self.runners.len();
        servers + self.clients.len() + 1 + NETWORK_SHARE
    }

    fn next_timer(&self) -> Option<Time> {
        let running = self.workers.iter().filter(|worker| !worker.is_finished());
        let logic = self.runners.iter().filter(|_| self.logic_runs).filter_map(Runner::next_timer);
        running.filter_map(Worker::next_timer).chain(logic).min()
    }

    fn check(&self) {
        let panics: u64 =
            self.workers.iter().map(|w| w.stats().closed_for(CloseReason::HandlerPanic)).sum();
        assert!(panics == 0 || self.panics_expected, "a handler panicked");
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        ThreadKind::Other.enter();
        forget_turn();
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("now", &self.now())
            .field("server", &self.handle)
            .field("clients", &self.clients.len())
            .finish_non_exhaustive()
    }
}

/// A client in a [`Simulation`]. What it is told to do happens as the simulation goes on; dropping
/// it changes nothing.
pub struct Client<F> {
    peer: Rc<RefCell<Peer>>,
    framing: F,
}

impl<F: Framing> Client<F> {
    /// Says this, in pieces that the seed cuts.
    ///
    /// # Panics
    /// The framing cannot say it, or this client was told to leave.
    pub fn send(&self, body: &[u8]) {
        self.send_packet(0, body);
    }

    /// As [`send`](Self::send), with a packet id for framings that carry one.
    ///
    /// # Panics
    /// As for [`send`](Self::send).
    pub fn send_packet(&self, id: u32, body: &[u8]) {
        let mut peer = self.peer.borrow_mut();
        assert_eq!(peer.then, Then::Stay, "it was told to leave");
        let mut bytes = Vec::new();
        framing::append(&self.framing, Packet { id, session: 0, body }, &mut bytes)
            .expect("the framing can say it");
        peer.unsent.push(bytes);
    }

    /// As [`send`](Self::send), with any bytes, also such as break the framing.
    pub fn send_bytes(&self, bytes: &[u8]) {
        self.peer.borrow_mut().unsent.push(bytes.to_vec());
    }

    /// Ends its stream when everything is said, and goes on reading.
    pub fn end(&self) {
        self.peer.borrow_mut().then = Then::End;
    }

    /// Resets the connection when everything is said.
    pub fn reset(&self) {
        self.peer.borrow_mut().then = Then::Reset;
    }

    /// Reads nothing any more; `true` makes it read again.
    pub fn set_reading(&self, reads: bool) {
        self.peer.borrow_mut().reads = reads;
    }

    /// Reads and keeps nothing of it: a simulation may say more than there is memory for. `true` makes
    /// it keep what arrives from then on.
    pub fn set_keeping(&self, keeps: bool) {
        self.peer.borrow_mut().keeps = keeps;
    }

    /// The bodies of all frames that have arrived so far.
    ///
    /// # Panics
    /// What has arrived breaks the framing.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        let peer = self.peer.borrow();
        let frames = framing::frames(&self.framing, &peer.received);
        frames
            .map(|frame| frame.expect("the server keeps to the framing").body().to_vec())
            .collect()
    }

    /// As [`received`](Self::received), each with its packet id, for framings that carry one.
    ///
    /// # Panics
    /// As for [`received`](Self::received).
    #[must_use]
    pub fn received_packets(&self) -> Vec<(u32, Vec<u8>)> {
        let peer = self.peer.borrow();
        framing::frames(&self.framing, &peer.received)
            .map(|frame| frame.expect("the server keeps to the framing"))
            .map(|frame| (frame.id(), frame.body().to_vec()))
            .collect()
    }

    /// Whether the connection is over, whichever side ended it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.peer.borrow().socket.is_none()
    }
}

impl<F> fmt::Debug for Client<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.borrow();
        f.debug_struct("Client")
            .field("unsent_bytes", &peer.unsent.bytes)
            .field("received_bytes", &peer.received.len())
            .field("closed", &peer.socket.is_none())
            .finish_non_exhaustive()
    }
}

/// What a client does when it has said everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stay,
    End,
    Reset,
    /// It has ended its stream.
    Ended,
}

/// A client's end of the connection, and what it still has to do.
struct Peer {
    socket: Option<SimPeer>,
    unsent: Unsent,
    received: Vec<u8>,
    then: Then,
    reads: bool,
    keeps: bool,
}

/// Bytes in the pieces that they came in; each is given back when the last of it is said.
#[derive(Default)]
struct Unsent {
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first is said.
    said: usize,
    bytes: usize,
}

impl Unsent {
    fn push(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next of them, as many as there are or `max`.
    fn next(&self, max: usize) -> Vec<u8> {
        let mut next = Vec::with_capacity(max.min(self.bytes));
        let mut from = self.said;
        for piece in &self.pieces {
            if next.len() == max {
                break;
            }
            let end = piece.len().min(from + (max - next.len()));
            next.extend_from_slice(&piece[from..end]);
            from = 0;
        }
        next
    }

    /// So many more are said.
    fn advance(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.said += bytes;
        while let Some(first) = self.pieces.front().filter(|first| first.len() <= self.said) {
            self.said -= first.len();
            self.pieces.pop_front();
        }
    }
}

impl Peer {
    /// Does a little; whether that was anything.
    fn step(&mut self, random: &mut u64) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let piece = self.unsent.next(1 + (next_random(random) % PIECE_BYTES_MAX) as usize);
        let written = if piece.is_empty() { 0 } else { socket.write(&piece) };
        self.unsent.advance(written);
        if written > 0 {
            return true;
        }
        let read = if self.reads { socket.read_arrived() } else { Vec::new() };
        if self.keeps {
            self.received.extend_from_slice(&read);
        }
        if matches!(socket.state(), PeerState::Ended | PeerState::Failed(_)) {
            self.socket = None;
            return true;
        }
        if self.unsent.bytes == 0 {
            match self.then {
                Then::Stay | Then::Ended => {}
                Then::End => {
                    socket.shutdown_write();
                    self.then = Then::Ended;
                    return true;
                }
                Then::Reset => {
                    socket.reset();
                    self.socket = None;
                    return true;
                }
            }
        }
        !read.is_empty()
    }
}

/// Runs `test` for each of the seeds; one that fails is named together with the way to repeat it:
/// with `WHARF_SEED=17` in the environment that one alone is run. `WHARF_SEEDS=5000..9000` runs those
/// instead of `seeds`.
///
/// # Panics
/// As `test` does; or what the environment says is no number, or no range.
pub fn for_seeds(seeds: Range<u64>, test: impl Fn(u64)) {
    for seed in seeds_from_environment().unwrap_or(seeds) {
        let says = Says(seed);
        test(seed);
        drop(says);
    }
}

#[expect(clippy::disallowed_methods, reason = "a failing seed is repeated by the environment")]
fn seeds_from_environment() -> Option<Range<u64>> {
    let parse = |name: &str, value: &str| {
        value.parse::<u64>().unwrap_or_else(|_| panic!("{name} says `{value}`, which is no seed"))
    };
    if let Ok(seed) = std::env::var("WHARF_SEED") {
        let seed = parse("WHARF_SEED", &seed);
        return Some(seed..seed.saturating_add(1));
    }
    let seeds = std::env::var("WHARF_SEEDS").ok()?;
    let (from, to) = seeds.split_once("..").expect("WHARF_SEEDS is a range like 5000..9000");
    Some(parse("WHARF_SEEDS", from)..parse("WHARF_SEEDS", to))
}

/// Names the seed if the test panics.
struct Says(u64);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let test = thread.name().filter(|name| *name != "main").unwrap_or("");
            eprintln!("seed {} fails; to repeat it: WHARF_SEED={0} cargo test {test}", self.0);
        }
    }
}

/// How often the network is picked, where a worker or a client is picked once.
const NETWORK_SHARE: usize = 2;

/// Anything that goes on for longer has got stuck.
const STEPS_MAX: usize = 1_000_000;

/// A client writes at most this much at a time.
const PIECE_BYTES_MAX: u64 = 2000;

/// How long sessions may take when the simulation ends, on its own clock.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
