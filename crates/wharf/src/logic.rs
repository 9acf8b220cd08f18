//! From bytes to handler: frames are found in what arrived and handed to the handler, inline on the
//! worker.
//!
//! Hot path: `on_received` once per buffer, through one virtual call; below it framing and handler
//! are known types. Frames are borrowed from the receive buffer; only a frame that is split over two
//! buffers is copied, into the session's `unread`.

mod event;
mod jobs;
mod outbox;
mod pool;

use std::{
    any::Any,
    io, mem,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use self::event::Call;
pub use self::jobs::Job;
pub(crate) use self::{
    event::Event,
    jobs::{Jobs, Posted},
    outbox::{Outbox, Way, forget_turn},
    pool::Pool,
};
use crate::{
    error::{Error, Result, SendError},
    framing::{Decoded, Frame, Framing, FramingError, Need, Packet},
    handler::{CloseReason, Context, Handler},
    sending::{Class, Sending, Sent},
    session::{Session, Shared},
};

/// A listener's or connector's handler on one worker, with its framing, whatever their types. Calls
/// return with the session's request set if it is to end; a panic of the handler ends in one.
pub(crate) trait Service {
    /// Whether its sessions have a budget until they are authenticated.
    fn requires_login(&self) -> bool;
    fn on_open(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_received(&mut self, session: &mut Session, shared: &mut Shared, bytes: &[u8]);
    fn on_timer(&mut self, session: &mut Session, shared: &mut Shared, key: u64);
    fn on_event(&mut self, session: &mut Session, shared: &mut Shared, event: Event);
    fn on_backpressure(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_writable(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_drain(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_close(&mut self, session: &mut Session, shared: &mut Shared, reason: CloseReason);
    fn on_connect_failed(
        &mut self,
        address: SocketAddr,
        error: &io::Error,
        retry_in: Option<Duration>,
    );
    fn framing(&self) -> Rc<dyn Framing>;
    fn sending(&self) -> Sending;
    /// Queues a frame that comes from outside the handler.
    fn send(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        class: Class,
        id: u32,
        body: &[u8],
    ) -> std::result::Result<Sent, SendError>;
}

/// The [`Service`] of one framing and one handler.
pub(crate) struct Logic<F, H: Handler> {
    framing: F,
    handler: H,
    requires_login: bool,
    /// The handler's data of each session, by slot.
    data: Vec<Option<H::Session>>,
    sending: Sending,
}

impl<F: Framing, H: Handler> Logic<F, H> {
    pub(crate) fn new(framing: F, handler: H) -> Self {
        let requires_login = handler.requires_login();
        Self { framing, handler, requires_login, data: Vec::new(), sending: Sending::default() }
    }

    pub(crate) fn with_sending(self, sending: Sending) -> Self {
        Self { sending, ..self }
    }

    /// Calls the handler; its error or panic becomes a request to end the session.
    #[inline]
    fn call(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        call: impl FnOnce(&mut Self, &mut Session, &mut Shared) -> Result,
    ) {
        let guarded = || match call(self, session, shared) {
            Ok(()) => true,
            // Showing and dropping the error may be the user's code, too.
            Err(error) => {
                if !matches!(error, Error::Send(_))
                    && let Some(left_out) = shared.failures_logged.admit(shared.now)
                {
                    tracing::warn!(session = %session.id, %error, left_out, "the handler failed");
                }
                false
            }
        };
        match guard(guarded) {
            Some(true) => {}
            Some(false) => session.request(CloseReason::HandlerError),
            None => {
                tracing::error!(session = %session.id, "the handler panicked");
                session.request(CloseReason::HandlerPanic);
            }
        }
    }

    #[inline]
    fn with_context<R>(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        call: impl FnOnce(&mut H, &mut Context<'_, H::Session>) -> R,
    ) -> R {
        let data = self.data[session.id.slot() as usize].as_mut().expect("set when it was opened");
        call(&mut self.handler, &mut Context { session, shared, framing: &self.framing, data })
    }

    /// Hands every whole frame to the handler, in order, and keeps the start of the next one.
    fn frames(&mut self, session: &mut Session, shared: &mut Shared, input: &[u8]) -> Result {
        if session.is_held() {
            session.keep_back(&shared.pool, input);
            return Ok(());
        }
        let mut input = self.finish_unread(session, shared, input)?;
        let frame_max = self.framing.encoded_len(session.limits.frame_bytes_max);
        while session.is_open() && !session.is_held() && !input.is_empty() {
            let window = &input[..input.len().min(frame_max)];
            match self.framing.decode(window, 0) {
                Ok(Decoded::Frame { len, body, id }) => {
                    input = &input[len.min(input.len())..];
                    self.deliver(session, shared, Frame::new(window, len, body, id))?;
                }
                Ok(Decoded::Incomplete { need }) => {
                    if may_come(session, shared, need, window.len(), frame_max) {
                        session.keep_unread(&shared.pool, window, need);
                    }
                    break;
                }
                Err(error) => broken(session, shared, error),
            }
        }
        if session.is_held() {
            session.keep_back(&shared.pool, input);
        }
        Ok(())
    }

    /// Adds to the frame that is split over buffers what it lacks; returns the rest of the input.
    fn finish_unread<'a>(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        mut input: &'a [u8],
    ) -> Result<&'a [u8]> {
        let frame_max = self.framing.encoded_len(session.limits.frame_bytes_max);
        while let Some(unread) = &session.unread {
            let seen = unread.bytes.len();
            let lacking = match unread.need {
                // A framing that asks for no more than there is gets a byte at a time.
                need @ Need::AtLeast(_) => need.frame_bytes_min(seen) - seen,
                Need::More => frame_max - seen,
            };
            let taken = lacking.min(input.len());
            let known = unread.need;
            session.keep_unread(&shared.pool, &input[..taken], known);
            if taken == 0 || (taken < lacking && known != Need::More) {
                return Ok(&[]);
            }
            let mut unread = session.unread.take().expect("kept above");
            match self.framing.decode(&unread.bytes, seen) {
                Ok(Decoded::Frame { len, body, id }) => {
                    // What was seen before was no whole frame, so that the frame ends in the input.
                    let from_input = len.saturating_sub(seen).min(input.len());
                    self.deliver(session, shared, Frame::new(&unread.bytes, len, body, id))?;
                    return Ok(&input[from_input..]);
                }
                Ok(Decoded::Incomplete { need }) => {
                    if !may_come(session, shared, need, unread.bytes.len(), frame_max) {
                        return Ok(&[]);
                    }
                    unread.need = need;
                    session.unread = Some(unread);
                    input = &input[taken..];
                }
                Err(error) => {
                    broken(session, shared, error);
                    return Ok(&[]);
                }
            }
        }
        Ok(input)
    }

    #[inline]
    fn deliver(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        frame: std::result::Result<Frame<'_>, FramingError>,
    ) -> Result {
        match frame {
            Ok(frame) if frame.body().len() <= session.limits.frame_bytes_max => {
                session.first_frame_seen = true;
                shared.stats.frames_received += 1;
                self.with_context(session, shared, |handler, cx| handler.on_frame(cx, frame))
            }
            Ok(_) => {
                let body_bytes_max = session.limits.frame_bytes_max;
                broken(session, shared, FramingError::BodyTooLong { body_bytes_max });
                Ok(())
            }
            Err(error) => {
                broken(session, shared, error);
                Ok(())
            }
        }
    }
}

/// Runs the user's code; `None` if it panicked.
#[inline]
pub(crate) fn guard<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call)).map_err(drop_payload).ok()
}

/// What a panic carries is the user's as well: dropping it may panic again, and so may dropping what
/// that carries. One that goes on with it is leaked in the end.
#[cold]
fn drop_payload(mut payload: Box<dyn Any + Send>) {
    for _ in 0..PAYLOADS_DROPPED_MAX {
        match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(again) => payload = again,
        }
    }
    mem::forget(payload);
}

/// How many payloads of one panic are dropped, each of which panics in doing so.
const PAYLOADS_DROPPED_MAX: usize = 8;

/// Whether the frame that `need` tells of is short enough; otherwise the session is to end.
fn may_come(
    session: &mut Session,
    shared: &mut Shared,
    need: Need,
    unread_bytes: usize,
    frame_max: usize,
) -> bool {
    let at_least = need.frame_bytes_min(unread_bytes);
    if at_least > frame_max {
        let body_bytes_max = session.limits.frame_bytes_max;
        broken(session, shared, FramingError::BodyTooLong { body_bytes_max });
    }
    at_least <= frame_max
}

#[cold]
fn broken(session: &mut Session, shared: &mut Shared, error: FramingError) {
    if let Some(left_out) = shared.protocol_logged.admit(shared.now) {
        tracing::debug!(session = %session.id, %error, left_out, "the peer broke the framing");
    }
    session.request(CloseReason::Protocol);
}

impl<F: Framing + Clone, H: Handler> Service for Logic<F, H> {
    fn framing(&self) -> Rc<dyn Framing> {
        Rc::new(self.framing.clone())
    }

    fn requires_login(&self) -> bool {
        self.requires_login
    }

    fn sending(&self) -> Sending {
        self.sending
    }

    fn on_open(&mut self, session: &mut Session, shared: &mut Shared) {
        let slot = session.id.slot() as usize;
        if self.data.len() <= slot {
            self.data.resize_with(slot + 1, || None);
        }
        self.call(session, shared, |logic, session, shared| {
            logic.data[slot] = Some(H::Session::default());
            logic.with_context(session, shared, |handler, cx| handler.on_open(cx))
        });
    }

    #[inline]
    fn on_received(&mut self, session: &mut Session, shared: &mut Shared, bytes: &[u8]) {
        self.call(session, shared, |logic, session, shared| logic.frames(session, shared, bytes));
    }

    fn on_timer(&mut self, session: &mut Session, shared: &mut Shared, key: u64) {
        self.call(session, shared, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_timer(cx, key))
        });
    }

    fn on_event(&mut self, session: &mut Session, shared: &mut Shared, event: Event) {
        let call = match event {
            Event::Call(call) => Call::<H::Session>::of(call),
            Event::WorkPanicked => {
                shared.stats.offload_panics += 1;
                if session.is_held() {
                    session.request(CloseReason::HandlerPanic);
                }
                return;
            }
        };
        let Some(call) = call else {
            tracing::error!(session = %session.id, "a call for sessions of another type");
            shared.stats.events_dropped += 1;
            return;
        };
        self.call(session, shared, |logic, session, shared| {
            logic.with_context(session, shared, |_, cx| call(cx))
        });
    }

    fn on_backpressure(&mut self, session: &mut Session, shared: &mut Shared) {
        self.call(session, shared, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_backpressure(cx))
        });
    }

    fn on_writable(&mut self, session: &mut Session, shared: &mut Shared) {
        self.call(session, shared, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_writable(cx))
        });
    }

    fn on_drain(&mut self, session: &mut Session, shared: &mut Shared) {
        self.call(session, shared, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_drain(cx))
        });
    }

    fn on_close(&mut self, session: &mut Session, shared: &mut Shared, reason: CloseReason) {
        let slot = session.id.slot() as usize;
        self.call(session, shared, |logic, session, shared| {
            // A panic while the data was made leaves none: then there was no `on_open` either.
            if logic.data[slot].is_some() {
                logic.with_context(session, shared, |handler, cx| handler.on_close(cx, reason));
            }
            Ok(())
        });
        let data = self.data[slot].take();
        self.call(session, shared, |_, _, _| {
            drop(data);
            Ok(())
        });
    }

    fn on_connect_failed(
        &mut self,
        address: SocketAddr,
        error: &io::Error,
        retry_in: Option<Duration>,
    ) {
        let call = || self.handler.on_connect_failed(address, error, retry_in);
        if guard(call).is_none() {
            tracing::error!(%address, "the handler panicked");
        }
    }

    fn send(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        class: Class,
        id: u32,
        body: &[u8],
    ) -> std::result::Result<Sent, SendError> {
        let packet = Packet { id, session: session.id.display(), body };
        let sent = guard(|| session.enqueue_as(shared, &self.framing, class, packet));
        let sent = sent.unwrap_or_else(|| {
            session.request(CloseReason::HandlerPanic);
            Err(SendError::Closed)
        });
        if sent == Err(SendError::WouldExceed) && class == Class::Reliable {
            session.request(CloseReason::SlowConsumer);
        }
        sent
    }
}
