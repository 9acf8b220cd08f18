//! A bounded queue of values from other threads to a port's thread, which is woken for them.
//!
//! The port's thread takes everything at once by swapping two vectors, so that nobody works on the
//! values while holding the lock, and it looks at the lock only where something waits. What a value has
//! to say in bytes goes beside it, behind the bytes of the others, and is swapped with them: so it costs
//! no allocation.

use std::{fmt, mem};

#[cfg(loom)]
use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use crate::wake::Waker;

/// Makes a queue of at most `capacity` values whose receiver is the thread that `waker` wakes.
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut port = wharf_port::open(&wharf_port::Config::default())?;
/// let (post, mut inbox) = wharf_port::inbox(port.waker(), 16);
/// std::thread::spawn(move || post.post("hello").unwrap());
/// let (mut done, mut values) = (Vec::new(), Vec::new());
/// while values.is_empty() {
///     port.wait(None, &mut done)?; // returns early when something is posted
///     inbox.drain(&mut values);
/// }
/// assert_eq!(values, ["hello"]);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn inbox<T>(waker: Waker, capacity: usize) -> (Post<T>, Inbox<T>) {
    let queue = Mutex::new(Queue { values: Vec::new(), bytes: Vec::new(), open: true });
    let shared = Arc::new(Shared { queue, waiting: AtomicUsize::new(0), capacity, waker });
    (Post(Arc::clone(&shared)), Inbox(shared))
}

/// The sending end of an [`inbox`]; clone it freely.
pub struct Post<T>(Arc<Shared<T>>);

/// The receiving end of an [`inbox`].
pub struct Inbox<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    waiting: AtomicUsize,
    capacity: usize,
    waker: Waker,
}

struct Queue<T> {
    values: Vec<T>,
    /// Those that the values speak of.
    bytes: Vec<u8>,
    open: bool,
}

/// Why a value was not posted; gives it back.
#[derive(Debug, PartialEq, Eq)]
pub enum PostError<T> {
    /// `capacity` values wait already.
    Full(T),
    /// The receiving end is gone.
    Closed(T),
}

impl<T> fmt::Display for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "the inbox is full",
            PostError::Closed(_) => "the inbox's port is gone",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for PostError<T> {}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // The lock is held for a push, a copy or a swap only: there is no half-done state to fear.
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes all of `values` behind those that wait; false if the receiving end is gone.
    fn take_all_with(
        &self,
        values: &mut Vec<T>,
        bytes: &mut Vec<u8>,
        shift: impl Fn(&mut T, usize),
    ) -> bool {
        if values.is_empty() {
            return true;
        }
        let mut queue = self.lock();
        if !queue.open {
            return false;
        }
        if queue.values.is_empty() {
            mem::swap(&mut queue.values, values);
            mem::swap(&mut queue.bytes, bytes);
        } else {
            let by = queue.bytes.len();
            values.iter_mut().filter(|_| by > 0).for_each(|value| shift(value, by));
            queue.values.append(values);
            queue.bytes.append(bytes);
        }
        self.waiting.store(queue.values.len(), Ordering::Release);
        true
    }
}

impl<T> Post<T> {
    /// Puts a value into the queue and wakes the receiver.
    ///
    /// # Errors
    /// [`PostError::Full`] or [`PostError::Closed`], with the value.
    pub fn post(&self, value: T) -> Result<(), PostError<T>> {
        self.post_within(self.0.capacity, value)
    }

    /// As [`post`](Self::post), with bytes beside the value, which `make` makes when it is told where
    /// they begin in what [`Inbox::drain_with`] gives.
    ///
    /// # Errors
    /// As for [`post`](Self::post), without a value.
    pub fn post_with(
        &self,
        bytes: &[u8],
        make: impl FnOnce(usize) -> T,
    ) -> Result<(), PostError<()>> {
        {
            let mut queue = self.0.lock();
            if !queue.open {
                return Err(PostError::Closed(()));
            }
            if queue.values.len() >= self.0.capacity {
                return Err(PostError::Full(()));
            }
            let start = queue.bytes.len();
            queue.values.push(make(start));
            queue.bytes.extend_from_slice(bytes);
            self.0.waiting.store(queue.values.len(), Ordering::Release);
        }
        self.0.waker.wake();
        Ok(())
    }

    /// As [`post`](Self::post), also beyond the capacity: for a value that has its place already, by a
    /// bound of its own.
    ///
    /// # Errors
    /// [`PostError::Closed`], with the value.
    pub fn post_reserved(&self, value: T) -> Result<(), PostError<T>> {
        self.post_within(usize::MAX, value)
    }

    fn post_within(&self, capacity: usize, value: T) -> Result<(), PostError<T>> {
        {
            let mut queue = self.0.lock();
            if !queue.open {
                return Err(PostError::Closed(value));
            }
            if queue.values.len() >= capacity {
                return Err(PostError::Full(value));
            }
            queue.values.push(value);
            self.0.waiting.store(queue.values.len(), Ordering::Release);
        }
        self.0.waker.wake();
        Ok(())
    }
}

impl<T> Post<T> {
    /// Puts all of `values` into the queue, in order, with one lock and one wake-up, also beyond the
    /// capacity: for a sender that asked [`has_room`](Self::has_room) before it collected them, or
    /// that has a bound of its own. False if the receiving end is gone; `values` stays as it was then.
    pub fn post_all(&self, values: &mut Vec<T>) -> bool {
        self.post_all_with(values, &mut Vec::new(), |_, _| {})
    }

    /// As [`post_all`](Self::post_all), with the bytes that the values speak of. Where others wait already,
    /// `shift` tells each value by how much further on its bytes are.
    pub fn post_all_with(
        &self,
        values: &mut Vec<T>,
        bytes: &mut Vec<u8>,
        shift: impl Fn(&mut T, usize),
    ) -> bool {
        let taken = self.0.take_all_with(values, bytes, shift);
        if taken {
            self.0.waker.wake();
        }
        taken
    }

    /// Whether `values` more would fit at present.
    #[must_use]
    pub fn has_room(&self, values: usize) -> bool {
        self.0.waiting.load(Ordering::Relaxed).saturating_add(values) <= self.0.capacity
    }

    /// Whether both lead to the same inbox.
    #[must_use]
    pub fn same(&self, other: &Post<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Inbox<T> {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire) == 0
    }

    /// Moves everything that waits behind `values`, in the order in which it was posted, and drops bytes
    /// that came with it.
    pub fn drain(&mut self, values: &mut Vec<T>) {
        if self.is_empty() {
            return;
        }
        let mut queue = self.0.lock();
        self.0.waiting.store(0, Ordering::Release);
        queue.bytes.clear();
        if values.is_empty() {
            mem::swap(&mut queue.values, values);
        } else {
            values.append(&mut queue.values);
        }
    }

    /// Moves everything that waits into `values`, in the order in which it was posted, and the bytes that
    /// came with it into `bytes`. Both keep their room for what is posted meanwhile.
    ///
    /// # Panics
    /// One of the two is not empty: the values would speak of other bytes.
    pub fn drain_with(&mut self, values: &mut Vec<T>, bytes: &mut Vec<u8>) {
        assert!(values.is_empty() && bytes.is_empty(), "what was drained before is still there");
        if self.is_empty() {
            return;
        }
        let mut queue = self.0.lock();
        self.0.waiting.store(0, Ordering::Release);
        mem::swap(&mut queue.values, values);
        mem::swap(&mut queue.bytes, bytes);
    }

    /// As [`Post::post_all_with`], on the receiver's own thread, which is awake.
    pub fn add_all_with(
        &mut self,
        values: &mut Vec<T>,
        bytes: &mut Vec<u8>,
        shift: impl Fn(&mut T, usize),
    ) -> bool {
        self.0.take_all_with(values, bytes, shift)
    }

    /// Takes no more values. What a poster was told is posted can still be drained, or was before.
    pub fn close(&mut self) {
        self.0.lock().open = false;
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let left = {
            let mut queue = self.0.lock();
            queue.open = false;
            mem::take(&mut queue.values)
        };
        drop(left);
    }
}

impl<T> fmt::Debug for Post<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Post")
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} waiting)", self.0.waiting.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::wake::{Kick, WakeFlag};

    fn waker() -> Waker {
        Waker::new(WakeFlag::new(), Kick::Nothing)
    }

    #[test]
    fn values_come_in_order_and_never_more_than_fit() {
        let (post, mut inbox) = inbox(waker(), 2);
        assert_eq!(
            [post.post(1), post.post(2), post.post(3)],
            [Ok(()), Ok(()), Err(PostError::Full(3))]
        );
        let mut values = vec![0];
        inbox.drain(&mut values);
        assert_eq!(values, [0, 1, 2]);
        post.post(4).unwrap();
        values.clear();
        inbox.drain(&mut values);
        assert_eq!(values, [4]);
    }

    #[test]
    fn many_values_are_posted_at_once_behind_those_that_wait() {
        let (post, mut inbox) = inbox(waker(), 2);
        assert!(post.has_room(2) && !post.has_room(3));
        post.post(1).unwrap();
        assert!(post.has_room(1) && !post.has_room(2));
        let mut several = vec![2, 3];
        assert!(post.post_all(&mut several) && several.is_empty(), "beyond the capacity");
        assert_eq!(post.post(4), Err(PostError::Full(4)));
        post.post_reserved(4).unwrap();
        let mut values = Vec::new();
        inbox.drain(&mut values);
        assert_eq!(values, [1, 2, 3, 4]);
        assert!(post.post_all(&mut values), "the queue was empty");
        inbox.close();
        inbox.drain(&mut several);
        assert_eq!(several, [1, 2, 3, 4]);
        assert_eq!(post.post_reserved(5), Err(PostError::Closed(5)));
        assert!(!post.post_all(&mut several));
        assert_eq!(several, [1, 2, 3, 4], "nobody takes them");
    }

    #[test]
    fn closing_takes_what_waits_and_refuses_the_rest() {
        let (post, mut inbox) = inbox(waker(), 2);
        post.post(1).unwrap();
        let mut values = vec![0];
        inbox.close();
        assert_eq!((post.post(2), inbox.is_empty()), (Err(PostError::Closed(2)), false));
        inbox.drain(&mut values);
        assert_eq!((values, inbox.is_empty()), (vec![0, 1], true));
    }

    /// However they were posted, values speak of their own bytes.
    #[test]
    fn bytes_come_beside_their_values() {
        type Value = std::ops::Range<usize>;
        let (post, mut inbox) = inbox::<Value>(waker(), 3);
        let shift = |value: &mut Value, by| *value = value.start + by..value.end + by;
        let one = |word: &'static str| post.post_with(word.as_bytes(), |at| at..at + word.len());
        let both = || post.post_all_with(&mut vec![0..3, 3..4], &mut b"andx".to_vec(), shift);
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for first in [true, false] {
            if first {
                assert!(both());
            }
            assert_eq!(one("one"), Ok(()));
            if !first {
                assert!(both());
            }
            assert_eq!(one("more"), Err(PostError::Full(())));
            inbox.drain_with(&mut values, &mut bytes);
            let mut words: Vec<_> = values.drain(..).map(|value| &bytes[value]).collect();
            words.sort_unstable();
            assert_eq!(words, [&b"and"[..], b"one", b"x"]);
            bytes.clear();
        }
        assert_eq!(one("one"), Ok(()));
        assert!(inbox.add_all_with(&mut vec![0..3, 3..4], &mut b"andx".to_vec(), shift));
        inbox.drain_with(&mut values, &mut bytes);
        assert_eq!((&values[..], &bytes[..]), (&[0..3, 3..6, 6..7][..], &b"oneandx"[..]));
        values.clear();
        bytes.clear();
        inbox.close();
        assert_eq!(one("late"), Err(PostError::Closed(())));
        assert!(!both() && !inbox.add_all_with(&mut vec![0..0, 0..0], &mut Vec::new(), shift));
        inbox.drain_with(&mut values, &mut bytes);
        assert!(values.is_empty() && bytes.is_empty());
    }

    #[test]
    fn posting_to_a_dropped_inbox_gives_the_value_back_and_waiting_values_are_dropped() {
        let (post, inbox) = inbox(waker(), 2);
        let value = std::sync::Arc::new(());
        post.post(std::sync::Arc::clone(&value)).unwrap();
        drop(inbox);
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
        assert_eq!(post.post(value), Err(PostError::Closed(std::sync::Arc::new(()))));
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p wharf-port --lib --release loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::wake::{Kick, WakeFlag};
    use loom::{sync::Notify, thread};

    /// Every order of two posters and a sleeping receiver: nothing is lost and nobody sleeps for
    /// ever (loom reports that as a deadlock).
    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let flag = WakeFlag::new();
            let sleep = Arc::new(Notify::new());
            let waker = Waker::new(flag.clone(), Kick::Loom(Arc::clone(&sleep)));
            let (post, mut inbox) = inbox(waker, 4);
            let posters: Vec<_> = [1, 2]
                .into_iter()
                .map(|value| {
                    let post = post.clone();
                    thread::spawn(move || post.post(value).unwrap())
                })
                .collect();
            let mut values = Vec::new();
            while values.len() < 2 {
                if flag.prepare_sleep() {
                    sleep.wait();
                }
                flag.wake_up();
                inbox.drain(&mut values);
            }
            values.sort_unstable();
            assert_eq!(values, [1, 2]);
            posters.into_iter().for_each(|poster| poster.join().unwrap());
        });
    }

    /// One poster hands over two values at once while the receiver sleeps or is about to.
    #[test]
    fn loom_a_batch_wakes_and_keeps_its_order() {
        loom::model(|| {
            let flag = WakeFlag::new();
            let sleep = Arc::new(Notify::new());
            let waker = Waker::new(flag.clone(), Kick::Loom(Arc::clone(&sleep)));
            let (post, mut inbox) = inbox(waker, 1);
            let poster = thread::spawn(move || assert!(post.post_all(&mut vec![1, 2])));
            let mut values = Vec::new();
            while values.len() < 2 {
                if flag.prepare_sleep() {
                    sleep.wait();
                }
                flag.wake_up();
                inbox.drain(&mut values);
            }
            assert_eq!(values, [1, 2]);
            poster.join().unwrap();
        });
    }

    /// The receiver goes away while a poster posts: the value is refused or dropped, never leaked.
    #[test]
    fn loom_closing_races_with_posting() {
        loom::model(|| {
            let waker = Waker::new(WakeFlag::new(), Kick::Nothing);
            let (post, inbox) = inbox(waker, 4);
            let value = Arc::new(());
            let theirs = Arc::clone(&value);
            let poster = thread::spawn(move || drop(post.post(theirs)));
            drop(inbox);
            poster.join().unwrap();
            assert_eq!(Arc::strong_count(&value), 1);
        });
    }
}
