//! A ring of one thread, as the floors and the load generator use it: set up, filled, waited for. One
//! way for all of them, so that none is measured with other settings.

use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::buffer_ring::BufferRing;

/// A ring with a single issuer, whose work is done when it is waited for.
pub struct Ring {
    ring: IoUring,
}

impl Ring {
    /// Sets one up that holds so many entries and so many completions.
    ///
    /// # Errors
    /// The system has no io_uring, or does not allow it.
    pub fn open(submissions: u32, completions: u32) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(completions)
            .build(submissions)?;
        Ok(Ring { ring })
    }

    /// Buffers that receives on this ring are put into.
    ///
    /// # Errors
    /// As [`BufferRing::register`].
    pub fn buffers(&self, count: u16, buffer_bytes: usize) -> io::Result<BufferRing> {
        BufferRing::register(&self.ring, GROUP, count, buffer_bytes)
    }

    /// Adds an entry; what is full is submitted first.
    ///
    /// # Safety
    /// What the entry points at stays as it is until the entry's last completion.
    ///
    /// # Errors
    /// Entering the ring failed.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            entered(self.ring.submit())?;
        }
        Ok(())
    }

    /// Submits what was added, waits for one completion at least, and takes all that there are.
    ///
    /// # Errors
    /// Entering the ring failed.
    pub fn wait(&mut self, completions: &mut Vec<cqueue::Entry>) -> io::Result<()> {
        entered(self.ring.submit_and_wait(1))?;
        completions.extend(self.ring.completion());
        Ok(())
    }
}

/// Interrupted, or asked to drain first: the entries that were added stay.
fn entered(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error)
            if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Accepts again and again.
pub fn accept(listener: RawFd) -> squeue::Entry {
    opcode::AcceptMulti::new(types::Fd(listener)).flags(libc::SOCK_CLOEXEC).build()
}

/// Receives again and again, into buffers of the ring.
pub fn receive(fd: RawFd) -> squeue::Entry {
    opcode::RecvMulti::new(types::Fd(fd), GROUP).build()
}

/// Sends at once what is sent on this socket.
pub fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int and lives across the call. A failure means that the
    // peer is gone already, which the receive will say.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
}

/// Each ring has one group of buffers.
const GROUP: u16 = 0;
