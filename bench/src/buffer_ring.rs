//! A provided-buffer ring: receive buffers that the kernel picks from when bytes have arrived.
//!
//! Used by the floor server and by the load generator.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue};
use memmap2::MmapMut;

/// A buffer that the kernel has filled and that is ours until it is given back.
///
/// Neither `Clone` nor `Copy`: one value stands for one buffer.
#[derive(Debug)]
pub struct Filled {
    id: u16,
    /// Bytes received into it.
    pub len: u32,
}

/// The buffers, and the ring through which they are handed to the kernel.
pub struct BufferRing {
    /// Leaked on purpose: closing a ring is not synchronous, so no moment is known at which the
    /// kernel has surely let go of this memory.
    entries: *mut BufRingEntry,
    memory: *mut u8,
    count: u16,
    buffer_bytes: usize,
    tail: u16,
    /// Buffers that are with the kernel once the tail has been published.
    available: u16,
}

impl BufferRing {
    /// Allocates `count` buffers (a power of two) of `buffer_bytes` and registers them as `group`.
    ///
    /// # Errors
    /// Whatever the allocation or the registration says.
    pub fn register(
        ring: &IoUring,
        group: u16,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<BufferRing> {
        assert!(count.is_power_of_two());
        let entries_bytes = usize::from(count) * size_of::<BufRingEntry>();
        let entries = Box::leak(Box::new(MmapMut::map_anon(entries_bytes)?)).as_mut_ptr();
        let memory =
            Box::leak(Box::new(MmapMut::map_anon(usize::from(count) * buffer_bytes)?)).as_mut_ptr();
        // SAFETY: the entries are page aligned (a mapping), hold `count` entries and are leaked,
        // so they outlive the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, count, group, 0)?;
        }
        let mut buffers = BufferRing {
            entries: entries.cast(),
            memory,
            count,
            buffer_bytes,
            tail: 0,
            available: 0,
        };
        for id in 0..count {
            buffers.give_back(Filled { id, len: 0 });
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Buffers that the kernel can still fill.
    pub fn available(&self) -> u16 {
        self.available
    }

    /// Takes the buffer named by the flags of a completion of a receive.
    ///
    /// # Safety
    /// `flags` and `len` come from a completion of a receive into this group, and each
    /// completion is taken once.
    pub unsafe fn take(&mut self, flags: u32, len: u32) -> Option<Filled> {
        let id = cqueue::buffer_select(flags)?;
        assert!(id < self.count && len as usize <= self.buffer_bytes);
        self.available -= 1;
        Some(Filled { id, len })
    }

    /// The bytes received.
    pub fn bytes(&self, filled: &Filled) -> &[u8] {
        // SAFETY: the buffer is ours while `filled` exists, and the kernel wrote `len` bytes.
        unsafe { std::slice::from_raw_parts(self.address(filled), filled.len as usize) }
    }

    /// Where the bytes received begin; the memory is never unmapped.
    pub fn address(&self, filled: &Filled) -> *const u8 {
        self.memory.wrapping_add(usize::from(filled.id) * self.buffer_bytes)
    }

    /// Puts a buffer back; the kernel sees it after the next `publish`.
    pub fn give_back(&mut self, filled: Filled) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is masked to `count`; the kernel reads an entry only below the
        // published tail, and this one is above it. The fields written do not overlap the tail.
        let entry = unsafe { &mut *self.entries.add(index) };
        entry.set_addr(self.address(&filled) as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(filled.id);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    /// Lets the kernel see what was given back.
    pub fn publish(&mut self) {
        // SAFETY: the ring's tail lies in the first entry, which is aligned and lives for ever;
        // the kernel reads it as an atomic of this size.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
