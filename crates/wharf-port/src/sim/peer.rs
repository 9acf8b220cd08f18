//! The other end of a connection, driven by hand.

use std::{fmt, io, net::SocketAddr};

use super::{Held, SimNet, wire::Phase, world::Id};
use crate::contract::Close;

/// An end of a connection that no port has, for tests: it does what it is told and nothing by
/// itself. Dropping it closes it.
pub struct SimPeer {
    held: Held,
    id: Id,
    local: SocketAddr,
    remote: SocketAddr,
}

/// What a [`SimPeer`] knows of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Nobody has answered yet. What is written waits for the answer.
    Connecting,
    /// Both streams can go on, or bytes are there to be read.
    Open,
    /// The other end has ended its stream, and all of it has been read.
    Ended,
    /// The connection failed, and all that had arrived before has been read or is lost
    /// ([`Fault::UnreadLost`](super::Fault::UnreadLost)); or it was reset by this peer itself
    /// (`ConnectionAborted`).
    Failed(io::ErrorKind),
}

impl SimPeer {
    pub(super) fn new(net: &SimNet, id: Id, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { held: Held::new(net, id), id, local, remote }
    }

    /// Sends as much as there is room for and returns how much that was: 0 where the window is
    /// full, the stream was ended or the connection has failed.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.held.net.lock().write(self.id, bytes)
    }

    /// Whether something can be written now.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.held.net.lock().room(self.id).is_some_and(|room| room > 0)
    }

    /// Whether anything can ever be written any more: the connection has not failed, and its own
    /// stream has not ended, by itself or by [`Fault::EarlyEnd`](super::Fault::EarlyEnd).
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.held.net.lock().room(self.id).is_some()
    }

    /// Reads what has arrived, as far as it fits, and returns how much that was. Where that is 0,
    /// [`state`](Self::state) says whether more may come.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let read = self.held.net.lock().read(self.id, bytes.len());
        bytes[..read.len()].copy_from_slice(&read);
        read.len()
    }

    /// Reads everything that has arrived.
    pub fn read_arrived(&mut self) -> Vec<u8> {
        self.held.net.lock().read(self.id, usize::MAX)
    }

    /// Ends its stream and can still read.
    pub fn shutdown_write(&mut self) {
        self.held.net.lock().finish(self.id);
    }

    /// Resets the connection: what is on its way, in both directions, is lost.
    pub fn reset(&mut self) {
        self.held.net.lock().close(self.id, Close::Reset);
    }

    /// What it knows of the connection.
    #[must_use]
    pub fn state(&self) -> PeerState {
        let world = self.held.net.lock();
        let Some(end) = world.ends.get(&self.id) else {
            return PeerState::Failed(io::ErrorKind::ConnectionAborted);
        };
        match end.failure {
            _ if !end.arrived.is_empty() => PeerState::Open,
            Some(kind) => PeerState::Failed(kind),
            None if end.phase != Phase::Open => PeerState::Connecting,
            None if end.ended => PeerState::Ended,
            None => PeerState::Open,
        }
    }

    /// Bytes that have arrived and are unread.
    #[must_use]
    pub fn readable_bytes(&self) -> usize {
        self.held.net.lock().ends.get(&self.id).map_or(0, |end| end.arrived.len())
    }

    /// Its own address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The address of the other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.remote
    }
}

impl fmt::Debug for SimPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimPeer({} to {}, {:?})", self.local, self.remote, self.state())
    }
}
