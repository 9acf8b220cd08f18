//! The ring itself: how it is set up, how entries get in, and the one system call of a turn.

use std::{cell::Cell, collections::VecDeque, io, mem::MaybeUninit, time::Duration};

use io_uring::{
    EnterFlags, IoUring, cqueue, opcode,
    register::Restriction,
    squeue,
    types::{SubmitArgs, Timespec},
};

use super::{buf_ring::BufRing, explain};

/// An io_uring instance that belongs to the thread that made it.
pub(super) struct Ring {
    uring: IoUring,
    /// Entries that found the submission queue full while the kernel would not take any; in order,
    /// before everything pushed later.
    backlog: VecDeque<squeue::Entry>,
    system_calls: Cell<u64>,
}

/// Completions that are taken off the queue at a time.
pub(super) type Batch = [MaybeUninit<cqueue::Entry>; 64];

impl Ring {
    /// Makes a ring that is not enabled yet. With `spin`, the kernel sets a flag when there is
    /// deferred work, so that the thread can look for it without a system call.
    pub(super) fn new(spin: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // Single issuer and deferred task work (6.1): completions are produced when this thread
        // asks for them, not by interrupting it. Disabled until restrictions are in place.
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_r_disabled()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .dontfork();
        if spin {
            builder.setup_taskrun_flag();
        }
        let uring = builder.build(SUBMISSIONS).map_err(explain::setup)?;
        Ok(Self { uring, backlog: VecDeque::new(), system_calls: Cell::new(0) })
    }

    /// Registers the ring that receive buffers are taken from.
    ///
    /// # Safety
    /// The memory of `buffers`, and of every buffer in it, stays until no operation is in flight
    /// and [`unregister_buffers`](Self::unregister_buffers) was called, or for ever (P8).
    pub(super) unsafe fn register_buffers(&self, buffers: &BufRing) -> io::Result<()> {
        let (address, entries) = (buffers.address(), buffers.entries());
        // SAFETY: the address is aligned to a page and `entries` long; it stays as the caller says.
        unsafe {
            self.uring.submitter().register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0)
        }
    }

    /// Takes the buffer ring back, at once and not when the kernel gets round to it.
    pub(super) fn unregister_buffers(&self) -> io::Result<()> {
        self.uring.submitter().unregister_buf_ring(BUFFER_GROUP)
    }

    /// Forbids everything that this backend does not use, for good.
    pub(super) fn restrict(&self) -> io::Result<()> {
        let mut rules: Vec<_> = OPCODES.into_iter().map(Restriction::sqe_op).collect();
        rules.extend(REGISTER_OPCODES.into_iter().map(Restriction::register_op));
        rules.push(Restriction::sqe_flags_allowed(squeue::Flags::BUFFER_SELECT.bits()));
        self.uring.submitter().register_restrictions(&mut rules)
    }

    /// Binds the ring to the calling thread and lets it run.
    pub(super) fn enable(&self) -> io::Result<()> {
        self.uring.submitter().register_enable_rings()
    }

    /// Queues an entry for the next [`enter`](Self::enter). Never fails and never drops it: where
    /// the queue is full, what is in it is submitted first.
    ///
    /// # Safety
    /// What the entry points to is valid, unmoved and, where the kernel writes, unread until the
    /// operation's final completion (P2, I2).
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        if self.backlog.is_empty() {
            // SAFETY: passed on from the caller.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
        }
        self.push_to_full(entry);
    }

    #[cold]
    fn push_to_full(&mut self, entry: &squeue::Entry) {
        self.backlog.push_back(entry.clone());
        // A refusal (no memory, completions to reap first) leaves all entries where they are, for
        // the next turn; anything else will come up there again and end the port.
        let _ = self.enter_raw(0, EnterFlags::empty(), None);
        self.refill();
    }

    /// Moves entries from the backlog into the submission queue.
    fn refill(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed it promised for it (see `push`), until a completion that
            // cannot have come yet.
            if unsafe { self.uring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Submits everything, runs deferred work, and waits until there are `want` completions or
    /// `timeout` has passed. Returns early on a signal and where the kernel is short of memory: what
    /// it did not take stays in the queue (U3).
    #[inline]
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.submit_backlog()?;
        }
        let flags = EnterFlags::GETEVENTS; // without it deferred work does not run
        self.enter_raw(want, flags, timeout)
    }

    #[cold]
    fn submit_backlog(&mut self) -> io::Result<()> {
        loop {
            self.refill();
            if self.backlog.is_empty() {
                return Ok(());
            }
            let before = self.backlog.len();
            self.enter_raw(0, EnterFlags::GETEVENTS, None)?;
            self.refill();
            if self.backlog.len() == before {
                return Ok(()); // the kernel takes nothing now
            }
        }
    }

    fn enter_raw(
        &mut self,
        want: u32,
        flags: EnterFlags,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let queued = self.uring.submission().len() as u32;
        let timeout = timeout.filter(|time| want > 0 && *time < TIMEOUT_MAX);
        let timeout =
            timeout.map(|time| Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos()));
        let args = timeout.as_ref().map(|time| SubmitArgs::new().timespec(time));
        let flags = if args.is_some() { flags | EnterFlags::EXT_ARG } else { flags };
        self.count_system_call();
        // SAFETY: the entries are vouched for by whoever pushed them (see `push`); `args` and the
        // time that it points to outlive the call, and their size goes with them.
        let entered =
            unsafe { self.uring.submitter().enter(queued, want, flags.bits(), args.as_ref()) };
        let Err(error) = entered else { return Ok(()) };
        match error.raw_os_error() {
            // The time is over; a signal came; no memory; completions have to be reaped first.
            Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            Some(libc::EBADR) => {
                // A completion is lost (io_uring_enter(2)): some operation would never end, and its
                // memory never be ours again.
                tracing::error!("the kernel dropped a completion");
                std::process::abort()
            }
            _ => Err(error),
        }
    }

    /// Takes completions off the queue; none if there are none.
    #[inline]
    pub(super) fn reap<'a>(&mut self, batch: &'a mut Batch) -> &'a [cqueue::Entry] {
        self.uring.completion().fill(batch)
    }

    /// Whether an `enter` would find something to do: completions in the queue or outside (it
    /// overflowed), or deferred work. The last is known only to a ring made with `spin`.
    #[inline]
    pub(super) fn has_work(&mut self) -> bool {
        if !self.uring.completion().is_empty() {
            return true;
        }
        let submission = self.uring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    #[inline]
    pub(super) fn count_system_call(&self) {
        self.system_calls.set(self.system_calls.get() + 1);
    }

    pub(super) fn system_calls(&self) -> u64 {
        self.system_calls.get()
    }
}

/// The one group of receive buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

/// Entries of the submission queue: more than a turn usually has. A turn with more submits twice.
const SUBMISSIONS: u32 = 512;

/// Entries of the completion queue: what streaming operations can produce between two turns. Beyond
/// that the kernel keeps completions aside and ends streaming operations, which are armed again.
const COMPLETIONS: u32 = 8192;

/// Longer waits are endless ones: the kernel's clock overflows at 292 years.
const TIMEOUT_MAX: Duration = Duration::from_secs(1 << 32);

/// Every operation that this backend submits.
const OPCODES: [u8; 7] = [
    opcode::AcceptMulti::CODE,
    opcode::Connect::CODE,
    opcode::RecvMulti::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::AsyncCancel2::CODE,
    opcode::Read::CODE,
];

/// `IORING_REGISTER_ENABLE_RINGS` and `IORING_UNREGISTER_PBUF_RING` (io_uring_register(2)).
const REGISTER_OPCODES: [u8; 2] = [12, 23];

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Ring {
        let ring = Ring::new(false).unwrap();
        ring.enable().unwrap();
        ring
    }

    fn user_data(ring: &mut Ring) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let mut batch = [const { MaybeUninit::uninit() }; 64];
            let reaped = ring.reap(&mut batch);
            if reaped.is_empty() {
                return all;
            }
            all.extend(reaped.iter().map(cqueue::Entry::user_data));
        }
    }

    #[test]
    fn a_full_submission_queue_loses_nothing_and_keeps_the_order() {
        let mut ring = enabled();
        let count = u64::from(SUBMISSIONS) * 3 + 7;
        for number in 0..count {
            let entry = opcode::Nop::new().build().user_data(number);
            // SAFETY: the operation points to nothing.
            unsafe { ring.push(&entry) };
        }
        ring.enter(0, None).unwrap();
        assert_eq!(user_data(&mut ring), (0..count).collect::<Vec<_>>());
        assert_eq!(ring.system_calls(), 4);
    }

    #[test]
    fn more_completions_than_the_queue_holds_are_kept_by_the_kernel() {
        let mut ring = enabled();
        let count = u64::from(COMPLETIONS) + u64::from(SUBMISSIONS);
        for number in 0..count {
            let entry = opcode::Nop::new().build().user_data(number);
            // SAFETY: the operation points to nothing.
            unsafe { ring.push(&entry) };
        }
        let mut all = Vec::new();
        for _ in 0..100 {
            ring.enter(0, None).unwrap();
            all.extend(user_data(&mut ring));
        }
        all.sort_unstable();
        assert_eq!(all, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn a_restricted_ring_refuses_what_the_backend_does_not_use() {
        let mut ring = Ring::new(false).unwrap();
        ring.restrict().unwrap();
        ring.enable().unwrap();
        // SAFETY: the operation points to nothing.
        unsafe { ring.push(&opcode::Nop::new().build()) };
        ring.enter(1, None).unwrap();
        let mut batch = [const { MaybeUninit::uninit() }; 64];
        let results: Vec<_> = ring.reap(&mut batch).iter().map(cqueue::Entry::result).collect();
        assert_eq!(results, [-libc::EACCES]);
    }
}
