//! A logic thread: the handlers of the sessions that are its, and the turn that runs them.
//!
//! It knows no connection. Workers write down what happens on sessions, in order; what handlers do
//! there goes back in order, through the outbox. Each session has a second half here: the same struct,
//! of which it uses what a handler can see.

use std::sync::{Arc, mpsc};

use wharf_port::{BufferPool, Inbox, Time};

use super::{
    Jobs, Outbox, Posted, Service,
    home::Homed,
    lane::{Batch, Entry, Notice, Opening},
    outbox::Way,
};
use crate::{
    handle::{Command, Handle},
    handler::{CloseReason, SessionId},
    handler_times::Clock,
    metrics::{Leftover, Report, Stats},
    session::{Hold, Meter, Session, Shared, Stage, TimerKey},
    timer::{TimerId, Wheel},
    watch::Watch,
};

/// The way to one logic thread.
pub(crate) struct RunnerLink {
    pub(crate) post: Way<Order>,
    pub(crate) watch: Arc<Watch>,
}

/// What a logic thread is asked to do.
pub(crate) enum Order {
    Batch(Homed<Batch>),
    Job(Posted),
    Stats {
        answer: mpsc::Sender<Stats>,
    },
    /// Every worker has ended: nothing comes any more.
    Stop,
}

/// One logic thread's handlers. Belongs to that thread.
pub(crate) struct Runner {
    services: Vec<Box<dyn Service>>,
    sessions: Halves,
    shared: Shared,
    jobs: Jobs,
    inbox: Inbox<Order>,
    /// `None` during a turn: then the thread has it.
    outbox: Option<Box<Outbox>>,
    stopped: bool,
    // Kept between turns for their room.
    orders: Vec<Order>,
    due: Vec<(TimerId, TimerKey)>,
}

/// A session as its logic thread knows it.
struct Half {
    session: Session,
    /// Its end was asked for here: nothing more happens on it but `on_close`.
    ending: Option<CloseReason>,
    /// It is to end when the frames that are held back have been handled.
    ends_after: Option<CloseReason>,
    /// What the worker has been told of holds.
    told_frames: bool,
    told_paused: bool,
    /// It has not logged in, as far as the worker knows.
    stranger: bool,
    /// Bytes of frames handled since the worker was told.
    consumed: u32,
    /// It is in the list of those of which the worker is to be told.
    touched: bool,
}

impl Runner {
    pub(crate) fn new(
        handle: Handle,
        inbox: Inbox<Order>,
        services: Vec<Box<dyn Service>>,
        timer_tick_ns: u64,
        now: Time,
        watched: (Arc<Watch>, Clock),
    ) -> Self {
        let framings = services.iter().map(|service| service.framing()).collect();
        let outbox = Some(Outbox::new(&handle));
        let workers = handle.0.workers.len();
        let timers = Wheel::new(now.as_nanos(), timer_tick_ns);
        let pool = BufferPool::new(false);
        let shared = Shared::new(now, pool, timers, handle, framings, watched, true);
        Self {
            services,
            sessions: Halves::new(workers),
            shared,
            jobs: Jobs::default(),
            inbox,
            outbox,
            stopped: false,
            orders: Vec::new(),
            due: Vec::new(),
        }
    }

    /// When the first of its timers is due.
    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.shared.timers.next_deadline_ns().map(Time::from_nanos)
    }

    /// Whether other threads want something.
    pub(crate) fn has_orders(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Whether every worker has ended, and with them all that it had to do.
    pub(crate) fn is_finished(&self) -> bool {
        self.stopped
    }

    /// One turn: everything that has come up.
    pub(crate) fn turn(&mut self, now: Time) {
        self.shared.now = now;
        self.outbox.take().expect("turns do not nest").enter();
        let mut orders = std::mem::take(&mut self.orders);
        self.inbox.drain(&mut orders);
        for order in orders.drain(..) {
            self.run(order);
        }
        self.orders = orders;
        self.run_timers();
        self.outbox = Some(Outbox::leave());
    }

    fn run(&mut self, order: Order) {
        match order {
            Order::Batch(mut batch) => self.run_batch(&mut batch),
            Order::Job(posted) => self.jobs.run(posted, &mut self.shared),
            // Whoever asked may have stopped waiting.
            Order::Stats { answer } => drop(answer.send(self.shared.stats)),
            Order::Stop => self.stopped = true,
        }
    }

    fn run_batch(&mut self, batch: &mut Batch) {
        let mut entries = std::mem::take(&mut batch.entries);
        for entry in entries.drain(..) {
            match entry {
                Entry::Open(id, opening) => self.open(id, *opening),
                Entry::Frame { id, packet_id, start, len, body } => {
                    let frame = batch.frame(start, len, body, packet_id);
                    self.frame(id, frame);
                }
                Entry::Event(id, event) => self.event(id, event),
                Entry::Notice(id, notice) => self.notice(id, notice),
                Entry::Close { id, reason, in_order } => self.close(id, reason, in_order),
                Entry::ConnectFailed(service, failure) => {
                    let service = &mut self.services[usize::from(service)];
                    let (address, error) = (failure.address, &failure.error);
                    service.on_connect_failed(&mut self.shared, address, error, failure.retry_in);
                }
            }
        }
        batch.entries = entries;
        self.tell_consumed();
    }

    fn open(&mut self, id: SessionId, opening: Opening) {
        let Opening { service, socket, peer, opened, limits } = opening;
        let mut session = Session::new(id, service, socket, peer, &limits, opened);
        let requires_login = self.services[usize::from(service)].requires_login();
        session.meter = Meter::new(&limits, requires_login);
        session.receiving.in_flight = true;
        let half = self.sessions.insert(session);
        self.services[usize::from(service)].on_open(&mut half.session, &mut self.shared);
        self.after_call(id);
    }

    fn frame(&mut self, id: SessionId, frame: crate::framing::Frame<'_>) {
        let Some(half) = self.sessions.get(id) else { return };
        let bytes = frame.bytes().len() as u32;
        if half.ending.is_some() || !self.shared.handle.is_open(id) {
            // It is closing: no more frames to the handler.
            half.consumed += bytes;
        } else if half.session.is_held() {
            half.session.keep_back(&self.shared.pool, frame.bytes());
            return;
        } else {
            half.consumed += bytes;
            let service = &mut self.services[usize::from(half.session.service)];
            service.on_frame(&mut half.session, &mut self.shared, frame);
        }
        self.sessions.touch(id);
        self.after_call(id);
    }

    fn event(&mut self, id: SessionId, event: super::Event) {
        match self.sessions.get(id) {
            Some(half) if half.ending.is_none() && self.shared.handle.is_open(id) => {
                let service = &mut self.services[usize::from(half.session.service)];
                service.on_event(&mut half.session, &mut self.shared, event);
                self.after_event(id);
            }
            _ => {
                self.shared.stats.events_dropped += 1;
                event.drop_guarded();
            }
        }
    }

    fn notice(&mut self, id: SessionId, notice: Notice) {
        let Some(half) = self.sessions.get(id) else { return };
        if half.ending.is_some() || !self.shared.handle.is_open(id) {
            return;
        }
        let service = &mut self.services[usize::from(half.session.service)];
        let (session, shared) = (&mut half.session, &mut self.shared);
        match notice {
            Notice::Backpressure => service.on_backpressure(session, shared),
            Notice::Writable => service.on_writable(session, shared),
            Notice::Heartbeat => service.on_heartbeat(session, shared),
            Notice::RoundTrip(round_trip) => session.set_round_trip(round_trip),
            Notice::Drain => service.on_drain(session, shared),
        }
        self.after_event(id);
    }

    /// Does what a handler asked for during its call, as far as the worker must know of it.
    fn after_call(&mut self, id: SessionId) {
        let Some(half) = self.sessions.get(id) else { return };
        let worker = &self.shared.handle.0.workers[usize::from(id.worker())];
        // Once the worker has ended it, a handler that fails because of that is not the reason.
        if let Some(reason) = half.session.take_request()
            && half.ending.is_none()
            && self.shared.handle.is_open(id)
        {
            half.ending = Some(reason);
            worker.post.post_reserved(Command::EndInLogic { id, reason });
        }
        if half.stranger && !half.session.is_stranger() {
            half.stranger = false;
            worker.post.post_reserved(Command::Authenticated { id });
        }
        let holds = half.session.receiving.holds();
        let tell = |told: &mut bool, hold: Hold| {
            if *told != holds.has(hold) {
                *told = holds.has(hold);
                worker.post.post_reserved(Command::Hold { id, hold, on: *told });
            }
        };
        tell(&mut half.told_frames, Hold::Frames);
        tell(&mut half.told_paused, Hold::Paused);
    }

    /// As [`after_call`](Self::after_call), after a call that may have released the session: then the
    /// frames that were kept back come, and its end behind them.
    fn after_event(&mut self, id: SessionId) {
        self.after_call(id);
        let Some(half) = self.sessions.get(id) else { return };
        if half.session.is_held() {
            return;
        }
        if let Some(bytes) = half.session.take_kept_back() {
            if half.ending.is_none() && self.shared.handle.is_open(id) {
                let service = &mut self.services[usize::from(half.session.service)];
                service.on_received(&mut half.session, &mut self.shared, &bytes);
            }
            let kept = half.session.kept_back_bytes();
            half.consumed += (bytes.len() - kept) as u32;
            drop(bytes);
            self.sessions.touch(id);
            self.after_call(id);
        }
        let Some(half) = self.sessions.get(id) else { return };
        if let Some(reason) = half.ends_after
            && (half.ending.is_some() || !half.session.is_held())
        {
            self.end(id, reason);
        }
    }

    fn close(&mut self, id: SessionId, reason: CloseReason, in_order: bool) {
        let Some(half) = self.sessions.get(id) else { return };
        let waits = in_order && reason != CloseReason::Drain && half.session.is_held();
        if waits && half.ending.is_none() {
            half.ends_after = Some(reason);
        } else {
            self.end(id, reason);
        }
    }

    /// The session is over here: the handler is told, and then the worker.
    fn end(&mut self, id: SessionId, reason: CloseReason) {
        let Some(mut half) = self.sessions.remove(id) else { return };
        // What came first here comes first.
        let reason = half.ending.unwrap_or(reason);
        let session = &mut half.session;
        session.stage = Stage::Flushing;
        let kept = session.kept_back_bytes();
        session.end_handling(&mut self.shared);
        let service = &mut self.services[usize::from(session.service)];
        service.on_close(session, &mut self.shared, reason);
        let bytes = half.consumed + kept as u32;
        let worker = &self.shared.handle.0.workers[usize::from(id.worker())];
        worker.post.post_reserved(Command::EndedInLogic { id, reason, bytes });
    }

    fn run_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.shared.timers.expire(self.shared.now.as_nanos(), &mut due);
        for (timer, key) in due.drain(..) {
            let id = match key {
                TimerKey::User(id) => id,
                TimerKey::Job(number) => {
                    self.jobs.due(number, &mut self.shared);
                    continue;
                }
                _ => unreachable!("the others are timers of workers"),
            };
            let Some(half) = self.sessions.get(id) else { continue };
            if let Some(key) = half.session.timer_fired(timer)
                && half.ending.is_none()
                && self.shared.handle.is_open(id)
            {
                let service = &mut self.services[usize::from(half.session.service)];
                service.on_timer(&mut half.session, &mut self.shared, key);
                self.after_event(id);
            }
        }
        self.due = due;
        self.tell_consumed();
    }

    /// Tells workers what was handled, once for each session.
    fn tell_consumed(&mut self) {
        let mut touched = std::mem::take(&mut self.sessions.touched);
        for id in touched.drain(..) {
            let Some(half) = self.sessions.get(id) else { continue };
            half.touched = false;
            let bytes = std::mem::take(&mut half.consumed);
            if bytes > 0 {
                let worker = &self.shared.handle.0.workers[usize::from(id.worker())];
                worker.post.post_reserved(Command::Consumed { id, bytes });
            }
        }
        self.sessions.touched = touched;
    }

    pub(crate) fn stats(&self) -> Stats {
        self.shared.stats
    }

    /// What it counted, and what it has not given back. Call it when it has finished.
    pub(crate) fn report(&mut self) -> Report {
        let mut orders = Vec::new();
        self.inbox.close();
        self.inbox.drain(&mut orders);
        orders.into_iter().for_each(|order| self.run(order));
        self.jobs.end_waiting(&mut self.shared);
        Report {
            stats: self.stats(),
            leftover: Leftover {
                blocks_in_use: self.shared.pool.blocks_in_use(),
                sessions: self.sessions.len,
                timers: self.shared.timers.len(),
                ..Leftover::default()
            },
        }
    }
}

/// The sessions of one logic thread.
struct Halves {
    /// By place.
    halves: Vec<Option<Box<Half>>>,
    free: Vec<u32>,
    /// By worker and slot: one more than the place; 0 if there is none.
    places: Vec<Vec<u32>>,
    len: usize,
    /// Sessions of which something was handled.
    touched: Vec<SessionId>,
}

impl Halves {
    fn new(workers: usize) -> Self {
        let places = (0..workers).map(|_| Vec::new()).collect();
        Self { halves: Vec::new(), free: Vec::new(), places, len: 0, touched: Vec::new() }
    }

    fn insert(&mut self, mut session: Session) -> &mut Half {
        let id = session.id;
        let place = self.free.pop().unwrap_or_else(|| {
            self.halves.push(None);
            (self.halves.len() - 1) as u32
        });
        session.place = place;
        let slots = &mut self.places[usize::from(id.worker())];
        let slot = id.slot() as usize;
        if slots.len() <= slot {
            slots.resize(slot + 1, 0);
        }
        let stranger = session.is_stranger();
        debug_assert_eq!(slots[slot], 0, "a slot is used again when its session has ended here");
        slots[slot] = place + 1;
        self.len += 1;
        self.halves[place as usize].insert(Box::new(Half {
            session,
            ending: None,
            ends_after: None,
            told_frames: false,
            told_paused: false,
            stranger,
            consumed: 0,
            touched: false,
        }))
    }

    fn place(&self, id: SessionId) -> Option<usize> {
        let place = *self.places[usize::from(id.worker())].get(id.slot() as usize)?;
        (place as usize).checked_sub(1)
    }

    #[inline]
    fn get(&mut self, id: SessionId) -> Option<&mut Half> {
        let place = self.place(id)?;
        self.halves[place].as_deref_mut().filter(|half| half.session.id == id)
    }

    fn touch(&mut self, id: SessionId) {
        let Some(place) = self.place(id) else { return };
        let half = self.halves[place].as_mut().expect("its place");
        if !half.touched {
            half.touched = true;
            self.touched.push(id);
        }
    }

    fn remove(&mut self, id: SessionId) -> Option<Box<Half>> {
        self.get(id)?;
        let place = self.place(id)?;
        self.places[usize::from(id.worker())][id.slot() as usize] = 0;
        self.free.push(place as u32);
        self.len -= 1;
        self.halves[place].take()
    }
}
