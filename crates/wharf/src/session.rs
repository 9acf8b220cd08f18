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
mod peer;
mod receive;
mod table;
mod unread;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use wharf_port::{BufferPool, Close, FrameBuf, Gather, Socket, Time};

use crate::{
    framing::Framing,
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
    table::SessionTable,
};
use self::{peer::Peer, unread::Unread};

/// One connection. Most of them are idle most of the time, so that what few need, or for short, is
/// behind a pointer.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) socket: Socket,
    peer: Peer,
    pub(crate) opened: Time,
    pub(crate) limits: Arc<Limits>,
    pub(crate) queue: SendQueue,
    pub(crate) receiving: Receiving,
    /// The start of a frame whose rest has not arrived.
    pub(crate) unread: Option<Box<Unread>>,
    /// When the send that is in flight was started.
    pub(crate) send_started: Time,
    /// Its send queue is above its soft mark.
    pub(crate) is_above: bool,
    pub(crate) sending: Sending,
    /// In the list of those who wait for the next flush of their interval.
    pub(crate) held_back: bool,
    /// What waits leaves without waiting for that flush.
    pub(crate) flushing: bool,
    /// What is measured of sessions with a rate, and of strangers.
    pub(crate) meter: Option<Box<Meter>>,
    /// Boxed because most sessions have none.
    pub(crate) heartbeat: Option<Box<Heartbeat>>,
    /// `None` when no deadline is running.
    deadline: Option<TimerId>,
    /// Made when some of it is needed.
    aside: Option<Box<Aside>>,
    /// The topics that it has subscribed to; the box is made with the first.
    #[expect(
        clippy::box_collection,
        reason = "most sessions have none, and then it is 8 bytes, not 24"
    )]
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
}

/// What most sessions never need.
#[derive(Default)]
struct Aside {
    /// What arrived while frames were held back.
    kept_back: Option<FrameBuf>,
    /// The handler's.
    timers: Vec<(u64, TimerId)>,
    /// Since when the send queue is above its soft mark, if it is.
    above_since: Time,
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
    /// No session's at present.
    #[expect(clippy::vec_box, reason = "sessions take the boxes")]
    unreads: Vec<Box<Unread>>,
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
            unreads: Vec::new(),
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
    /// One of the handler's, which knows its own key.
    User(SessionId),
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
            peer: peer.into(),
            opened: now,
            limits: Arc::clone(limits),
            queue: SendQueue::default(),
            receiving: Receiving::new(now),
            unread: None,
            send_started: Time::ZERO,
            is_above: false,
            sending: Sending::default(),
            held_back: false,
            flushing: false,
            meter: None,
            heartbeat: None,
            deadline: None,
            aside: None,
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

    /// The other end's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer.into()
    }

    /// Its send queue is above its soft mark from now on.
    pub(crate) fn rise_above(&mut self, now: Time) {
        self.is_above = true;
        self.aside.get_or_insert_default().above_since = now;
    }

    /// Since when its send queue is above its soft mark, if it is.
    pub(crate) fn above_since(&self) -> Option<Time> {
        self.aside.as_ref().filter(|_| self.is_above).map(|aside| aside.above_since)
    }

    /// Keeps bytes whose frames the handler does not want yet: at most what was received before the
    /// receive ended, as none is submitted while they are held.
    pub(crate) fn keep_back(&mut self, pool: &BufferPool, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let kept_back = &mut self.aside.get_or_insert_default().kept_back;
        kept_back.get_or_insert_with(|| pool.take(bytes.len())).extend_from_slice(bytes);
    }

    /// Bytes that were kept back.
    pub(crate) fn kept_back_bytes(&self) -> usize {
        self.aside.as_ref().and_then(|aside| aside.kept_back.as_ref()).map_or(0, FrameBuf::len)
    }

    pub(crate) fn take_kept_back(&mut self) -> Option<FrameBuf> {
        self.aside.as_mut()?.kept_back.take()
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
        let timer = shared.timers.insert(at, TimerKey::User(self.id));
        self.aside.get_or_insert_default().timers.push((key, timer));
    }

    pub(crate) fn cancel_timer(&mut self, shared: &mut Shared, key: u64) {
        if let Some((_, timer)) = self.take_timer(|(other, _)| *other == key) {
            shared.timers.cancel(timer);
        }
    }

    /// Forgets the handler's timer that has fired, and says its key; `None` if it was cancelled or set
    /// again since, by something that was due in the same turn.
    pub(crate) fn timer_fired(&mut self, fired: TimerId) -> Option<u64> {
        self.take_timer(|(_, timer)| *timer == fired).map(|(key, _)| key)
    }

    /// Forgets one of the handler's timers; `None` if there is no such.
    fn take_timer(&mut self, which: impl Fn(&(u64, TimerId)) -> bool) -> Option<(u64, TimerId)> {
        let timers = &mut self.aside.as_mut()?.timers;
        let index = timers.iter().position(which)?;
        Some(timers.swap_remove(index))
    }

    /// Gives up all that a session which handles nothing more does not need.
    pub(crate) fn end_handling(&mut self, shared: &mut Shared) {
        if let Some(aside) = &mut self.aside {
            aside.kept_back = None;
            for (_, timer) in aside.timers.drain(..) {
                shared.timers.cancel(timer);
            }
        }
        self.take_unread(shared);
        self.requested = None;
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

    /// Makes sessions with the default limits, on one simulated socket.
    pub(super) fn some_sessions() -> impl Fn(SessionId) -> Session {
        let address = ([10, 0, 0, 1], 1).into();
        let mut port = SimNet::new(1, Faults::none()).open(&Config::default());
        let socket = port.stream(address, &SocketOptions::default()).unwrap();
        let limits = Arc::new(Limits::default());
        move |id| Session::new(id, 0, socket, address, &limits, Time::ZERO)
    }

    fn shared() -> Shared {
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
        let (pool, handle) = (BufferPool::new(false), Handle(Arc::new(links)));
        Shared::new(Time::ZERO, pool, timers, handle, Vec::new(), still(), false)
    }

    /// What is left over in the block from earlier use goes to nobody, and a session that has nothing
    /// to send keeps no block.
    #[test]
    fn a_frame_that_is_refused_leaves_nothing_in_the_queue() {
        let (mut session, mut shared) = (some_sessions()(SessionId::new(0, 0, 0)), shared());
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

    /// The block that was full got a place in line for the frame that was then refused.
    #[test]
    fn a_place_is_counted_also_where_the_frame_that_needed_it_is_refused() {
        let (mut session, mut shared) = (some_sessions()(SessionId::new(0, 0, 0)), shared());
        let packet = Packet { id: 0, session: 0, body: &[1; 9000] };
        let refusal = Err(FramingError::IdTooLarge { id_max: 1 });
        for (encoded, places) in [(Ok(9000), 0), (Ok(9000), 1), (refusal, 2), (Ok(9000), 2)] {
            let sent = session.enqueue(&mut shared, &Broken(encoded), packet);
            assert_eq!(sent, encoded.map(|_| ()).map_err(SendError::Framing));
            assert_eq!((session.queue.places(), shared.places), (places, places), "{encoded:?}");
        }
    }
}
