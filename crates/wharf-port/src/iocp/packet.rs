//! What the system has in its hands: one packet per operation, shared with it by reference count.
//!
//! The system is given a pointer to the packet and one of its reference counts (P2). Taking the
//! packet out of the queue takes that count back; nothing else does. So whatever is closed, dropped
//! or forgotten meanwhile, the memory that the system may still touch stays: where a packet never
//! comes back it is leaked, by construction (P8, W1).

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    io,
    rc::Rc,
};

use windows_sys::Win32::{
    Networking::WinSock::WSABUF,
    System::IO::{OVERLAPPED, OVERLAPPED_ENTRY},
};

use super::{Core, winsock};
use crate::{buffer::Gather, contract::Socket, memory::Memory};

/// One operation's record.
#[repr(C)]
pub(super) struct Packet {
    /// First, so that the system's pointer is the packet's.
    overlapped: UnsafeCell<OVERLAPPED>,
    socket: Cell<Socket>,
    kind: Kind,
    /// The system has it.
    posted: Cell<bool>,
    /// Its socket was closed by the caller; the descriptor is closed when the packet comes back.
    closing: RefCell<Option<Rc<socket2::Socket>>>,
    pub(super) load: RefCell<Load>,
}

/// Which operation a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Accept,
    Connect,
    /// The receive of nothing, which says when there is something.
    Readable,
    Send,
}

/// What has to stay while the system has the packet.
pub(super) enum Load {
    Nothing,
    Accept {
        /// Becomes the connection.
        socket: socket2::Socket,
        /// Where the system writes both ends' addresses; they are asked for when they are needed.
        _addresses: Memory,
    },
    Connect {
        address: socket2::SockAddr,
    },
    Send {
        gather: Gather,
        sent_bytes: usize,
        /// What is left of the gather; never grows beyond the room it was made with.
        buffers: Vec<WSABUF>,
    },
}

/// How handing a packet to the system went.
pub(super) enum Posted {
    /// The packet will come out of the queue.
    Pending,
    /// The operation is over, with so many bytes, and there will be no packet.
    Done(u32),
}

impl Packet {
    pub(super) fn new(kind: Kind, socket: Socket, load: Load) -> Rc<Self> {
        Rc::new(Self {
            overlapped: UnsafeCell::default(),
            socket: Cell::new(socket),
            kind,
            posted: Cell::new(false),
            closing: RefCell::new(None),
            load: RefCell::new(load),
        })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn socket(&self) -> Socket {
        self.socket.get()
    }

    /// Gives a packet that is not in use to another socket.
    pub(super) fn set_socket(&self, socket: Socket) {
        debug_assert!(!self.is_posted());
        self.socket.set(socket);
    }

    pub(super) fn is_posted(&self) -> bool {
        self.posted.get()
    }

    /// Names the operation to `CancelIoEx`.
    pub(super) fn overlapped(&self) -> *const OVERLAPPED {
        self.overlapped.get()
    }

    /// Hands the packet to the system by `start`, which is given the `OVERLAPPED` to start with and
    /// returns the call's bytes or error. `skips`: success at once means that no packet is queued.
    pub(super) fn post(
        self: &Rc<Self>,
        core: &Core,
        skips: bool,
        start: impl FnOnce(*mut OVERLAPPED) -> io::Result<u32>,
    ) -> io::Result<Posted> {
        assert!(!self.is_posted(), "a packet is with the system once at a time");
        // SAFETY: the system does not have it (asserted), and it is on this thread alone.
        unsafe { *self.overlapped.get() = OVERLAPPED::default() };
        let systems = Rc::into_raw(Rc::clone(self));
        core.count_system_call();
        #[cfg(test)]
        let start =
            |overlapped| match NEXT_ERRORS.with_borrow_mut(std::collections::VecDeque::pop_front) {
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => start(overlapped),
            };
        let started = start(systems.cast_mut().cast());
        let bytes = match started {
            Ok(bytes) if skips => Ok(Posted::Done(bytes)),
            Ok(_) => Ok(Posted::Pending),
            Err(error) if winsock::is_pending(&error) => Ok(Posted::Pending),
            Err(error) => Err(error),
        };
        if matches!(bytes, Ok(Posted::Pending)) {
            self.posted.set(true);
            core.packet_posted();
        } else {
            // SAFETY: the count from `into_raw`, above. The operation has not begun, or is over and
            // queues no packet: the system has no use for it.
            drop(unsafe { Rc::from_raw(systems) });
        }
        bytes
    }

    /// Takes the packet, and the system's count of it, out of an entry of the queue; `None` for a
    /// wake-up, which has no packet.
    ///
    /// # Safety
    /// The entry was dequeued from a port of this backend and is passed here once.
    pub(super) unsafe fn from_entry(entry: &OVERLAPPED_ENTRY, core: &Core) -> Option<Rc<Self>> {
        if entry.lpOverlapped.is_null() {
            return None;
        }
        // SAFETY: every operation on this port's sockets is started by `post`, whose count this is
        // (P1: one packet for each).
        let packet = unsafe { Rc::from_raw(entry.lpOverlapped.cast::<Packet>()) };
        packet.posted.set(false);
        core.packet_returned();
        Some(packet)
    }

    /// What became of the operation, once it has come back: its bytes.
    pub(super) fn result(&self, os: &socket2::Socket, bytes: u32) -> io::Result<u32> {
        debug_assert!(!self.is_posted());
        // SAFETY: the system is done with it: this thread alone reads it.
        let status = unsafe { (*self.overlapped.get()).Internal } as u32 as i32;
        if status >= 0 {
            return Ok(bytes);
        }
        // SAFETY: the operation was one on `os` (the caller looked the packet's socket up), and it
        // is over.
        Err(super::error::portable(unsafe { winsock::failure(os, self.overlapped()) }))
    }

    /// Ends the operation of a socket that the caller has closed. The packet keeps the descriptor
    /// until it comes back, so that it is closed with nothing in flight (I4, W5, W6).
    pub(super) fn abandon(&self, os: &Rc<socket2::Socket>, core: &Core) {
        if !self.is_posted() {
            return;
        }
        core.count_system_call();
        match winsock::cancel(os, self.overlapped()) {
            Ok(_) => *self.closing.borrow_mut() = Some(Rc::clone(os)),
            // Then closing the descriptor has to end it.
            Err(error) => tracing::debug!(%error, "an operation could not be cancelled"),
        }
        self.socket.set(NOBODY);
    }

    /// Whether the packet's socket was closed while the system had the packet.
    pub(super) fn is_abandoned(&self) -> bool {
        self.socket.get() == NOBODY
    }

    /// Lets go of everything that was kept for the system.
    pub(super) fn unload(&self) -> Load {
        self.closing.take();
        self.load.replace(Load::Nothing)
    }
}

impl Load {
    pub(super) fn send() -> Self {
        let buffers = Vec::with_capacity(Gather::FRAMES_MAX);
        Load::Send { gather: Gather::new(), sent_bytes: 0, buffers }
    }
}

/// Fills `buffers` with what is left of the gather behind its first `skip` bytes, as far as the
/// count of bytes in one operation reaches (32 bits).
pub(super) fn fill(buffers: &mut Vec<WSABUF>, gather: &Gather, mut skip: usize) {
    buffers.clear();
    let mut room = u32::MAX;
    for frame in gather.frames() {
        if skip >= frame.len() {
            skip -= frame.len();
            continue;
        }
        let rest = &frame[skip..];
        skip = 0;
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(room);
        if len == 0 {
            return;
        }
        room -= len;
        // The system only reads: `WSABUF` is the same type for both directions.
        buffers.push(WSABUF { len, buf: rest.as_ptr().cast_mut() });
    }
}

/// No socket has this name: slots are fewer.
const NOBODY: Socket = Socket { slot: u32::MAX, generation: u32::MAX };

#[cfg(test)]
thread_local! {
    /// What this thread's next calls that start an operation fail with, instead of being made.
    pub(super) static NEXT_ERRORS: RefCell<std::collections::VecDeque<i32>> =
        const { RefCell::new(std::collections::VecDeque::new()) };
}

const _: () = assert!(std::mem::offset_of!(Packet, overlapped) == 0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::BufferPool;

    #[test]
    fn buffers_are_what_is_left_of_the_gather() {
        let pool = BufferPool::new(false);
        let mut gather = Gather::new();
        for part in [&b"one"[..], b"two", b"three"] {
            let mut buf = pool.take(part.len());
            buf.append(part);
            gather.push(buf.freeze());
        }
        let mut buffers = Vec::with_capacity(Gather::FRAMES_MAX);
        for (skip, expected) in
            [(0, &[3, 3, 5][..]), (2, &[1, 3, 5]), (3, &[3, 5]), (7, &[4]), (10, &[1]), (11, &[])]
        {
            fill(&mut buffers, &gather, skip);
            let lens: Vec<_> = buffers.iter().map(|buffer| buffer.len).collect();
            assert_eq!(lens, expected, "behind {skip}");
        }
        fill(&mut buffers, &gather, 4);
        // SAFETY: it points into a frame of the gather, which is alive.
        let rest = unsafe { std::slice::from_raw_parts(buffers[0].buf, buffers[0].len as usize) };
        assert_eq!(rest, b"wo");
    }
}
