//! One connection's state: what is in flight, what waits, and how far it is on its way to the end.
//!
//! A session is `Connecting`, then `Open`. It ends in steps that depend on why: a close goes through
//! `Flushing` (what is queued is sent, then the stream is ended) and `Lingering` (what the peer still
//! sends is read and thrown away, because closing with unread input would reset the connection and
//! destroy answers on their way); an abort skips both. Every end goes through `Joining`: the socket
//! is closed only when nothing is in flight on it.

mod deadline;
mod heartbeat;
mod meter;
mod receive;

use std::{collections::VecDeque, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use wharf_port::{BufferPool, Close, FrameBuf, Gather, Socket, Time};

use crate::{
    framing::{Framing, Need},
    handle::Handle,
    handler::{CloseReason, SessionId},
    handler_times::{Clock, Stopwatch},
    limits::Limits,
    log_limit::LogLimit,
    logic::Lanes,
    metrics::Stats,
    send_queue::SendQueue,
    sending::{HeldBack, Sending},
    timer::{TimerId, Wheel},
    topic::{Membership, Part, Topics},
    watch::Watch,
};

pub(crate) use self::{
    deadline::Due,
    heartbeat::Heartbeat,
    meter::Meter,
    receive::{Hold, Receiving, Round},
};

/// One connection.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddr,
    pub(crate) opened: Time,
    pub(crate) limits: Arc<Limits>,
    pub(crate) queue: SendQueue,
    pub(crate) receiving: Receiving,
    /// The start of a frame whose rest has not arrived.
    pub(crate) unread: Option<Unread>,
    /// When the send that is in flight was started.
    pub(crate) send_started: Time,
    /// Since when the send queue is above its soft mark, if it is.
    pub(crate) above_since: Time,
    pub(crate) is_above: bool,
    pub(crate) sending: Sending,
    /// In the list of those who wait for the next flush of their interval.
    pub(crate) held_back: bool,
    /// What waits leaves without waiting for that flush.
    pub(crate) flushing: bool,
    /// What arrived while frames were held back; boxed because most sessions never are.
    pub(crate) kept_back: Option<Box<FrameBuf>>,
    /// What is measured of sessions with a rate, and of strangers.
    pub(crate) meter: Option<Box<Meter>>,
    /// Boxed because most sessions have none.
    pub(crate) heartbeat: Option<Box<Heartbeat>>,
    /// `None` when no deadline is running.
    deadline: Option<TimerId>,
    /// The handler's timers; the box is made when the first is set.
    #[expect(
        clippy::box_collection,
        reason = "most sessions set none, and then it is 8 bytes, not 24"
    )]
    user_timers: Option<Box<Vec<(u64, TimerId)>>>,
    /// The topics that it has subscribed to; the box is made with the first.
    #[expect(clippy::box_collection, reason = "as above")]
    pub(crate) memberships: Option<Box<Vec<Membership>>>,
    /// Where its handler keeps its data: among the sessions of the thread that the handler is on.
    pub(crate) place: u32,
    /// Bytes of frames that wait for its logic thread.
    pub(crate) logic_bytes: u32,
    /// Its handler is on a logic thread, and has not been told that it is over.
    pub(crate) in_logic: bool,
    /// Its logic thread has been told to end it.
    pub(crate) ending: bool,
    /// Which of the worker's services its handler is.
    pub(crate) service: u16,
    pub(crate) stage: Stage,
    pub(crate) send_in_flight: bool,
    pub(crate) first_frame_seen: bool,
    /// It counts among the sessions of its address.
    pub(crate) is_accepted: bool,
    /// In the worker's list of sessions to flush.
    pub(crate) dirty: bool,
    /// What the handler, or the library during a call of it, asked for; done after the call.
    requested: Option<CloseReason>,
    /// Bytes read and thrown away since it began to close.
    pub(crate) discarded_bytes: u32,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Open,
    Flushing,
    Lingering,
    /// Waiting for everything in flight; then the socket is closed like this.
    Joining(Close),
}

/// A frame in the making.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) bytes: FrameBuf,
    pub(crate) need: Need,
    /// When its first byte was there, on the session's clock of receiving.
    pub(crate) since: Time,
}

/// What all sessions of a worker share, apart from the port.
pub(crate) struct Shared {
    pub(crate) now: Time,
    pub(crate) pool: BufferPool,
    pub(crate) timers: Wheel<TimerKey>,
    /// Slots of sessions with something to send, in the order in which that came up.
    pub(crate) dirty: Vec<u32>,
    pub(crate) gathers: Vec<Gather>,
    pub(crate) handle: Handle,
    pub(crate) stats: Stats,
    pub(crate) closes_logged: LogLimit,
    pub(crate) protocol_logged: LogLimit,
    pub(crate) failures_logged: LogLimit,
    /// Bytes of the buffer being handled: answers are likely to be as long.
    pub(crate) answer_hint_bytes: usize,
    /// By service.
    pub(crate) framings: Vec<Rc<dyn Framing>>,
    pub(crate) topics: Topics,
    /// Kept for its room.
    pub(crate) parts: Vec<Part>,
    /// One list for each interval.
    pub(crate) held_back: Vec<HeldBack>,
    /// Frames in the lines of all sessions.
    pub(crate) places: usize,
    /// Frames that were whole, whether or not a handler had them.
    pub(crate) frames_found: u64,
    /// The ways to the logic threads; none where handlers run on the worker itself.
    pub(crate) lanes: Lanes,
    /// Which of its handlers' calls the thread is in.
    pub(crate) watch: Arc<Watch>,
    pub(crate) stopwatch: Stopwatch,
    /// This is a logic thread's: its sessions' connections are on workers.
    pub(crate) is_remote: bool,
}

impl Shared {
    /// What the sessions of a worker share, or on a logic thread (`is_remote`) their other halves.
    pub(crate) fn new(
        now: Time,
        pool: BufferPool,
        timers: Wheel<TimerKey>,
        handle: Handle,
        framings: Vec<Rc<dyn Framing>>,
        (watch, clock): (Arc<Watch>, Clock),
        is_remote: bool,
    ) -> Self {
        let lanes = if is_remote { Lanes::none() } else { Lanes::new(&handle) };
        Self {
            now,
            pool,
            timers,
            dirty: Vec::new(),
            gathers: Vec::new(),
            handle,
            stats: Stats::default(),
            closes_logged: LogLimit::default(),
            protocol_logged: LogLimit::default(),
            failures_logged: LogLimit::default(),
            answer_hint_bytes: 0,
            framings,
            topics: Topics::default(),
            parts: Vec::new(),
            held_back: Vec::new(),
            places: 0,
            frames_found: 0,
            lanes,
            watch,
            stopwatch: Stopwatch::new(clock),
            is_remote,
        }
    }
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerKey {
    Deadline(SessionId),
    User(SessionId, u64),
    /// A job that waits for its time, by number.
    Job(u64),
    /// Accept again on this listener.
    Accept(u16),
    /// Connect again, by the number of the waiting attempt.
    Connect(u64),
    DrainDeadline,
    /// Flush those who wait in this list.
    Flush(u16),
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        service: u16,
        socket: Socket,
        peer: SocketAddr,
        limits: &Arc<Limits>,
        now: Time,
    ) -> Self {
        Self {
            id,
            socket,
            peer,
            opened: now,
            limits: Arc::clone(limits),
            queue: SendQueue::default(),
            receiving: Receiving::new(now),
            unread: None,
            send_started: Time::ZERO,
            above_since: Time::ZERO,
            is_above: false,
            sending: Sending::default(),
            held_back: false,
            flushing: false,
            kept_back: None,
            meter: None,
            heartbeat: None,
            deadline: None,
            user_timers: None,
            memberships: None,
            place: id.slot(),
            logic_bytes: 0,
            in_logic: false,
            ending: false,
            service,
            stage: Stage::Open,
            send_in_flight: false,
            first_frame_seen: false,
            is_accepted: false,
            dirty: false,
            requested: None,
            discarded_bytes: 0,
        }
    }

    /// Whether frames go to the handler and sends are taken.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open && self.requested.is_none()
    }

    /// Whether something has come up that the worker must see to.
    #[inline]
    pub(crate) fn needs_attention(&self) -> bool {
        let above = self.queue.bytes() > self.limits.send_queue_bytes_soft;
        self.requested.is_some() || (above && !self.is_above)
    }

    /// Asks for the end; the first reason stands.
    pub(crate) fn request(&mut self, reason: CloseReason) {
        self.requested.get_or_insert(reason);
    }

    #[inline]
    pub(crate) fn take_request(&mut self) -> Option<CloseReason> {
        self.requested.take()
    }

    /// Keeps `bytes` of an unfinished frame. Room grows with what has arrived: what the peer has
    /// announced gets its room at once only up to four times that.
    pub(crate) fn keep_unread(&mut self, pool: &BufferPool, bytes: &[u8], need: Need) {
        let Some(unread) = &mut self.unread else {
            let announced = need.frame_bytes_min(bytes.len());
            let mut buffer = pool.take(announced.min(4 * bytes.len()).max(bytes.len()));
            buffer.append(bytes);
            self.unread = Some(Unread { bytes: buffer, need, since: self.receiving.last });
            return;
        };
        unread.bytes.extend_from_slice(bytes);
        unread.need = need;
    }

    /// Keeps bytes whose frames the handler does not want yet: at most what was received before the
    /// receive ended, as none is submitted while they are held.
    pub(crate) fn keep_back(&mut self, pool: &BufferPool, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let buffer = self.kept_back.get_or_insert_with(|| Box::new(pool.take(bytes.len())));
        let total = buffer.len() + bytes.len();
        if total > buffer.capacity() {
            let mut larger = pool.take(total.max(buffer.capacity() * 2));
            larger.append(buffer);
            **buffer = larger;
        }
        buffer.append(bytes);
    }

    /// Where its handler keeps its data.
    #[inline]
    pub(crate) fn data_place(&self) -> usize {
        self.place as usize
    }

    /// Whether the handler wants no frames for now.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.receiving.holds().has(Hold::Frames)
    }

    pub(crate) fn set_timer(&mut self, shared: &mut Shared, delay: Duration, key: u64) {
        if self.stage != Stage::Open {
            return;
        }
        self.cancel_timer(shared, key);
        let at = (shared.now + delay).as_nanos();
        let timer = shared.timers.insert(at, TimerKey::User(self.id, key));
        self.user_timers.get_or_insert_default().push((key, timer));
    }

    pub(crate) fn cancel_timer(&mut self, shared: &mut Shared, key: u64) {
        if let Some(timer) = self.take_timer(key) {
            shared.timers.cancel(timer);
        }
    }

    /// Forgets the handler's timer with this key, which has fired; false if it was cancelled or set
    /// again since, by something that was due in the same turn.
    pub(crate) fn timer_fired(&mut self, timers: &Wheel<TimerKey>, key: u64) -> bool {
        let mut set = self.user_timers.iter().flat_map(|timers| timers.iter());
        let fired = set.any(|(other, id)| *other == key && !timers.contains(*id));
        fired && self.take_timer(key).is_some()
    }

    /// Forgets the handler's timer with this key; `None` if there is none.
    pub(crate) fn take_timer(&mut self, key: u64) -> Option<TimerId> {
        let timers = self.user_timers.as_mut()?;
        let index = timers.iter().position(|(other, _)| *other == key)?;
        Some(timers.swap_remove(index).1)
    }

    /// Gives up all that a session which handles nothing more does not need.
    pub(crate) fn end_handling(&mut self, shared: &mut Shared) {
        for (_, timer) in self.user_timers.take().into_iter().flat_map(|timers| *timers) {
            shared.timers.cancel(timer);
        }
        self.unread = None;
        self.kept_back = None;
        self.requested = None;
    }
}

/// The sessions of one worker: slots with generations. A free slot is used again as late as
/// possible, under its next generation; one whose generations are spent is retired (I10).
pub(crate) struct SessionTable {
    slots: Vec<TableSlot>,
    free: VecDeque<u32>,
    worker: u8,
    slots_max: usize,
    len: usize,
}

struct TableSlot {
    generation: u32,
    session: Option<Box<Session>>,
}

impl SessionTable {
    /// A table of at most `slots_max` sessions; a retired slot counts.
    pub(crate) fn new(worker: u8, slots_max: usize) -> Self {
        debug_assert!(slots_max <= SessionId::SLOT_MAX as usize + 1);
        Self { slots: Vec::new(), free: VecDeque::new(), worker, slots_max, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes a session under a new id; `None` if every slot is taken.
    pub(crate) fn insert(
        &mut self,
        make: impl FnOnce(SessionId) -> Session,
    ) -> Option<&mut Session> {
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None if self.slots.len() >= self.slots_max => return None,
            None => {
                self.slots.push(TableSlot { generation: 0, session: None });
                (self.slots.len() - 1) as u32
            }
        };
        let entry = &mut self.slots[slot as usize];
        self.len += 1;
        let id = SessionId::new(self.worker, slot, entry.generation);
        Some(entry.session.insert(Box::new(make(id))))
    }

    /// The session in this slot, whichever it is.
    #[inline]
    pub(crate) fn at(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize)?.session.as_deref_mut()
    }

    /// The session with this id, if it still is.
    #[inline]
    pub(crate) fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        let entry = self.slots.get_mut(id.slot() as usize)?;
        if entry.generation == id.generation() { entry.session.as_deref_mut() } else { None }
    }

    /// Frees the slot of this session.
    pub(crate) fn remove(&mut self, id: SessionId) {
        let entry = &mut self.slots[id.slot() as usize];
        debug_assert_eq!(entry.generation, id.generation());
        entry.session = None;
        self.len -= 1;
        entry.generation += 1;
        if entry.generation <= SessionId::GENERATION_MAX {
            self.free.push_back(id.slot());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(|entry| entry.session.as_deref())
    }

    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.iter().map(|session| session.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::SendError,
        framing::{Decoded, FramingError, Packet},
        handle::{Ended, Links},
        logic::Pool,
        memory::MemoryCap,
    };
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize},
    };
    use wharf_port::{
        Config, SocketOptions,
        sim::{Faults, SimNet},
    };

    /// Lies about what it writes, or refuses.
    struct Broken(std::result::Result<usize, FramingError>);

    impl Framing for Broken {
        fn decode(&self, _: &[u8], _: usize) -> std::result::Result<Decoded, FramingError> {
            unreachable!()
        }

        fn encoded_len(&self, body_len: usize) -> usize {
            body_len
        }

        fn encode(&self, _: Packet<'_>, _: &mut [u8]) -> std::result::Result<usize, FramingError> {
            self.0
        }
    }

    fn still() -> (Arc<Watch>, Clock) {
        (Arc::default(), Box::new(|| Time::ZERO))
    }

    /// Idle sessions are what a server has most of; their memory is what this takes, and a slot in
    /// each of three tables.
    #[test]
    fn a_session_is_small() {
        let bytes = std::mem::size_of::<Session>();
        assert!(bytes <= SESSION_BYTES_MAX, "{bytes}");
    }

    const SESSION_BYTES_MAX: usize = 312;

    /// What is left over in the block from earlier use goes to nobody, and a session that has nothing
    /// to send keeps no block.
    #[test]
    fn a_frame_that_is_refused_leaves_nothing_in_the_queue() {
        let address = ([10, 0, 0, 1], 1).into();
        let mut port = SimNet::new(1, Faults::none()).open(&Config::default());
        let socket = port.stream(address, &SocketOptions::default()).unwrap();
        let limits = Arc::new(Limits::default());
        let mut session =
            Session::new(SessionId::new(0, 0, 0), 0, socket, address, &limits, Time::ZERO);
        let links = Links {
            workers: Vec::new(),
            engines: Vec::new(),
            local_addrs: Vec::new(),
            connectors: Vec::new(),
            max_sessions: 1,
            addresses: crate::addresses::Addresses::new(0),
            runners: Vec::new(),
            pool: Pool::new(1),
            timed: Arc::default(),
            handler_times: Vec::new(),
            slow_calls: AtomicU64::new(0),
            watchdog: None,
            memory: MemoryCap::new(0),
            running: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
            ended: Mutex::new(Ended::Running(Vec::new())),
        };
        let timers = Wheel::new(0, crate::timer::TICK_NS);
        let (pool, handle) = (port.buffers().clone(), Handle(Arc::new(links)));
        let mut shared = Shared::new(Time::ZERO, pool, timers, handle, Vec::new(), still(), false);
        let packet = Packet { id: 0, session: 0, body: b"body" };
        for (encoded, expected) in [
            (Err(FramingError::BodyEmpty), Err(SendError::Framing(FramingError::BodyEmpty))),
            (Ok(5), Err(SendError::Framing(FramingError::OutOfBounds))),
            (Ok(0), Ok(())),
        ] {
            assert_eq!(session.enqueue(&mut shared, &Broken(encoded), packet), expected);
            assert_eq!((session.queue.bytes(), shared.pool.blocks_in_use()), (0, 0), "{encoded:?}");
        }
    }

    /// A slot is used again as late as possible; a stale id never finds who has it now; a slot whose
    /// generations are spent is retired (I10).
    #[test]
    fn ids_are_not_used_again_and_stale_ones_find_nobody() {
        let address = ([10, 0, 0, 1], 1).into();
        let mut port = SimNet::new(1, Faults::none()).open(&Config::default());
        let socket = port.stream(address, &SocketOptions::default()).unwrap();
        let limits = Arc::new(Limits::default());
        let make = |id| Session::new(id, 0, socket, address, &limits, Time::ZERO);
        let mut table = SessionTable::new(3, 3);
        let first = table.insert(make).unwrap().id;
        let second = table.insert(make).unwrap().id;
        table.remove(first);
        table.remove(second);
        let again: Vec<_> = (0..2).map(|_| table.insert(make).unwrap().id).collect();
        assert_eq!(
            again.iter().map(|id| id.slot()).collect::<Vec<_>>(),
            [0, 1],
            "first freed first"
        );
        assert!(again.iter().all(|id| *id != first && *id != second && id.worker() == 3));
        assert!(table.get(first).is_none() && table.get(second).is_none());
        assert!(again.iter().all(|id| table.get(*id).is_some()));

        table.remove(again[0]);
        table.slots[0].generation = SessionId::GENERATION_MAX;
        let last = table.insert(make).unwrap().id;
        assert_eq!((last.slot(), last.generation()), (0, SessionId::GENERATION_MAX));
        table.remove(last);
        assert_eq!(table.insert(make).unwrap().id.slot(), 2, "slot 0 is retired");
        assert!(table.get(last).is_none());
        assert_eq!(table.len(), 2);
        assert!(table.insert(make).is_none(), "no slot beyond those that there may be");
    }
}
