//! Buffers that one thread fills and another empties: they come back to where they were taken.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where empty buffers wait for the thread that fills them.
#[derive(Debug)]
pub(crate) struct Home<T>(Mutex<Vec<T>>);

/// A buffer away from home; dropping it sends it back empty.
#[derive(Debug)]
pub(crate) struct Homed<T: Reusable> {
    /// `None` only while it is being dropped.
    value: Option<T>,
    home: Arc<Home<T>>,
}

/// What a [`Home`] keeps.
pub(crate) trait Reusable: Default {
    /// Empties it for use again; false if it has grown too large to be kept.
    fn empty(&mut self) -> bool;
}

/// A buffer that has grown beyond this is not kept.
pub(crate) const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Buffers that a home keeps: one is filled, one is on its way, one is emptied, and one to spare.
const KEPT_MAX: usize = 4;

impl<T> Default for Home<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::with_capacity(KEPT_MAX)))
    }
}

impl<T: Reusable> Home<T> {
    /// An empty buffer.
    pub(crate) fn take(self: &Arc<Self>) -> Homed<T> {
        let value = Some(self.lock().pop().unwrap_or_default());
        Homed { value, home: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Reusable> Deref for Homed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("present until dropped")
    }
}

impl<T: Reusable> DerefMut for Homed<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("present until dropped")
    }
}

impl<T: Reusable> Drop for Homed<T> {
    fn drop(&mut self) {
        let Some(mut value) = self.value.take() else { return };
        let keep = value.empty();
        let mut kept = self.home.lock();
        if keep && kept.len() < KEPT_MAX {
            kept.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Reusable for Vec<u8> {
        fn empty(&mut self) -> bool {
            self.clear();
            self.capacity() <= KEPT_BYTES_MAX
        }
    }

    #[test]
    fn buffers_come_home_empty_unless_they_have_grown_too_large() {
        let home: Arc<Home<Vec<u8>>> = Arc::default();
        let mut buffer = home.take();
        buffer.extend_from_slice(b"bytes");
        let address = buffer.as_ptr();
        drop(buffer);
        let again = home.take();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        let mut large = home.take();
        large.resize(KEPT_BYTES_MAX + 1, 0);
        drop(large);
        assert_eq!(home.take().capacity(), 0);
    }
}
