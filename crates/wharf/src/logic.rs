//! From bytes to handler: frames are found in what arrived and handed to the handler, inline on the
//! worker.
//!
//! Hot path: `on_received` once per buffer, through one virtual call; below it framing and handler
//! are known types. Frames are borrowed from the receive buffer; only a frame that is split over two
//! buffers is copied, into the session's `unread`.

mod decode;
mod event;
mod forward;
mod home;
mod jobs;
mod lane;
mod outbox;
mod pool;
mod remote;
mod runner;
mod timed;

use std::{
    any::Any,
    io, mem,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use self::{decode::Receiver, event::Call};
pub(crate) use self::{
    event::Event,
    forward::Forward,
    home::KEPT_BYTES_MAX,
    jobs::{Jobs, Posted},
    lane::{Entry, Lanes, Notice},
    outbox::{Outbox, Way, forget_turn},
    pool::Pool,
    runner::{Order, Runner, RunnerLink},
    timed::{TIMED_JOBS_MAX, TimedJobs},
};
pub use self::{jobs::Job, timed::Timer};
use crate::{
    error::{Error, Result, SendError},
    framing::{Frame, Framing, Packet},
    handler::{CloseReason, Context, Handler},
    handler_times::{Lane, Measured},
    sending::{Class, Outgoing, Sending, Sent},
    session::{Session, Shared},
    watch::Doing,
};

/// A listener's or connector's handler on one worker, with its framing, whatever their types. Calls
/// return with the session's request set if it is to end; a panic of the handler ends in one.
pub(crate) trait Service {
    /// Whether its sessions have a budget until they are authenticated.
    fn requires_login(&self) -> bool;
    fn on_open(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_received(&mut self, session: &mut Session, shared: &mut Shared, bytes: &[u8]);
    /// A frame that a worker has found, on a logic thread.
    fn on_frame(&mut self, session: &mut Session, shared: &mut Shared, frame: Frame<'_>);
    fn on_timer(&mut self, session: &mut Session, shared: &mut Shared, key: u64);
    fn on_heartbeat(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_event(&mut self, session: &mut Session, shared: &mut Shared, event: Event);
    fn on_backpressure(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_writable(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_drain(&mut self, session: &mut Session, shared: &mut Shared);
    fn on_close(&mut self, session: &mut Session, shared: &mut Shared, reason: CloseReason);
    fn on_connect_failed(
        &mut self,
        shared: &mut Shared,
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
    /// The handler's data of each session, by its place.
    data: Vec<Option<H::Session>>,
    sending: Sending,
    times: Lane,
}

impl<F: Framing, H: Handler> Logic<F, H> {
    pub(crate) fn new(framing: F, handler: H, measured: &Arc<Measured>) -> Self {
        let requires_login = handler.requires_login();
        let times = measured.open(|| handler.packets());
        let (data, sending) = (Vec::new(), Sending::default());
        Self { framing, handler, requires_login, data, sending, times }
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
        doing: Doing,
        call: impl FnOnce(&mut Self, &mut Session, &mut Shared) -> Result,
    ) {
        finish_call(session, shared, doing, |session, shared| call(self, session, shared));
    }

    #[inline]
    fn with_context<R>(
        &mut self,
        session: &mut Session,
        shared: &mut Shared,
        call: impl FnOnce(&mut H, &mut Context<'_, H::Session>) -> R,
    ) -> R {
        let data = self.data[session.data_place()].as_mut().expect("set when it was opened");
        call(&mut self.handler, &mut Context { session, shared, framing: &self.framing, data })
    }

    /// The handler, to be called with frames of this session.
    #[inline]
    fn inline<'a>(
        &'a mut self,
        session: &'a mut Session,
        shared: &'a mut Shared,
    ) -> (&'a F, Inline<'a, H>) {
        let Self { framing, handler, data, times, .. } = self;
        let data = data[session.data_place()].as_mut().expect("set when it was opened");
        let cx = Context { session, shared, framing: &*framing, data };
        (framing, Inline { handler, cx, times })
    }
}

/// A handler on the session's own thread.
struct Inline<'a, H: Handler> {
    handler: &'a mut H,
    cx: Context<'a, H::Session>,
    times: &'a Lane,
}

impl<H: Handler> Receiver for Inline<'_, H> {
    #[inline]
    fn parts(&mut self) -> (&mut Session, &mut Shared) {
        (self.cx.session, self.cx.shared)
    }

    #[expect(clippy::inline_always, reason = "a call costs 30 instructions of 220 for each frame")]
    #[inline(always)]
    fn on_frame(&mut self, frame: Frame<'_>) -> Result {
        self.call(frame)?;
        self.cx.shared.watch.decode_on();
        Ok(())
    }
}

impl<H: Handler> Inline<'_, H> {
    /// Hands a frame to the handler; now and then one is measured.
    #[expect(clippy::inline_always, reason = "a call costs 30 instructions of 220 for each frame")]
    #[inline(always)]
    fn call(&mut self, frame: Frame<'_>) -> Result {
        let shared = &mut *self.cx.shared;
        shared.stats.frames_received += 1;
        shared.watch.next(Doing::Frame, frame.id());
        let began = shared.stopwatch.begin_if_due(shared.stats.frames_received);
        let result = self.handler.on_frame(&mut self.cx, frame);
        if let Some(began) = began {
            self.times.count(frame.id(), self.cx.shared.stopwatch.read().since(began));
        }
        result
    }
}

/// Runs the user's code for a session; its error or panic becomes a request to end the session.
#[inline]
fn finish_call(
    session: &mut Session,
    shared: &mut Shared,
    doing: Doing,
    call: impl FnOnce(&mut Session, &mut Shared) -> Result,
) {
    shared.watch.begin(doing, session.id.as_u64());
    let guarded = || match call(session, shared) {
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
    let ended = guard(guarded);
    shared.watch.end();
    match ended {
        Some(true) => {}
        Some(false) => session.request(CloseReason::HandlerError),
        None => {
            tracing::error!(session = %session.id, "the handler panicked");
            session.request(CloseReason::HandlerPanic);
        }
    }
}

/// Queues a frame that comes from outside the handler.
fn send_from_outside(
    framing: &dyn Outgoing,
    session: &mut Session,
    shared: &mut Shared,
    class: Class,
    id: u32,
    body: &[u8],
) -> std::result::Result<Sent, SendError> {
    let packet = Packet { id, session: session.id.display(), body };
    let sent = guard(|| session.enqueue_as(shared, framing, class, packet));
    let sent = sent.unwrap_or_else(|| {
        session.request(CloseReason::HandlerPanic);
        Err(SendError::Closed)
    });
    if sent == Err(SendError::WouldExceed) && class == Class::Reliable {
        session.request(CloseReason::SlowConsumer);
    }
    sent
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
        let place = session.data_place();
        if self.data.len() <= place {
            self.data.resize_with(place + 1, || None);
        }
        self.call(session, shared, Doing::Open, |logic, session, shared| {
            logic.data[place] = Some(H::Session::default());
            logic.with_context(session, shared, |handler, cx| handler.on_open(cx))
        });
    }

    #[inline]
    fn on_received(&mut self, session: &mut Session, shared: &mut Shared, bytes: &[u8]) {
        self.call(session, shared, Doing::Decode, |logic, session, shared| {
            let (framing, mut inline) = logic.inline(session, shared);
            decode::frames(framing, &mut inline, bytes)
        });
    }

    #[inline]
    fn on_frame(&mut self, session: &mut Session, shared: &mut Shared, frame: Frame<'_>) {
        self.call(session, shared, Doing::Frame, |logic, session, shared| {
            logic.inline(session, shared).1.call(frame)
        });
    }

    fn on_timer(&mut self, session: &mut Session, shared: &mut Shared, key: u64) {
        self.call(session, shared, Doing::Timer, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_timer(cx, key))
        });
    }

    fn on_heartbeat(&mut self, session: &mut Session, shared: &mut Shared) {
        let mut asked = false;
        self.call(session, shared, Doing::Heartbeat, |logic, session, shared| {
            asked = logic.with_context(session, shared, |handler, cx| handler.on_heartbeat(cx))?;
            Ok(())
        });
        session.heartbeat_asked(shared, asked);
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
        self.call(session, shared, Doing::Call, |logic, session, shared| {
            logic.with_context(session, shared, |_, cx| call(cx))
        });
    }

    fn on_backpressure(&mut self, session: &mut Session, shared: &mut Shared) {
        self.call(session, shared, Doing::Backpressure, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_backpressure(cx))
        });
    }

    fn on_writable(&mut self, session: &mut Session, shared: &mut Shared) {
        self.call(session, shared, Doing::Writable, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_writable(cx))
        });
    }

    fn on_drain(&mut self, session: &mut Session, shared: &mut Shared) {
        self.call(session, shared, Doing::Drain, |logic, session, shared| {
            logic.with_context(session, shared, |handler, cx| handler.on_drain(cx))
        });
    }

    fn on_close(&mut self, session: &mut Session, shared: &mut Shared, reason: CloseReason) {
        let place = session.data_place();
        self.call(session, shared, Doing::Close, |logic, session, shared| {
            // A panic while the data was made leaves none: then there was no `on_open` either.
            if logic.data[place].is_some() {
                logic.with_context(session, shared, |handler, cx| handler.on_close(cx, reason));
            }
            Ok(())
        });
        let data = self.data[place].take();
        self.call(session, shared, Doing::Close, |_, _, _| {
            drop(data);
            Ok(())
        });
    }

    fn on_connect_failed(
        &mut self,
        shared: &mut Shared,
        address: SocketAddr,
        error: &io::Error,
        retry_in: Option<Duration>,
    ) {
        shared.watch.begin(Doing::ConnectFailed, 0);
        let ended = guard(|| self.handler.on_connect_failed(address, error, retry_in));
        shared.watch.end();
        if ended.is_none() {
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
        send_from_outside(&self.framing, session, shared, class, id, body)
    }
}
