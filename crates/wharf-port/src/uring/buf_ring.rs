//! The ring of free receive buffers that the kernel takes from (io_uring_register_buf_ring(3)).
//!
//! The thread puts a buffer at the tail and publishes it with one store, without a system call; the
//! kernel takes from the head when data has arrived, so a silent connection holds no buffer.

use std::{
    cell::Cell,
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::memory::Memory;

/// Memory of a provided-buffer ring, and its tail. Lives in the receive pool, so that buffers that
/// are given back after their port is gone still find it.
pub(crate) struct BufRing {
    memory: Memory,
    mask: u16,
    tail: Cell<u16>,
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
        Ok(Self { memory, mask: entries - 1, tail: Cell::new(0) })
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
        // SAFETY: the tail is an aligned u16 inside the ring's memory; the kernel reads it with an
        // acquiring load, so this store publishes the entry. No reference to it exists.
        unsafe {
            let published = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(published).store(next, Ordering::Release);
        }
    }
}

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
            let words = ring.memory.as_slice();
            let at = usize::from(turn % 4) * ENTRY_BYTES;
            assert_eq!(words[at + 12..at + 14], turn.to_ne_bytes(), "the buffer's number");
            assert_eq!(words[14..16], (turn + 1).to_ne_bytes(), "the tail");
        }
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
