//! Packets from a worker to the logic, and answers back.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use wharf_examples::Counter;

/// How often a lock was taken.
pub(crate) static LOCKS: Counter = Counter::new();

/// A queue between two threads. Who produces bounds what waits: a client has a credit.
pub(crate) struct Handover<T> {
    queue: Mutex<VecDeque<T>>,
    swapped: bool,
}

impl<T> Handover<T> {
    pub(crate) fn new(swapped: bool) -> Self {
        Self { queue: Mutex::default(), swapped }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        LOCKS.add(1);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over all of `values` in order: with one lock, or with one for each.
    pub(crate) fn hand_over(&self, values: &mut VecDeque<T>) {
        if !self.swapped {
            values.drain(..).for_each(|value| self.lock().push_back(value));
        } else if !values.is_empty() {
            self.lock().append(values);
        }
    }

    /// Takes all that waits. `values` is empty: swapped, it is the queue from now on.
    pub(crate) fn take(&self, values: &mut VecDeque<T>) {
        if self.swapped {
            mem::swap(&mut *self.lock(), values);
            return;
        }
        loop {
            let Some(value) = self.lock().pop_front() else { return };
            values.push_back(value);
        }
    }
}
