//! Memory that the system reads and writes: zeroed, at a stable address, optionally behind guard
//! pages.
//!
//! Address sanitizers do not see the kernel's writes. A guarded block does: it ends at a page that
//! nobody may touch, and it can be closed while nobody should touch it at all, so that a kernel
//! write to it fails with `EFAULT` instead of corrupting something.

#[cfg(any(unix, windows))]
mod pages;

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::Range,
    ptr::NonNull,
};

/// A zeroed block of memory with a stable address.
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: usize,
    kind: Kind,
}

enum Kind {
    /// Where it was allocated, at or before its start, and how.
    Heap(NonNull<u8>, Layout),
    #[cfg(any(unix, windows))]
    Guarded(pages::Pages),
}

/// Who may touch a guarded block; ignored for one on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Nobody,
    Read,
    Write,
}

impl Memory {
    /// Allocates `len` zeroed bytes aligned to `align`, guarded if asked for.
    ///
    /// # Panics
    /// If `len` is zero.
    pub(crate) fn new(len: usize, align: usize, guarded: bool) -> Self {
        assert!(len > 0, "a block of memory has at least one byte");
        #[cfg(any(unix, windows))]
        if guarded {
            return Self::guarded(len, align);
        }
        let _ = guarded;
        // Aligned here: an allocator that is asked to align writes the zeros itself, and all of a large
        // block would be resident at once.
        let room = len.checked_add(align - 1).expect("a size that fits in memory");
        let layout = Layout::from_size_align(room, 1).expect("a size that fits in memory");
        // SAFETY: the layout's size is not zero (asserted above).
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        let skipped = base.align_offset(align);
        assert!(skipped < align, "a power of two, to which every address can be aligned");
        // SAFETY: less than `align` bytes on, there are at least `len` more in the allocation.
        let start = unsafe { base.add(skipped) };
        Self { start, len, kind: Kind::Heap(base, layout) }
    }

    #[cfg(any(unix, windows))]
    fn guarded(len: usize, align: usize) -> Self {
        let page = pages::page_bytes();
        assert!(align <= page, "guarded memory is aligned to a page at most");
        let inner = len.next_multiple_of(page);
        let pages = pages::Pages::map(inner + 2 * page);
        // The block ends at the guard page, as far as its alignment allows.
        let start = pages.at(page + (inner - len) / align * align);
        let memory = Self { start, len, kind: Kind::Guarded(pages) };
        memory.protect(Access::Write);
        memory
    }

    /// Says who may touch a guarded block from now on, the kernel included.
    #[inline]
    pub(crate) fn protect(&self, access: Access) {
        #[cfg(any(unix, windows))]
        if let Kind::Guarded(pages) = &self.kind {
            pages.protect_inner(access);
        }
        let _ = access;
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Some of the bytes.
    ///
    /// # Panics
    /// If the range is not inside.
    #[inline]
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len, "bytes of this block");
        // SAFETY: bytes of ours, as just looked, initialised (zeroed), which stay until drop. That
        // nobody writes to them meanwhile is the owner's promise: a `FrameBuf` writes only behind what
        // it shows and shares, and the kernel only while a receive buffer is not lent (P2).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.kind {
            // SAFETY: allocated in `new` with this very layout, freed once.
            Kind::Heap(base, layout) => unsafe { dealloc(base.as_ptr(), *layout) },
            #[cfg(any(unix, windows))]
            Kind::Guarded(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_and_writable_to_its_last_byte() {
        for guarded in [false, true] {
            for len in [1, 64, 4096, 5000] {
                let memory = Memory::new(len, 1, guarded);
                assert!(memory.slice(0..len).iter().all(|&b| b == 0));
                // SAFETY: the last byte of the block, at which nobody looks now.
                unsafe { memory.as_ptr().add(len - 1).write(7) };
                assert_eq!((memory.slice(len - 1..len), memory.len()), (&[7][..], len));
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_kernel_cannot_write_to_a_closed_block_nor_past_its_end() {
        use std::{io::Write, os::fd::AsRawFd};
        let memory = Memory::new(16, 1, true);
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[1; 64]).unwrap();
        let read = |len: usize| {
            // SAFETY: the kernel checks the range itself; that it refuses is what is tested.
            unsafe { libc::read(reader.as_raw_fd(), memory.as_ptr().cast(), len) }
        };
        assert_eq!(read(16), 16);
        memory.protect(Access::Nobody);
        assert_eq!(read(16), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
        memory.protect(Access::Write);
        assert!(read(32) <= 16, "nothing is written behind the end");
    }
}
