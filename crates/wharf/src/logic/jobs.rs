//! Keyed jobs: closures that run on the thread which owns their key, one after the other.
//!
//! A key stands for something that sessions share: a room, a match, an account. Its jobs never
//! overlap, and those of one poster run in the order in which it posted them, so that what they touch
//! needs no lock. Rooms are built on it.

use std::{any::Any, collections::BTreeMap};

use wharf_port::Time;

use super::{
    guard,
    runner::Order,
    timed::{Timed, Waiting},
};
use crate::{
    connector::next_random,
    error::SendError,
    handle::{Command, Handle, Links, refusal},
    handler::Context,
    session::Shared,
    watch::Doing,
};

/// A closure on its way to the thread that owns its key.
pub(crate) struct Posted {
    pub(super) key: u64,
    pub(super) work: Work,
}

pub(super) enum Work {
    Now(Box<dyn FnOnce(&mut Job<'_>) + Send>),
    Later(Box<Timed>),
    /// Takes back the one of this number that waits for its time.
    Cancel(u64),
}

impl Posted {
    /// Drops it where it cannot be run; what it holds is the user's, and may panic.
    pub(crate) fn drop_guarded(self) {
        guard(|| drop(self));
    }
}

/// What a job can do, and the state of its key.
///
/// A job must not block, as a handler must not.
pub struct Job<'a> {
    key: u64,
    now: Time,
    handle: &'a Handle,
    state: &'a mut KeyState,
    stops: bool,
}

impl Job<'_> {
    /// The key that it was posted for.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The time of this turn, on the workers' clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Reaches sessions and the server. What a job sends is handed over when the thread has run what
    /// it had to, in the order in which it was sent.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.handle
    }

    /// The key's own state, made when it is first asked for, and seen by jobs of this key alone. It
    /// stays until [`clear`](Self::clear), also after a job that panicked: as that job left it.
    pub fn state<T: Default + 'static>(&mut self) -> &mut T {
        self.split().0
    }

    /// The key's state, and the handle beside it, for use at one time.
    pub fn split<T: Default + 'static>(&mut self) -> (&mut T, &Handle) {
        let values = &mut self.state.0;
        let index = values.iter().position(|value| value.is::<T>()).unwrap_or_else(|| {
            values.push(Box::<T>::default());
            values.len() - 1
        });
        (values[index].downcast_mut().expect("found by its type"), self.handle)
    }

    /// Drops the key's state: the next job begins with a fresh one. A key without state costs
    /// nothing.
    pub fn clear(&mut self) {
        self.state.0.clear();
    }

    /// Ends the repetition that this run is part of ([`Handle::post_every`]); does nothing in a job that
    /// runs once.
    pub fn stop(&mut self) {
        self.stops = true;
    }

    /// Posts another job, for this key or any other, behind all that has been posted for it so far.
    ///
    /// # Errors
    /// As for [`Handle::post`].
    pub fn post(
        &self,
        key: u64,
        job: impl FnOnce(&mut Job<'_>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.handle.post(key, job)
    }
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({})", self.key)
    }
}

impl Handle {
    /// Runs `job` on the thread that owns `key`. Jobs of one key never overlap, and those of one
    /// poster run in the order in which it posted them.
    ///
    /// # Errors
    /// [`SendError::WouldExceed`] if that thread has more to do than it may;
    /// [`SendError::Closed`] if the server has ended.
    pub fn post(
        &self,
        key: u64,
        job: impl FnOnce(&mut Job<'_>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.0.post_job(Posted { key, work: Work::Now(Box::new(job)) })
    }
}

impl<S> Context<'_, S> {
    /// As [`Handle::post`].
    ///
    /// # Errors
    /// As for [`Handle::post`].
    pub fn post(
        &self,
        key: u64,
        job: impl FnOnce(&mut Job<'_>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.handle().post(key, job)
    }
}

impl Links {
    pub(super) fn post_job(&self, posted: Posted) -> Result<(), SendError> {
        if self.runners.is_empty() {
            let worker = &self.workers[owner(posted.key, self.workers.len())];
            worker.post.post(Command::Job(posted)).map_err(refusal)
        } else {
            let runner = &self.runners[owner(posted.key, self.runners.len())];
            runner.post.post(Order::Job(posted)).map_err(refusal)
        }
    }

    /// As [`post_job`](Self::post_job), for what has its place already, by a bound of its own.
    pub(super) fn post_job_reserved(&self, posted: Posted) {
        if self.runners.is_empty() {
            let worker = &self.workers[owner(posted.key, self.workers.len())];
            worker.post.post_reserved(Command::Job(posted));
        } else {
            let runner = &self.runners[owner(posted.key, self.runners.len())];
            runner.post.post_reserved(Order::Job(posted));
        }
    }
}

/// Which of `owners` threads runs the jobs of this key. Keys are counted up by some and made of bits
/// by others: either way they spread.
fn owner(key: u64, owners: usize) -> usize {
    let mut mixed = key;
    (next_random(&mut mixed) % owners as u64) as usize
}

/// The jobs of one thread: the state of the keys that it owns, and what waits for its time.
#[derive(Default)]
pub(crate) struct Jobs {
    states: BTreeMap<u64, KeyState>,
    pub(super) waiting: Waiting,
}

/// At most one value of each type.
#[derive(Default)]
struct KeyState(Vec<Box<dyn Any>>);

impl Jobs {
    /// Does what was posted.
    pub(crate) fn run(&mut self, posted: Posted, shared: &mut Shared) {
        match posted.work {
            Work::Now(job) => _ = self.run_one(posted.key, shared, job),
            Work::Later(timed) => self.wait(posted.key, timed, shared),
            Work::Cancel(number) => self.cancel(number, shared),
        }
    }

    /// Runs one job; whether it may come again. A panic ends it and nothing else.
    pub(super) fn run_one(
        &mut self,
        key: u64,
        shared: &mut Shared,
        job: impl FnOnce(&mut Job<'_>),
    ) -> bool {
        let Shared { now, handle, stats, watch, .. } = shared;
        stats.jobs += 1;
        watch.begin(Doing::Job, key);
        let state = self.states.entry(key).or_default();
        let ran = guard(|| {
            let mut cx = Job { key, now: *now, handle, state, stops: false };
            job(&mut cx);
            !cx.stops
        });
        watch.end();
        if ran.is_none() {
            stats.job_panics += 1;
            tracing::error!(key, "a job panicked");
        }
        if state.0.is_empty() {
            self.states.remove(&key);
        }
        ran.unwrap_or(false)
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        guard(|| drop(std::mem::take(&mut self.waiting)));
        for state in std::mem::take(&mut self.states).into_values() {
            guard(|| drop(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_their_owners_whatever_they_are_made_of() {
        for step in [1, 2, 4, 1 << 32] {
            let mut counts = [0; 4];
            (0..1000).for_each(|n| counts[owner(n * step, 4)] += 1);
            assert!(counts.iter().all(|count| (150..400).contains(count)), "{step}: {counts:?}");
        }
    }
}
