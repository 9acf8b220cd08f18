//! A thread without a port that waits for an [`inbox`](crate::inbox()): it sleeps here.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    contract::Time,
    wake::{Kick, WakeFlag, Waker},
};

/// What a thread sleeps on until something is posted to it, or until a time.
///
/// # Examples
/// ```
/// let parker = wharf_port::Parker::new();
/// let (post, mut inbox) = wharf_port::inbox(parker.waker(), 16);
/// std::thread::spawn(move || post.post("hello").unwrap());
/// let mut values = Vec::new();
/// while values.is_empty() {
///     parker.wait(None); // returns early when something is posted
///     inbox.drain(&mut values);
/// }
/// assert_eq!(values, ["hello"]);
/// ```
#[derive(Debug)]
pub struct Parker {
    flag: WakeFlag,
    bell: Arc<Bell>,
}

/// Rung once for each sleep that somebody ends.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ring(&self) {
        *self.lock() = true;
        self.rings.notify_one();
    }
}

impl Parker {
    /// One that nobody has woken.
    #[must_use]
    pub fn new() -> Self {
        Self { flag: WakeFlag::new(), bell: Arc::default() }
    }

    /// Wakes this one from other threads.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker::new(self.flag.clone(), Kick::Bell(Arc::clone(&self.bell)))
    }

    /// Sleeps until it is woken, or `timeout` passes (`None`: no limit); returns the time afterwards,
    /// on the clock of this process's ports. May return early.
    #[must_use = "the time is the next turn's"]
    pub fn wait(&self, timeout: Option<Duration>) -> Time {
        if timeout != Some(Duration::ZERO) && self.flag.prepare_sleep() {
            let rung = self.bell.lock();
            let silent = |rung: &mut bool| !*rung;
            let mut rung = match timeout {
                None => {
                    self.bell.rings.wait_while(rung, silent).unwrap_or_else(PoisonError::into_inner)
                }
                Some(timeout) => {
                    let waited = self.bell.rings.wait_timeout_while(rung, timeout, silent);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            *rung = false;
        }
        self.flag.wake_up();
        Self::now()
    }

    /// The time now.
    #[must_use]
    pub fn now() -> Time {
        crate::clock::now()
    }
}

impl Default for Parker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::inbox;

    #[test]
    fn a_sleeper_is_woken_by_a_post_and_by_its_timeout() {
        let parker = Parker::new();
        let (post, mut inbox) = inbox(parker.waker(), 4);
        let before = Parker::now();
        let after = parker.wait(Some(Duration::from_millis(5)));
        assert!(after.since(before) >= Duration::from_millis(5));
        let (asked, asks) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            for value in 0..1000 {
                asks.recv().unwrap();
                post.post(value).unwrap();
            }
        });
        let mut values = Vec::new();
        for count in 1..=1000 {
            asked.send(()).unwrap();
            while values.len() < count {
                let _ = parker.wait(None);
                inbox.drain(&mut values);
            }
        }
        assert!(values.into_iter().eq(0..1000));
        thread.join().unwrap();
    }

    #[test]
    fn a_wake_up_before_the_sleep_is_not_lost() {
        let parker = Parker::new();
        parker.waker().wake();
        let _ = parker.wait(None);
    }
}
