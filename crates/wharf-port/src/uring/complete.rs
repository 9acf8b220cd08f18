//! What a completion of the kernel means: the second half of the hot path.

use std::{
    hint, io,
    mem::{self, MaybeUninit},
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use io_uring::cqueue;

use super::{
    UringPort,
    record::{Arm, Inbound, Key, Kind, Outbound, Place, Stop},
};
use crate::{
    buffer::RecvBuffer,
    contract::{AcceptEnd, CompletionPort, Done, Outcome, ReceiveEnd, SendError, Socket},
    socket::{Stream, UnboundSocket},
};

/// A completion, read out of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    /// The kernel will say more about this operation.
    pub(super) more: bool,
    /// The receive buffer that the kernel took.
    pub(super) buffer: Option<u16>,
}

impl Completion {
    #[inline]
    pub(super) fn read(entry: &cqueue::Entry) -> Self {
        let flags = entry.flags();
        Self {
            user_data: entry.user_data(),
            result: entry.result(),
            more: cqueue::more(flags),
            buffer: cqueue::buffer_select(flags),
        }
    }
}

/// What follows from a completion that ended the kernel's part of an operation.
enum Next {
    /// The kernel gets it again.
    Rearm,
    /// It found no buffer; whether it needs one is to be seen.
    RearmOnData,
    /// It waits for a buffer.
    Park,
    /// The caller is told that it is over.
    End(Outcome),
}

impl UringPort {
    /// Turns every completion that is there into `Done`s.
    #[inline]
    pub(super) fn drain(&mut self, done: &mut Vec<Done>) {
        loop {
            let mut batch = [const { MaybeUninit::uninit() }; 64];
            let reaped = self.ring.reap(&mut batch);
            for entry in reaped {
                self.complete(Completion::read(entry), done);
            }
            if reaped.len() < 64 {
                return;
            }
        }
    }

    #[inline]
    pub(super) fn complete(&mut self, completion: Completion, done: &mut Vec<Done>) {
        let Some(Key { kind, socket }) = Key::from_user_data(completion.user_data) else {
            return self.discard(completion);
        };
        if !self.is_current(kind, socket) {
            return self.discard(completion);
        }
        if !completion.more {
            self.in_kernel -= usize::from(kind != Kind::Cancel);
        }
        match kind {
            Kind::Receive => self.on_receive(socket, completion, done),
            Kind::ReceiveOnce => self.on_receive_once(socket, completion, done),
            Kind::Send => self.on_send(socket, completion.result, done),
            Kind::Accept => self.on_accept(socket, completion, done),
            Kind::Connect => self.on_connect(socket, completion.result, done),
            Kind::Cancel => {} // the target's completion is what counts (U2)
            Kind::Wake => self.arm_wake(),
            Kind::Probe => unreachable!("never current"),
        }
    }

    /// Whether an operation of this kind is in the kernel for this very socket.
    #[inline]
    pub(super) fn is_current(&self, kind: Kind, socket: Socket) -> bool {
        let record = || self.records.get(socket);
        match kind {
            Kind::Receive | Kind::ReceiveOnce | Kind::Accept => {
                let inbound = record().and_then(|record| record.inbound.as_ref());
                inbound.is_some_and(|it| it.kind == kind && it.place == Place::Kernel)
            }
            Kind::Send => record().is_some_and(|record| record.outbound.is_some()),
            Kind::Connect => record().is_some_and(|record| record.connecting.is_some()),
            Kind::Cancel | Kind::Wake => true,
            Kind::Probe => false,
        }
    }

    /// Takes in what a completion brings that belongs to nothing any more (U26).
    #[cold]
    pub(super) fn discard(&mut self, completion: Completion) {
        self.stale_completions += 1;
        self.consume(completion);
    }

    /// Gives back the buffer, or closes the connection, that a completion brings.
    pub(super) fn consume(&mut self, completion: Completion) {
        if let Some(id) = completion.buffer {
            self.pool.note_taken();
            self.pool.give_back(id);
        }
        let kind = Key::from_user_data(completion.user_data).map(|key| key.kind);
        if kind == Some(Kind::Accept) && completion.result >= 0 {
            self.ring.count_system_call();
            drop(accepted(completion.result));
        }
    }

    #[inline]
    fn on_receive(&mut self, socket: Socket, completion: Completion, done: &mut Vec<Done>) {
        let record = self.records.get_mut(socket).expect("current");
        let inbound = record.inbound.as_mut().expect("current");
        if let Some(id) = completion.buffer {
            self.pool.note_taken();
            if completion.result > 0 {
                let len = completion.result as usize;
                let buffer = RecvBuffer::lend(&self.pool, id, len);
                inbound.credit_bytes = inbound.credit_bytes.saturating_sub(len as u32);
                inbound.arm = Arm::Now;
                let token = inbound.token;
                append(done, move || Done { token, outcome: Outcome::Received(buffer) });
            } else {
                self.pool.give_back(id);
            }
        }
        if completion.more {
            if inbound.credit_bytes == 0 {
                // This kernel does not stop by itself at the credit (P9).
                self.stop_inbound(socket, Stop::CreditSpent);
            }
            return;
        }
        let next = inbound.receive_over(completion.result);
        self.inbound_over(socket, next, completion.result, done);
    }

    fn on_receive_once(&mut self, socket: Socket, completion: Completion, done: &mut Vec<Done>) {
        match (completion.buffer, completion.result) {
            (Some(id), len @ 1..) => {
                self.pool.note_taken();
                let buffer = RecvBuffer::lend(&self.pool, id, len as usize);
                self.end_inbound(socket, Outcome::ReceivedOnce(Ok(buffer)), done);
            }
            _ => self.on_receive(socket, completion, done),
        }
    }

    fn on_accept(&mut self, socket: Socket, completion: Completion, done: &mut Vec<Done>) {
        let record = self.records.get_mut(socket).expect("current");
        let inbound = record.inbound.as_mut().expect("current");
        if completion.result >= 0 {
            let accepted = UnboundSocket(Stream::Os(accepted(completion.result).into()));
            done.push(Done { token: inbound.token, outcome: Outcome::Accepted(accepted) });
        }
        if completion.more {
            return;
        }
        let next = match (-completion.result, inbound.stop) {
            (..=0 | libc::ECANCELED | libc::EINTR, Stop::No) => Next::Rearm,
            (..=0 | libc::ECANCELED | libc::EINTR, _) => Next::End(inbound.stopped()),
            (code, _) => Next::End(Outcome::AcceptEnded(AcceptEnd::Failed(error(code)))),
        };
        self.inbound_over(socket, next, completion.result, done);
    }

    /// The kernel has let go of a streaming operation.
    #[inline]
    fn inbound_over(&mut self, socket: Socket, next: Next, result: i32, done: &mut Vec<Done>) {
        if result == -libc::EAGAIN && self.retry_blocking(socket) {
            let record = self.records.get_mut(socket).expect("current");
            let inbound = record.inbound.as_mut().expect("current");
            if inbound.stop == Stop::No {
                return self.arm_inbound(socket, Arm::Now);
            }
            let outcome = inbound.stopped();
            return self.end_inbound(socket, outcome, done);
        }
        if matches!(-result, libc::ECONNRESET | libc::ETIMEDOUT) {
            self.records.get_mut(socket).expect("current").is_gone = true;
        }
        match next {
            Next::Rearm => self.arm_inbound(socket, self.polite_arm()),
            // Where the ring was only shorter than it could be, it does not have to wait for data.
            Next::RearmOnData if self.pool.lengthen_ring() => {
                self.arm_inbound(socket, self.polite_arm());
            }
            Next::RearmOnData => self.arm_inbound(socket, Arm::OnData),
            Next::Park => self.park(socket),
            Next::End(outcome) => self.end_inbound(socket, outcome, done),
        }
    }

    fn end_inbound(&mut self, socket: Socket, outcome: Outcome, done: &mut Vec<Done>) {
        let record = self.records.get_mut(socket).expect("current");
        let inbound = record.inbound.take().expect("current");
        self.in_flight -= 1;
        done.push(Done { token: inbound.token, outcome });
    }

    fn park(&mut self, socket: Socket) {
        self.buffer_shortages += 1;
        self.parked_total = self.parked_total.wrapping_add(1);
        self.parked_now += 1;
        let record = self.records.get_mut(socket).expect("current");
        record.inbound.as_mut().expect("current").place = Place::Parked(self.parked_total);
        self.parked.push_back((socket, self.parked_total));
    }

    #[inline]
    fn on_send(&mut self, socket: Socket, result: i32, done: &mut Vec<Done>) {
        let record = self.records.get_mut(socket).expect("current");
        let outbound = record.outbound.as_mut().expect("current");
        if result > 0 {
            outbound.sent_bytes += result as usize;
            if outbound.sent_bytes == outbound.gather.bytes() {
                return self.end_send(socket, Ok(()), done);
            }
        }
        match self.send_stopped(socket, result) {
            Some(error) => self.end_send(socket, Err(error), done),
            None => self.arm_send(socket),
        }
    }

    /// Why a send of which something is left is over; `None` if it goes on.
    #[cold]
    fn send_stopped(&mut self, socket: Socket, result: i32) -> Option<SendError> {
        let record = self.records.get_mut(socket).expect("current");
        let cancelled = record.outbound.as_ref().expect("current").cancelled;
        match -result {
            ..0 | libc::ECANCELED | libc::EINTR => cancelled.then_some(SendError::Cancelled),
            libc::EAGAIN if self.retry_blocking(socket) => {
                cancelled.then_some(SendError::Cancelled)
            }
            0 => Some(SendError::Failed(io::ErrorKind::WriteZero.into())),
            code => Some(SendError::Failed(error(code))),
        }
    }

    #[inline]
    fn end_send(&mut self, socket: Socket, result: Result<(), SendError>, done: &mut Vec<Done>) {
        let record = self.records.get_mut(socket).expect("current");
        let mut outbound = record.outbound.take().expect("current");
        let Outbound { token, ends_stream, .. } = *outbound;
        let gather = mem::take(&mut outbound.gather);
        if self.sends.len() < SENDS_KEPT_MAX {
            self.sends.push(outbound);
        }
        self.in_flight -= 1;
        append(done, move || Done { token, outcome: Outcome::Sent { gather, result } });
        if ends_stream {
            self.shutdown_write(socket);
        }
    }

    fn on_connect(&mut self, socket: Socket, result: i32, done: &mut Vec<Done>) {
        let record = self.records.get_mut(socket).expect("current");
        let connecting = record.connecting.take().expect("current");
        self.in_flight -= 1;
        let connected = match -result {
            ..=0 => Ok(()),
            libc::EINTR if connecting.cancelled => Err(error(libc::ECANCELED)),
            code => Err(error(code)),
        };
        done.push(Done { token: connecting.token, outcome: Outcome::Connected(connected) });
    }

    /// After `EAGAIN`, which io_uring may say of a descriptor with `O_NONBLOCK` instead of waiting:
    /// takes that off. False if it was off already, so that this is an error like any other. (Linux
    /// 6.18 waits for sockets all the same, and finding out on adoption would cost every accepted
    /// socket a system call.)
    #[cold]
    fn retry_blocking(&mut self, socket: Socket) -> bool {
        self.ring.count_system_call();
        let record = self.records.get_mut(socket).expect("current");
        record.make_blocking().unwrap_or(false)
    }
}

impl Inbound {
    /// What follows when the kernel has ended a receive with this result.
    #[inline]
    fn receive_over(&self, result: i32) -> Next {
        let told_to_stop = self.stop != Stop::No;
        match -result {
            ..0 if self.credit_bytes == 0 => Next::End(self.ended(ReceiveEnd::CreditSpent)),
            0 => Next::End(self.ended(ReceiveEnd::EndOfStream)),
            ..0 | libc::ENOBUFS | libc::ECANCELED | libc::EINTR if told_to_stop => {
                Next::End(self.stopped())
            }
            libc::ENOBUFS if self.arm == Arm::OnData => Next::Park,
            libc::ENOBUFS => Next::RearmOnData,
            ..0 | libc::ECANCELED | libc::EINTR => Next::Rearm,
            code => Next::End(self.ended(ReceiveEnd::Failed(error(code)))),
        }
    }
}

/// Appends what `make` makes, in its place in the list. The room is there first: a list that may grow
/// with the completion in hand has it made on the stack, and what is written part by part is slow to
/// move as a whole.
#[inline]
fn append(done: &mut Vec<Done>, make: impl FnOnce() -> Done) {
    if done.len() == done.capacity() {
        done.reserve(1);
    }
    // SAFETY: if there was no room, some has been made.
    unsafe { hint::assert_unchecked(done.len() < done.capacity()) };
    done.push(make());
}

/// Takes ownership of a descriptor that multishot accept has made.
fn accepted(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for us and says so once (P1): nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[inline]
fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// Sends that are over and are kept for later ones; a kilobyte each, once it has had a header.
const SENDS_KEPT_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::fd::IntoRawFd,
        time::Duration,
    };

    use super::*;
    use crate::{
        config::Config,
        contract::{Close, CompletionPort, Op, Token},
        uring::open,
    };

    fn port() -> UringPort {
        UringPort::open(&Config { receive_buffers: 2, ..Config::default() }).unwrap()
    }

    fn completion(key: Key, result: i32) -> Completion {
        Completion { user_data: key.user_data(), result, more: false, buffer: None }
    }

    #[test]
    fn what_a_late_completion_brings_is_given_back() {
        let mut port = port();
        let socket = port.insert(connected().0.into());
        port.close(socket, Close::Graceful);
        let next = port.insert(connected().0.into());
        assert_eq!(next.slot, socket.slot, "the slot is used again");
        port.submit(Op::Accept { listener: next }, Token(1));
        let mut done = Vec::new();
        // An accept of the old generation: the connection that it brings is hung up on.
        let (accepted, mut peer) = connected();
        let late = completion(Key::new(Kind::Accept, socket), accepted.into_raw_fd());
        port.complete(late, &mut done);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        // Others are counted: of the old generation, of nothing in flight, of no kind.
        let in_kernel = port.in_kernel;
        let receive = completion(Key::new(Kind::Receive, socket), 5);
        port.complete(receive, &mut done);
        port.complete(completion(Key::new(Kind::Send, next), 5), &mut done);
        port.complete(Completion { user_data: u64::MAX, ..receive }, &mut done);
        assert_eq!(port.counts().stale_completions, 4);
        assert_eq!((port.in_kernel, done.len()), (in_kernel, 0), "nothing else is touched");
        port.cancel(next);
        port.wait(None, &mut done).unwrap();
        port.close(next, Close::Graceful);
    }

    #[test]
    fn a_buffer_in_a_late_completion_is_used_again() {
        let mut port = port();
        let (ours, mut peer) = connected();
        let socket = port.insert(ours.into());
        let mut done = Vec::new();
        for byte in 0..10 {
            // The kernel fills one of two buffers, and the completion is taken for a late one.
            port.submit(Op::Receive { socket, credit_bytes: 1 }, Token(1));
            peer.write_all(&[byte]).unwrap();
            port.records.get_mut(socket).unwrap().inbound = None;
            while port.counts().stale_completions <= u64::from(byte) {
                port.ring.enter(1, None).unwrap();
                port.drain(&mut done);
            }
            port.in_flight -= 1;
            port.in_kernel -= 1;
        }
        assert_eq!(done.len(), 0);
        port.submit(Op::Receive { socket, credit_bytes: 1 }, Token(2));
        peer.write_all(b"x").unwrap();
        for _ in 0..200 {
            if done.len() < 2 {
                port.wait(Some(Duration::from_millis(100)), &mut done).unwrap();
            }
        }
        assert!(matches!(&done[..], [Done { token: Token(2), .. }, _]), "{done:?}");
        drop(done);
        port.close(socket, Close::Graceful);
    }

    #[test]
    fn a_socket_that_does_not_block_is_made_to_once() {
        let mut port = port();
        let (ours, mut peer) = connected();
        ours.set_nonblocking(true).unwrap();
        let socket = port.insert(ours.into());
        let again = completion(Key::new(Kind::Receive, socket), -libc::EAGAIN);
        let mut done = Vec::new();
        let inbound = || Inbound {
            token: Token(1),
            credit_bytes: 1,
            kind: Kind::Receive,
            place: Place::Kernel,
            stop: Stop::No,
            arm: Arm::Now,
        };
        for _ in 0..2 {
            // In flight, as if the kernel had refused to wait.
            port.records.get_mut(socket).unwrap().inbound = Some(inbound());
            port.in_flight += 1;
            port.in_kernel += 1;
            port.complete(again, &mut done);
            peer.write_all(b"x").unwrap();
            while port.in_flight > 0 {
                port.wait(Some(Duration::from_millis(100)), &mut done).unwrap();
            }
        }
        let [first, _, last] = &done[..] else { panic!("{done:?}") };
        assert!(matches!(&first.outcome, Outcome::Received(bytes) if **bytes == *b"x"));
        let Outcome::ReceiveEnded(ReceiveEnd::Failed(error)) = &last.outcome else {
            panic!("{last:?}")
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "off already: an error");
        assert!(!port.records.get(socket).unwrap().socket.nonblocking().unwrap());
        done.clear();
        port.close(socket, Close::Graceful);
    }

    /// Nothing is left to reset there.
    #[test]
    fn a_connection_that_its_peer_has_reset_costs_one_system_call_to_close() {
        for (peer_resets, system_calls) in [(true, 1), (false, 2)] {
            let mut port = port();
            let (ours, peer) = connected();
            let socket = port.insert(ours.into());
            port.submit(Op::Receive { socket, credit_bytes: 1 }, Token(1));
            if peer_resets {
                socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(peer);
            let mut done = Vec::new();
            for _ in 0..200 {
                if done.is_empty() {
                    port.wait(Some(Duration::from_millis(100)), &mut done).unwrap();
                }
            }
            let [Done { outcome: Outcome::ReceiveEnded(end), .. }] = &done[..] else {
                panic!("{done:?}")
            };
            assert_eq!(matches!(end, ReceiveEnd::Failed(_)), peer_resets, "{end:?}");
            let before = port.counts().system_calls;
            port.close(socket, Close::Reset);
            assert_eq!(port.counts().system_calls - before, system_calls);
        }
    }

    #[test]
    fn a_port_tells_what_it_found() {
        let port = open(&Config::default()).unwrap();
        let detail = &port.engine().detail;
        for words in ["kernel ", "probe ok", "receive", "opcodes restricted"] {
            assert!(detail.contains(words), "{detail}");
        }
    }

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, peer)
    }
}
