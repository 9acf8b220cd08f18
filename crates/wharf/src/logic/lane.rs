//! A worker's side of the logic threads: what happens on sessions is written down in order, frames
//! copied into one contiguous buffer, and handed to the thread of the session once per turn.
//!
//! Bounded: what a session, or all sessions of a lane together, have waiting there is counted in bytes;
//! above the bound nothing more is received until half of it has been handled.

use std::{io, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use wharf_port::{Socket, Time};

use super::{
    event::Event,
    home::{Home, Homed, KEPT_BYTES_MAX, Reusable},
    runner::Order,
};
use crate::{
    framing::Frame,
    handle::Handle,
    handler::{CloseReason, SessionId},
    limits::Limits,
    session::{Hold, Session},
};

/// What happened on one worker's sessions, in order.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    /// The frames.
    pub(crate) bytes: Vec<u8>,
}

/// One thing that happened on a session.
pub(crate) enum Entry {
    Open(SessionId, Box<Opening>),
    Frame {
        id: SessionId,
        packet_id: u32,
        start: u32,
        len: u32,
        body: (u32, u32),
    },
    Event(SessionId, Event),
    Notice(SessionId, Notice),
    /// It is to end. `in_order`: after all that stands before this; otherwise that is left out.
    Close {
        id: SessionId,
        reason: CloseReason,
        in_order: bool,
    },
    ConnectFailed(u16, Box<ConnectFailure>),
}

/// What a handler is told of its session.
#[derive(Clone, Copy)]
pub(crate) enum Notice {
    /// Its send queue has gone above its soft mark.
    Backpressure,
    /// It has gone down again.
    Writable,
    /// The peer is to be asked for a sign of life.
    Heartbeat,
    /// How long it took to answer.
    RoundTrip(Duration),
    /// The server is draining.
    Drain,
}

/// What a logic thread needs to know of a new session.
pub(crate) struct Opening {
    pub(crate) service: u16,
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddr,
    pub(crate) opened: Time,
    pub(crate) limits: Arc<Limits>,
}

pub(crate) struct ConnectFailure {
    pub(crate) address: SocketAddr,
    pub(crate) error: io::Error,
    pub(crate) retry_in: Option<Duration>,
}

impl Batch {
    /// The frame of an [`Entry::Frame`].
    pub(crate) fn frame(&self, start: u32, len: u32, body: (u32, u32), id: u32) -> Frame<'_> {
        let bytes = &self.bytes[start as usize..][..len as usize];
        let body = body.0 as usize..body.1 as usize;
        Frame::new(bytes, len as usize, body, id).expect("checked when it was found")
    }
}

impl Reusable for Batch {
    fn empty(&mut self) -> bool {
        self.entries.clear();
        self.bytes.clear();
        let bytes = self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>();
        bytes <= KEPT_BYTES_MAX
    }
}

/// The lanes of one worker to all logic threads; none where handlers run on the worker itself.
pub(crate) struct Lanes(Vec<Lane>);

struct Lane {
    /// What this turn has for the thread.
    batch: Option<Homed<Batch>>,
    home: Arc<Home<Batch>>,
    /// Bytes of frames that the thread has not handled.
    waiting_bytes: usize,
    /// Sessions that are not received from until it has.
    held: Vec<SessionId>,
}

impl Lanes {
    /// One for each logic thread of the server.
    pub(crate) fn new(handle: &Handle) -> Self {
        let lane =
            |_: &_| Lane { batch: None, home: Arc::default(), waiting_bytes: 0, held: Vec::new() };
        Self(handle.0.runners.iter().map(lane).collect())
    }

    /// None at all.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    fn lane(&mut self, id: SessionId) -> &mut Lane {
        let runner = runner_of(id, self.0.len());
        &mut self.0[runner]
    }

    pub(crate) fn push(&mut self, id: SessionId, entry: Entry) {
        self.lane(id).batch().entries.push(entry);
    }

    /// For the first thread: what concerns no session.
    pub(crate) fn push_connect_failure(&mut self, service: u16, failure: ConnectFailure) {
        self.0[0].batch().entries.push(Entry::ConnectFailed(service, Box::new(failure)));
    }

    /// Copies a frame for the session's thread.
    pub(crate) fn push_frame(&mut self, session: &mut Session, frame: Frame<'_>) {
        let lane = self.lane(session.id);
        let batch = lane.batch();
        let start = batch.bytes.len() as u32;
        let Range { start: from, end: to } = frame.body_range();
        let (len, body) = (frame.bytes().len() as u32, (from as u32, to as u32));
        batch.bytes.extend_from_slice(frame.bytes());
        batch.entries.push(Entry::Frame {
            id: session.id,
            packet_id: frame.id(),
            start,
            len,
            body,
        });
        lane.waiting_bytes += frame.bytes().len();
        session.logic_bytes += len;
    }

    /// Nothing more is received from a session that has too much waiting, or whose lane has.
    pub(crate) fn hold_if_full(&mut self, session: &mut Session, now: Time) {
        let session_max = session.limits.logic_queue_bytes_max;
        let lane = self.lane(session.id);
        let full =
            session.logic_bytes as usize > session_max || lane.waiting_bytes > LANE_BYTES_MAX;
        if full && !session.receiving.holds().has(Hold::Logic) {
            session.receiving.hold(Hold::Logic, now);
            lane.held.push(session.id);
        }
    }

    /// Frames have been handled, or left out. The session may be gone.
    pub(crate) fn consumed(&mut self, id: SessionId, session: Option<&mut Session>, bytes: u32) {
        self.lane(id).waiting_bytes -= bytes as usize;
        if let Some(session) = session {
            session.logic_bytes -= bytes;
        }
    }

    /// Takes out the sessions that wait for a lane which has room again, to be looked at.
    pub(crate) fn take_held(&mut self, ids: &mut Vec<SessionId>) {
        for lane in &mut self.0 {
            if lane.waiting_bytes <= LANE_BYTES_MAX / 2 {
                ids.append(&mut lane.held);
            }
        }
    }

    /// A session goes on waiting.
    pub(crate) fn hold_still(&mut self, id: SessionId) {
        self.lane(id).held.push(id);
    }

    /// Hands over what this turn has for each thread.
    pub(crate) fn hand_over(&mut self, handle: &Handle) {
        for (lane, link) in self.0.iter_mut().zip(&handle.0.runners) {
            if let Some(batch) = lane.batch.take() {
                link.post.post_reserved(Order::Batch(batch));
            }
        }
    }

    /// Bytes that no logic thread has handled.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.0.iter().map(|lane| lane.waiting_bytes).sum()
    }
}

impl Lane {
    fn batch(&mut self) -> &mut Batch {
        self.batch.get_or_insert_with(|| self.home.take())
    }
}

/// Which of `runners` logic threads a session is on, for life. Slots are used in turn, so that
/// sessions spread evenly.
fn runner_of(id: SessionId, runners: usize) -> usize {
    (id.slot() as usize + usize::from(id.worker())) % runners
}

/// Bytes of frames that may wait on the way from one worker to one logic thread (4 MiB) before no
/// session of the two is received from; each may still bring what its receive credit allows. A logic
/// thread that falls behind costs memory up to here, and its peers time.
const LANE_BYTES_MAX: usize = 4 * 1024 * 1024;
