//! The probe at start: sends and receives on the very ring that the port will use.
//!
//! That a ring can be made says little: containers and sandboxes forbid single operations, kernels
//! lack features that have no flag, and an engine that fails at the first connection is worse than
//! none. So a socket pair is written to, its bytes are looked at, and everything is reaped again.

use std::{
    io,
    mem::MaybeUninit,
    os::{fd::AsRawFd, unix::net::UnixStream},
    rc::Rc,
    time::Duration,
};

use io_uring::{opcode, squeue, types::CancelBuilder, types::Fd};

use super::{
    complete::Completion,
    explain,
    record::{Key, Kind, ReceiveCap},
    ring::{BUFFER_GROUP, Ring},
};
use crate::{
    buffer::{RecvBuffer, RecvPool},
    clock,
};

/// Checks the ring; says whether the kernel ends a receive at a byte count, if `try_cap` asks.
///
/// # Errors
/// Something is refused, or does not work as it should.
pub(super) fn run(ring: &mut Ring, pool: &Rc<RecvPool>, try_cap: bool) -> io::Result<bool> {
    let (near, far) = UnixStream::pair()?;
    let mut probe = Probe { ring, pool, near, far };
    probe.run(try_cap).map_err(|error| {
        // Something may still be in flight, and be written to (P8).
        std::mem::forget(Rc::clone(pool));
        explain::with_text(error, "the probe failed".to_owned())
    })
}

struct Probe<'a> {
    ring: &'a mut Ring,
    pool: &'a Rc<RecvPool>,
    near: UnixStream,
    far: UnixStream,
}

/// What one streaming receive brought.
struct Received {
    bytes: Vec<u8>,
    /// The result of its final completion.
    last: i32,
}

impl Probe<'_> {
    fn run(&mut self, try_cap: bool) -> io::Result<bool> {
        let cap = try_cap && self.cap_works()?;
        self.receive_until_cancelled()?;
        Ok(cap)
    }

    /// Sends more than a cap allows and looks whether the receive ends exactly there; takes the
    /// rest back out.
    fn cap_works(&mut self) -> io::Result<bool> {
        const CREDIT: usize = 5;
        let cap = ReceiveCap { buffer_bytes: MESSAGE.len() as u32 };
        self.push(cap.entry(Fd(self.near.as_raw_fd()), CREDIT as u32));
        self.send();
        let got = self.receive_to_end(MESSAGE.len())?;
        if got.last == -libc::EINVAL {
            // The entry was refused: what was sent is all there.
            self.drain_rest(0)?;
            return Ok(false);
        }
        self.drain_rest(got.bytes.len())?;
        Ok(got.bytes == MESSAGE[..CREDIT] && got.last > 0)
    }

    /// A receive without a cap gets everything, and a cancel ends it.
    fn receive_until_cancelled(&mut self) -> io::Result<()> {
        self.push(opcode::RecvMulti::new(Fd(self.near.as_raw_fd()), BUFFER_GROUP).build());
        self.send();
        let got = self.receive_to_end(MESSAGE.len())?;
        if got.bytes != MESSAGE {
            return Err(io::Error::other("bytes were sent and others received"));
        }
        match -got.last {
            libc::ECANCELED => Ok(()),
            code if code > 0 => Err(io::Error::from_raw_os_error(code)),
            _ => Err(io::Error::other("a streaming receive ended by itself")),
        }
    }

    /// Takes out of the pair what a receive has left in it.
    fn drain_rest(&mut self, taken: usize) -> io::Result<()> {
        let mut rest = vec![0; MESSAGE.len() - taken];
        io::Read::read_exact(&mut self.near, &mut rest)?;
        if rest == MESSAGE[taken..] { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
    }

    fn push(&mut self, entry: squeue::Entry) {
        let entry = entry.user_data(RECEIVE.user_data());
        // SAFETY: the entry points to nothing. The pool outlives the operation: it is reaped before
        // the probe returns, and where that fails the pool is leaked (`run`, P8).
        unsafe { self.ring.push(&entry) };
    }

    fn send(&mut self) {
        let fd = Fd(self.far.as_raw_fd());
        let entry = opcode::Send::new(fd, MESSAGE.as_ptr(), MESSAGE.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(SEND.user_data());
        // SAFETY: the bytes are a constant.
        unsafe { self.ring.push(&entry) };
    }

    /// Waits for the send and for the receive's final completion, cancelling the receive once
    /// `enough` bytes are there.
    fn receive_to_end(&mut self, enough: usize) -> io::Result<Received> {
        let deadline = clock::now() + DEADLINE;
        let mut received = Received { bytes: Vec::new(), last: 0 };
        let (mut sent, mut ended, mut cancels) = (None, false, 0_u32);
        while sent.is_none() || !ended || cancels > 0 {
            let left = deadline.since(clock::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing completes"));
            }
            self.ring.enter(1, Some(left))?;
            let mut batch = [const { MaybeUninit::uninit() }; 64];
            let reaped = self.ring.reap(&mut batch);
            for completion in reaped.iter().map(Completion::read) {
                match completion.user_data {
                    data if data == SEND.user_data() => sent = Some(completion.result),
                    data if data == CANCEL.user_data() => cancels -= 1,
                    _ => {
                        if let Some(id) = completion.buffer {
                            let len = usize::try_from(completion.result).unwrap_or(0);
                            self.pool.note_taken();
                            let lent = RecvBuffer::lend(self.pool, id, len);
                            received.bytes.extend_from_slice(&lent);
                        }
                        received.last = completion.result;
                        ended |= !completion.more;
                    }
                }
            }
            if !ended && cancels == 0 && received.bytes.len() >= enough {
                let target = CancelBuilder::user_data(RECEIVE.user_data());
                let entry = opcode::AsyncCancel2::new(target).build();
                // SAFETY: the entry points to nothing.
                unsafe { self.ring.push(&entry.user_data(CANCEL.user_data())) };
                cancels += 1;
            }
        }
        match sent {
            Some(sent) if sent < 0 => Err(io::Error::from_raw_os_error(-sent)),
            _ => Ok(received),
        }
    }
}

const MESSAGE: &[u8] = b"all hands";

const RECEIVE: Key = Key::without_socket(Kind::Probe);
const SEND: Key = Key::without_socket(Kind::Send);
const CANCEL: Key = Key::without_socket(Kind::Cancel);

/// Far longer than a socket pair in one process takes.
const DEADLINE: Duration = Duration::from_secs(5);
