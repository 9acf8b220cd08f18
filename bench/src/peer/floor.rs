//! The floor: an echo server written by hand on the raw ring.
//!
//! One ring with a single issuer and deferred task work, multishot accept, multishot receive into
//! a ring of 512 buffers of 4 KiB, plain sends out of the buffers received into (nothing is
//! copied), one submit-and-wait per batch of completions. No sessions, no framing, no limits, no
//! timers: what is left is what the kernel asks for. It is correct where a server must be: short
//! sends, buffers running out, half-closes and resets.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{cqueue, opcode, squeue, types};

use crate::buffer_ring::{BufferRing, Filled};
use crate::ring::{self, Ring};

const SUBMISSIONS: u32 = 1024;
/// Room for every receive of a thousand connections and their sends at once.
const COMPLETIONS: u32 = 8192;
const BUFFERS: u16 = 512;
const BUFFER_BYTES: usize = 4096;
/// Buffers gathered into one send when more than one is waiting.
const GATHER: usize = 16;

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;

/// Serves until the process ends.
///
/// # Errors
/// When the ring cannot be set up, or entering it fails.
pub fn serve(listener: TcpListener, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let ring = Ring::open(SUBMISSIONS, COMPLETIONS)?;
    let buffers = ring.buffers(BUFFERS, BUFFER_BYTES)?;
    ready(listener.local_addr()?);
    let mut floor = Floor {
        ring,
        buffers,
        listener,
        connections: Vec::new(),
        free: Vec::new(),
        to_send: Vec::new(),
        starved: VecDeque::new(),
        accept_is_paused: false,
    };
    floor.start_accept()?;
    let mut batch: Vec<cqueue::Entry> = Vec::with_capacity(COMPLETIONS as usize);
    loop {
        floor.ring.wait(&mut batch)?;
        for completion in batch.drain(..) {
            floor.route(&completion)?;
        }
        floor.end_of_batch()?;
    }
}

/// What a gathered send points at; boxed, so that the addresses stay while it is in flight.
struct Gather {
    parts: [libc::iovec; GATHER],
    message: libc::msghdr,
}

impl Gather {
    fn new() -> Box<Gather> {
        // SAFETY: both are C structures for which all zero bytes are a valid value.
        Box::new(unsafe { std::mem::zeroed() })
    }
}

struct Connection {
    fd: RawFd,
    /// Received and not yet sent whole, in order.
    waiting: VecDeque<Filled>,
    /// Bytes of the first waiting buffer that are sent already.
    sent: u32,
    gather: Option<Box<Gather>>,
    receive_in_flight: bool,
    send_in_flight: bool,
    is_starved: bool,
    will_send: bool,
    /// The peer has said that nothing more comes: answer what is waiting, then close.
    peer_is_done: bool,
    /// Nothing can be sent any more: join what is in flight, then close.
    is_broken: bool,
}

struct Floor {
    ring: Ring,
    buffers: BufferRing,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that received in this batch.
    to_send: Vec<usize>,
    /// Connections whose receive ended because no buffer was left, first come first served.
    starved: VecDeque<usize>,
    accept_is_paused: bool,
}

impl Floor {
    fn route(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let slot = (completion.user_data() & 0xffff_ffff) as usize;
        let more = cqueue::more(completion.flags());
        match completion.user_data() & !0xffff_ffff {
            ACCEPT => self.on_accept(completion.result(), more),
            RECEIVE => self.on_receive(slot, completion.result(), completion.flags()),
            SEND => self.on_send(slot, completion.result()),
            other => unreachable!("a completion that was never asked for: {other:#x}"),
        }
    }

    fn on_accept(&mut self, result: i32, more: bool) -> io::Result<()> {
        if result >= 0 {
            ring::set_nodelay(result);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.connections[slot] = Some(Connection {
                fd: result,
                waiting: VecDeque::new(),
                sent: 0,
                gather: None,
                receive_in_flight: false,
                send_in_flight: false,
                is_starved: false,
                will_send: false,
                peer_is_done: false,
                is_broken: false,
            });
            self.start_receive(slot)?;
        }
        if !more {
            // Out of descriptors the next accept would fail at once: wait until one is closed.
            self.accept_is_paused =
                matches!(-result, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
                    && self.connections.iter().any(Option::is_some);
            if !self.accept_is_paused {
                self.start_accept()?;
            }
        }
        Ok(())
    }

    fn on_receive(&mut self, slot: usize, result: i32, flags: u32) -> io::Result<()> {
        // SAFETY: this is a completion of a receive into this group, seen once.
        let filled = unsafe { self.buffers.take(flags, result.max(0) as u32) };
        let connection = self.connections[slot].as_mut().expect("freed after its last completion");
        connection.receive_in_flight = cqueue::more(flags);
        match filled {
            Some(filled) if result > 0 && !connection.is_broken => {
                connection.waiting.push_back(filled)
            }
            Some(filled) => self.buffers.give_back(filled),
            None => {}
        }
        let connection = self.connections[slot].as_mut().expect("seen above");
        if result > 0 {
            if !connection.will_send {
                connection.will_send = true;
                self.to_send.push(slot);
            }
            if !connection.receive_in_flight && !connection.is_broken {
                return self.start_receive(slot);
            }
        } else if !connection.receive_in_flight {
            match -result {
                0 => connection.peer_is_done = true,
                libc::ENOBUFS if !connection.is_broken => {
                    connection.is_starved = true;
                    self.starved.push_back(slot);
                }
                libc::EINTR if !connection.is_broken => return self.start_receive(slot),
                _ => connection.break_off(),
            }
        }
        self.close_if_finished(slot)
    }

    fn on_send(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let connection = self.connections[slot].as_mut().expect("freed after its last completion");
        connection.send_in_flight = false;
        if result >= 0 {
            let mut sent = connection.sent + result as u32;
            while let Some(first) = connection.waiting.front().map(|first| first.len)
                && first <= sent
            {
                sent -= first;
                self.buffers.give_back(connection.waiting.pop_front().expect("seen above"));
            }
            connection.sent = sent;
        } else if -result != libc::EINTR {
            connection.break_off();
        }
        self.start_send(slot)?;
        self.close_if_finished(slot)
    }

    /// Sends what the batch brought, and arms receives again as buffers have come back.
    fn end_of_batch(&mut self) -> io::Result<()> {
        for index in 0..self.to_send.len() {
            let slot = self.to_send[index];
            if let Some(connection) = self.connections[slot].as_mut() {
                connection.will_send = false;
                self.start_send(slot)?;
            }
        }
        self.to_send.clear();
        self.buffers.publish();
        for _ in 0..self.buffers.available() {
            let Some(slot) = self.starved.pop_front() else { break };
            if let Some(connection) = self.connections[slot].as_mut() {
                connection.is_starved = false;
                self.start_receive(slot)?;
            }
        }
        Ok(())
    }

    fn start_accept(&mut self) -> io::Result<()> {
        self.push(&ring::accept(self.listener.as_raw_fd()).user_data(ACCEPT))
    }

    fn start_receive(&mut self, slot: usize) -> io::Result<()> {
        let connection = self.connections[slot].as_mut().expect("an open connection");
        connection.receive_in_flight = true;
        let entry = ring::receive(connection.fd).user_data(RECEIVE | slot as u64);
        self.push(&entry)
    }

    /// One send in flight; it takes whatever is waiting.
    fn start_send(&mut self, slot: usize) -> io::Result<()> {
        let connection = self.connections[slot].as_mut().expect("an open connection");
        if connection.send_in_flight || connection.is_broken || connection.waiting.is_empty() {
            return Ok(());
        }
        connection.send_in_flight = true;
        let fd = types::Fd(connection.fd);
        let skip = connection.sent;
        let entry = if connection.waiting.len() == 1 {
            let first = &connection.waiting[0];
            let start = self.buffers.address(first).wrapping_add(skip as usize);
            opcode::Send::new(fd, start, first.len - skip).flags(libc::MSG_NOSIGNAL).build()
        } else {
            let gather = connection.gather.get_or_insert_with(Gather::new);
            let mut count = 0;
            for (part, filled) in gather.parts.iter_mut().zip(&connection.waiting) {
                let skip = if count == 0 { skip as usize } else { 0 };
                part.iov_base = self.buffers.address(filled).wrapping_add(skip).cast_mut().cast();
                part.iov_len = filled.len as usize - skip;
                count += 1;
            }
            gather.message.msg_iov = gather.parts.as_mut_ptr();
            gather.message.msg_iovlen = count;
            let flags = libc::MSG_NOSIGNAL as u32;
            opcode::SendMsg::new(fd, &raw const gather.message).flags(flags).build()
        };
        self.push(&entry.user_data(SEND | slot as u64))
    }

    fn close_if_finished(&mut self, slot: usize) -> io::Result<()> {
        let connection = self.connections[slot].as_mut().expect("an open connection");
        let answered = connection.is_broken || connection.waiting.is_empty();
        if connection.receive_in_flight
            || connection.send_in_flight
            || !answered
            || !(connection.peer_is_done || connection.is_broken)
        {
            return Ok(());
        }
        let connection = self.connections[slot].take().expect("seen above");
        for filled in connection.waiting {
            self.buffers.give_back(filled);
        }
        if connection.is_starved {
            self.starved.retain(|starved| *starved != slot);
        }
        if connection.will_send {
            self.to_send.retain(|waiting| *waiting != slot);
        }
        self.free.push(slot);
        // SAFETY: the descriptor is this connection's, nothing is in flight on it, and the
        // connection is gone from the table.
        unsafe { libc::close(connection.fd) };
        if self.accept_is_paused {
            self.accept_is_paused = false;
            self.start_accept()?;
        }
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: what the entry points at (a buffer of the ring, a boxed gather list) stays
        // until its completion: buffers are given back and connections freed only then.
        unsafe { self.ring.push(entry) }
    }
}

impl Connection {
    /// After an error nothing more is sent: what is in flight is made to end.
    fn break_off(&mut self) {
        self.is_broken = true;
        // SAFETY: a plain call on a descriptor that is open while the connection exists.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
    }
}
