//! What is kept per socket, and the name under which the kernel knows each operation.

use std::{io, mem::MaybeUninit, ptr::NonNull};

use io_uring::{opcode, squeue, types::Fd};
use std::os::fd::AsRawFd;

use super::ring::BUFFER_GROUP;
use crate::{
    buffer::Gather,
    contract::{Socket, Token},
};

/// One socket and what is in flight on it. The kernel sees none of this memory, only what it points
/// to, so records may move. An idle connection has a receive in flight and nothing else: so what a send
/// needs lies elsewhere, and is one session's for as long as it sends.
pub(super) struct Record {
    pub(super) socket: socket2::Socket,
    pub(super) inbound: Option<Inbound>,
    pub(super) outbound: Option<Box<Outbound>>,
    pub(super) connecting: Option<Box<Connecting>>,
    /// `O_NONBLOCK` was found set, which makes io_uring fail with `EAGAIN` where it should wait, and
    /// was cleared.
    pub(super) made_blocking: bool,
    /// The system has said that there is no connection any more: nothing is left to reset.
    pub(super) is_gone: bool,
}

/// A receive, or a listener's accept. They stream, but for a single receive.
pub(super) struct Inbound {
    pub(super) token: Token,
    /// Bytes that may still come; unused for an accept.
    pub(super) credit_bytes: u32,
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) stop: Stop,
    /// How it was armed last, if nothing has come since.
    pub(super) arm: Arm,
}

/// How a receive is armed. The kernel takes a buffer before it looks for data, so that a receive
/// that finds none says `ENOBUFS` whether or not there is anything to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arm {
    /// Streaming, at once.
    Now,
    /// For one buffer, once there is data (`IORING_RECVSEND_POLL_FIRST`): `ENOBUFS` then means that
    /// data waits for a buffer. Also leaves the buffers that are free to those that have waited
    /// longer. Not streaming: the kernel takes data, and a reset behind it, that were there before
    /// for one event, and a streaming receive that has taken the data is never told of the reset
    /// (seen on 6.18; an end of stream is not lost like that).
    OnData,
    /// For one buffer: the turn of one that has waited, without taking those of the next in line.
    Once,
}

/// Whether a receive goes on in the kernel from buffer to buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streaming {
    /// It is for one buffer, and armed again for the next: it looks at the socket anew each time, so that
    /// nothing is lost that the kernel takes for one event with what came before.
    No,
    /// Until it is cancelled, once the credit is used.
    UntilCancelled,
    /// Until the kernel itself sees that the credit is used: see [`ReceiveCap`].
    ToCredit,
}

/// Where a streaming operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The kernel has it.
    Kernel,
    /// It waits for a buffer, under this number, which wraps around: of those that wait at one time
    /// each has its own.
    Parked(u32),
    /// Its final completion comes out of the next wait.
    Ended,
}

/// Why a streaming operation has been told to stop. Anything but `No` means that a cancel has been
/// submitted and the final completion is to say this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    CreditSpent,
    Pause,
    Cancel,
}

/// A send. Between two of them it is in a list, with its header if it ever needed one.
pub(super) struct Outbound {
    pub(super) token: Token,
    pub(super) gather: Gather,
    /// Bytes of the gather that have been handed to the system.
    pub(super) sent_bytes: usize,
    header: Option<SendHeader>,
    pub(super) cancelled: bool,
    /// The stream ends behind this send.
    pub(super) ends_stream: bool,
}

/// A connect; boxed, since the kernel reads the address.
pub(super) struct Connecting {
    pub(super) token: Token,
    pub(super) address: socket2::SockAddr,
    pub(super) cancelled: bool,
}

impl Record {
    pub(super) fn new(socket: socket2::Socket) -> Self {
        Self {
            socket,
            inbound: None,
            outbound: None,
            connecting: None,
            made_blocking: false,
            is_gone: false,
        }
    }

    #[inline]
    pub(super) fn fd(&self) -> Fd {
        Fd(self.socket.as_raw_fd())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.inbound.is_none() && self.outbound.is_none() && self.connecting.is_none()
    }

    /// Whether the kernel may still touch what this record owns.
    pub(super) fn is_in_kernel(&self) -> bool {
        let inbound = self.inbound.as_ref().is_some_and(|inbound| inbound.place == Place::Kernel);
        inbound || self.outbound.is_some() || self.connecting.is_some()
    }

    /// Takes `O_NONBLOCK` off; false if it had been taken off already.
    pub(super) fn make_blocking(&mut self) -> io::Result<bool> {
        if self.made_blocking {
            return Ok(false);
        }
        self.socket.set_nonblocking(false)?;
        self.made_blocking = true;
        Ok(true)
    }
}

impl Inbound {
    /// The entry that arms this operation as `arm` says.
    #[inline]
    pub(super) fn entry(&self, fd: Fd, streaming: Streaming, buffer_bytes: u32) -> squeue::Entry {
        if self.kind == Kind::Accept {
            return opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        }
        let streaming = if self.kind == Kind::ReceiveOnce { Streaming::No } else { streaming };
        let one_buffer = self.credit_bytes.min(buffer_bytes);
        match (self.arm, streaming) {
            (Arm::OnData, _) => receive_entry(fd, one_buffer, RECVSEND_POLL_FIRST),
            (Arm::Now, Streaming::ToCredit) => {
                ReceiveCap { buffer_bytes }.entry(fd, self.credit_bytes)
            }
            (Arm::Now, Streaming::UntilCancelled)
                if self.credit_bytes / RECEIVES_MAX <= buffer_bytes =>
            {
                receive_entry(fd, 0, RECV_MULTISHOT)
            }
            (Arm::Once | Arm::Now, _) => receive_entry(fd, one_buffer, 0),
        }
    }
}

/// A receive into the ring of buffers, of `each` bytes at most into one (0: as many as it holds).
/// Built from the single receive, since the crate's streaming one takes no further flags.
#[inline]
fn receive_entry(fd: Fd, each: u32, flags: u16) -> squeue::Entry {
    opcode::Recv::new(fd, std::ptr::null_mut(), each)
        .ioprio(flags)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

/// `IORING_RECVSEND_POLL_FIRST` and `IORING_RECV_MULTISHOT` (io_uring_enter(2), in `ioprio`).
const RECVSEND_POLL_FIRST: u16 = 1 << 0;
const RECV_MULTISHOT: u16 = 1 << 1;

/// Buffers that a streaming receive fills in a row before the kernel lets others go first
/// (`MULTISHOT_MAX_RETRY`, io_uring/net.c). When it goes on it takes bytes, and a reset behind them,
/// for one event, and is never told of the reset (seen on 6.18): so none goes on for that long.
const RECEIVES_MAX: u32 = 32;

impl Outbound {
    /// One of nothing yet.
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            token: Token(0),
            gather: Gather::new(),
            sent_bytes: 0,
            header: None,
            cancelled: false,
            ends_stream: false,
        })
    }

    /// Makes it the send of `gather`.
    #[inline]
    pub(super) fn begin(&mut self, gather: Gather, token: Token) {
        (self.token, self.gather, self.sent_bytes) = (token, gather, 0);
        (self.cancelled, self.ends_stream) = (false, false);
    }

    /// The entry that sends what is left. A header is made only for more than one frame.
    #[inline]
    pub(super) fn entry(&mut self, fd: Fd) -> squeue::Entry {
        // Waiting for all spares a completion for every partial send (U11); no signal for a
        // connection that is gone.
        const FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let (first, skip) = self.position();
        let frames = self.gather.frames();
        if first + 1 == frames.len() {
            let left = &frames[first][skip..];
            let len = left.len() as u32; // a frame is shorter than 4 GiB
            return opcode::Send::new(fd, left.as_ptr(), len).flags(FLAGS).build();
        }
        let header = self.header.get_or_insert_with(SendHeader::new);
        let message = header.fill(&self.gather, first, skip);
        opcode::SendMsg::new(fd, message).flags(FLAGS as u32).build()
    }

    /// The first frame that is not wholly sent, and how many of its bytes are.
    #[inline]
    fn position(&self) -> (usize, usize) {
        let mut skip = self.sent_bytes;
        for (index, frame) in self.gather.frames().iter().enumerate() {
            if skip < frame.len() {
                return (index, skip);
            }
            skip -= frame.len();
        }
        unreachable!("a send with nothing left is over")
    }
}

/// Owned memory for sendmsg(2)'s header and its list of buffers. Behind a raw pointer, so that
/// moving the owner claims nothing about memory that the kernel reads.
pub(super) struct SendHeader(NonNull<HeaderMemory>);

struct HeaderMemory {
    message: libc::msghdr,
    buffers: [libc::iovec; Gather::FRAMES_MAX],
}

impl SendHeader {
    fn new() -> Self {
        // SAFETY: both are plain C structures of numbers and pointers, for which zero is a value.
        let memory: HeaderMemory = unsafe { MaybeUninit::zeroed().assume_init() };
        Self(NonNull::from(Box::leak(Box::new(memory))))
    }

    /// Lists the frames from `first` on, without the `skip` bytes of it that are sent.
    fn fill(&mut self, gather: &Gather, first: usize, skip: usize) -> *const libc::msghdr {
        // SAFETY: the memory is ours, and no operation that reads it is in flight: a header belongs
        // to one send, of which there is one at a time (P5), and is filled before it is submitted.
        let memory = unsafe { self.0.as_mut() };
        let frames = &gather.frames()[first..];
        for (buffer, frame) in memory.buffers.iter_mut().zip(frames) {
            buffer.iov_base = frame.as_ptr().cast_mut().cast();
            buffer.iov_len = frame.len();
        }
        // SAFETY: `skip` is less than the first frame's length.
        memory.buffers[0].iov_base = unsafe { memory.buffers[0].iov_base.byte_add(skip) };
        memory.buffers[0].iov_len -= skip;
        memory.message.msg_iov = memory.buffers.as_mut_ptr();
        memory.message.msg_iovlen = frames.len() as _;
        &raw const memory.message
    }
}

impl Drop for SendHeader {
    fn drop(&mut self) {
        // SAFETY: made from a box in `new`, freed once, and by I3 no operation reads it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The kinds of operation that the kernel knows; never zero, so that an entry without a name is
/// noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Receive = 1,
    Send = 2,
    Accept = 3,
    Connect = 4,
    Cancel = 5,
    Wake = 6,
    Probe = 7,
    ReceiveOnce = 8,
}

/// What the kernel calls an operation (`user_data`): kind 4 bits, slot 28, generation 32. Never a
/// descriptor, whose number may belong to the next connection already (U13, U26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) socket: Socket,
}

/// Slots that a key can name.
pub(super) const SLOTS_MAX: u32 = 1 << 28;

impl Key {
    #[inline]
    pub(super) const fn new(kind: Kind, socket: Socket) -> Self {
        Self { kind, socket }
    }

    /// The key of an operation that belongs to no socket.
    pub(super) const fn without_socket(kind: Kind) -> Self {
        Self { kind, socket: Socket { slot: 0, generation: 0 } }
    }

    #[inline]
    pub(super) const fn user_data(self) -> u64 {
        (self.kind as u64) << 60 | (self.socket.slot as u64) << 32 | self.socket.generation as u64
    }

    /// The key in a completion; `None` for one that this backend never made.
    #[inline]
    pub(super) const fn from_user_data(data: u64) -> Option<Self> {
        let kind = match data >> 60 {
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::Accept,
            4 => Kind::Connect,
            5 => Kind::Cancel,
            6 => Kind::Wake,
            7 => Kind::Probe,
            8 => Kind::ReceiveOnce,
            _ => return None,
        };
        let slot = (data >> 32) as u32 & (SLOTS_MAX - 1);
        Some(Self { kind, socket: Socket { slot, generation: data as u32 } })
    }
}

/// How the kernel is made to stop a streaming receive at its credit (Linux 6.17).
///
/// It takes two numbers: the most that one buffer gets, and a total. The total ends the operation
/// once it is reached, but it does not shorten the receive that reaches it (measured on 6.18): that
/// one may bring up to the rest of a buffer more, which P9 allows. To stop exactly there would take
/// ever smaller receives at the end of each credit, and cut what was sent in one piece into many.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveCap {
    pub(super) buffer_bytes: u32,
}

impl ReceiveCap {
    /// The entry of a receive that ends when `credit` bytes have come.
    #[inline]
    pub(super) fn entry(self, fd: Fd, credit: u32) -> squeue::Entry {
        let (each, total) = self.limits(credit);
        let mut entry = receive_entry(fd, each, RECV_MULTISHOT);
        set_receive_total(&mut entry, total);
        entry
    }

    /// The most that one receive may bring, and the total at which the last one has come.
    #[inline]
    fn limits(self, credit: u32) -> (u32, u32) {
        let each = credit.min(self.buffer_bytes);
        (each, credit.min(each.saturating_mul(RECEIVES_MAX)))
    }
}

/// Sets the total number of bytes after which a streaming receive ends (Linux 6.17,
/// `IORING_RECV_MSHOT_LIM`); older kernels refuse the entry with `EINVAL`.
///
/// The field is `sqe.optlen` of include/uapi/linux/io_uring.h, which io-uring 0.7.15 has no way to
/// set for a receive.
#[inline]
fn set_receive_total(entry: &mut squeue::Entry, bytes: u32) {
    const OPTLEN_OFFSET: usize = 44;
    const { assert!(size_of::<squeue::Entry>() == 64, "struct io_uring_sqe") };
    // SAFETY: `Entry` is `repr(C)` around the 64 bytes that the kernel's interface lays down (the
    // size is asserted above), is at least 8-aligned, and any u32 is valid at this offset, where a
    // union of a receive's unused fields lies.
    unsafe { (&raw mut *entry).byte_add(OPTLEN_OFFSET).cast::<u32>().write(bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{buffer::BufferPool, operation::Slots};

    /// Idle connections are what a server has most of.
    #[test]
    fn an_idle_socket_takes_a_line_of_the_cache() {
        let bytes = Slots::<Record>::slot_bytes();
        assert!(bytes <= 56, "{bytes}");
    }

    #[test]
    fn a_key_survives_the_kernel() {
        let far = Socket { slot: SLOTS_MAX - 1, generation: u32::MAX };
        for kind in [
            Kind::Receive,
            Kind::ReceiveOnce,
            Kind::Send,
            Kind::Accept,
            Kind::Connect,
            Kind::Cancel,
        ] {
            for socket in [far, Socket { slot: 0, generation: 0 }] {
                let key = Key::new(kind, socket);
                assert_eq!(Key::from_user_data(key.user_data()), Some(key));
            }
        }
        let wake = Key::without_socket(Kind::Wake);
        assert_eq!(Key::from_user_data(wake.user_data()), Some(wake));
        assert_eq!(Key::from_user_data(0), None);
    }

    #[test]
    fn a_capped_receive_brings_its_credit_and_less_than_a_buffer_more() {
        // What comes on a stream: pieces of one size, or as much as there is room for.
        for piece in [u32::MAX, 1500, 32, 1] {
            for credit in [1, 2, 255, 256, 257, 4095, 4096, 4097, 8191, 16_384, 1 << 20] {
                let cap = ReceiveCap { buffer_bytes: 4096 };
                let (mut brought, mut entries) = (0, 0);
                while brought < credit {
                    let (each, total) = cap.limits(credit - brought);
                    let start = brought;
                    while brought - start < total {
                        brought += piece.min(each);
                    }
                    entries += 1;
                }
                assert!(brought - credit < piece.min(4096), "{piece} {credit}: {brought}");
                let rounds = credit.div_ceil(RECEIVES_MAX * cap.buffer_bytes);
                assert!(entries <= rounds, "{piece} {credit}: {entries}");
            }
        }
    }

    #[test]
    fn a_partial_send_goes_on_at_the_next_byte() {
        let pool = BufferPool::new(false);
        let mut gather = Gather::new();
        for text in [&b"abc"[..], b"defg", b"h"] {
            let mut buf = pool.take(text.len());
            buf.append(text);
            gather.push(buf.freeze());
        }
        for sent_bytes in 0..gather.bytes() {
            let (first, skip) = {
                let mut outbound = Outbound::new();
                outbound.begin(std::mem::take(&mut gather), Token(0));
                outbound.sent_bytes = sent_bytes;
                let position = outbound.position();
                gather = outbound.gather;
                position
            };
            let mut header = SendHeader::new();
            header.fill(&gather, first, skip);
            // SAFETY: filled above, from frames that still live.
            let left: Vec<u8> = unsafe {
                let memory = header.0.as_ref();
                memory.buffers[..memory.message.msg_iovlen]
                    .iter()
                    .flat_map(|buffer| {
                        std::slice::from_raw_parts(buffer.iov_base.cast::<u8>(), buffer.iov_len)
                    })
                    .copied()
                    .collect()
            };
            assert_eq!(left, b"abcdefgh"[sent_bytes..]);
        }
    }
}
