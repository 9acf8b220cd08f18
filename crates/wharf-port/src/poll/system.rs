//! The system calls on a connection, none of which waits or raises `SIGPIPE`.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
};

use super::Core;
use crate::buffer::Gather;

/// Prepares any connection's socket for non-blocking use without `SIGPIPE`.
pub(super) fn prepare_stream(os: &socket2::Socket, core: &Core) -> io::Result<()> {
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        core.count_system_call();
        os.set_nonblocking(true)?;
        #[cfg(target_vendor = "apple")]
        os.set_nosigpipe(true)?;
    }
    let _ = (os, core);
    Ok(())
}

/// Receives into `room` bytes at `address` without waiting (recv(2)).
///
/// # Safety
/// The memory is valid for `room` bytes and nobody else looks at it.
pub(super) unsafe fn receive_into(
    os: &socket2::Socket,
    address: *mut u8,
    room: usize,
) -> io::Result<usize> {
    // SAFETY: the caller's promise.
    let room = unsafe { std::slice::from_raw_parts_mut(address.cast::<MaybeUninit<u8>>(), room) };
    os.recv_with_flags(room, RECV_FLAGS)
}

/// Sends what is left of the gather behind its first `skip` bytes, as much as the system takes
/// without waiting (sendmsg(2)).
pub(super) fn transmit(
    os: &socket2::Socket,
    gather: &Gather,
    mut skip: usize,
) -> io::Result<usize> {
    if let [frame] = gather.frames() {
        return os.send_with_flags(&frame[skip..], SEND_FLAGS);
    }
    let mut slices = [IoSlice::new(&[]); Gather::FRAMES_MAX];
    let mut count = 0;
    for frame in gather.frames() {
        if skip >= frame.len() {
            skip -= frame.len();
            continue;
        }
        slices[count] = IoSlice::new(&frame[skip..]);
        skip = 0;
        count += 1;
    }
    os.send_vectored_with_flags(&slices[..count], SEND_FLAGS)
}

/// connect(2): a connect that a signal interrupts goes on too.
pub(super) fn is_in_progress(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const RECV_FLAGS: libc::c_int = libc::MSG_DONTWAIT;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RECV_FLAGS: libc::c_int = 0;

#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// Apple's systems have `SO_NOSIGPIPE` instead.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: libc::c_int = 0;
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
