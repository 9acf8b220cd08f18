//! The floor: a room written by hand on the raw ring. All texts that a batch of completions brings go
//! to each member in one send, out of one buffer that all share. No framing but their fixed length, no
//! sessions, no limits, no timers.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue, types};

use super::wire::TEXT_BYTES;
use crate::buffer_ring::BufferRing;
use crate::ring::{self, Ring};

const SUBMISSIONS: u32 = 2048;
const COMPLETIONS: u32 = 8192;
const BUFFERS: u16 = 256;
const BUFFER_BYTES: usize = 8192;

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;

static GREETING: &[u8] = b"+";

struct Member {
    fd: RawFd,
    /// The start of a text whose end has not come.
    unfinished: Vec<u8>,
    /// Batches to be sent, the first perhaps in flight; all are shared with others.
    waiting: VecDeque<Rc<[u8]>>,
    /// Bytes of the first that are sent.
    sent: usize,
    receive_in_flight: bool,
    send_in_flight: bool,
    is_over: bool,
}

struct Floor {
    ring: Ring,
    buffers: BufferRing,
    listener: TcpListener,
    /// Those who are gone leave a hole: a room is measured once, and then the process ends.
    members: Vec<Option<Member>>,
    batch: Vec<u8>,
}

/// Serves until the process ends.
///
/// # Errors
/// When the ring cannot be set up, or entering it fails.
pub fn serve(listener: TcpListener, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let ring = Ring::open(SUBMISSIONS, COMPLETIONS)?;
    let buffers = ring.buffers(BUFFERS, BUFFER_BYTES)?;
    ready(listener.local_addr()?);
    let mut floor = Floor { ring, buffers, listener, members: Vec::new(), batch: Vec::new() };
    floor.start_accept()?;
    let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(COMPLETIONS as usize);
    loop {
        floor.ring.wait(&mut completions)?;
        for completion in completions.drain(..) {
            floor.route(&completion)?;
        }
        floor.deliver()?;
        floor.buffers.publish();
    }
}

impl Floor {
    fn route(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let slot = (completion.user_data() & 0xffff_ffff) as usize;
        let (result, flags) = (completion.result(), completion.flags());
        match completion.user_data() & !0xffff_ffff {
            ACCEPT => {
                if result >= 0 {
                    self.join(result)?;
                }
                if cqueue::more(flags) { Ok(()) } else { self.start_accept() }
            }
            RECEIVE => self.on_receive(slot, result, flags),
            SEND => self.on_send(slot, result),
            other => unreachable!("a completion that was never asked for: {other:#x}"),
        }
    }

    fn join(&mut self, fd: RawFd) -> io::Result<()> {
        ring::set_nodelay(fd);
        self.members.push(Some(Member {
            fd,
            unfinished: Vec::new(),
            waiting: VecDeque::from([Rc::from(GREETING)]),
            sent: 0,
            receive_in_flight: false,
            send_in_flight: false,
            is_over: false,
        }));
        let slot = self.members.len() - 1;
        self.start_receive(slot)?;
        self.start_send(slot)
    }

    fn on_receive(&mut self, slot: usize, result: i32, flags: u32) -> io::Result<()> {
        let member = self.members[slot].as_mut().expect("freed after its last completion");
        member.receive_in_flight = cqueue::more(flags);
        // SAFETY: this is a completion of a receive into this group, seen once.
        if let Some(filled) = unsafe { self.buffers.take(flags, result.max(0) as u32) } {
            member.unfinished.extend_from_slice(self.buffers.bytes(&filled));
            self.buffers.give_back(filled);
            let whole = member.unfinished.len() / TEXT_BYTES * TEXT_BYTES;
            self.batch.extend(member.unfinished.drain(..whole));
        }
        let goes_on = result > 0 || matches!(-result, libc::ENOBUFS | libc::EINTR);
        if !goes_on {
            member.is_over = true;
        } else if !member.receive_in_flight {
            return self.start_receive(slot);
        }
        self.free_if_over(slot);
        Ok(())
    }

    fn on_send(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let member = self.members[slot].as_mut().expect("freed after its last completion");
        member.send_in_flight = false;
        if result >= 0 {
            member.sent += result as usize;
            if member.waiting.front().is_some_and(|first| first.len() == member.sent) {
                member.waiting.pop_front();
                member.sent = 0;
            }
        } else if -result != libc::EINTR {
            member.is_over = true;
        }
        self.start_send(slot)?;
        self.free_if_over(slot);
        Ok(())
    }

    /// What the batch brought, to everybody.
    fn deliver(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch: Rc<[u8]> = Rc::from(&self.batch[..]);
        self.batch.clear();
        for slot in 0..self.members.len() {
            if let Some(member) = &mut self.members[slot] {
                member.waiting.push_back(Rc::clone(&batch));
                self.start_send(slot)?;
            }
        }
        Ok(())
    }

    fn start_accept(&mut self) -> io::Result<()> {
        self.push(&ring::accept(self.listener.as_raw_fd()).user_data(ACCEPT))
    }

    fn start_receive(&mut self, slot: usize) -> io::Result<()> {
        let member = self.members[slot].as_mut().expect("a member");
        member.receive_in_flight = true;
        let entry = ring::receive(member.fd).user_data(RECEIVE | slot as u64);
        self.push(&entry)
    }

    /// One send in flight.
    fn start_send(&mut self, slot: usize) -> io::Result<()> {
        let member = self.members[slot].as_mut().expect("a member");
        let Some(first) = member.waiting.front() else { return Ok(()) };
        if member.send_in_flight || member.is_over {
            return Ok(());
        }
        let rest = &first[member.sent..];
        let entry = opcode::Send::new(types::Fd(member.fd), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        member.send_in_flight = true;
        self.push(&entry.user_data(SEND | slot as u64))
    }

    fn free_if_over(&mut self, slot: usize) {
        let is_free = |member: &mut Member| {
            member.is_over && !member.receive_in_flight && !member.send_in_flight
        };
        if let Some(member) = self.members[slot].take_if(is_free) {
            // SAFETY: the descriptor is this member's, and nothing is in flight on it.
            unsafe { libc::close(member.fd) };
        } else if let Some(member) = self.members[slot].as_ref().filter(|member| member.is_over) {
            // SAFETY: a plain call on an open descriptor; it ends what is in flight.
            unsafe { libc::shutdown(member.fd, libc::SHUT_RDWR) };
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: a send's bytes are shared and stay in the member's queue until its completion;
        // a member is freed only when nothing of it is in flight.
        unsafe { self.ring.push(entry) }
    }
}
