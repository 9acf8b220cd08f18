//! What a worker's turn has for other threads: collected, and handed over once at its end, with one
//! lock and one wake-up for each thread that gets something.
//!
//! While a worker runs its turn, every order that is given on its thread goes through its outbox,
//! whoever gives it: a handler through [`Handle`], a job, the library itself. So the order in which a
//! thread gives orders is the order in which each worker gets them. On all other threads an order is
//! posted at once.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use wharf_port::{Post, PostError};

use crate::handle::{Command, Handle};

/// The way to a worker's inbox: through the outbox of the calling thread, if it has one.
pub(crate) struct Way {
    post: Post<Command>,
    /// The worker's number.
    index: usize,
    drain: Arc<AskedToDrain>,
}

/// Within how many nanoseconds a worker is asked to drain; `NOT_ASKED` if it is not. Beside the
/// inbox, because the inbox may be full.
struct AskedToDrain(AtomicU64);

const NOT_ASKED: u64 = u64::MAX;

/// What the present turn has for each worker.
pub(crate) struct Outbox {
    lanes: Vec<Lane>,
}

struct Lane {
    post: Post<Command>,
    commands: Vec<Command>,
    /// The drain that this turn has asked for, behind its commands.
    drain: Option<Duration>,
    asked: Arc<AskedToDrain>,
}

thread_local! {
    /// The outbox of the worker whose turn this thread runs.
    static CURRENT: RefCell<Option<Outbox>> = const { RefCell::new(None) };
}

impl Way {
    pub(crate) fn new(post: Post<Command>, index: usize) -> Self {
        let drain = Arc::new(AskedToDrain(AtomicU64::new(NOT_ASKED)));
        Self { post, index, drain }
    }

    /// Gives an order: at the end of the turn on a thread that runs one, otherwise now.
    ///
    /// # Errors
    /// The inbox is full, counting what this turn has for it already, or its worker is gone. What a
    /// turn has for a worker that goes before its end is dropped.
    pub(crate) fn post(&self, command: Command) -> Result<(), PostError<Command>> {
        self.with_lane(|lane| {
            let Some(lane) = lane else { return self.post.post(command) };
            if !self.post.has_room(lane.commands.len() + 1) {
                return Err(PostError::Full(command));
            }
            lane.commands.push(command);
            Ok(())
        })
    }

    /// Asks the worker to drain, behind what this turn has for it. Always possible.
    pub(crate) fn ask_to_drain(&self, within: Duration) {
        self.with_lane(|lane| match lane {
            Some(lane) => lane.drain = Some(lane.drain.map_or(within, |other| other.min(within))),
            None => self.drain.ask(within, &self.post),
        });
    }

    /// Within which time the worker is to drain, if that was asked of it since the last call.
    pub(crate) fn take_drain(&self) -> Option<Duration> {
        match self.drain.0.swap(NOT_ASKED, Ordering::Acquire) {
            NOT_ASKED => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// The lane to this worker of the turn that runs on this thread. A handle of another server may
    /// be used here, too: that has none.
    fn with_lane<R>(&self, use_it: impl FnOnce(Option<&mut Lane>) -> R) -> R {
        CURRENT.with_borrow_mut(|current| {
            let lane = current.as_mut().and_then(|outbox| outbox.lanes.get_mut(self.index));
            use_it(lane.filter(|lane| lane.post.same(&self.post)))
        })
    }

    /// Gives an order now, of which its giver must know whether it was taken.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub(crate) fn post_now(&self, command: Command) -> Result<(), PostError<Command>> {
        self.post.post(command)
    }

    /// Gives an order that has its place already, by a bound of its own. False if the worker is gone.
    pub(crate) fn post_reserved(&self, command: Command) -> bool {
        let mut commands = vec![command];
        let taken = self.post.post_all(&mut commands);
        commands.into_iter().for_each(Command::drop_guarded);
        taken
    }
}

impl AskedToDrain {
    fn ask(&self, within: Duration, post: &Post<Command>) {
        let nanos = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX).min(NOT_ASKED - 1);
        self.0.fetch_min(nanos, Ordering::Release);
        // Only to wake it: a worker whose inbox is full looks here when it empties that, and one that
        // is gone has drained.
        let _ = post.post(Command::Drain);
    }
}

/// Forgets the turn that this thread was running, if a panic has cut it off.
pub(crate) fn forget_turn() {
    CURRENT.take();
}

impl Outbox {
    pub(crate) fn new(handle: &Handle) -> Self {
        let lane = |way: &Way| Lane {
            post: way.post.clone(),
            commands: Vec::new(),
            drain: None,
            asked: Arc::clone(&way.drain),
        };
        Self { lanes: handle.0.workers.iter().map(|worker| lane(&worker.post)).collect() }
    }

    /// Begins a turn on this thread.
    pub(crate) fn enter(self) {
        let before = CURRENT.replace(Some(self));
        debug_assert!(before.is_none(), "turns do not nest");
    }

    /// Ends the turn on this thread and hands over what it had for others.
    pub(crate) fn leave() -> Self {
        let mut outbox = CURRENT.take().expect("a turn is over");
        for lane in &mut outbox.lanes {
            if !lane.commands.is_empty() && !lane.post.post_all(&mut lane.commands) {
                lane.commands.drain(..).for_each(Command::drop_guarded);
            }
            if let Some(within) = lane.drain.take() {
                lane.asked.ask(within, &lane.post);
            }
        }
        outbox
    }
}
