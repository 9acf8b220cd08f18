//! The way to one worker, and what it shows to other threads without being asked.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use wharf_port::Post;

use super::Command;
use crate::{error::SendError, handler::SessionId, logic::Way, topic::Subscribed, watch::Watch};

/// The way to one worker, and what it shows without being asked.
pub(crate) struct WorkerLink {
    pub(crate) post: Way<Command>,
    /// By slot: the session that takes sends, and what waits for it in the inbox.
    live: Box<[Live]>,
    /// Topics that its sessions have subscribed to, or are about to.
    pub(crate) topics: Subscribed,
    /// Sessions that are open or closing.
    pub(crate) sessions: AtomicUsize,
    /// What logic threads have to know of send queues.
    pub(crate) unsent: Unsent,
    pub(crate) watch: Arc<Watch>,
}

/// What other threads see of a session.
#[derive(Default)]
struct Live {
    /// The generation of the session in this slot that takes sends, plus one, or 0 if there is none;
    /// below it, in 32 bits, the bytes that other threads have sent it and its worker has not yet
    /// taken.
    state: AtomicU64,
    /// How many bytes those may be: its hard mark.
    bytes_max: AtomicU32,
}

impl Live {
    fn alive(id: SessionId) -> u64 {
        u64::from(id.generation() + 1) << 32
    }

    fn is(state: u64, id: SessionId) -> bool {
        state & !u64::from(u32::MAX) == Self::alive(id)
    }

    /// Counts `bytes` on their way to the session.
    fn take_room(&self, id: SessionId, bytes: usize) -> Result<(), SendError> {
        let mut answer = Ok(());
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            let waiting = (state as u32 as usize).saturating_add(bytes);
            answer = if !Self::is(state, id) {
                Err(SendError::Closed)
            } else if waiting > self.bytes_max.load(Ordering::Relaxed) as usize {
                Err(SendError::WouldExceed)
            } else {
                Ok(())
            };
            answer.is_ok().then(|| state + bytes as u64)
        });
        answer
    }

    /// Takes [`take_room`](Self::take_room) back. Of a session that is over nothing is counted any
    /// more.
    fn give_back(&self, id: SessionId, bytes: usize) {
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            Self::is(state, id).then(|| state - bytes as u64)
        });
    }
}

impl WorkerLink {
    /// The link to worker number `index`.
    pub(crate) fn new(post: Post<Command>, index: usize, max_sessions: usize) -> Self {
        let post = Way::new(post, index);
        let live = (0..max_sessions).map(|_| Live::default()).collect();
        let (topics, watch) = (Subscribed::default(), Arc::default());
        Self { post, live, topics, sessions: AtomicUsize::new(0), unsent: Unsent::default(), watch }
    }

    /// With room for what logic threads have to know.
    pub(crate) fn for_logic(mut self) -> Self {
        self.unsent = Unsent::new(self.slots());
        self
    }

    /// How many sessions the worker may have.
    pub(crate) fn slots(&self) -> usize {
        self.live.len()
    }

    /// The session takes sends, of which `bytes_max` may wait in the inbox.
    pub(crate) fn set_live(&self, id: SessionId, bytes_max: usize) {
        let live = &self.live[id.slot() as usize];
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        live.bytes_max.store(bytes_max, Ordering::Relaxed);
        live.state.store(Live::alive(id), Ordering::Release);
    }

    /// The session takes no more sends.
    pub(crate) fn set_over(&self, id: SessionId) {
        self.live[id.slot() as usize].state.store(0, Ordering::Release);
    }

    pub(crate) fn is_live(&self, id: SessionId) -> bool {
        let live = self.live.get(id.slot() as usize);
        live.is_some_and(|live| Live::is(live.state.load(Ordering::Acquire), id))
    }

    /// Counts what is to be posted to a session.
    ///
    /// # Errors
    /// [`SendError::Closed`]; [`SendError::WouldExceed`] where as much as it may waits in the inbox.
    pub(crate) fn take_room(&self, to: SessionId, bytes: usize) -> Result<(), SendError> {
        self.live.get(to.slot() as usize).ok_or(SendError::Closed)?.take_room(to, bytes)
    }

    /// The worker has taken a frame out of its inbox, or was not given it.
    pub(crate) fn taken(&self, to: SessionId, bytes: usize) {
        self.live[to.slot() as usize].give_back(to, bytes);
    }
}

/// Bytes that wait to be sent, by slot of a worker, as its logic threads see them.
#[derive(Default)]
pub(crate) struct Unsent {
    /// Written by the session's logic thread, and not yet in the queue.
    on_way: Box<[AtomicU32]>,
    /// In the session's queue, when the worker looked last.
    queued: Box<[AtomicU32]>,
}

impl Unsent {
    fn new(slots: usize) -> Self {
        let zeros = || (0..slots).map(|_| AtomicU32::new(0)).collect();
        Self { on_way: zeros(), queued: zeros() }
    }

    /// What is on its way and what is queued.
    pub(crate) fn bytes(&self, id: SessionId) -> usize {
        let slot = id.slot() as usize;
        // In this order: what moves into the queue meanwhile is counted twice rather than not at all.
        let on_way = self.on_way[slot].load(Ordering::Acquire);
        on_way as usize + self.queued[slot].load(Ordering::Acquire) as usize
    }

    pub(crate) fn write(&self, id: SessionId, bytes: usize) {
        self.on_way[id.slot() as usize].fetch_add(bytes as u32, Ordering::AcqRel);
    }

    /// What was on its way has arrived.
    pub(crate) fn arrived(&self, id: SessionId, bytes: usize) {
        self.on_way[id.slot() as usize].fetch_sub(bytes as u32, Ordering::AcqRel);
    }

    /// Does nothing where there are no logic threads.
    pub(crate) fn set_queued(&self, id: SessionId, bytes: usize) {
        if let Some(queued) = self.queued.get(id.slot() as usize) {
            queued.store(u32::try_from(bytes).unwrap_or(u32::MAX), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id that a slot had last is as dead as any other once its session is over.
    #[test]
    fn the_last_id_of_a_slot_dies_too() {
        let net = wharf_port::sim::SimNet::new(1, wharf_port::sim::Faults::none());
        let port = net.open(&wharf_port::Config::default());
        let link = WorkerLink::new(wharf_port::inbox(port.waker(), 1).0, 0, 1);
        for generation in [0, 7, SessionId::GENERATION_MAX] {
            let id = SessionId::new(0, 0, generation);
            assert!(!link.is_live(id));
            link.set_live(id, 10);
            assert!(link.is_live(id));
            let live = &link.live[0];
            assert_eq!(live.take_room(id, 7), Ok(()));
            assert_eq!(live.take_room(id, 4), Err(SendError::WouldExceed));
            link.taken(id, 7);
            assert_eq!(live.take_room(id, 10), Ok(()));
            link.set_over(id);
            assert!(!link.is_live(id));
            assert_eq!(live.take_room(id, 0), Err(SendError::Closed));
            // What was on its way to it counts for nobody else.
            link.taken(id, 10);
            assert_eq!(live.state.load(Ordering::Relaxed), 0);
        }
    }
}
