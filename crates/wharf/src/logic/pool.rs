//! Blocking work, on threads of its own: bounded in how much runs and in how much waits, and with a
//! result that comes back to the session as an event in order.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{event::Event, guard};
use crate::{
    error::{Result, SendError},
    handle::{Command, Handle},
    handler::{Context, SessionId},
};

/// What offloaded work goes through. The threads that turn it are `server.rs`'s, or the simulator.
pub(crate) struct Pool {
    queue: Mutex<Queue>,
    comes: Condvar,
    /// Work that waits, runs, or whose result has not been consumed.
    outstanding: AtomicUsize,
    outstanding_max: usize,
}

struct Queue {
    works: VecDeque<Work>,
    open: bool,
}

/// The work, with what is to be done with its result.
type Work = Box<dyn FnOnce() + Send>;

/// A place in the pool, held by a piece of work until its result has been consumed: a session that
/// ends meanwhile makes no room for more.
pub(crate) struct Permit(Arc<Pool>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    pub(crate) fn new(outstanding_max: usize) -> Arc<Self> {
        let queue = Mutex::new(Queue { works: VecDeque::new(), open: true });
        let outstanding = AtomicUsize::new(0);
        Arc::new(Self { queue, comes: Condvar::new(), outstanding, outstanding_max })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that may panic runs under it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(self: &Arc<Self>) -> Option<Permit> {
        let fits = |count: usize| (count < self.outstanding_max).then_some(count + 1);
        let taken = self.outstanding.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.ok().map(|_| Permit(Arc::clone(self)))
    }

    /// Whether it was taken; otherwise the pool is closed.
    fn put(&self, work: Work) -> bool {
        let mut queue = self.lock();
        if queue.open {
            queue.works.push_back(work);
            self.comes.notify_one();
        }
        queue.open
    }

    /// Runs one piece of work, if one waits.
    pub(crate) fn turn(&self) -> bool {
        let work = self.lock().works.pop_front();
        work.map(|work| work()).is_some()
    }

    /// Waits until there is work; false if there will be none any more.
    pub(crate) fn wait(&self) -> bool {
        let idle = |queue: &mut Queue| queue.open && queue.works.is_empty();
        let queue = self.comes.wait_while(self.lock(), idle);
        !queue.unwrap_or_else(PoisonError::into_inner).works.is_empty()
    }

    /// Takes no more work and drops what waits.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut queue = self.lock();
            queue.open = false;
            std::mem::take(&mut queue.works)
        };
        self.comes.notify_all();
        for work in waiting {
            guard(|| drop(work));
        }
    }

    /// Work that waits, runs, or whose result has not been consumed.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} outstanding)", self.outstanding(), self.outstanding_max)
    }
}

impl<S: 'static> Context<'_, S> {
    /// Runs `work`, which may block, on the server's pool of threads, and then `done` with its result
    /// on this session's thread, in order with its frames; the session goes on meanwhile (see
    /// [`hold`](Self::hold)). If the session is over by then, the result is dropped and counted. If
    /// `work` panics there is no result: that is logged and counted, and a session that is held then
    /// is ended with [`CloseReason::HandlerPanic`](crate::CloseReason::HandlerPanic), because nothing
    /// else would release it.
    ///
    /// # Errors
    /// [`SendError::WouldExceed`] if as much is outstanding as
    /// [`offload_queue`](crate::Builder::offload_queue) allows; [`SendError::Closed`] if the session
    /// or the server has ended.
    pub fn offload<R: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> R + Send + 'static,
        done: impl FnOnce(&mut Context<'_, S>, R) -> Result + Send + 'static,
    ) -> std::result::Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let pool = &self.handle().0.pool;
        let permit = pool.permit().ok_or(SendError::WouldExceed)?;
        let (id, handle) = (self.id(), self.handle().clone());
        let work = move || {
            let event = match guard(work) {
                Some(result) => Event::call::<S>(move |cx| {
                    // Held until here, and by the event if that is dropped instead.
                    drop(permit);
                    done(cx, result)
                }),
                None => {
                    tracing::error!(session = %id, "offloaded work panicked");
                    guard(|| drop(done));
                    Event::WorkPanicked
                }
            };
            handle.0.deliver(id, event);
        };
        if pool.put(Box::new(work)) { Ok(()) } else { Err(SendError::Closed) }
    }
}

impl crate::handle::Links {
    /// Brings an event to a session's thread. It has its place already.
    fn deliver(&self, id: SessionId, event: Event) {
        let worker = &self.workers[usize::from(id.worker())];
        // A worker that is gone has no sessions: what the event holds is dropped with it.
        worker.post.post_reserved(Command::Event { id, event });
    }
}

impl Handle {
    /// Runs `call` on this session's thread, in order with its frames. `S` is the type of its data,
    /// the handler's [`Session`](crate::Handler::Session): a call for another type is dropped, logged
    /// and counted, and so is one for a session that ends before it runs.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the session is over; [`SendError::WouldExceed`] if its thread has more
    /// to do than it may.
    pub fn call<S: 'static>(
        &self,
        id: SessionId,
        call: impl FnOnce(&mut Context<'_, S>) -> Result + Send + 'static,
    ) -> std::result::Result<(), SendError> {
        self.to_session(id, || Command::Event { id, event: Event::call::<S>(call) })
    }
}
