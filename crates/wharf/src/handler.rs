//! What a user writes: a [`Handler`], and the [`Context`] that it is called with.

use std::{fmt, io, net::SocketAddr, str::FromStr, time::Duration};

use wharf_port::Time;

use crate::{
    error::{Result, SendError},
    framing::{Frame, Packet},
    handle::Handle,
    sending::{Class, Outgoing, Sent},
    session::{Hold, Session, Shared},
    topic::Topic,
};

/// The logic of a server: called with what happens on its sessions.
///
/// One handler serves many sessions: the factory given to [`listen`](crate::Builder::listen) makes
/// one per worker, and a worker's thread calls it for all of its sessions, one call at a time. Data
/// of one connection belongs into [`Session`](Self::Session). A call must not block: it would hold
/// up every session of its worker.
///
/// For each session: `on_open`, then any number of the others, then `on_close` once.
pub trait Handler: 'static {
    /// Your data, one per connection; made when it opens.
    type Session: Default + 'static;

    /// Whether a session is a stranger's until [`Context::authenticated`] is called, with the budget
    /// of the `unauthenticated_*` [`Limits`](crate::Limits): bytes in, bytes out, and time. Asked
    /// once, of each new handler.
    fn requires_login(&self) -> bool {
        false
    }

    /// Packet ids that it knows, each with a name: how long their calls take is measured apart from all
    /// others ([`Handle::handler_times`]), for 256 of them at most. A [`Router`](crate::Router) names
    /// those that it has functions for. Asked once, of the first handler of a listener.
    fn packets(&self) -> Vec<(u32, &'static str)> {
        Vec::new()
    }

    /// A connection is there, accepted or made.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`].
    fn on_open(&mut self, cx: &mut Context<'_, Self::Session>) -> Result {
        let _ = cx;
        Ok(())
    }

    /// A whole frame has arrived.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`].
    fn on_frame(&mut self, cx: &mut Context<'_, Self::Session>, frame: Frame<'_>) -> Result;

    /// The server drains: the session is closed with [`CloseReason::Drain`] after this call, and what
    /// is queued for it is sent first, a word of farewell for example. Called once, and only for a
    /// session that is open.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`] instead.
    fn on_drain(&mut self, cx: &mut Context<'_, Self::Session>) -> Result {
        let _ = cx;
        Ok(())
    }

    /// A timer that [`Context::set_timer`] set is due.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`].
    fn on_timer(&mut self, cx: &mut Context<'_, Self::Session>, key: u64) -> Result {
        let _ = (cx, key);
        Ok(())
    }

    /// The peer is to be asked for a sign of life, one
    /// [`heartbeat_interval`](crate::Limits::heartbeat_interval) after it answered last or the session
    /// opened: send what the protocol has for that, and say whether you did. If so, it has
    /// [`heartbeat_timeout`](crate::Limits::heartbeat_timeout) until you call
    /// [`Context::heartbeat_answered`], and what is queued leaves at the end of this turn, also with
    /// [`FlushPolicy::Every`](crate::FlushPolicy::Every). If not, the next call comes after another
    /// interval. What is sent as [`Class::Control`] does not wait behind what is queued.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`].
    fn on_heartbeat(&mut self, cx: &mut Context<'_, Self::Session>) -> Result<bool> {
        let _ = cx;
        Ok(false)
    }

    /// The session's send queue has gone above its
    /// [soft mark](crate::Limits::send_queue_bytes_soft): nothing is received from the peer until
    /// [`on_writable`](Self::on_writable). Called after the call that brought it there has returned.
    /// Whoever produces for this session by itself should stop; one that stays above for
    /// [`send_queue_soft_timeout`](crate::Limits::send_queue_soft_timeout) is aborted.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`].
    fn on_backpressure(&mut self, cx: &mut Context<'_, Self::Session>) -> Result {
        let _ = cx;
        Ok(())
    }

    /// After [`on_backpressure`](Self::on_backpressure): the queue has gone down to half of the soft
    /// mark.
    ///
    /// # Errors
    /// Closes the session with [`CloseReason::HandlerError`].
    fn on_writable(&mut self, cx: &mut Context<'_, Self::Session>) -> Result {
        let _ = cx;
        Ok(())
    }

    /// The session is over for you: no call comes after this one, sends answer
    /// [`SendError::Closed`]. What was queued before may still be on its way.
    fn on_close(&mut self, cx: &mut Context<'_, Self::Session>, reason: CloseReason) {
        let _ = (cx, reason);
    }

    /// A connection that a connector was asked for could not be made. `retry_in` says when it will
    /// be tried again, if it will.
    fn on_connect_failed(
        &mut self,
        address: SocketAddr,
        error: &io::Error,
        retry_in: Option<Duration>,
    ) {
        let _ = (address, error, retry_in);
    }
}

/// What a handler can do with the session that it is called for.
pub struct Context<'a, S> {
    pub(crate) session: &'a mut Session,
    pub(crate) shared: &'a mut Shared,
    pub(crate) framing: &'a dyn Outgoing,
    pub(crate) data: &'a mut S,
}

impl<S> Context<'_, S> {
    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.session.id
    }

    /// The other end's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.session.peer()
    }

    /// The time of this turn, on the worker's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.shared.now
    }

    /// When the session was opened, on the worker's clock.
    #[must_use]
    pub fn opened(&self) -> Time {
        self.session.opened
    }

    /// Your data of this session.
    pub fn data(&mut self) -> &mut S {
        self.data
    }

    /// Bytes queued for the peer and not yet handed to the system.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.session.queued_bytes(self.shared)
    }

    /// Reaches other sessions and the server; may be kept and sent to other threads.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Queues a frame with this body. It leaves at the end of the turn, together with everything
    /// else that was queued for the session by then.
    ///
    /// # Errors
    /// [`SendError::Closed`]; [`SendError::WouldExceed`] at
    /// [`send_queue_bytes_max`](crate::Limits::send_queue_bytes_max), and the session is then aborted
    /// with [`CloseReason::SlowConsumer`]; [`SendError::Framing`] if the framing cannot say it.
    pub fn send(&mut self, body: &[u8]) -> std::result::Result<(), SendError> {
        self.send_packet(0, body)
    }

    /// As [`send`](Self::send), with a packet id for framings that carry one.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_packet(&mut self, id: u32, body: &[u8]) -> std::result::Result<(), SendError> {
        let sent = self.try_send_packet(id, body);
        if sent == Err(SendError::WouldExceed) {
            self.session.request(CloseReason::SlowConsumer);
        }
        sent
    }

    /// As [`send`](Self::send), but a full queue only refuses: the session stays.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn try_send(&mut self, body: &[u8]) -> std::result::Result<(), SendError> {
        self.try_send_packet(0, body)
    }

    /// As [`try_send`](Self::try_send), with a packet id for framings that carry one.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn try_send_packet(&mut self, id: u32, body: &[u8]) -> std::result::Result<(), SendError> {
        self.framing.enqueue(self.session, self.shared, id, body)
    }

    /// Keeps further frames of this session back, beginning with the next one, and receives nothing
    /// meanwhile: to wait for the result of [`offload`](Self::offload) or of a job, for example. What
    /// has arrived already is kept, at most what one receive may bring. Timers, calls and results
    /// still come. A peer that ends its stream is noticed when all its frames have been handled.
    pub fn hold(&mut self) {
        if self.session.is_open() {
            self.session.receiving.hold(Hold::Frames, self.shared.now);
        }
    }

    /// Ends a [`hold`](Self::hold): the frames that were kept back come after this call, in order.
    pub fn release(&mut self) {
        self.session.release(self.shared, Hold::Frames);
    }

    /// The peer has answered what [`Handler::on_heartbeat`] asked. An answer to nothing, or a second
    /// one, changes nothing.
    pub fn heartbeat_answered(&mut self) {
        self.session.heartbeat_answered(self.shared);
    }

    /// How long the peer took to answer the last heartbeat: from the call of
    /// [`on_heartbeat`](Handler::on_heartbeat) to that of
    /// [`heartbeat_answered`](Self::heartbeat_answered), in the times of their turns. So the time that
    /// the question waited to be sent, and that the peer thought about it, are in it. Where the server
    /// itself did not receive from the session meanwhile, nothing was measured, and what was measured
    /// before that stays.
    ///
    /// Handlers on a logic thread: measured on the worker, with the waits between the two, and known
    /// here after the call that was told of the answer. `None`: nothing was measured yet.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.session.round_trip()
    }

    /// Whether the session takes sends: not after its end was asked for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.session.is_open()
    }

    pub(crate) fn request(&mut self, reason: CloseReason) {
        self.session.request(reason);
    }

    /// Queues a frame as its class says; the packet id is for framings that carry one.
    ///
    /// # Errors
    /// As for [`send`](Self::send). [`SendError::WouldExceed`] also for a 65th key of
    /// [`Class::Latest`], and for [`Class::Control`] beyond
    /// [`control_bytes_max`](crate::Limits::control_bytes_max); those refuse and no more.
    pub fn send_as(
        &mut self,
        class: Class,
        packet_id: u32,
        body: &[u8],
    ) -> std::result::Result<Sent, SendError> {
        let packet = Packet { id: packet_id, session: self.session.id.display(), body };
        let sent = self.session.enqueue_as(self.shared, self.framing, class, packet);
        if sent == Err(SendError::WouldExceed) && class == Class::Reliable {
            self.session.request(CloseReason::SlowConsumer);
        }
        sent
    }

    /// Everything queued for the session leaves at the end of this turn, also where it would wait for
    /// the next moment of [`FlushPolicy::Every`](crate::FlushPolicy::Every).
    pub fn flush_now(&mut self) {
        self.session.flush_now(self.shared);
    }

    /// Subscribes the session to a topic: it gets what is published from now on. A subscription ends
    /// with [`unsubscribe`](Self::unsubscribe) or with the session; one that is there already stays.
    ///
    /// # Errors
    /// [`SendError::Closed`]; [`SendError::WouldExceed`] at
    /// [`topics_max`](crate::Limits::topics_max).
    pub fn subscribe(&mut self, topic: Topic) -> std::result::Result<(), SendError> {
        if self.shared.is_remote {
            return self.shared.handle.subscribe(self.session.id, topic);
        }
        if self.session.subscribe(self.shared, topic)? {
            self.shared.link(self.session.id).topics.add(topic);
        }
        Ok(())
    }

    /// Ends the subscription to a topic, if there is one: what was published before still comes.
    pub fn unsubscribe(&mut self, topic: Topic) {
        if self.shared.is_remote {
            // One that is over has no subscription any more.
            let _ = self.shared.handle.unsubscribe(self.session.id, topic);
        } else if self.session.unsubscribe(self.shared, topic) {
            self.shared.link(self.session.id).topics.remove(topic);
        }
    }

    /// Sends a frame to every subscriber of a topic, this session too if it is one. On each of them it
    /// is what [`send_as`](Self::send_as) would be; one that has no room for what is
    /// [`Class::Reliable`] is aborted. The header of a framing that carries a session's number says 0.
    ///
    /// What one thread publishes and sends through contexts reaches a session in that order; so does
    /// what it does through a [`Handle`], behind what the worker was asked to do before.
    ///
    /// # Errors
    /// [`SendError::WouldExceed`] if there is more to be delivered than may be: 1 MiB for one topic,
    /// worker and turn, or the inbox of another worker is full; the subscribers there get nothing.
    /// [`SendError::Framing`] if the framing of some subscribers cannot say it; they get nothing.
    pub fn publish(
        &mut self,
        topic: Topic,
        class: Class,
        packet_id: u32,
        body: &[u8],
    ) -> std::result::Result<(), SendError> {
        if self.shared.is_remote {
            return self.shared.handle.publish(topic, class, packet_id, body);
        }
        self.shared.publish(topic, class, packet_id, body)?;
        let here = usize::from(self.session.id.worker());
        self.shared.handle.publish_but_on(Some(here), topic, class, packet_id, body)
    }

    /// Closes the session after this call: what is queued is sent first.
    pub fn close(&mut self) {
        self.session.request(CloseReason::Handler);
    }

    /// Aborts the session after this call: what is queued is lost and the peer sees a reset.
    pub fn abort(&mut self) {
        self.session.request(CloseReason::HandlerAbort);
    }

    /// The peer has logged in: the budget of strangers counts no longer
    /// ([`Handler::requires_login`]).
    pub fn authenticated(&mut self) {
        self.session.authenticated();
    }

    /// Whether the session's handler requires a login that has not come yet.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.session.is_stranger()
    }

    /// Receives nothing more from the peer until [`resume`](Self::resume): its system holds it back
    /// when its window is full. Frames that have arrived already, at most
    /// [`receive_credit_bytes`](crate::Limits::receive_credit_bytes) and what the system completed
    /// meanwhile, still come. Nor is the end of its stream noticed. The deadlines that the peer has to
    /// keep stand still.
    pub fn pause(&mut self) {
        self.session.receiving.hold(Hold::Paused, self.shared.now);
    }

    /// Receives again after [`pause`](Self::pause).
    pub fn resume(&mut self) {
        self.session.release(self.shared, Hold::Paused);
    }

    /// Calls [`Handler::on_timer`] with `key` after `delay`: not before, and about 10 ms late at
    /// most on a worker that keeps up. A session's timers end with it. Setting a key again moves its
    /// timer.
    pub fn set_timer(&mut self, delay: Duration, key: u64) {
        self.session.set_timer(self.shared, delay, key);
    }

    /// Takes back a timer; does nothing if there is none with this key.
    pub fn cancel_timer(&mut self, key: u64) {
        self.session.cancel_timer(self.shared, key);
    }
}

/// Names a session for as long as the server runs: worker, slot and generation. An id is never used
/// for another connection; sending to one that is over answers [`SendError::Closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    pub(crate) const SLOT_MAX: u32 = (1 << 24) - 1;
    /// One less than fits: in a link, 0 is no session, and generation n is n + 1.
    pub(crate) const GENERATION_MAX: u32 = u32::MAX - 1;

    pub(crate) fn new(worker: u8, slot: u32, generation: u32) -> Self {
        debug_assert!(slot <= Self::SLOT_MAX);
        Self(u64::from(worker) << 56 | u64::from(slot) << 32 | u64::from(generation))
    }

    /// The id that [`as_u64`](Self::as_u64) gave. A number from elsewhere names no session, or one
    /// that it was not meant for: what it is used for then answers as for one that is over.
    #[must_use]
    pub fn from_u64(id: u64) -> Self {
        Self(id)
    }

    pub(crate) fn worker(self) -> u8 {
        (self.0 >> 56) as u8
    }

    pub(crate) fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & Self::SLOT_MAX
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 as u32
    }

    /// Worker 8 bits, slot 24, generation 32.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// 32 bits (worker and slot) for people and for headers that carry a session number: different
    /// for all sessions that are open at one time. Never used to find a session.
    #[must_use]
    pub fn display(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.worker(), self.slot(), self.generation())
    }
}

/// Reads what [`Display`](fmt::Display) shows: an id that names nobody is an id, too.
impl FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> std::result::Result<Self, SessionIdError> {
        let mut parts = text.split('.');
        let mut part = |max: u32| {
            let digits = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
            let number: u32 =
                digits.and_then(|digits| digits.parse().ok()).ok_or(SessionIdError)?;
            if number <= max { Ok(number) } else { Err(SessionIdError) }
        };
        let worker = part(u32::from(u8::MAX))? as u8;
        let id = Self::new(worker, part(Self::SLOT_MAX)?, part(Self::GENERATION_MAX)?);
        if parts.next().is_none() { Ok(id) } else { Err(SessionIdError) }
    }
}

/// A text that is no session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionIdError;

impl fmt::Display for SessionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a session's id: three numbers, as in `0.17.4`")
    }
}

impl std::error::Error for SessionIdError {}

/// Why a session ended: one reason for each, in the log, in the counters and in
/// [`Handler::on_close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its stream; frames before that were handled and their answers sent.
    PeerClosed,
    /// The handler called [`Context::close`].
    Handler,
    /// The handler called [`Context::abort`].
    HandlerAbort,
    /// The handler returned an error.
    HandlerError,
    /// The handler panicked.
    HandlerPanic,
    /// [`Handle::close`] was called.
    Requested,
    /// The peer broke the framing, or a frame was longer than allowed.
    Protocol,
    /// No whole frame came in time.
    FirstFrameTimeout,
    /// A frame was begun and not finished in time.
    FrameTimeout,
    /// The peer sent nothing for too long.
    IdleRead,
    /// The system could not hand over what was sent for too long: the peer does not read.
    IdleWrite,
    /// The peer did not answer a heartbeat in time.
    HeartbeatTimeout,
    /// The peer sent more than its rate allows.
    RateLimit,
    /// The peer used up what it may before it logs in: bytes in either direction, or time.
    Unauthenticated,
    /// The peer reads slower than it is sent to.
    SlowConsumer,
    /// The connection was reset or failed otherwise.
    Reset,
    /// The peer is gone: what was sent, or a keepalive probe, was not acknowledged in time.
    TimedOut,
    /// The server is draining.
    Drain,
}

impl CloseReason {
    /// All reasons, in the order of the counters.
    pub const ALL: [CloseReason; 18] = [
        CloseReason::PeerClosed,
        CloseReason::Handler,
        CloseReason::HandlerAbort,
        CloseReason::HandlerError,
        CloseReason::HandlerPanic,
        CloseReason::Requested,
        CloseReason::Protocol,
        CloseReason::FirstFrameTimeout,
        CloseReason::FrameTimeout,
        CloseReason::IdleRead,
        CloseReason::IdleWrite,
        CloseReason::HeartbeatTimeout,
        CloseReason::RateLimit,
        CloseReason::Unauthenticated,
        CloseReason::SlowConsumer,
        CloseReason::Reset,
        CloseReason::TimedOut,
        CloseReason::Drain,
    ];

    /// The name in logs and counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::Handler => "handler",
            CloseReason::HandlerAbort => "handler_abort",
            CloseReason::HandlerError => "handler_error",
            CloseReason::HandlerPanic => "handler_panic",
            CloseReason::Requested => "requested",
            CloseReason::Protocol => "protocol",
            CloseReason::FirstFrameTimeout => "first_frame_timeout",
            CloseReason::FrameTimeout => "frame_timeout",
            CloseReason::IdleRead => "idle_read",
            CloseReason::IdleWrite => "idle_write",
            CloseReason::HeartbeatTimeout => "heartbeat_timeout",
            CloseReason::RateLimit => "rate_limit",
            CloseReason::Unauthenticated => "unauthenticated",
            CloseReason::SlowConsumer => "slow_consumer",
            CloseReason::Reset => "reset",
            CloseReason::TimedOut => "timed_out",
            CloseReason::Drain => "drain",
        }
    }

    /// Whether a logic thread handles the frames that came before it, first.
    pub(crate) const fn waits_for_logic(self) -> bool {
        matches!(self, CloseReason::PeerClosed | CloseReason::Protocol | CloseReason::Drain)
    }

    /// Whether what is queued is thrown away and the peer sees a reset, instead of being flushed.
    #[must_use]
    pub const fn aborts(self) -> bool {
        matches!(
            self,
            CloseReason::HandlerAbort
                | CloseReason::HandlerPanic
                | CloseReason::FirstFrameTimeout
                | CloseReason::IdleWrite
                | CloseReason::HeartbeatTimeout
                | CloseReason::Unauthenticated
                | CloseReason::SlowConsumer
                | CloseReason::Reset
                | CloseReason::TimedOut
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_three_parts() {
        let id = SessionId::new(255, SessionId::SLOT_MAX, u32::MAX);
        assert_eq!((id.worker(), id.slot(), id.generation()), (255, SessionId::SLOT_MAX, u32::MAX));
        assert_eq!(SessionId::new(1, 2, 3).to_string(), "1.2.3");
    }

    #[test]
    fn an_id_is_read_as_it_is_shown_and_nothing_else_is() {
        for id in [
            SessionId::new(0, 0, 0),
            SessionId::new(1, 2, 3),
            SessionId::new(255, SessionId::SLOT_MAX, SessionId::GENERATION_MAX),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "1.2.3.",
            ".1.2",
            "1..2",
            "+1.2.3",
            "1.2.-3",
            " 1.2.3",
            "a.b.c",
            "256.0.0",
            "0.16777216.0",
            "0.0.4294967295",
            "0.0.4294967296",
            "0.0.99999999999999999999",
        ] {
            assert_eq!(text.parse::<SessionId>(), Err(SessionIdError), "{text:?}");
        }
    }

    #[test]
    fn every_reason_is_counted_once() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason}");
        }
    }
}
