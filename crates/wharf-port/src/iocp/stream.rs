//! A connection: what is in flight on it, and the steps that lead to its completions.
//!
//! Receiving takes two steps. A receive of nothing is outstanding while there is nothing: its packet
//! says that there is something (or that there never will be). What there is is then taken without
//! waiting, into lent buffers, up to the credit. Pausing and cancelling concern the second step
//! alone: the first stays with the system (P9).

use std::{io, mem, net::SocketAddr, rc::Rc, time::Duration};

use super::{
    Again, Core, Stop,
    error::{self, is_aborted, is_shortage, portable},
    packet::{Kind, Load, Packet, Posted, fill},
    winsock,
};
use crate::{
    buffer::{Gather, RecvBuffer},
    contract::{Close, Done, Outcome, ReceiveEnd, SendError, Socket, Token},
    parked::Ticket,
};

/// A connection of the port, or a socket that will become one.
pub(super) struct StreamSocket {
    os: Rc<socket2::Socket>,
    /// There may be something to receive; as long as this is so no receive of nothing is posted.
    readable: bool,
    /// The receiving side has failed with this. (Windows says so each time, Wine once.)
    failure: Option<i32>,
    /// The receive of nothing.
    idle: Option<Rc<Packet>>,
    connect: Option<Connect>,
    receive: Option<Receive>,
    send: Option<Send>,
    /// Second sends whose refusal has not been delivered.
    pub(super) refused: u32,
    /// Send end of stream once the send in flight is over.
    shutdown_wanted: bool,
}

struct Connect {
    token: Token,
    packet: Rc<Packet>,
    cancelled: bool,
}

struct Receive {
    token: Token,
    credit_bytes: u32,
    /// Over with the first bytes.
    once: bool,
    stop: Option<Stop>,
    /// Its place among those that wait for a buffer.
    parked: Option<Ticket>,
}

struct Send {
    token: Token,
    packet: Rc<Packet>,
    cancelled: bool,
}

impl StreamSocket {
    pub(super) fn new(os: socket2::Socket) -> Self {
        Self {
            os: Rc::new(os),
            readable: false,
            failure: None,
            idle: None,
            connect: None,
            receive: None,
            send: None,
            refused: 0,
            shutdown_wanted: false,
        }
    }

    pub(super) fn os(&self) -> &socket2::Socket {
        &self.os
    }

    /// Whether the caller has nothing in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.connect.is_none() && self.receive.is_none() && self.send.is_none() && self.refused == 0
    }

    #[track_caller]
    pub(super) fn start_connect(&mut self, socket: Socket, token: Token, address: SocketAddr) {
        assert!(self.connect.is_none(), "one connect at a time on a socket");
        let load = Load::Connect { address: address.into() };
        let packet = Packet::new(Kind::Connect, socket, load);
        self.connect = Some(Connect { token, packet, cancelled: false });
    }

    #[track_caller]
    pub(super) fn start_receive(&mut self, token: Token, credit_bytes: u32, once: bool) {
        assert!(credit_bytes > 0, "a receive is for at least one byte");
        assert!(self.receive.is_none(), "one receive at a time on a socket (P5)");
        self.receive = Some(Receive { token, credit_bytes, once, stop: None, parked: None });
    }

    /// Starts a send; gives the gather back if there is one in flight that it may be refused for.
    #[track_caller]
    pub(super) fn start_send(
        &mut self,
        socket: Socket,
        token: Token,
        gather: Gather,
        core: &mut Core,
    ) -> Option<Gather> {
        if self.send.is_some() {
            assert!(core.refuses_second_sends, "one send at a time on a socket (P5)");
            self.refused += 1;
            return Some(gather);
        }
        let packet = core.idle_sends.pop();
        let packet = packet.unwrap_or_else(|| Packet::new(Kind::Send, socket, Load::send()));
        packet.set_socket(socket);
        if let Load::Send { gather: loaded, sent_bytes, .. } = &mut *packet.load.borrow_mut() {
            *loaded = gather;
            *sent_bytes = 0;
        }
        self.send = Some(Send { token, packet, cancelled: false });
        None
    }

    pub(super) fn pause(&mut self, core: &mut Core) {
        self.stop_receive(Stop::Pause, core);
    }

    pub(super) fn cancel(&mut self, core: &mut Core) {
        self.stop_receive(Stop::Cancel, core);
        let mut packets = [None, None];
        if let Some(connect) = &mut self.connect {
            let told = mem::replace(&mut connect.cancelled, true);
            packets[0] = Some(&connect.packet).filter(|packet| !told && packet.is_posted());
        }
        if let Some(send) = &mut self.send {
            let told = mem::replace(&mut send.cancelled, true);
            packets[1] = Some(&send.packet).filter(|packet| !told && packet.is_posted());
        }
        for packet in packets.into_iter().flatten() {
            core.count_system_call();
            if let Err(error) = winsock::cancel(&self.os, packet.overlapped()) {
                tracing::error!(%error, "an operation could not be cancelled");
            }
        }
    }

    fn stop_receive(&mut self, stop: Stop, core: &mut Core) {
        if let Some(receive) = &mut self.receive {
            receive.stop.get_or_insert(stop);
            if let Some(ticket) = receive.parked.take() {
                core.parked.withdraw(ticket);
            }
        }
    }

    /// The receive has come to the front of those that wait for a buffer.
    pub(super) fn unpark(&mut self) {
        if let Some(receive) = &mut self.receive {
            receive.parked = None;
        }
    }

    /// Sends end of stream, behind the send in flight if there is one.
    pub(super) fn shutdown_write(&mut self, core: &Core) {
        self.shutdown_wanted = self.send.is_some();
        if !self.shutdown_wanted {
            core.count_system_call();
            // It fails where the peer has reset the connection: nothing is left to end then.
            let _ = self.os.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Closes; where a receive of nothing is outstanding, the descriptor itself is closed when that
    /// has come back.
    pub(super) fn close(self, how: Close, core: &Core) {
        core.count_system_call();
        // They fail where there is no connection: nothing is left to end or to reset then.
        let _ = match how {
            Close::Graceful if self.idle.as_ref().is_some_and(|idle| idle.is_posted()) => {
                self.os.shutdown(std::net::Shutdown::Write)
            }
            Close::Graceful => Ok(()),
            Close::Reset => self.os.set_linger(Some(Duration::ZERO)),
        };
        self.abandon(core);
        core.count_system_call();
    }

    /// Asks the system to end whatever it has of this connection.
    pub(super) fn abandon(&self, core: &Core) {
        let connect = self.connect.as_ref().map(|connect| &connect.packet);
        let send = self.send.as_ref().map(|send| &send.packet);
        for packet in [connect, send, self.idle.as_ref()].into_iter().flatten() {
            packet.abandon(&self.os, core);
        }
    }

    /// Tries everything that is in flight and not with the system.
    pub(super) fn attempt(
        &mut self,
        socket: Socket,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) -> Again {
        let connect = self.try_connect(core, done);
        let send = self.try_send(core, done);
        connect.max(send).max(self.try_receive(socket, core, done))
    }

    fn try_connect(&mut self, core: &mut Core, done: &mut Vec<Done>) -> Again {
        let Some(Connect { packet, cancelled, .. }) = &self.connect else { return Again::No };
        if packet.is_posted() {
            return Again::No;
        }
        if *cancelled {
            self.end_connect(Err(error::cancelled()), core, done);
            return Again::No;
        }
        let posted = {
            let load = packet.load.borrow();
            let Load::Connect { address } = &*load else { unreachable!("a connect's load") };
            packet.post(core, core.skips, |overlapped| {
                // SAFETY: both are the packet's, which stays until it comes back (P2).
                unsafe { core.extensions.connect(&self.os, address, overlapped) }
            })
        };
        match posted {
            Ok(Posted::Pending) => {}
            Ok(Posted::Done(_)) => self.connected(Ok(()), core, done),
            Err(error) if is_shortage(&error) => return Again::Later,
            Err(error) => self.connected(Err(portable(error)), core, done),
        }
        Again::No
    }

    pub(super) fn on_connect(
        &mut self,
        packet: &Packet,
        bytes: u32,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) {
        let result = packet.result(&self.os, bytes).map(drop);
        self.connected(result, core, done);
    }

    fn connected(&mut self, result: io::Result<()>, core: &mut Core, done: &mut Vec<Done>) {
        core.count_system_call();
        let result = result.and_then(|()| winsock::update_connect_context(&self.os));
        let cancelled = self.connect.as_ref().is_some_and(|connect| connect.cancelled);
        let result = result.map_err(|error| {
            if cancelled && is_aborted(&error) { error::cancelled() } else { portable(error) }
        });
        self.end_connect(result, core, done);
    }

    fn end_connect(&mut self, result: io::Result<()>, core: &mut Core, done: &mut Vec<Done>) {
        let Connect { token, .. } = self.connect.take().expect("in flight until now");
        core.finish(token, Outcome::Connected(result), done);
    }

    fn try_send(&mut self, core: &mut Core, done: &mut Vec<Done>) -> Again {
        loop {
            let Some(Send { packet, cancelled, .. }) = &self.send else { return Again::No };
            if packet.is_posted() {
                return Again::No;
            }
            if *cancelled {
                self.end_send(Err(SendError::Cancelled), core, done);
                return Again::No;
            }
            let posted = {
                let mut load = packet.load.borrow_mut();
                let Load::Send { gather, sent_bytes, buffers } = &mut *load else {
                    unreachable!("a send's load")
                };
                fill(buffers, gather, *sent_bytes);
                packet.post(core, core.skips, |overlapped| {
                    // SAFETY: the frames are in the packet's load, which stays until it comes back
                    // (P2), and nobody writes to a frame.
                    unsafe { winsock::start_send(&self.os, buffers, overlapped) }
                })
            };
            match posted {
                Ok(Posted::Pending) => return Again::No,
                Ok(Posted::Done(bytes)) => self.sent(Ok(bytes), core, done),
                Err(error) if is_shortage(&error) => return Again::Later,
                Err(error) => self.sent(Err(portable(error)), core, done),
            }
        }
    }

    /// A send has come back; says when what is left of it should be sent.
    pub(super) fn on_send(
        &mut self,
        packet: &Packet,
        bytes: u32,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) -> Again {
        let result = packet.result(&self.os, bytes);
        let shortage = result.as_ref().is_err_and(is_shortage);
        self.sent(result, core, done);
        match self.send {
            Some(_) if shortage => Again::Later,
            Some(_) => Again::Soon,
            None => Again::No,
        }
    }

    fn sent(&mut self, result: io::Result<u32>, core: &mut Core, done: &mut Vec<Done>) {
        let send = self.send.as_ref().expect("in flight until now");
        let left = {
            let mut load = send.packet.load.borrow_mut();
            let Load::Send { gather, sent_bytes, .. } = &mut *load else {
                unreachable!("a send's load")
            };
            *sent_bytes += *result.as_ref().unwrap_or(&0) as usize;
            gather.bytes() - *sent_bytes
        };
        let end = match result {
            Ok(_) if left == 0 => Ok(()),
            Ok(0) => Err(SendError::Failed(io::ErrorKind::WriteZero.into())),
            Ok(_) => return, // a partial send: what is left goes next
            Err(_) if send.cancelled => Err(SendError::Cancelled),
            Err(error) if is_shortage(&error) => return,
            Err(error) => Err(SendError::Failed(error)),
        };
        self.end_send(end, core, done);
    }

    fn end_send(&mut self, result: Result<(), SendError>, core: &mut Core, done: &mut Vec<Done>) {
        let Send { token, packet, .. } = self.send.take().expect("in flight until now");
        let gather = match &mut *packet.load.borrow_mut() {
            Load::Send { gather, .. } => mem::take(gather),
            _ => unreachable!("a send's load"),
        };
        core.keep_idle_send(packet);
        core.finish(token, Outcome::Sent { gather, result }, done);
        if self.shutdown_wanted {
            self.shutdown_write(core);
        }
    }

    /// The receive of nothing has come back: there is something, or an error, for whoever receives.
    pub(super) fn on_readable(&mut self, packet: &Packet, bytes: u32) -> Again {
        self.readable = true;
        match packet.result(&self.os, bytes) {
            Ok(_) => {}
            // Not a word about the connection: receiving will say.
            Err(error) if is_aborted(&error) || is_shortage(&error) => {}
            Err(error) => self.failure = error.raw_os_error(),
        }
        if self.receive.is_some() { Again::Soon } else { Again::No }
    }

    /// Receives a turn's share.
    pub(super) fn try_receive(
        &mut self,
        socket: Socket,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) -> Again {
        // Where others wait for a buffer, each gets one in turn.
        let mut left = if core.parked.is_empty() { RECEIVES_PER_TURN } else { 1 };
        let Some(receive) = &mut self.receive else { return Again::No };
        let last = loop {
            match receive.stop {
                Some(Stop::Pause) => break Err(ReceiveEnd::Paused),
                Some(Stop::Cancel) => break Err(ReceiveEnd::Cancelled),
                None => {}
            }
            if receive.credit_bytes == 0 {
                break Err(ReceiveEnd::CreditSpent);
            }
            if receive.parked.is_some() {
                return Again::No;
            }
            if !self.readable {
                match arm(&mut self.idle, &self.os, socket, core) {
                    Ok(Posted::Pending) => return Again::No,
                    Ok(Posted::Done(_)) => self.readable = true,
                    Err(error) if is_shortage(&error) => return Again::Later,
                    Err(error) => break Err(ReceiveEnd::Failed(portable(error))),
                }
            }
            if let Some(code) = self.failure {
                break Err(ReceiveEnd::Failed(io::Error::from_raw_os_error(code)));
            }
            if left == 0 {
                return Again::Soon;
            }
            left -= 1;
            let room = core.pool.buffer_bytes().min(receive.credit_bytes as usize);
            let error = match take_in(&self.os, room, core) {
                Ok(Taken::Bytes(buffer)) => {
                    // Less than there was room for is all there was; what has come since makes the
                    // next receive of nothing end at once.
                    self.readable = buffer.len() == room;
                    if receive.once {
                        break Ok(buffer);
                    }
                    receive.credit_bytes -= buffer.len() as u32;
                    done.push(Done { token: receive.token, outcome: Outcome::Received(buffer) });
                    continue;
                }
                Ok(Taken::NoBuffer) => {
                    core.buffer_shortages += 1;
                    receive.parked = Some(core.parked.push(socket));
                    return Again::No;
                }
                Ok(Taken::End) => break Err(ReceiveEnd::EndOfStream),
                Err(error) => portable(error),
            };
            match error {
                error if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                error if is_shortage(&error) => return Again::Later,
                error => {
                    self.failure = error.raw_os_error();
                    break Err(ReceiveEnd::Failed(error));
                }
            }
        };
        let Receive { token, once, .. } = *receive;
        self.receive = None;
        core.finish(token, Outcome::of_receive(once, last), done);
        Again::No
    }
}

/// What there was to receive.
enum Taken {
    Bytes(RecvBuffer),
    /// There is something, and no buffer for it.
    NoBuffer,
    End,
}

/// Receives what is there without waiting, up to `room` bytes, into a lent buffer. Where there is
/// none it makes sure that one is needed: whoever has nothing to receive must not wait in line.
fn take_in(os: &socket2::Socket, room: usize, core: &Core) -> io::Result<Taken> {
    core.count_system_call();
    let Some(id) = core.pool.take() else {
        let some = winsock::peek_now(os)?;
        return Ok(if some { Taken::NoBuffer } else { Taken::End });
    };
    // SAFETY: the pool has lent buffer `id` to nobody else (it was free until `take`), and it is
    // valid for `buffer_bytes`, which `room` does not exceed.
    match unsafe { winsock::receive_now(os, core.pool.address(id), room as u32) } {
        Ok(bytes @ 1..) => Ok(Taken::Bytes(RecvBuffer::lend(&core.pool, id, bytes))),
        nothing => {
            core.pool.give_back(id);
            nothing.map(|_| Taken::End)
        }
    }
}

/// Sees to it that a receive of nothing is outstanding.
fn arm(
    idle: &mut Option<Rc<Packet>>,
    os: &socket2::Socket,
    socket: Socket,
    core: &Core,
) -> io::Result<Posted> {
    let packet = idle.get_or_insert_with(|| Packet::new(Kind::Readable, socket, Load::Nothing));
    if packet.is_posted() {
        return Ok(Posted::Pending);
    }
    packet.post(core, core.skips, |overlapped| {
        // SAFETY: the packet keeps it until it comes back (P2).
        unsafe { winsock::start_zero_receive(os, overlapped) }
    })
}

/// Buffers that one socket fills in one turn, whatever its credit.
pub(super) const RECEIVES_PER_TURN: usize = 4;
