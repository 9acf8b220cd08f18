//! The ring of free receive buffers that the kernel takes from (io_uring_register_buf_ring(3)).
//!
//! The thread puts a buffer at the tail and publishes it with one store, without a system call; the
//! kernel takes from the head when data has arrived, so a silent connection holds no buffer.
//!
//! What is taken first in, first out comes out of the processor's cache if there is much of it. So no
//! more buffers are in the ring than turns have taken lately, and some; the others lie aside, last in,
//! first out.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::memory::Memory;

/// Memory of a provided-buffer ring, and its tail. Lives in the receive pool, so that buffers that
/// are given back after their port is gone still find it.
pub(crate) struct BufRing {
    memory: Memory,
    /// Buffers in all.
    count: u16,
    mask: u16,
    tail: Cell<u16>,
    /// Buffers that the kernel has not taken yet, as far as completions say.
    held: Cell<u16>,
    /// As many buffers should be in the ring.
    wanted: Cell<u16>,
    /// Buffers that the kernel has taken since [`BufRing::adapt`].
    taken: Cell<u16>,
    /// Free buffers that are not in the ring.
    aside: RefCell<Vec<u16>>,
}

impl BufRing {
    /// A ring with room for `count` buffers.
    ///
    /// # Errors
    /// `count` is zero or more than the kernel allows.
    pub(crate) fn new(count: u16) -> io::Result<Self> {
        if count == 0 || count > BUFFERS_MAX {
            let message = format!("io_uring takes 1 to {BUFFERS_MAX} receive buffers, not {count}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let entries = count.next_power_of_two();
        let memory = Memory::new(usize::from(entries) * ENTRY_BYTES, PAGE_BYTES_MAX, false);
        Ok(Self {
            memory,
            count,
            mask: entries - 1,
            tail: Cell::new(0),
            held: Cell::new(0),
            wanted: Cell::new(count.min(SPARE)),
            taken: Cell::new(0),
            aside: RefCell::new(Vec::with_capacity(usize::from(count))),
        })
    }

    /// Where the ring lies, for registering it: aligned to a page and `entries` entries long.
    pub(crate) fn address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    /// A power of two, at least as many as there are buffers.
    pub(crate) fn entries(&self) -> u16 {
        self.mask + 1
    }

    /// Hands buffer `id`, of `len` bytes at `address`, to the kernel.
    #[inline]
    pub(crate) fn provide(&self, address: *mut u8, len: usize, id: u16) {
        let tail = self.tail.get();
        let base = self.memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked index lies inside the ring's memory, which is aligned, zeroed and ours
        // (P2). There are never more buffers than entries, so the kernel, which reads up to the tail
        // published below, does not look at this entry now. Only the fields are written, not the
        // whole entry: the tail lives in the padding of the first one.
        unsafe {
            let entry = &mut *base.add(usize::from(tail & self.mask));
            entry.set_addr(address as u64);
            entry.set_len(len as u32);
            entry.set_bid(id);
        }
        let next = tail.wrapping_add(1);
        self.tail.set(next);
        self.held.set(self.held.get() + 1);
        // SAFETY: the tail is an aligned u16 inside the ring's memory; the kernel reads it with an
        // acquiring load, so this store publishes the entry. No reference to it exists.
        unsafe {
            let published = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(published).store(next, Ordering::Release);
        }
    }

    /// The kernel has taken a buffer.
    #[inline]
    pub(crate) fn note_taken(&self) {
        self.held.set(self.held.get() - 1);
        self.taken.set(self.taken.get() + 1);
    }

    /// Keeps a free buffer aside if there are enough in the ring.
    #[inline]
    pub(crate) fn keep_aside(&self, id: u16) -> bool {
        let enough = self.held.get() >= self.wanted.get();
        if enough {
            self.aside.borrow_mut().push(id);
        }
        enough
    }

    /// A turn is over: says how many buffers the next one is to find.
    #[inline]
    pub(crate) fn adapt(&self) {
        let taken = self.taken.replace(0);
        let enough = taken.saturating_add(taken / 4).saturating_add(SPARE).min(self.count);
        let beyond = self.wanted.get().saturating_sub(enough);
        self.wanted.set(enough + beyond - beyond.div_ceil(SHORTEN_BY));
    }

    /// All buffers are to be in the ring: somebody has found none.
    pub(crate) fn want_all(&self) {
        self.taken.set(0);
        self.wanted.set(self.count);
    }

    /// A buffer that lies aside and is missing in the ring.
    #[inline]
    pub(crate) fn missing(&self) -> Option<u16> {
        if self.held.get() >= self.wanted.get() { None } else { self.aside.borrow_mut().pop() }
    }

    /// Whether a receive would find no buffer, as far as completions say.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.get() == 0
    }
}

/// So many buffers more than a turn has taken are in the ring, and a quarter of those: turns differ, and
/// a receive that finds no buffer has to be armed again.
const SPARE: u16 = 32;

/// What is too much in the ring becomes less by one in so many with each turn.
const SHORTEN_BY: u16 = 32;

/// What `IORING_REGISTER_PBUF_RING` accepts at most.
const BUFFERS_MAX: u16 = 1 << 15;

const ENTRY_BYTES: usize = size_of::<BufRingEntry>();

/// The largest page of the architectures that io_uring's bindings cover.
const PAGE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(ENTRY_BYTES == 16, "struct io_uring_buf");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_published_in_order_and_the_tail_survives_a_whole_round() {
        let ring = BufRing::new(3).unwrap();
        assert_eq!(ring.entries(), 4);
        let mut byte = 0;
        for turn in 0..9_u16 {
            ring.provide(&raw mut byte, 1, turn);
            let words = ring.memory.slice(0..ring.memory.len());
            let at = usize::from(turn % 4) * ENTRY_BYTES;
            assert_eq!(words[at + 12..at + 14], turn.to_ne_bytes(), "the buffer's number");
            assert_eq!(words[14..16], (turn + 1).to_ne_bytes(), "the tail");
        }
    }

    /// Takes so many and gives them back, as a turn does; how many are in the ring for the next one.
    fn turn(ring: &BufRing, takes: u16) -> u16 {
        let mut byte = 0;
        (0..takes).for_each(|_| ring.note_taken());
        for id in 0..takes {
            if !ring.keep_aside(id) {
                ring.provide(&raw mut byte, 1, id);
            }
        }
        ring.adapt();
        fill(ring);
        ring.held.get()
    }

    fn fill(ring: &BufRing) {
        let mut byte = 0;
        while let Some(id) = ring.missing() {
            ring.provide(&raw mut byte, 1, id);
        }
    }

    #[test]
    fn the_ring_becomes_as_short_as_turns_allow_and_long_at_once() {
        let ring = BufRing::new(512).unwrap();
        let mut byte = 0;
        for id in 0..512 {
            if !ring.keep_aside(id) {
                ring.provide(&raw mut byte, 1, id);
            }
        }
        assert_eq!(ring.held.get(), SPARE, "no more at first than are likely to be taken");
        ring.want_all();
        fill(&ring);
        let lengths: Vec<_> = (0..200).map(|_| turn(&ring, 8)).collect();
        assert!(lengths.is_sorted_by(|one, next| next <= one), "{lengths:?}");
        assert_eq!(lengths[199], 8 + 8 / 4 + SPARE);
        // All of them were taken: more is wanted. Nobody has found none yet.
        let all = lengths[199];
        assert_eq!(turn(&ring, all), all + all / 4 + SPARE);
        ring.want_all();
        assert!(turn(&ring, 48) > 490, "all of them, from the next turn on");
        assert_eq!(usize::from(ring.held.get()) + ring.aside.borrow().len(), 512, "none is lost");
    }

    #[test]
    fn a_count_that_the_kernel_refuses_is_an_error() {
        for count in [0, BUFFERS_MAX + 1] {
            let error = BufRing::new(count).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(BufRing::new(BUFFERS_MAX).unwrap().entries(), BUFFERS_MAX);
    }
}
