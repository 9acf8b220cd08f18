//! A simulated network on which connections are made by hand and given to a worker.

use std::{net::SocketAddr, time::Duration};

use wharf_port::{
    CompletionPort, Config, Op, Outcome, Socket, Token, UnboundSocket,
    sim::{Faults, SimNet, SimPeer},
};

pub(crate) const SERVER: &str = "10.0.0.1:9000";
/// Turns after which something that has not happened never will.
pub(crate) const TURNS: usize = 20_000;

pub(crate) const TURN: Option<Duration> = Some(Duration::from_micros(200));

/// So many lines, each of another number.
pub(crate) fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|line| format!("line {line}\n").into_bytes()).collect()
}

pub(crate) struct Net {
    pub(crate) net: SimNet,
    acceptor: Box<dyn CompletionPort>,
    listener: Socket,
}

impl Net {
    /// The faults begin once the connections are made: see [`SimNet::set_faults`].
    pub(crate) fn new(seed: u64) -> Self {
        let net = SimNet::new(seed, Faults::none());
        let mut acceptor = net.open(&Config::default());
        let listener = net.listen(SERVER.parse().unwrap()).unwrap();
        let listener = acceptor.adopt_listener(listener).unwrap();
        acceptor.submit(Op::Accept { listener }, Token(0));
        Self { net, acceptor, listener }
    }

    /// A peer and the other end of its connection, which belongs to no port yet.
    pub(crate) fn connect(&mut self) -> (SimPeer, UnboundSocket) {
        let peer = self.net.connect(SERVER.parse::<SocketAddr>().unwrap());
        let mut done = Vec::new();
        for _ in 0..TURNS {
            self.acceptor.wait(None, &mut done).unwrap();
            match done.pop().map(|done| done.outcome) {
                Some(Outcome::Accepted(socket)) => return (peer, socket),
                None => {}
                Some(outcome) => panic!("{:?}: {outcome:?}", self.listener),
            }
        }
        panic!("never accepted");
    }
}

/// A lab for one of the steps 4 to 7: the same code over another program.
macro_rules! lab {
    ($(#[$attribute:meta])* $name:ident, $step:ident) => {
        $(#[$attribute])*
        pub(crate) mod $name {
            use std::sync::{
                Arc,
                mpsc::{Receiver, sync_channel},
            };

            use wharf_port::{
                Config, Post, SecondSend, inbox,
                sim::{PeerState, SimPeer},
            };

            use crate::lab::{Net, TURN, TURNS};
            use crate::$step::{
                application::Echo,
                logic::{EVENTS_MAX, Event, Logic},
                network::{CLIENTS_MAX, Newcomer, Worker},
            };

            pub(crate) struct Lab {
                pub(crate) net: Net,
                pub(crate) worker: Worker,
                pub(crate) logic: Logic<Echo>,
                pub(crate) newcomers: Post<Newcomer>,
                pub(crate) seats: Arc<()>,
                events: Receiver<Event>,
                connected: u64,
            }

            impl Lab {
                pub(crate) fn new(seed: u64) -> Self {
                    let net = Net::new(seed);
                    let refuse = SecondSend::Refuse;
                    let port = net.net.open(&Config { second_send: refuse, ..Config::default() });
                    let (newcomers, inbox_of_newcomers) = inbox(port.waker(), CLIENTS_MAX);
                    let (post, answers) = inbox(port.waker(), CLIENTS_MAX);
                    let (send, events) = sync_channel(EVENTS_MAX);
                    let worker = Worker::new(0, port, inbox_of_newcomers, answers, send);
                    let logic = Logic { application: Echo::default(), workers: vec![post] };
                    let seats = Arc::new(());
                    Self { net, worker, logic, newcomers, seats, events, connected: 0 }
                }

                pub(crate) fn connect(&mut self) -> SimPeer {
                    let (peer, socket) = self.net.connect();
                    let (number, seat) = (self.connected, Arc::clone(&self.seats));
                    self.connected += 1;
                    self.newcomers.post(Newcomer { number, socket, seat }).ok().unwrap();
                    peer
                }

                /// The worker's turn, then the logic's.
                pub(crate) fn turn(&mut self) {
                    self.worker.turn(TURN).unwrap();
                    while let Ok(event) = self.events.try_recv() {
                        self.logic.handle(event);
                    }
                }

                pub(crate) fn turn_until(&mut self, what: &str, mut is: impl FnMut() -> bool) {
                    for _ in 0..TURNS {
                        if is() {
                            return;
                        }
                        self.turn();
                    }
                    panic!("never happened: {what}");
                }

                /// What comes back of these lines, until the server ends its stream.
                pub(crate) fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
                    let mut peer = self.connect();
                    let (mut sent, mut got) = (0, Vec::new());
                    self.turn_until("the end of the stream", || {
                        sent += peer.write(&bytes[sent..]);
                        if sent == bytes.len() {
                            peer.shutdown_write();
                        }
                        got.extend(peer.read_arrived());
                        peer.state() != PeerState::Open && peer.state() != PeerState::Connecting
                    });
                    got
                }
            }
        }
    };
}

pub(crate) use lab;
