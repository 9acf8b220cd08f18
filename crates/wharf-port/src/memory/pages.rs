//! Pages of memory whose protection can be changed: mmap(2) and mprotect(2), or `VirtualAlloc` and
//! `VirtualProtect`.

use std::{io, ptr::NonNull};

use super::Access;

/// Whole pages, which nobody may touch at first.
pub(super) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    /// Maps `bytes`, a multiple of [`page_bytes`].
    pub(super) fn map(bytes: usize) -> Self {
        let start = system::map(bytes).expect("memory for pages with guards");
        Self { start, bytes }
    }

    /// Where byte `offset` lies.
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.bytes, "inside of the pages");
        // SAFETY: inside of the mapping, as asserted.
        unsafe { self.start.add(offset) }
    }

    /// Says who may touch all pages but the first and the last, the kernel included.
    pub(super) fn protect_inner(&self, access: Access) {
        let page = page_bytes();
        // SAFETY: the pages between the first and the last belong to this mapping alone.
        let result =
            unsafe { system::protect(self.start.add(page), self.bytes - 2 * page, access) };
        result.expect("the protection of pages of one's own can be changed");
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, unmapped once.
        unsafe { system::unmap(self.start, self.bytes) };
    }
}

/// Bytes in a page.
pub(super) fn page_bytes() -> usize {
    system::page_bytes()
}

#[cfg(unix)]
mod system {
    use super::{Access, NonNull, io};

    pub(super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
        // SAFETY: an anonymous mapping at an address of the system's choice touches nothing of ours.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(NonNull::new(map).expect("a mapping is not at address zero").cast())
    }

    /// # Safety
    /// These are whole pages of a mapping, and nobody counts on their protection.
    pub(super) unsafe fn protect(
        start: NonNull<u8>,
        bytes: usize,
        access: Access,
    ) -> io::Result<()> {
        let protection = match access {
            Access::Nobody => libc::PROT_NONE,
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: the caller's promise.
        match unsafe { libc::mprotect(start.as_ptr().cast(), bytes, protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// # Safety
    /// Both are what [`map`] was called with and returned; nobody uses the memory any more.
    pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    }

    pub(super) fn page_bytes() -> usize {
        // SAFETY: sysconf(3) has no preconditions.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).expect("the system has a page size")
    }
}

#[cfg(windows)]
mod system {
    use windows_sys::Win32::System::{
        Memory::{
            MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE,
            VirtualAlloc, VirtualFree, VirtualProtect,
        },
        SystemInformation::{GetSystemInfo, SYSTEM_INFO},
    };

    use super::{Access, NonNull, io};

    pub(super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
        let how = MEM_RESERVE | MEM_COMMIT;
        // SAFETY: new pages at an address of the system's choice touch nothing of ours.
        let map = unsafe { VirtualAlloc(std::ptr::null(), bytes, how, PAGE_NOACCESS) };
        NonNull::new(map.cast()).ok_or_else(io::Error::last_os_error)
    }

    /// # Safety
    /// These are whole pages of a mapping, and nobody counts on their protection.
    pub(super) unsafe fn protect(
        start: NonNull<u8>,
        bytes: usize,
        access: Access,
    ) -> io::Result<()> {
        let protection = match access {
            Access::Nobody => PAGE_NOACCESS,
            Access::Read => PAGE_READONLY,
            Access::Write => PAGE_READWRITE,
        };
        let mut before = 0;
        // SAFETY: the caller's promise.
        match unsafe { VirtualProtect(start.as_ptr().cast(), bytes, protection, &mut before) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// # Safety
    /// `start` is what [`map`] returned; nobody uses the memory any more.
    pub(super) unsafe fn unmap(start: NonNull<u8>, _bytes: usize) {
        // SAFETY: the caller's promise; with this flag the length has to be zero.
        unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    }

    pub(super) fn page_bytes() -> usize {
        let mut info = SYSTEM_INFO::default();
        // SAFETY: it only writes to `info`.
        unsafe { GetSystemInfo(&mut info) };
        info.dwPageSize as usize
    }
}
