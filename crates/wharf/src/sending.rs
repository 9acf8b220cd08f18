//! Sending on one session: what may become of a frame, and what is answered.
//!
//! Hot path: [`Session::enqueue`] for every answer of a handler, [`Session::deliver`] for what was
//! published. The other classes are off it.

use wharf_port::{BufferPool, Frame};

use crate::{
    error::SendError,
    framing::{Framing, FramingError, Packet},
    handle::{Command, SessionInfo},
    handler::CloseReason,
    send_queue::Latest,
    session::{Session, Shared, Stage, TimerKey},
    timer::TimerId,
    topic::{Membership, Part, Topic},
};

/// What may become of a frame that cannot be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It is sent in order, unless the session is aborted first. At
    /// [`send_queue_bytes_max`](crate::Limits::send_queue_bytes_max) it is refused.
    Reliable,
    /// It is dropped itself where it would bring the queue above
    /// [`send_queue_bytes_soft`](crate::Limits::send_queue_bytes_soft).
    DropNewest,
    /// Queued frames of this class make room for it, oldest first, where it would bring the queue above
    /// the soft mark; it is dropped itself where that is not enough.
    DropOldest,
    /// It takes the place in line of the queued frame with the same key: of a position, say, only the
    /// newest is of use. So it may overtake frames that were queued between the two. At most 64 keys
    /// wait at one time.
    Latest(u64),
    /// It goes before everything that waits, and has a small reserve of its own,
    /// [`control_bytes_max`](crate::Limits::control_bytes_max): for frames that hold up the connection
    /// itself.
    Control,
}

/// What became of a frame that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sent {
    /// It is accepted: it leaves unless the session is aborted first, or its class says otherwise.
    Queued,
    /// Its class lets it be dropped, and it was.
    Dropped,
}

/// How frames that wait for one session become buffers of one send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SendPolicy {
    /// Frames are written one behind the other into blocks, and what is shared with other sessions is
    /// copied behind them where that is cheaper than a buffer of its own.
    #[default]
    Auto,
    /// All bytes are copied into blocks: the fewest buffers, the most copying.
    Accumulate,
    /// Each frame keeps a buffer of its own, and what is shared is never copied.
    Queue,
}

/// When frames leave that a session has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlushPolicy {
    /// At the end of the turn in which they were sent.
    #[default]
    PerTurn,
    /// Every so many milliseconds (1 to 10,000), at the same moments for all sessions of a worker: a
    /// game's tick. The clock behind it has a resolution of 10 ms. They leave earlier as soon as they
    /// fill a send (64 KiB or 64 buffers), with [`flush_now`](crate::Context::flush_now), and when the
    /// session closes or the server drains. What is held back counts as queued.
    Every(u32),
}

/// A service's policies, small enough for each session to have its own: two bits for how, the others
/// for when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sending(u16);

impl Sending {
    /// `None` if the time between flushes is out of bounds.
    pub(crate) fn new(policy: SendPolicy, flush: FlushPolicy) -> Option<Self> {
        let every_ms = match flush {
            FlushPolicy::PerTurn => 0,
            FlushPolicy::Every(ms @ 1..=FLUSH_EVERY_MS_MAX) => ms as u16,
            FlushPolicy::Every(_) => return None,
        };
        Some(Self(every_ms << 2 | policy as u16))
    }

    #[inline]
    fn policy(self) -> SendPolicy {
        match self.0 & 3 {
            0 => SendPolicy::Auto,
            1 => SendPolicy::Accumulate,
            _ => SendPolicy::Queue,
        }
    }

    /// Milliseconds between flushes; 0 for every turn.
    #[inline]
    fn every_ms(self) -> u16 {
        self.0 >> 2
    }
}

/// Sessions that wait for the same flush.
pub(crate) struct HeldBack {
    every_ms: u16,
    slots: Vec<u32>,
    timer: Option<TimerId>,
}

pub(crate) const FLUSH_EVERY_MS_MAX: u32 = 10_000;

// It shares 16 bits with the policy.
const _: () = assert!(FLUSH_EVERY_MS_MAX < 1 << 14);

impl Shared {
    /// Puts a session off to the next flush of its interval.
    fn hold_back(&mut self, slot: u32, every_ms: u16) {
        let found = self.held_back.iter().position(|held| held.every_ms == every_ms);
        let index = found.unwrap_or_else(|| {
            self.held_back.push(HeldBack { every_ms, slots: Vec::new(), timer: None });
            self.held_back.len() - 1
        });
        let held = &mut self.held_back[index];
        held.slots.push(slot);
        if held.timer.is_none() {
            let every_ns = u64::from(every_ms) * 1_000_000;
            let at = (self.now.as_nanos() / every_ns + 1) * every_ns;
            held.timer = Some(self.timers.insert(at, TimerKey::Flush(index as u16)));
        }
    }

    /// The slots of sessions whose flush is due; give them back with
    /// [`flushed`](Self::flushed).
    pub(crate) fn take_held_back(&mut self, index: u16) -> Vec<u32> {
        let held = &mut self.held_back[usize::from(index)];
        held.timer = None;
        std::mem::take(&mut held.slots)
    }

    /// Keeps the room of the list.
    pub(crate) fn flushed(&mut self, index: u16, mut slots: Vec<u32>) {
        slots.clear();
        let held = &mut self.held_back[usize::from(index)];
        if held.slots.is_empty() {
            held.slots = slots;
        }
    }

    /// No flush is due any more.
    pub(crate) fn end_flushes(&mut self) {
        for timer in self.held_back.iter_mut().filter_map(|held| held.timer.take()) {
            self.timers.cancel(timer);
        }
    }
}

impl Session {
    pub(crate) fn describe(&self, shared: &Shared) -> SessionInfo {
        let listening = shared.handle.local_addrs();
        SessionInfo {
            id: self.id,
            peer: self.peer(),
            listener: listening.get(usize::from(self.service)).copied(),
            opened: self.opened,
            age: shared.now.since(self.opened),
            queued_bytes: self.queue.bytes(),
            round_trip: self.round_trip(),
            closing: self.stage != Stage::Open,
        }
    }

    /// Puts it into the list of sessions to flush at the end of the turn, or puts it off to its next
    /// flush.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, shared: &mut Shared) {
        if !self.dirty && (self.sending.every_ms() == 0 || self.leaves_now(shared)) {
            self.dirty = true;
            shared.dirty.push(self.id.slot());
        }
    }

    fn leaves_now(&mut self, shared: &mut Shared) -> bool {
        self.flushing |= self.stage != Stage::Open || self.queue.fills_a_gather();
        if !self.flushing && !self.held_back {
            self.held_back = true;
            shared.hold_back(self.id.slot(), self.sending.every_ms());
        }
        self.flushing
    }

    /// Everything that is queued leaves at the end of this turn.
    pub(crate) fn flush_now(&mut self, shared: &mut Shared) {
        if shared.is_remote {
            let post = &shared.link(self.id).post;
            return post.post_reserved(Command::FlushNow { id: self.id });
        }
        self.settle(shared);
        if !self.queue.is_empty() {
            self.flushing = true;
            self.mark_dirty(shared);
        }
    }

    /// Queues one frame behind all others.
    #[inline]
    pub(crate) fn enqueue<F: Framing>(
        &mut self,
        shared: &mut Shared,
        framing: &F,
        packet: Packet<'_>,
    ) -> Result<(), SendError> {
        if shared.is_remote {
            return self.enqueue_remotely(shared, framing, packet);
        }
        if self.memberships.is_some() {
            self.settle(shared);
        }
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let len = framing.encoded_len(packet.body.len());
        if !self.queue.fits(len, self.limits.send_queue_bytes_max) {
            shared.stats.hard_marks_reached += 1;
            return Err(SendError::WouldExceed);
        }
        if self.meter.is_some() && !self.may_send(len) {
            return Err(SendError::WouldExceed);
        }
        if !self.queue.has_room(len) {
            // Counted before the frame, which may be refused.
            shared.places += self.queue.make_room(&shared.pool, len, shared.answer_hint_bytes);
        }
        self.queue.append(len, |room| encode(framing, packet, room))?;
        if self.sending.policy() == SendPolicy::Queue {
            shared.places += self.queue.end_block();
        }
        shared.stats.frames_sent += 1;
        self.mark_dirty(shared);
        Ok(())
    }

    /// Queues one frame as its class says.
    #[inline]
    pub(crate) fn enqueue_as(
        &mut self,
        shared: &mut Shared,
        framing: &dyn Outgoing,
        class: Class,
        packet: Packet<'_>,
    ) -> Result<Sent, SendError> {
        match class {
            Class::Reliable => {
                framing.enqueue(self, shared, packet.id, packet.body).map(|()| Sent::Queued)
            }
            _ if shared.is_remote => self.enqueue_remotely_as(shared, framing, class, packet),
            _ => self.enqueue_alone(shared, framing, class, packet),
        }
    }

    /// Queues one frame that stands in a block of its own, because it may be taken out again or comes
    /// before others.
    fn enqueue_alone(
        &mut self,
        shared: &mut Shared,
        framing: &dyn Framing,
        class: Class,
        packet: Packet<'_>,
    ) -> Result<Sent, SendError> {
        self.settle(shared);
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let len = framing.encoded_len(packet.body.len());
        if len > self.limits.send_queue_bytes_max {
            return Err(SendError::WouldExceed);
        }
        match encode_alone(&shared.pool, framing, packet)? {
            Some(frame) => self.place(shared, class, frame, 1),
            None => Ok(Sent::Queued),
        }
    }

    /// Puts encoded frames, which may be shared with other sessions, where their class says.
    fn place(
        &mut self,
        shared: &mut Shared,
        class: Class,
        frame: Frame,
        frames: u32,
    ) -> Result<Sent, SendError> {
        // Counted also where it is refused: others may have made room for it.
        shared.places -= self.queue.places();
        let placed = self.put(shared, class, frame, frames);
        shared.places += self.queue.places();
        placed
    }

    fn put(
        &mut self,
        shared: &mut Shared,
        class: Class,
        frame: Frame,
        frames: u32,
    ) -> Result<Sent, SendError> {
        let len = frame.len();
        if self.meter.is_some() && !self.may_send(len) {
            return Err(SendError::WouldExceed);
        }
        let (soft, max) = (self.limits.send_queue_bytes_soft, self.limits.send_queue_bytes_max);
        let stats = &mut shared.stats;
        match class {
            Class::Reliable if !self.queue.fits(len, max) => {
                stats.hard_marks_reached += 1;
                return Err(SendError::WouldExceed);
            }
            Class::Reliable if self.is_copied(len) => {
                if !self.queue.has_room(len) {
                    self.queue.make_room(&shared.pool, len, 0);
                }
                self.queue.append(len, |room| {
                    room.copy_from_slice(&frame);
                    Ok::<_, FramingError>(len)
                })?;
            }
            Class::Reliable => self.queue.push(frame),
            Class::DropNewest if !self.queue.fits(len, soft) => {
                stats.dropped_newest += 1;
                return Ok(Sent::Dropped);
            }
            Class::DropNewest => self.queue.push(frame),
            Class::DropOldest => {
                while !self.queue.fits(len, soft) && self.queue.drop_oldest() {
                    stats.dropped_oldest += 1;
                }
                if !self.queue.fits(len, soft) {
                    stats.dropped_oldest += 1;
                    return Ok(Sent::Dropped);
                }
                self.queue.push_droppable(frame);
            }
            Class::Latest(key) => match self.queue.put_latest(key, frame, max) {
                Latest::Queued => {}
                Latest::Replaced => {
                    stats.replaced_latest += 1;
                    return Ok(Sent::Queued);
                }
                Latest::TooLarge => {
                    stats.dropped_latest += 1;
                    return Ok(Sent::Dropped);
                }
                Latest::TooManyKeys => return Err(SendError::WouldExceed),
            },
            Class::Control => {
                if self.queue.control_bytes() + len > self.limits.control_bytes_max {
                    return Err(SendError::WouldExceed);
                }
                self.queue.push_control(frame);
            }
        }
        stats.frames_sent += u64::from(frames);
        self.mark_dirty(shared);
        Ok(Sent::Queued)
    }

    /// Whether so many bytes are copied behind what waits instead of standing in a buffer of their own.
    fn is_copied(&self, len: usize) -> bool {
        match self.sending.policy() {
            SendPolicy::Accumulate => true,
            SendPolicy::Auto => len <= COPIED_BYTES_MAX && self.queue.has_room_behind(len),
            SendPolicy::Queue => false,
        }
    }

    /// Queues what was published. A session that has no room for what is [`Class::Reliable`] is
    /// aborted, as for a frame to it alone. (A [`Part`] in its parts, which come in registers.)
    pub(crate) fn deliver(&mut self, shared: &mut Shared, class: Class, frame: Frame, frames: u32) {
        if !self.is_open() {
            return;
        }
        let placed = self.place(shared, class, frame, frames);
        if placed == Err(SendError::WouldExceed) && class == Class::Reliable {
            self.request(CloseReason::SlowConsumer);
        }
    }

    /// Queues what was published before the frame that comes next.
    pub(crate) fn settle(&mut self, shared: &mut Shared) {
        let Some(memberships) = &self.memberships else { return };
        // One that is about to close gets it as it does.
        if shared.topics.is_settled() || !self.is_open() {
            return;
        }
        let mut parts = std::mem::take(&mut shared.parts);
        shared.topics.take_for(memberships, &mut parts);
        for Part { class, frame, frames, .. } in parts.drain(..) {
            self.deliver(shared, class, frame, frames);
        }
        shared.parts = parts;
    }

    /// Subscribes to a topic; whether it had not yet.
    ///
    /// # Errors
    /// [`SendError::Closed`]; [`SendError::WouldExceed`] if it has as many topics as it may.
    pub(crate) fn subscribe(
        &mut self,
        shared: &mut Shared,
        topic: Topic,
    ) -> Result<bool, SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let memberships = self.memberships.get_or_insert_default();
        if memberships.len() >= self.limits.topics_max {
            let has = shared.topics.position(topic, memberships).is_some();
            return if has { Ok(false) } else { Err(SendError::WouldExceed) };
        }
        let framing = &shared.framings[usize::from(self.service)];
        let slot = self.id.slot();
        let joined = shared.topics.join(topic, self.service, framing, slot, memberships);
        memberships.extend(joined);
        Ok(joined.is_some())
    }

    /// Ends a subscription, behind what was published before; whether there was one.
    pub(crate) fn unsubscribe(&mut self, shared: &mut Shared, topic: Topic) -> bool {
        self.settle(shared);
        let Some(memberships) = &mut self.memberships else { return false };
        let Some(position) = shared.topics.position(topic, memberships) else { return false };
        let membership = memberships.swap_remove(position);
        shared.topics.leave(membership, memberships);
        if memberships.is_empty() {
            self.memberships = None;
        }
        true
    }

    /// Ends every subscription, behind what was published before; `left` is told each topic.
    pub(crate) fn unsubscribe_all(&mut self, shared: &mut Shared, mut left: impl FnMut(Topic)) {
        self.settle(shared);
        let Some(mut memberships) = self.memberships.take() else { return };
        while let Some(membership) = memberships.pop() {
            left(shared.topics.topic(membership));
            shared.topics.leave(membership, &memberships);
        }
    }

    /// Its place in a topic is another one now.
    pub(crate) fn moved(&mut self, now: Membership) {
        let mine = self.memberships.iter_mut().flat_map(|all| all.iter_mut());
        mine.filter(|one| one.is_in_group_of(now)).for_each(|one| *one = now);
    }
}

/// A framing with the code that queues a frame in it. A handler does not know its framing's type: so
/// it makes one virtual call for a frame, behind which all is compiled together.
pub(crate) trait Outgoing: Framing {
    /// [`Session::enqueue`] with this framing. (The packet in its parts, which come in registers.)
    fn enqueue(
        &self,
        session: &mut Session,
        shared: &mut Shared,
        id: u32,
        body: &[u8],
    ) -> Result<(), SendError>;
}

impl<F: Framing> Outgoing for F {
    fn enqueue(
        &self,
        session: &mut Session,
        shared: &mut Shared,
        id: u32,
        body: &[u8],
    ) -> Result<(), SendError> {
        let packet = Packet { id, session: session.id.display(), body };
        session.enqueue(shared, self, packet)
    }
}

/// A frame in a block of its own; `None` if it leaves no trace on the wire.
pub(crate) fn encode_alone(
    pool: &BufferPool,
    framing: &dyn Framing,
    packet: Packet<'_>,
) -> Result<Option<Frame>, SendError> {
    let len = framing.encoded_len(packet.body.len());
    let mut block = pool.take(len);
    let written = block.append_with(len, |room| encode(framing, packet, room));
    let written = written.expect("a block has the room that was asked for")?;
    Ok((written > 0).then(|| block.freeze()))
}

/// Framings are user code: what one has not written must not leave.
#[inline]
pub(crate) fn encode<F: Framing + ?Sized>(
    framing: &F,
    packet: Packet<'_>,
    room: &mut [u8],
) -> Result<usize, FramingError> {
    let len = room.len();
    let written = framing.encode(packet, room)?;
    if written > len { Err(FramingError::OutOfBounds) } else { Ok(written) }
}

/// What was published is copied behind other frames up to this size, where there is room already.
/// `wharf-bench copied`, twice on an otherwise idle machine: of 2,048 bytes a delivery takes 0.92 and 0.98 of
/// the time copied that it takes as a buffer of its own, of 4,096 bytes 1.05 and 1.09.
const COPIED_BYTES_MAX: usize = 2048;
