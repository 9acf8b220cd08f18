//! The queue itself: a completion port of the system.

use std::{
    io,
    os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle},
    ptr,
    time::Duration,
};

use super::winsock::handle;
use windows_sys::Win32::{
    Foundation::{INVALID_HANDLE_VALUE, WAIT_TIMEOUT},
    System::{
        IO::{
            CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY,
            PostQueuedCompletionStatus,
        },
        Threading::INFINITE,
    },
};

/// The system's side of a port: a queue of packets. Other threads may post to it.
pub(crate) struct Queue(OwnedHandle);

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no handle is passed in, which asks for a new port. One thread takes packets out.
        let handle = unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, 1) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new handle, which nobody else owns.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    /// Binds a socket to this queue for as long as it lives (P10).
    pub(super) fn associate(&self, os: &socket2::Socket) -> io::Result<()> {
        // SAFETY: both handles are open: we hold references to their owners.
        let port = unsafe { CreateIoCompletionPort(handle(os), self.0.as_raw_handle(), 0, 0) };
        if port.is_null() { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes packets out, waiting for the first one up to `timeout` (`None`: for ever); how many.
    pub(super) fn dequeue(
        &self,
        packets: &mut [OVERLAPPED_ENTRY],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let mut count = 0;
        let room = u32::try_from(packets.len()).unwrap_or(u32::MAX);
        // SAFETY: the system writes at most `room` entries to `packets`, and a number to `count`.
        let taken = unsafe {
            GetQueuedCompletionStatusEx(
                self.0.as_raw_handle(),
                packets.as_mut_ptr(),
                room,
                &mut count,
                timeout.map_or(INFINITE, whole_ms),
                0,
            )
        };
        if taken != 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(WAIT_TIMEOUT as i32) { Ok(0) } else { Err(error) }
    }

    /// Puts in a packet that means nothing but "wake up".
    fn post(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(left) = POST_FAILURES.get().checked_sub(1) {
            POST_FAILURES.set(left);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: the packet carries no pointer.
        let posted =
            unsafe { PostQueuedCompletionStatus(self.0.as_raw_handle(), 0, 0, ptr::null()) };
        if posted == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// As [`post`](Self::post); it fails where the system is short of memory (W11), which may pass.
    pub(crate) fn post_with_patience(&self) -> io::Result<()> {
        for _ in 0..POST_ATTEMPTS {
            if self.post().is_ok() {
                return Ok(());
            }
            std::thread::yield_now();
        }
        self.post()
    }
}

/// Rounded up: rounded down, waiting for the last part of a millisecond would be a busy loop.
fn whole_ms(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(INFINITE).min(INFINITE - 1)
}

/// How often a wake-up is tried to post.
const POST_ATTEMPTS: usize = 64;

#[cfg(test)]
thread_local! {
    /// So many of this thread's next posts fail, as where the system is short of memory.
    pub(super) static POST_FAILURES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_never_for_ever() {
        let cases = [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(1), 1),
            (Duration::from_micros(1001), 2),
            (Duration::MAX, INFINITE - 1),
        ];
        for (time, expected) in cases {
            assert_eq!(whole_ms(time), expected, "{time:?}");
        }
    }

    #[test]
    fn a_post_that_fails_is_tried_again() {
        let queue = Queue::new().unwrap();
        let taken = || {
            let mut packets = [OVERLAPPED_ENTRY::default(); 2];
            queue.dequeue(&mut packets, Some(Duration::ZERO)).unwrap()
        };
        POST_FAILURES.set(POST_ATTEMPTS);
        queue.post_with_patience().unwrap();
        assert_eq!(taken(), 1);
        POST_FAILURES.set(POST_ATTEMPTS + 1);
        queue.post_with_patience().unwrap_err();
        assert_eq!((POST_FAILURES.get(), taken()), (0, 0));
    }
}
