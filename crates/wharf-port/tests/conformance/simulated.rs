//! The simulated network as a world for the suite: no faults, no chance.

use std::{io, net::SocketAddr};

use wharf_port::{
    CompletionPort, Config, UnboundListener,
    sim::{Faults, PeerState, SimNet, SimPeer},
};

use super::lab::{Peer, Rig};

pub(crate) fn rig() -> Option<Box<dyn Rig>> {
    Some(Box::new(SimRig(SimNet::new(1, Faults::none()))))
}

struct SimRig(SimNet);

impl Rig for SimRig {
    fn port(&self, config: Config) -> Box<dyn CompletionPort> {
        self.0.open(&config)
    }

    fn listen(&self) -> UnboundListener {
        self.0.listen("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn connect(&self, address: SocketAddr) -> Box<dyn Peer> {
        Box::new(self.0.connect(address))
    }

    fn refusing_address(&self) -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }
}

impl Peer for SimPeer {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.write(bytes) {
            0 => Err(match self.state() {
                PeerState::Failed(kind) => kind.into(),
                _ if self.can_write() => io::ErrorKind::WouldBlock.into(),
                _ => io::ErrorKind::BrokenPipe.into(),
            }),
            written => Ok(written),
        }
    }

    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match (self.read(bytes), self.state()) {
            (0, PeerState::Ended) => Ok(0),
            (0, PeerState::Failed(kind)) => Err(kind.into()),
            (0, _) => Err(io::ErrorKind::WouldBlock.into()),
            (read, _) => Ok(read),
        }
    }

    fn shutdown_write(&mut self) {
        SimPeer::shutdown_write(self);
    }

    fn reset(mut self: Box<Self>) {
        SimPeer::reset(&mut self);
    }

    fn local_addr(&self) -> SocketAddr {
        SimPeer::local_addr(self)
    }
}
