//! What a turn has for other threads: collected, and handed over once at its end, with one lock and
//! one wake-up for each thread that gets something. What it has for its own worker, that does in the same
//! turn.
//!
//! While a worker or a logic thread runs its turn, every order that is given on its thread goes through
//! its outbox, whoever gives it: a handler through [`Handle`] or its context, a job, the library itself.
//! So the order in which a thread gives orders is the order in which each of the others gets them. On
//! all other threads an order is posted at once.

use std::{
    cell::RefCell,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use wharf_port::{Inbox, Post, PostError};

use super::{guard, runner::Order};
use crate::{
    framing::{Framing, FramingError, Packet},
    handle::{Command, Handle},
    handler::SessionId,
};

/// The way to the inbox of a worker or a logic thread: through the outbox of the calling thread, if it
/// has one.
pub(crate) struct Way<T> {
    post: Post<T>,
    /// The number of the worker, or of the logic thread.
    index: usize,
    drain: Arc<AskedToDrain>,
}

/// Within how many nanoseconds a worker is asked to drain; `NOT_ASKED` if it is not. Beside the
/// inbox, because the inbox may be full.
struct AskedToDrain(AtomicU64);

const NOT_ASKED: u64 = u64::MAX;

/// What an outbox has lanes for.
pub(crate) trait Parcel: Sized {
    fn lanes(outbox: &mut Outbox) -> &mut [Lane<Self>];
    /// Its bytes are further on by so many.
    fn shift(&mut self, by: usize);
    /// Drops it where nobody takes it; what it holds may be the user's, and panic.
    fn drop_guarded(self);
}

impl Parcel for Command {
    fn lanes(outbox: &mut Outbox) -> &mut [Lane<Self>] {
        &mut outbox.workers
    }

    fn shift(&mut self, by: usize) {
        if let Command::Send { bytes, .. } | Command::Encoded { bytes, .. } = self {
            *bytes = bytes.start + by..bytes.end + by;
        }
    }

    fn drop_guarded(self) {
        match self {
            Command::Event { event, .. } => event.drop_guarded(),
            Command::Job(posted) => posted.drop_guarded(),
            Command::Broadcast { filter, .. } => _ = guard(|| drop(filter)),
            other => drop(other),
        }
    }
}

impl Parcel for Order {
    fn lanes(outbox: &mut Outbox) -> &mut [Lane<Self>] {
        &mut outbox.runners
    }

    fn shift(&mut self, _: usize) {}

    fn drop_guarded(self) {
        match self {
            Order::Job(posted) => posted.drop_guarded(),
            other => drop(other),
        }
    }
}

/// What the present turn has for each thread.
pub(crate) struct Outbox {
    workers: Vec<Lane<Command>>,
    runners: Vec<Lane<Order>>,
    /// This turn has something for somebody.
    used: bool,
}

pub(crate) struct Lane<T> {
    post: Post<T>,
    parcels: Vec<T>,
    /// Those that the parcels speak of.
    bytes: Vec<u8>,
    /// The drain that this turn has asked for, behind its parcels.
    drain: Option<Duration>,
    asked: Arc<AskedToDrain>,
}

thread_local! {
    /// The outbox of the turn that this thread runs.
    static CURRENT: RefCell<Option<Box<Outbox>>> = const { RefCell::new(None) };
}

impl<T: Parcel> Way<T> {
    pub(crate) fn new(post: Post<T>, index: usize) -> Self {
        let drain = Arc::new(AskedToDrain(AtomicU64::new(NOT_ASKED)));
        Self { post, index, drain }
    }

    /// Gives an order: at the end of the turn on a thread that runs one, otherwise now.
    ///
    /// # Errors
    /// The inbox is full, counting what this turn has for it already, or its thread is gone. What a
    /// turn has for a thread that goes before its end is dropped.
    pub(crate) fn post(&self, parcel: T) -> Result<(), PostError<T>> {
        self.with_lane(|lane| {
            let Some(lane) = lane else { return self.post.post(parcel) };
            if !self.post.has_room(lane.parcels.len() + 1) {
                return Err(PostError::Full(parcel));
            }
            lane.parcels.push(parcel);
            Ok(())
        })
    }

    /// As [`post`](Self::post), with bytes beside the order; `make` is told where they begin.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub(crate) fn post_with(
        &self,
        bytes: &[u8],
        make: impl FnOnce(usize) -> T,
    ) -> Result<(), PostError<()>> {
        self.with_lane(|lane| {
            let Some(lane) = lane else { return self.post.post_with(bytes, make) };
            if !self.post.has_room(lane.parcels.len() + 1) {
                return Err(PostError::Full(()));
            }
            lane.parcels.push(make(lane.bytes.len()));
            lane.bytes.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// Gives an order now, of which its giver must know whether it was taken.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub(crate) fn post_now(&self, parcel: T) -> Result<(), PostError<T>> {
        self.post.post(parcel)
    }

    /// Gives an order that has its place already, by a bound of its own: at the end of the turn on a
    /// thread that runs one, otherwise now. It is dropped if the thread is gone.
    pub(crate) fn post_reserved(&self, parcel: T) {
        let refused = self.with_lane(|lane| match lane {
            Some(lane) => {
                lane.parcels.push(parcel);
                None
            }
            None => self.post.post_reserved(parcel).err(),
        });
        if let Some(PostError::Closed(parcel) | PostError::Full(parcel)) = refused {
            parcel.drop_guarded();
        }
    }

    /// The lane to this thread of the turn that runs here. A handle of another server may be used,
    /// too: that has none.
    fn with_lane<R>(&self, use_it: impl FnOnce(Option<&mut Lane<T>>) -> R) -> R {
        CURRENT.with_borrow_mut(|current| {
            let lane = current.as_mut().and_then(|outbox| {
                outbox.used = true;
                T::lanes(outbox).get_mut(self.index)
            });
            use_it(lane.filter(|lane| lane.post.same(&self.post)))
        })
    }

    fn lane(&self) -> Lane<T> {
        let (post, asked) = (self.post.clone(), Arc::clone(&self.drain));
        Lane { post, parcels: Vec::new(), bytes: Vec::new(), drain: None, asked }
    }
}

impl Way<Command> {
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

    /// Encodes a frame for a session of this worker, on a logic thread: how many bytes it is long, or
    /// `None` if the worker has more to do than it may. Frames that follow each other on one session
    /// cost one order.
    pub(crate) fn write(
        &self,
        to: SessionId,
        framing: &dyn Framing,
        packet: Packet<'_>,
    ) -> Result<Option<usize>, FramingError> {
        CURRENT.with_borrow_mut(|current| {
            let outbox = current.as_mut().expect("a handler is called in a turn");
            outbox.used = true;
            let Lane { parcels, bytes, .. } = &mut outbox.workers[self.index];
            if !self.post.has_room(parcels.len() + 1) {
                return Ok(None);
            }
            let start = bytes.len();
            let room = framing.encoded_len(packet.body.len());
            bytes.resize(start + room, 0);
            let len = framing.encode(packet, &mut bytes[start..]);
            let len = len
                .and_then(|len| if len > room { Err(FramingError::OutOfBounds) } else { Ok(len) });
            bytes.truncate(start + *len.as_ref().unwrap_or(&0));
            let len = len?;
            match parcels.last_mut() {
                Some(Command::Encoded { to: last, bytes, frames })
                    if *last == to && bytes.end == start =>
                {
                    bytes.end += len;
                    *frames += 1;
                }
                _ => parcels.push(Command::Encoded { to, bytes: start..start + len, frames: 1 }),
            }
            Ok(Some(len))
        })
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

impl<T: Parcel> Lane<T> {
    fn hand_over(&mut self) {
        if !self.post.post_all_with(&mut self.parcels, &mut self.bytes, T::shift) {
            self.parcels.drain(..).for_each(T::drop_guarded);
            self.bytes.clear();
        }
    }
}

/// Forgets the turn that this thread was running, if a panic has cut it off.
pub(crate) fn forget_turn() {
    CURRENT.take();
}

impl Outbox {
    /// Boxed, so that a turn moves a pointer in and out.
    pub(crate) fn new(handle: &Handle) -> Box<Self> {
        let links = &handle.0;
        Box::new(Self {
            workers: links.workers.iter().map(|worker| worker.post.lane()).collect(),
            runners: links.runners.iter().map(|runner| runner.post.lane()).collect(),
            used: false,
        })
    }

    /// Begins a turn on this thread.
    pub(crate) fn enter(self: Box<Self>) {
        let before = CURRENT.replace(Some(self));
        assert!(before.is_none(), "turns do not nest");
        // Nothing; dropping that would be a call.
        mem::forget(before);
    }

    /// Whether the turn of this thread has something for somebody.
    #[inline]
    pub(crate) fn is_used() -> bool {
        CURRENT.with_borrow(|current| current.as_ref().is_some_and(|outbox| outbox.used))
    }

    /// Gives worker `index`, whose inbox this is and whose turn the thread runs, what that turn has for it
    /// so far, behind what others have posted; whether that was something.
    pub(crate) fn deliver_to_own(index: usize, inbox: &mut Inbox<Command>) -> bool {
        CURRENT.with_borrow_mut(|current| {
            let outbox = current.as_mut().expect("a turn is run");
            let lane = &mut outbox.workers[index];
            // What a closed inbox does not take is dropped at the end of the turn.
            !lane.parcels.is_empty()
                && inbox.add_all_with(&mut lane.parcels, &mut lane.bytes, Command::shift)
        })
    }

    /// Ends the turn on this thread and hands over what it had for others.
    pub(crate) fn leave() -> Box<Self> {
        let mut outbox = CURRENT.take().expect("a turn is over");
        if mem::take(&mut outbox.used) {
            outbox.hand_over();
        }
        outbox
    }

    fn hand_over(&mut self) {
        for lane in &mut self.workers {
            lane.hand_over();
            if let Some(within) = lane.drain.take() {
                lane.asked.ask(within, &lane.post);
            }
        }
        self.runners.iter_mut().for_each(Lane::hand_over);
    }
}
