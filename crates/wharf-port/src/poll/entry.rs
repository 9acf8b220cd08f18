//! One socket: what the system last said about it, what is in flight on it, and the tries.

use std::{io, mem, net::SocketAddr, time::Duration};

use mio::event::Event;

use super::{
    Core,
    system::{is_in_progress, receive_into, transmit},
};
use crate::{
    buffer::{Gather, RecvBuffer},
    contract::{AcceptEnd, Close, Done, Outcome, ReceiveEnd, SendError, Socket, Token},
    parked::Ticket,
    socket::{Stream, UnboundSocket},
};

/// A socket of the port.
pub(super) struct Entry {
    os: socket2::Socket,
    listens: bool,
    registered: bool,
    /// Receiving or accepting may succeed.
    readable: bool,
    /// Sending may succeed.
    writable: bool,
    /// A receive that fills less than its buffer has emptied the socket. Not so once the stream has
    /// ended or urgent data has come: then only "would block" says so.
    short_reads_count: bool,
    /// The port's queue has this socket already.
    pub(super) queued: bool,
    /// Send end of stream once the send in flight is over.
    shutdown_wanted: bool,
    /// Operations whose final completion has not been delivered.
    in_flight: u32,
    accept: Option<Accept>,
    connect: Option<Box<Connect>>,
    receive: Option<Receive>,
    send: Option<Send>,
}

/// How the caller ends a streaming operation early.
#[derive(Clone, Copy)]
enum Stop {
    Pause,
    Cancel,
}

struct Accept {
    token: Token,
    stop: Option<Stop>,
}

struct Connect {
    token: Token,
    address: SocketAddr,
    started: bool,
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
    gather: Gather,
    sent_bytes: usize,
    cancelled: bool,
}

impl Entry {
    /// A connection, or a socket that will connect. Sending is worth a try at once; what there is to
    /// receive the system says when the socket is registered.
    pub(super) fn stream(os: socket2::Socket) -> Self {
        Self {
            os,
            listens: false,
            registered: false,
            readable: false,
            writable: true,
            short_reads_count: SHORT_READS_COUNT,
            queued: false,
            shutdown_wanted: false,
            in_flight: 0,
            accept: None,
            connect: None,
            receive: None,
            send: None,
        }
    }

    pub(super) fn listener(os: socket2::Socket) -> Self {
        Self { listens: true, ..Self::stream(os) }
    }

    pub(super) fn os(&self) -> &socket2::Socket {
        &self.os
    }

    pub(super) fn register(&mut self, socket: Socket, core: &Core) -> io::Result<()> {
        core.register(socket, &self.os)?;
        self.registered = true;
        Ok(())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    #[track_caller]
    pub(super) fn start_accept(&mut self, token: Token) {
        assert!(self.listens, "only a listener accepts");
        assert!(self.accept.is_none(), "one accept is in flight already");
        self.accept = Some(Accept { token, stop: None });
        self.in_flight += 1;
    }

    #[track_caller]
    pub(super) fn start_connect(&mut self, token: Token, address: SocketAddr) {
        assert!(!self.listens, "a listener does not connect");
        assert!(self.connect.is_none(), "one connect is in flight already");
        let connect = Connect { token, address, started: false, cancelled: false };
        self.connect = Some(Box::new(connect));
        self.in_flight += 1;
    }

    #[track_caller]
    pub(super) fn start_receive(&mut self, token: Token, credit_bytes: u32, once: bool) {
        assert!(credit_bytes > 0, "a receive is for at least one byte");
        assert!(!self.listens, "a listener does not receive");
        assert!(self.receive.is_none(), "one receive is in flight already (P5)");
        self.receive = Some(Receive { token, credit_bytes, once, stop: None, parked: None });
        self.in_flight += 1;
    }

    /// Gives the gather back if a send is in flight already and that is to be `refuse`d.
    #[track_caller]
    pub(super) fn start_send(
        &mut self,
        token: Token,
        gather: Gather,
        refuse: bool,
    ) -> Option<Gather> {
        assert!(!self.listens, "a listener does not send");
        assert!(self.send.is_none() || refuse, "one send is in flight already (P5)");
        self.in_flight += 1;
        if self.send.is_some() {
            return Some(gather);
        }
        self.send = Some(Send { token, gather, sent_bytes: 0, cancelled: false });
        None
    }

    /// Remembers what an event says.
    pub(super) fn note(&mut self, event: &Event) {
        let failed = event.is_error();
        let ended = event.is_read_closed();
        self.readable |= event.is_readable() || ended || failed;
        self.writable |= event.is_writable() || event.is_write_closed() || failed;
        if ended || failed || event.is_priority() {
            self.short_reads_count = false;
        }
    }

    /// Whether [`attempt`](Self::attempt) could complete something.
    #[inline]
    pub(super) fn may_succeed(&self) -> bool {
        self.receive.as_ref().is_some_and(|receive| {
            receive.stop.is_some() || (self.readable && receive.parked.is_none())
        }) || self.send.as_ref().is_some_and(|send| send.cancelled || self.writable)
            || self.accept.as_ref().is_some_and(|accept| accept.stop.is_some() || self.readable)
            || self.connect.as_ref().is_some_and(|connect| connect.cancelled || self.writable)
    }

    pub(super) fn pause(&mut self, core: &mut Core) {
        if let Some(accept) = &mut self.accept {
            accept.stop.get_or_insert(Stop::Pause);
        }
        self.stop_receive(Stop::Pause, core);
    }

    pub(super) fn cancel(&mut self, core: &mut Core) {
        if let Some(accept) = &mut self.accept {
            accept.stop.get_or_insert(Stop::Cancel);
        }
        if let Some(connect) = &mut self.connect {
            connect.cancelled = true;
        }
        if let Some(send) = &mut self.send {
            send.cancelled = true;
        }
        self.stop_receive(Stop::Cancel, core);
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

    pub(super) fn close(self, how: Close, core: &Core) {
        if self.registered {
            core.deregister(&self.os);
        }
        if how == Close::Reset {
            core.count_system_call();
            // It fails where there is no connection: nothing is left to reset then.
            let _ = self.os.set_linger(Some(Duration::ZERO));
        }
        core.count_system_call();
        drop(self.os);
    }

    /// Tries everything in flight; whether there is more to try at once.
    pub(super) fn attempt(
        &mut self,
        socket: Socket,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) -> bool {
        if self.listens {
            return self.try_accept(core, done);
        }
        self.try_connect(socket, core, done);
        let more_to_send = self.try_send(core, done);
        self.try_receive(socket, core, done) || more_to_send
    }

    /// Delivers an operation's final completion.
    pub(super) fn finish(
        &mut self,
        core: &mut Core,
        token: Token,
        outcome: Outcome,
        done: &mut Vec<Done>,
    ) {
        self.in_flight -= 1;
        core.operations_in_flight -= 1;
        done.push(Done { token, outcome });
    }

    fn try_accept(&mut self, core: &mut Core, done: &mut Vec<Done>) -> bool {
        let Some(Accept { token, stop }) = self.accept else { return false };
        let end = match stop {
            Some(Stop::Pause) => AcceptEnd::Paused,
            Some(Stop::Cancel) => AcceptEnd::Cancelled,
            None => {
                let Some(error) = self.accept_some(token, core, done) else {
                    return self.readable;
                };
                AcceptEnd::Failed(error)
            }
        };
        self.accept = None;
        self.finish(core, token, Outcome::AcceptEnded(end), done);
        false
    }

    /// Accepts what waits, up to a turn's share; an error ends the accept.
    fn accept_some(
        &mut self,
        token: Token,
        core: &Core,
        done: &mut Vec<Done>,
    ) -> Option<io::Error> {
        let mut left = ACCEPTS_PER_TURN;
        while self.readable && left > 0 {
            left -= 1;
            core.count_system_call();
            match self.os.accept() {
                Ok((accepted, _address)) => {
                    let accepted = UnboundSocket(Stream::Os(accepted));
                    done.push(Done { token, outcome: Outcome::Accepted(accepted) });
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => return Some(error),
                },
            }
        }
        None
    }

    fn try_connect(&mut self, socket: Socket, core: &mut Core, done: &mut Vec<Done>) {
        let Some(mut connect) = self.connect.take() else { return };
        let result = if connect.cancelled {
            Some(Err(io::Error::from_raw_os_error(libc::ECANCELED)))
        } else if !mem::replace(&mut connect.started, true) {
            self.begin_connect(connect.address, socket, core)
        } else if self.writable {
            self.connected(core)
        } else {
            None
        };
        match result {
            Some(result) => self.finish(core, connect.token, Outcome::Connected(result), done),
            None => self.connect = Some(connect),
        }
    }

    /// Starts connecting; the result if there is one at once.
    fn begin_connect(
        &mut self,
        address: SocketAddr,
        socket: Socket,
        core: &Core,
    ) -> Option<io::Result<()>> {
        core.count_system_call();
        match self.os.connect(&address.into()) {
            Err(error) if !is_in_progress(&error) => return Some(Err(error)),
            Err(_) => self.writable = false,
            Ok(()) => {}
        }
        if !self.registered
            && let Err(error) = self.register(socket, core)
        {
            return Some(Err(error));
        }
        self.writable.then_some(Ok(()))
    }

    /// What became of the connect that was started, now that the system says something (connect(2):
    /// writable, and `SO_ERROR` has the result).
    fn connected(&mut self, core: &Core) -> Option<io::Result<()>> {
        core.count_system_call();
        match self.os.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
        }
        core.count_system_call();
        match self.os.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.writable = false;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn try_send(&mut self, core: &mut Core, done: &mut Vec<Done>) -> bool {
        let Some(send) = &mut self.send else { return false };
        let mut left = SENDS_PER_TURN;
        let result = loop {
            if send.cancelled {
                break Err(SendError::Cancelled);
            }
            if !self.writable || left == 0 {
                return self.writable;
            }
            left -= 1;
            core.count_system_call();
            match transmit(&self.os, &send.gather, send.sent_bytes) {
                Ok(bytes) => send.sent_bytes += bytes,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.writable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => break Err(SendError::Failed(error)),
                },
            }
            if send.sent_bytes == send.gather.bytes() {
                break Ok(());
            }
        };
        let Send { token, gather, .. } = self.send.take().expect("looked at above");
        self.finish(core, token, Outcome::Sent { gather, result }, done);
        if self.shutdown_wanted {
            self.shutdown_write(core);
        }
        false
    }

    /// Receives a turn's share; whether there is more to receive at once.
    pub(super) fn try_receive(
        &mut self,
        socket: Socket,
        core: &mut Core,
        done: &mut Vec<Done>,
    ) -> bool {
        // Where others wait for a buffer, each gets one in turn.
        let mut left = if core.parked.is_empty() { RECEIVES_PER_TURN } else { 1 };
        let Some(receive) = &mut self.receive else { return false };
        let last = loop {
            match receive.stop {
                Some(Stop::Pause) => break Err(ReceiveEnd::Paused),
                Some(Stop::Cancel) => break Err(ReceiveEnd::Cancelled),
                None => {}
            }
            if receive.credit_bytes == 0 {
                break Err(ReceiveEnd::CreditSpent);
            }
            if receive.parked.is_some() || !self.readable || left == 0 {
                return self.readable && receive.parked.is_none();
            }
            left -= 1;
            let Some(id) = core.pool.take() else {
                core.buffer_shortages += 1;
                receive.parked = Some(core.parked.push(socket));
                return false;
            };
            let room = core.pool.buffer_bytes().min(receive.credit_bytes as usize);
            core.count_system_call();
            // SAFETY: the pool has lent buffer `id` to nobody else (it was free until `take`), and
            // it is valid for `buffer_bytes`, which `room` does not exceed.
            let result = unsafe { receive_into(&self.os, core.pool.address(id), room) };
            if let Ok(bytes @ 1..) = result {
                let buffer = RecvBuffer::lend(&core.pool, id, bytes);
                self.readable = bytes == room || !self.short_reads_count;
                if receive.once {
                    break Ok(buffer);
                }
                done.push(Done { token: receive.token, outcome: Outcome::Received(buffer) });
                receive.credit_bytes -= bytes as u32;
                continue;
            }
            core.pool.give_back(id);
            match result {
                Ok(_) => break Err(ReceiveEnd::EndOfStream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => break Err(ReceiveEnd::Failed(error)),
                },
            }
        };
        let Receive { token, once, .. } = *receive;
        self.receive = None;
        self.finish(core, token, Outcome::of_receive(once, last), done);
        false
    }
}

/// Connections accepted by one turn, so that a flood of them does not hold up everything else.
const ACCEPTS_PER_TURN: usize = 64;

/// Buffers that one socket fills in one turn, whatever its credit.
const RECEIVES_PER_TURN: usize = 4;

/// Partial sends of one socket in one turn.
const SENDS_PER_TURN: usize = 16;

/// epoll(7) allows taking a short read for "empty" with edge-triggered events, where end of stream
/// is reported (`EPOLLRDHUP`), and urgent data, at which a read stops (`EPOLLPRI`). Elsewhere one
/// more call makes sure.
const SHORT_READS_COUNT: bool = cfg!(target_os = "linux");
