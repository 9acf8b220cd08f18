//! An echo server on the bare port, two hundred networks on which everything goes wrong, and what
//! must hold all the same: what a peer gets back is a prefix of what it sent; once the faults stop,
//! who is still connected gets all of it; and nothing is left behind.
//!
//! `WHARF_SIM_SEED=17 cargo test -p wharf-port --test sim two_hundred` runs one seed alone.

use std::{collections::BTreeMap, time::Duration};

use wharf_port::{
    AcceptEnd, Close, CompletionPort, Config, Counts, Done, Gather, Op, Outcome, ReceiveEnd,
    RecvBuffer, Socket, Token,
    sim::{Fault, Faults, PeerState, SimNet, SimPeer},
};

use crate::bench::SERVER;

/// The server. A client's token is its number.
struct Echo {
    port: Box<dyn CompletionPort>,
    listener: Socket,
    accepting: bool,
    clients: BTreeMap<u64, Client>,
    clients_made: u64,
    /// Lent buffers that are given back a little later, so that others find none.
    held: Vec<RecvBuffer>,
    chance: fastrand::Rng,
    done: Vec<Done>,
}

struct Client {
    socket: Socket,
    waiting: Vec<u8>,
    receiving: bool,
    sending: bool,
    ended: bool,
    broken: bool,
}

impl Echo {
    fn new(net: &SimNet, seed: u64) -> Self {
        let config = Config { receive_buffers: 3, receive_buffer_bytes: 512, ..Config::default() };
        let mut port = net.open(&config);
        let listener = port.adopt_listener(net.listen(SERVER.parse().unwrap()).unwrap()).unwrap();
        Self {
            port,
            listener,
            accepting: false,
            clients: BTreeMap::new(),
            clients_made: 0,
            held: Vec::new(),
            chance: fastrand::Rng::with_seed(seed),
            done: Vec::new(),
        }
    }

    /// Waits once and answers what came.
    fn turn(&mut self, timeout: Option<Duration>, accept: bool) {
        if accept && !self.accepting {
            self.port.submit(Op::Accept { listener: self.listener }, LISTENER);
            self.accepting = true;
        }
        let mut done = std::mem::take(&mut self.done);
        self.port.wait(timeout, &mut done).unwrap();
        self.held.clear();
        for Done { token, outcome } in done.drain(..) {
            match outcome {
                Outcome::Accepted(socket) => {
                    let socket = self.port.adopt(socket).unwrap();
                    let client = Client {
                        socket,
                        waiting: Vec::new(),
                        receiving: false,
                        sending: false,
                        ended: false,
                        broken: false,
                    };
                    self.clients.insert(self.clients_made, client);
                    self.advance(self.clients_made);
                    self.clients_made += 1;
                }
                Outcome::AcceptEnded(end) => {
                    self.accepting = false;
                    assert!(matches!(end, AcceptEnd::Failed(_) | AcceptEnd::Cancelled), "{end:?}");
                }
                outcome => {
                    self.take_in(token.0, outcome);
                    self.advance(token.0);
                }
            }
        }
        self.done = done;
    }

    fn take_in(&mut self, number: u64, outcome: Outcome) {
        let client = self.clients.get_mut(&number).expect("there until nothing is in flight");
        match outcome {
            Outcome::Received(bytes) => self.take_in_bytes(number, bytes),
            Outcome::ReceiveEnded(end) => {
                assert!(client.receiving, "an end for each receive (P1)");
                client.end_receive(&end);
            }
            Outcome::ReceivedOnce(last) => {
                assert!(client.receiving, "an end for each receive (P1)");
                client.receiving = false;
                match last {
                    Ok(bytes) => self.take_in_bytes(number, bytes),
                    Err(end) => client.end_receive(&end),
                }
            }
            Outcome::Sent { result, .. } => {
                assert!(client.sending, "an end for each send (P1)");
                client.sending = false;
                client.broken |= result.is_err();
            }
            outcome => panic!("{outcome:?}"),
        }
    }

    fn take_in_bytes(&mut self, number: u64, bytes: RecvBuffer) {
        let client = self.clients.get_mut(&number).expect("there until nothing is in flight");
        assert!(!bytes.is_empty());
        client.waiting.extend_from_slice(&bytes);
        if self.chance.u8(..) < 64 {
            self.held.push(bytes);
        }
    }

    fn advance(&mut self, number: u64) {
        let client = self.clients.get_mut(&number).expect("a client");
        let Client { socket, .. } = *client;
        if client.broken {
            if client.receiving || client.sending {
                self.port.cancel(socket);
            } else {
                self.port.close(socket, Close::Reset);
                self.clients.remove(&number);
            }
            return;
        }
        if !client.sending && !client.waiting.is_empty() {
            let mut buf = self.port.buffers().take(client.waiting.len());
            buf.append(&client.waiting);
            client.waiting.clear();
            client.sending = true;
            let gather = Gather::from(buf.freeze());
            self.port.submit(Op::Send { socket, gather }, Token(number));
        }
        if !client.receiving && !client.ended && client.waiting.len() < 8192 {
            client.receiving = true;
            let bytes = self.chance.u32(1..3000);
            let op = if self.chance.bool() {
                Op::Receive { socket, credit_bytes: bytes }
            } else {
                Op::ReceiveOnce { socket, bytes_max: bytes }
            };
            self.port.submit(op, Token(number));
        } else if client.receiving && self.chance.u8(..) < 16 {
            self.port.pause(socket);
        }
        if client.ended && !client.sending && client.waiting.is_empty() {
            self.port.close(socket, Close::Graceful);
            self.clients.remove(&number);
        }
    }

    /// Cancels, joins and closes everything; what is left is returned.
    fn finish(mut self) -> Counts {
        self.port.cancel(self.listener);
        for client in self.clients.values_mut() {
            client.broken = true;
            self.port.cancel(client.socket);
        }
        let idle: Vec<_> = self.clients.keys().copied().collect();
        for number in idle {
            self.advance(number);
        }
        while self.port.counts().operations_in_flight > 0 {
            self.turn(Some(Duration::from_millis(1)), false);
        }
        self.port.close(self.listener, Close::Graceful);
        self.port.counts()
    }
}

impl Client {
    fn end_receive(&mut self, end: &ReceiveEnd) {
        self.receiving = false;
        self.ended |= matches!(end, ReceiveEnd::EndOfStream);
        self.broken |= matches!(end, ReceiveEnd::Failed(_) | ReceiveEnd::Cancelled);
    }
}

/// A peer that sends a stream of its own and checks what comes back.
struct Customer {
    peer: SimPeer,
    to_send: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    finished: bool,
}

impl Customer {
    fn new(net: &SimNet, number: u64, chance: &mut fastrand::Rng) -> Self {
        let mut bytes = fastrand::Rng::with_seed(number);
        let to_send = (0..chance.usize(0..30_000)).map(|_| bytes.u8(..)).collect();
        let peer = net.connect(SERVER.parse().unwrap());
        Self { peer, to_send, sent: 0, got: Vec::new(), finished: false }
    }

    fn turn(&mut self, chance: &mut fastrand::Rng) {
        let piece = chance.usize(1..5000).min(self.to_send.len() - self.sent);
        self.sent += self.peer.write(&self.to_send[self.sent..self.sent + piece]);
        if self.sent == self.to_send.len() && !self.finished {
            self.finished = true;
            self.peer.shutdown_write();
        }
        self.got.extend(self.peer.read_arrived());
        assert!(self.to_send.starts_with(&self.got), "lost, doubled or altered");
        assert!(self.got.len() <= self.sent);
    }

    /// Whether everything can still come: neither failed nor cut short in either direction.
    fn is_live(&self) -> bool {
        let state = self.peer.state();
        let can_go_on = self.finished || self.peer.can_write();
        let is_complete = self.got.len() == self.to_send.len();
        can_go_on && matches!(state, PeerState::Open) || (state == PeerState::Ended && is_complete)
    }

    fn is_complete(&self) -> bool {
        self.finished
            && self.got.len() == self.to_send.len()
            && self.peer.state() == PeerState::Ended
    }
}

struct Report {
    trace: u64,
    live: usize,
    applied: [u64; Fault::ALL.len()],
}

/// Peers, server and clock get their turns by chance; then the faults stop.
fn run(seed: u64) -> Report {
    let net = SimNet::new(seed, Faults::rough());
    net.set_window(4096);
    let mut chance = fastrand::Rng::with_seed(seed ^ 0xecc0);
    let mut echo = Echo::new(&net, seed);
    let mut clients: Vec<_> = Vec::new();
    for _ in 0..1500 {
        match chance.u8(0..10) {
            0 if clients.len() < 8 => {
                clients.push(Customer::new(&net, clients.len() as u64, &mut chance));
            }
            0..=3 if !clients.is_empty() => {
                let client = chance.usize(0..clients.len());
                clients[client].turn(&mut chance);
            }
            4..=5 => drop(net.step()),
            6 => echo.turn(Some(Duration::ZERO), true),
            _ => echo.turn(Some(Duration::from_micros(chance.u64(1..500))), true),
        }
    }
    net.stop_faults();
    let mut turn = |clients: &mut Vec<Customer>| {
        clients.iter_mut().for_each(|client| client.turn(&mut chance));
        echo.turn(Some(Duration::from_micros(100)), true);
    };
    // What has struck already takes its time to show.
    (0..300).for_each(|_| turn(&mut clients));
    let live: Vec<_> = (0..clients.len()).filter(|&i| clients[i].is_live()).collect();
    for _ in 0..20_000 {
        if live.iter().all(|&i| clients[i].is_complete()) {
            break;
        }
        turn(&mut clients);
    }
    for &i in &live {
        let Customer { peer, to_send, sent, got, .. } = &clients[i];
        let (all, got) = (to_send.len(), got.len());
        assert!(clients[i].is_complete(), "{i}: {peer:?}, {got} back of {sent} sent of {all}");
    }
    let left = echo.finish();
    let totals = Counts { buffer_shortages: left.buffer_shortages, ..Counts::default() };
    assert_eq!(left, totals, "nothing is left behind");
    drop(clients);
    while net.step() {}
    assert_eq!(net.ends(), 0);
    Report {
        trace: net.trace_hash(),
        live: live.len(),
        applied: Fault::ALL.map(|fault| net.applied(fault)),
    }
}

#[test]
fn on_two_hundred_rough_networks_nothing_is_lost_doubled_or_altered() {
    let only = std::env::var("WHARF_SIM_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let (mut live, mut applied) = (0, [0; Fault::ALL.len()]);
    for seed in only.map_or(0..200, |seed| seed..seed + 1) {
        let report = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!(
                "replay: WHARF_SIM_SEED={seed} cargo test -p wharf-port --test sim two_hundred"
            );
            std::panic::resume_unwind(panic)
        });
        live += report.live;
        applied.iter_mut().zip(report.applied).for_each(|(sum, count)| *sum += count);
    }
    if only.is_none() {
        assert!(live > 200, "only {live} lived: the rest proves little");
        for (fault, count) in Fault::ALL.iter().zip(applied) {
            assert!(count > 0, "{fault:?} never happened");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_another() {
    let traces: Vec<_> = [3, 3, 4].map(|seed| run(seed).trace).into();
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], traces[2]);
}

const LISTENER: Token = Token(u64::MAX);
