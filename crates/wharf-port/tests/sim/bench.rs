//! A port that listens on a simulated network, and what came out of it.

use std::time::Duration;

use wharf_port::{
    CompletionPort, Config, Done, Gather, Op, Outcome, ReceiveEnd, Socket, Token, UnboundSocket,
    sim::{SimNet, SimPeer},
};

/// Where a [`Bench`] listens.
pub(crate) const SERVER: &str = "10.0.0.1:9000";

pub(crate) struct Bench {
    pub(crate) net: SimNet,
    pub(crate) port: Box<dyn CompletionPort>,
    pub(crate) listener: Socket,
    pub(crate) accept: Token,
    /// Completions in the order of their delivery.
    pub(crate) arrived: Vec<Done>,
    submitted: u64,
}

impl Bench {
    pub(crate) fn new(net: &SimNet, config: Config) -> Self {
        let mut port = net.open(&config);
        let listener = port.adopt_listener(net.listen(SERVER.parse().unwrap()).unwrap()).unwrap();
        let mut bench = Self {
            net: net.clone(),
            port,
            listener,
            accept: Token(0),
            arrived: Vec::new(),
            submitted: 0,
        };
        bench.accept = bench.submit(Op::Accept { listener });
        bench
    }

    pub(crate) fn submit(&mut self, op: Op) -> Token {
        let token = Token(self.submitted);
        self.submitted += 1;
        self.port.submit(op, token);
        token
    }

    pub(crate) fn receive(&mut self, socket: Socket, credit_bytes: u32) -> Token {
        self.submit(Op::Receive { socket, credit_bytes })
    }

    pub(crate) fn receive_once(&mut self, socket: Socket, bytes_max: u32) -> Token {
        self.submit(Op::ReceiveOnce { socket, bytes_max })
    }

    pub(crate) fn send(&mut self, socket: Socket, bytes: &[u8]) -> Token {
        let mut buf = self.port.buffers().take(bytes.len());
        assert_eq!(buf.append(bytes), bytes.len());
        self.submit(Op::Send { socket, gather: Gather::from(buf.freeze()) })
    }

    pub(crate) fn turn(&mut self, timeout: Option<Duration>) {
        self.port.wait(timeout, &mut self.arrived).unwrap();
    }

    /// The operation's next completion, if it comes before nothing happens any more.
    pub(crate) fn try_next(&mut self, token: Token) -> Option<Outcome> {
        loop {
            if let Some(index) = self.arrived.iter().position(|done| done.token == token) {
                return Some(self.arrived.remove(index).outcome);
            }
            let before = self.arrived.len();
            self.turn(None);
            if self.arrived.len() == before && self.net.next_event().is_none() {
                return None;
            }
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self, token: Token) -> Outcome {
        self.try_next(token).expect("a completion")
    }

    /// Everything that a receive gives, up to its end.
    #[track_caller]
    pub(crate) fn received(&mut self, token: Token) -> (Vec<u8>, ReceiveEnd) {
        let mut bytes = Vec::new();
        loop {
            match self.next(token) {
                Outcome::Received(piece) => bytes.extend_from_slice(&piece),
                Outcome::ReceiveEnded(end) => return (bytes, end),
                outcome => panic!("{outcome:?}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn accepted(&mut self) -> UnboundSocket {
        match self.next(self.accept) {
            Outcome::Accepted(socket) => socket,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// A connection: the port's end and the peer.
    #[track_caller]
    pub(crate) fn pair(&mut self) -> (Socket, SimPeer) {
        let peer = self.net.connect(SERVER.parse().unwrap());
        let accepted = self.accepted();
        (self.port.adopt(accepted).unwrap(), peer)
    }
}
