//! The probe at start: sends and receives on the very ring that the port will use.
//!
//! That a ring can be made says little: containers and sandboxes forbid single operations, kernels
//! lack features that have no flag, and an engine that fails at the first connection is worse than
//! none. So a socket pair is written to, its bytes are looked at, and everything is reaped again. What
//! some kernels get wrong with TCP alone is tried on a connection to ourselves.

use std::{
    io::{self, Read as _, Write as _},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    time::Duration,
};

use io_uring::{opcode, squeue, types::CancelBuilder, types::Fd};

use super::{
    complete::Completion,
    explain,
    record::{Key, Kind, ReceiveCap, Streaming},
    ring::{BUFFER_GROUP, Ring},
};
use crate::{
    buffer::{RecvBuffer, RecvPool},
    clock,
    config::UringConfig,
};

/// Checks the ring; says how receives may stream on it, of what `config` allows.
///
/// # Errors
/// Something is refused, or does not work as it should.
pub(super) fn run(
    ring: &mut Ring,
    pool: &Rc<RecvPool>,
    config: &UringConfig,
) -> io::Result<Streaming> {
    let (near, far) = UnixStream::pair()?;
    let mut probe = Probe { ring, pool, near, far };
    probe.run(config).map_err(|error| {
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
    fn run(&mut self, config: &UringConfig) -> io::Result<Streaming> {
        self.receive_until_cancelled()?;
        if !config.streaming_receive || !self.a_reset_is_told()? {
            return Ok(Streaming::No);
        }
        let cap = config.receive_cap && self.cap_works()?;
        Ok(if cap { Streaming::ToCredit } else { Streaming::UntilCancelled })
    }

    /// Whether a streaming receive that waits is told of a reset that came right behind bytes, before
    /// the ring looked. A kernel without the mend of 2026 (CVE-2026-23473) takes the two for one event:
    /// it brings the bytes and never ends the receive.
    fn a_reset_is_told(&mut self) -> io::Result<bool> {
        let (near, far) = match tcp_pair() {
            Ok(pair) => pair,
            Err(error) => {
                tracing::debug!(%error, "no connection to ourselves to try a reset on");
                return Ok(false);
            }
        };
        self.push(streaming(near.as_raw_fd()));
        self.ring.enter(0, None)?;
        (&far).write_all(MESSAGE)?;
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
        drop(far);
        until_hung_up(&near)?;
        let got = self.receive_to_end(MESSAGE.len(), Some(0))?;
        Ok(got.bytes == MESSAGE && got.last == -libc::ECONNRESET)
    }

    /// Sends more than a cap allows and looks whether the receive ends exactly there; takes the
    /// rest back out.
    fn cap_works(&mut self) -> io::Result<bool> {
        const CREDIT: usize = 5;
        let cap = ReceiveCap { buffer_bytes: MESSAGE.len() as u32 };
        self.push(cap.entry(Fd(self.near.as_raw_fd()), CREDIT as u32));
        self.send();
        let got = self.receive_to_end(MESSAGE.len(), None)?;
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
        self.push(streaming(self.near.as_raw_fd()));
        self.send();
        let got = self.receive_to_end(MESSAGE.len(), None)?;
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
        self.near.read_exact(&mut rest)?;
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

    /// Waits for the send, whose result is `sent` if it is over, and for the receive's final completion,
    /// cancelling the receive once `enough` bytes are there.
    fn receive_to_end(&mut self, enough: usize, mut sent: Option<i32>) -> io::Result<Received> {
        let deadline = clock::now() + DEADLINE;
        let mut received = Received { bytes: Vec::new(), last: 0 };
        let (mut ended, mut cancels) = (false, 0_u32);
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

fn streaming(fd: RawFd) -> squeue::Entry {
    opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build()
}

/// A connection from this process to itself.
fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let far = TcpStream::connect_timeout(&listener.local_addr()?, DEADLINE)?;
    let (near, from) = listener.accept()?;
    if from != far.local_addr()? {
        return Err(io::Error::other("somebody else was faster to connect"));
    }
    Ok((near, far))
}

/// Waits until the reset has arrived, without taking it.
fn until_hung_up(stream: &TcpStream) -> io::Result<()> {
    let mut asked = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    loop {
        // SAFETY: poll(2) gets one structure, which outlives the call.
        match unsafe { libc::poll(&raw mut asked, 1, DEADLINE.as_millis() as i32) } {
            1.. => return Ok(()),
            0 => return Err(io::Error::new(io::ErrorKind::TimedOut, "no reset arrives")),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

const MESSAGE: &[u8] = b"all hands";

const RECEIVE: Key = Key::without_socket(Kind::Probe);
const SEND: Key = Key::without_socket(Kind::Send);
const CANCEL: Key = Key::without_socket(Kind::Cancel);

/// Far longer than a socket pair in one process takes.
const DEADLINE: Duration = Duration::from_secs(5);
