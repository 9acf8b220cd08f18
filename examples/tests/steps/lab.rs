//! A simulated network on which connections are made by hand and given to a worker.

use std::net::SocketAddr;

use wharf_port::{
    CompletionPort, Config, Op, Outcome, Socket, Token, UnboundSocket,
    sim::{Faults, SimNet, SimPeer},
};

pub(crate) const SERVER: &str = "10.0.0.1:9000";
/// Turns after which something that has not happened never will.
pub(crate) const TURNS: usize = 20_000;

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
