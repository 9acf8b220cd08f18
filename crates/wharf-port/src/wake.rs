//! Waking a port from another thread, at the price of a system call only if its thread sleeps.
//!
//! The thread says that it is about to sleep; whoever posts something says so afterwards, and only
//! the one that finds it asleep kicks. A flag of three states keeps a wake-up from being lost
//! (tested with loom, below and in `inbox.rs`).

use std::fmt;

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// Wakes one port's thread out of [`wait`](crate::CompletionPort::wait). Clone it freely.
#[derive(Clone)]
pub struct Waker {
    flag: WakeFlag,
    kick: Kick,
}

/// How a sleeping thread is woken.
#[derive(Clone)]
pub(crate) enum Kick {
    /// Nobody ever sleeps (the simulated port).
    Nothing,
    /// Write to an eventfd that the ring reads.
    #[cfg(target_os = "linux")]
    EventFd(std::sync::Arc<std::fs::File>),
    /// Its thread has no port and sleeps on this.
    #[cfg(any(unix, windows))]
    Bell(std::sync::Arc<crate::park::Bell>),
    #[cfg(unix)]
    Mio(std::sync::Arc<mio::Waker>),
    /// Post a packet of our own.
    #[cfg(windows)]
    Iocp(std::sync::Arc<crate::iocp::Queue>),
    #[cfg(all(test, loom))]
    Loom(Arc<loom::sync::Notify>),
}

impl Waker {
    pub(crate) fn new(flag: WakeFlag, kick: Kick) -> Self {
        Self { flag, kick }
    }

    /// Makes the port's present or next `wait` return early. What the caller did before is visible
    /// to the port's thread after that `wait`.
    pub fn wake(&self) {
        if self.flag.notify() && !self.kick.kick() {
            self.flag.kick_failed();
        }
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl Kick {
    /// Whether the sleeper will wake.
    fn kick(&self) -> bool {
        match self {
            Kick::Nothing => {}
            #[cfg(target_os = "linux")]
            Kick::EventFd(event) => {
                // A full counter (EAGAIN) means that a wake-up is pending already.
                let _ = std::io::Write::write(&mut &**event, &1_u64.to_ne_bytes());
            }
            #[cfg(any(unix, windows))]
            Kick::Bell(bell) => bell.ring(),
            #[cfg(unix)]
            Kick::Mio(waker) => {
                if let Err(error) = waker.wake() {
                    tracing::error!(%error, "a port could not be woken");
                    return false;
                }
            }
            #[cfg(windows)]
            Kick::Iocp(queue) => {
                if let Err(error) = queue.post_with_patience() {
                    tracing::error!(%error, "a port could not be woken");
                    return false;
                }
            }
            #[cfg(all(test, loom))]
            Kick::Loom(notify) => notify.notify(),
        }
        true
    }
}

/// Awake, asleep, or to be woken. A clone is the same flag.
#[derive(Clone, Debug)]
pub(crate) struct WakeFlag {
    state: Arc<AtomicU8>,
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const NOTIFIED: u8 = 2;

impl WakeFlag {
    pub(crate) fn new() -> Self {
        Self { state: Arc::new(AtomicU8::new(AWAKE)) }
    }

    /// Asks for a wake-up; true if the thread sleeps and the caller has to kick it.
    #[inline]
    fn notify(&self) -> bool {
        self.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP
    }

    /// The kick failed: the thread may still sleep, and whoever asks next has to kick again. If it
    /// has woken up meanwhile this costs a kick too many.
    #[cold]
    fn kick_failed(&self) {
        let _ = self.state.compare_exchange(NOTIFIED, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Called by the port's thread before it blocks; false if it must not, because a wake-up has
    /// been asked for.
    #[inline]
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether a wake-up has been asked for; for a thread that looks for work before it sleeps.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn is_notified(&self) -> bool {
        self.state.load(Ordering::Acquire) == NOTIFIED
    }

    /// Called by the port's thread after it has waited, whether it slept or not.
    #[inline]
    pub(crate) fn wake_up(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_notification_of_a_sleeper_kicks() {
        let flag = WakeFlag::new();
        assert!(!flag.notify(), "awake: no kick");
        assert!(!flag.prepare_sleep(), "notified: no sleep");
        flag.wake_up();
        assert!(flag.prepare_sleep());
        assert_eq!((flag.notify(), flag.notify()), (true, false));
    }

    #[test]
    fn after_a_kick_that_failed_the_next_notification_kicks_again() {
        let flag = WakeFlag::new();
        assert!(flag.prepare_sleep());
        assert!(flag.notify());
        flag.kick_failed();
        assert!(flag.notify(), "still asleep");
        flag.kick_failed();
        flag.wake_up();
        assert!(flag.prepare_sleep(), "and a thread that woke by itself can sleep again");
    }
}
