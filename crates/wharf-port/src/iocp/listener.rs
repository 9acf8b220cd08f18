//! A listener: several `AcceptEx` outstanding, turned into one streaming accept.
//!
//! Ending an accept leaves them with the system (W8: what was cancelled on a socket leaves that
//! socket good for closing alone): what connects meanwhile waits here, as the rest waits in the
//! system's queue, and comes first when accepting goes on.

use std::{collections::VecDeque, io, rc::Rc};

use super::{
    Again, Core, Stop,
    error::{is_aborted, is_of_the_connection, is_shortage, portable},
    packet::{Kind, Load, Packet},
    winsock,
};
use crate::{
    contract::{AcceptEnd, Done, Outcome, Socket, Token},
    memory::Memory,
    socket::{SocketOptions, Stream, UnboundSocket, connecting_socket, inet},
};

/// A listening socket of the port.
pub(super) struct Listener {
    os: Rc<socket2::Socket>,
    address: std::net::SocketAddr,
    options: SocketOptions,
    accept: Option<Accept>,
    /// As many as may be outstanding; those that the system does not have are used again.
    packets: Vec<Rc<Packet>>,
    /// Accepted and not yet delivered.
    arrived: VecDeque<socket2::Socket>,
    /// What an accept failed with, to be delivered behind what has arrived.
    failure: Option<io::Error>,
}

struct Accept {
    token: Token,
    stop: Option<Stop>,
}

impl Listener {
    pub(super) fn new(os: socket2::Socket, options: SocketOptions) -> io::Result<Self> {
        let address = inet(&os.local_addr()?)?;
        // The source is that of outgoing connections.
        let options = SocketOptions { source: None, ..options };
        Ok(Self {
            os: Rc::new(os),
            address,
            options,
            accept: None,
            packets: Vec::new(),
            arrived: VecDeque::new(),
            failure: None,
        })
    }

    pub(super) fn os(&self) -> &socket2::Socket {
        &self.os
    }

    pub(super) fn is_idle(&self) -> bool {
        self.accept.is_none()
    }

    #[cfg(test)]
    pub(super) fn packets(&self) -> Vec<Rc<Packet>> {
        self.packets.clone()
    }

    #[track_caller]
    pub(super) fn start(&mut self, token: Token) {
        assert!(self.accept.is_none(), "one accept at a time on a listener (P5)");
        self.accept = Some(Accept { token, stop: None });
    }

    pub(super) fn stop(&mut self, stop: Stop) {
        if let Some(accept) = &mut self.accept {
            accept.stop.get_or_insert(stop);
        }
    }

    /// Delivers what has arrived, and keeps as many accepts outstanding as configured.
    pub(super) fn attempt(
        &mut self,
        socket: Socket,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) -> Again {
        let Some(Accept { token, stop }) = self.accept else { return Again::No };
        for accepted in self.arrived.drain(..self.arrived.len().min(ACCEPTS_PER_TURN)) {
            let accepted = UnboundSocket(Stream::Os(accepted));
            done.push(Done { token, outcome: Outcome::Accepted(accepted) });
        }
        if !self.arrived.is_empty() {
            return Again::Soon;
        }
        let end = match stop {
            Some(Stop::Pause) => AcceptEnd::Paused,
            Some(Stop::Cancel) => AcceptEnd::Cancelled,
            None => {
                if self.failure.is_none() {
                    self.failure = self.refill(socket, core).err();
                }
                let Some(error) = self.failure.take() else { return Again::No };
                if is_shortage(&error) {
                    return Again::Later;
                }
                AcceptEnd::Failed(error)
            }
        };
        self.accept = None;
        core.finish(token, Outcome::AcceptEnded(end), done);
        Again::No
    }

    /// Starts accepts until enough are outstanding. Fails only where none is: as long as there is
    /// one, its end is the occasion to try again.
    fn refill(&mut self, socket: Socket, core: &Core) -> io::Result<()> {
        while self.packets.len() < core.accepts_outstanding {
            self.packets.push(Packet::new(Kind::Accept, socket, Load::Nothing));
        }
        let mut outstanding = self.packets.iter().filter(|packet| packet.is_posted()).count();
        for packet in self.packets.iter().filter(|packet| !packet.is_posted()) {
            match self.accept_with(packet, core) {
                Ok(()) => outstanding += 1,
                Err(error) if outstanding == 0 => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, outstanding, "fewer accepts are outstanding");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn accept_with(&self, packet: &Rc<Packet>, core: &Core) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            core.count_system_call();
            let socket = connecting_socket(self.address)?;
            // Windows lets an accepted socket inherit little of this.
            self.options.apply(&socket)?;
            let addresses = Memory::new(winsock::ACCEPT_ADDRESSES_BYTES, 8, false);
            let posted = packet.post(core, false, |overlapped| {
                // SAFETY: the packet keeps `overlapped`, and the addresses as its load (below, and
                // where it fails the system has let go of both), until it comes back (P2).
                unsafe { core.extensions.accept(&self.os, &socket, addresses.as_ptr(), overlapped) }
            });
            attempts += 1;
            match posted.map_err(portable) {
                Ok(_) => {
                    let load = Load::Accept { socket, _addresses: addresses };
                    *packet.load.borrow_mut() = load;
                    return Ok(());
                }
                // This connection is gone; the next one in the queue may be well.
                Err(error) if is_of_the_connection(&error) && attempts < ACCEPTS_PER_TURN => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// An accept of this listener is over.
    pub(super) fn on_accept(&mut self, packet: &Packet, bytes: u32, core: &Core) {
        let result = packet.result(&self.os, bytes);
        let Load::Accept { socket, .. } = packet.unload() else {
            unreachable!("loaded when it was posted")
        };
        core.count_system_call();
        let result = result.and_then(|_| {
            winsock::update_accept_context(&socket, &self.os).map_err(|error| {
                tracing::debug!(%error, "an accepted connection cannot be used");
                portable(error)
            })
        });
        match result {
            Ok(()) => self.arrived.push_back(socket),
            // Reset before anyone looked; the listener is whole (W3).
            Err(error) if is_of_the_connection(&error) || is_aborted(&error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
            }
            Err(error) => self.failure = Some(error),
        }
    }

    /// Asks the system to end what is outstanding.
    pub(super) fn abandon(&self, core: &Core) {
        self.packets.iter().for_each(|packet| packet.abandon(&self.os, core));
    }
}

/// Connections delivered by one turn, so that a flood of them does not hold up everything else.
const ACCEPTS_PER_TURN: usize = 64;
