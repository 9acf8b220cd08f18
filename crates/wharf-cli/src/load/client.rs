//! One connection of the load: sends messages, checks every byte of the answers.
//!
//! Hot path: `on_frame`, once per answer. It touches only what belongs to its worker; the phase is
//! shared, but written a few times in a whole run.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf::{CloseReason, Context, Frame, Handler, SessionId};

use super::pattern::{Message, Pattern};
use super::tally::{Difference, ErrorKind, FirstError, Tally};

/// What the load does at the moment; all workers look at it.
#[derive(Debug)]
pub(crate) struct Phase(AtomicU8);

/// What a worker tells the thread that runs the load.
#[derive(Debug)]
pub(crate) enum Event {
    Opened,
    ConnectFailed(String),
    /// A connection that was opened has all its answers, or will get no more.
    Finished,
    Interrupted,
}

/// What every worker's client is made from.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) size_bytes: usize,
    pub(crate) depth: usize,
    /// The packet id to send and to get back; 0 where the framing carries none.
    pub(crate) packet_id: u32,
    /// Answers come in pieces that have nothing to do with messages.
    pub(crate) is_stream: bool,
    pub(crate) is_text: bool,
    pub(crate) phase: Arc<Phase>,
    pub(crate) events: Sender<Event>,
    /// Where each worker puts what it counted, as its last act.
    pub(crate) total: Arc<Mutex<Tally>>,
}

/// The load's connections on one worker.
pub(crate) struct Client {
    plan: Plan,
    pattern: Pattern,
    tally: Tally,
}

/// One connection.
#[derive(Default)]
pub(crate) struct Connection {
    next_sequence: u64,
    /// Sent and not yet answered, in order.
    under_way: VecDeque<UnderWay>,
    /// Bytes of the oldest that have come, where answers come in pieces.
    offset: usize,
    is_finished: bool,
    /// An error of its own has ended it: what is under way is not counted as lost as well.
    is_broken: bool,
}

#[derive(Clone, Copy)]
struct UnderWay {
    sequence: u64,
    sent: Instant,
    /// A later message was answered before it.
    is_overtaken: bool,
}

impl Phase {
    /// Messages are sent, but answers not yet counted.
    const WARM_UP: u8 = 0;
    const MEASURE: u8 = 1;
    /// Nothing more is sent.
    const STOP: u8 = 2;

    /// The phase at the start.
    pub(crate) fn warm_up() -> Self {
        Self(AtomicU8::new(Self::WARM_UP))
    }

    pub(crate) fn measure(&self) {
        self.0.store(Self::MEASURE, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.0.store(Self::STOP, Ordering::Relaxed);
    }

    #[inline]
    fn measures(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::MEASURE
    }

    #[inline]
    fn sends(&self) -> bool {
        self.0.load(Ordering::Relaxed) != Self::STOP
    }
}

impl Client {
    pub(crate) fn new(plan: Plan) -> Self {
        let pattern = Pattern::new(plan.is_text);
        Self { plan, pattern, tally: Tally::new() }
    }

    /// Sends the next message.
    #[inline]
    fn send(&mut self, cx: &mut Context<'_, Connection>, now: Instant) -> wharf::Result {
        let connection = cx.id().as_u64();
        let data = cx.data();
        let sequence = data.next_sequence;
        data.next_sequence += 1;
        let body = self.pattern.fill(Message { connection, sequence }, 0, self.plan.size_bytes);
        cx.data().under_way.push_back(UnderWay { sequence, sent: now, is_overtaken: false });
        cx.send_packet(self.plan.packet_id, body)?;
        Ok(())
    }

    /// A message has its answer, right or wrong: the next one takes its place. One reading of the
    /// clock serves for both, since reading it costs as much as checking 100 bytes.
    #[inline]
    fn go_on(&mut self, cx: &mut Context<'_, Connection>, now: Instant) -> wharf::Result {
        if self.plan.phase.sends() {
            return self.send(cx, now);
        }
        let data = cx.data();
        if data.under_way.is_empty() && !data.is_finished {
            data.is_finished = true;
            self.tell(Event::Finished);
        }
        Ok(())
    }

    /// Counts a right answer.
    #[inline]
    fn right(&mut self, cx: &mut Context<'_, Connection>, message: UnderWay, received: Instant) {
        self.tally.verified += 1;
        if self.plan.phase.measures() {
            let latency = received.saturating_duration_since(message.sent).as_nanos();
            self.tally.latency.saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
        }
        if message.is_overtaken {
            let what = "its answer came after that to a later message".to_owned();
            self.note(cx.id(), ErrorKind::Reordered, Some(message.sequence), what, None);
        }
    }

    /// An answer that is a piece of the stream, wherever that was cut.
    fn on_piece(
        &mut self,
        cx: &mut Context<'_, Connection>,
        mut piece: &[u8],
        received: Instant,
    ) -> wharf::Result {
        let id = cx.id();
        while !piece.is_empty() {
            let data = cx.data();
            let Some(&oldest) = data.under_way.front() else {
                let what = format!("{} bytes came that answer no message", piece.len());
                let bytes = Some(Difference::new(0, &[], piece));
                self.note(id, ErrorKind::Unasked, None, what, bytes);
                self.break_off(cx);
                return Ok(());
            };
            let offset = data.offset;
            let taken = piece.len().min(self.plan.size_bytes - offset);
            let message = Message { connection: id.as_u64(), sequence: oldest.sequence };
            if let Some(place) = self.pattern.first_difference(message, offset, &piece[..taken]) {
                self.note_altered(id, message, place, &piece[place - offset..]);
                // Nothing tells where the next message begins.
                self.break_off(cx);
                return Ok(());
            }
            piece = &piece[taken..];
            let data = cx.data();
            data.offset += taken;
            if data.offset == self.plan.size_bytes {
                data.offset = 0;
                data.under_way.pop_front();
                self.right(cx, oldest, received);
                self.go_on(cx, received)?;
            }
        }
        Ok(())
    }

    /// An answer that is not the one to the oldest message: finds out what it is.
    #[cold]
    fn on_wrong_answer(
        &mut self,
        cx: &mut Context<'_, Connection>,
        body: &[u8],
        received: Instant,
    ) -> wharf::Result {
        let id = cx.id();
        let connection = id.as_u64();
        let pattern = &mut self.pattern;
        let mut is = |sequence| pattern.is(Message { connection, sequence }, body);
        let data = cx.data();
        let has_length = body.len() == self.plan.size_bytes;
        if has_length
            && let Some(place) = data.under_way.iter().position(|message| is(message.sequence))
        {
            data.under_way.range_mut(..place).for_each(|earlier| earlier.is_overtaken = true);
            let message = data.under_way.remove(place).expect("found there");
            self.right(cx, message, received);
            return self.go_on(cx, received);
        }
        let earliest = data.next_sequence.saturating_sub((data.under_way.len() + LOOK_BACK) as u64);
        let repeated = (earliest..data.next_sequence).rev().find(|&sequence| is(sequence));
        if has_length && let Some(sequence) = repeated {
            let what = "its answer came twice".to_owned();
            self.note(id, ErrorKind::Repeated, Some(sequence), what, None);
            return Ok(());
        }
        let Some(oldest) = data.under_way.pop_front() else {
            let what = format!("an answer of {} bytes came to no message", body.len());
            let bytes = Some(Difference::new(0, &[], body));
            self.note(id, ErrorKind::Unasked, None, what, bytes);
            return Ok(());
        };
        let message = Message { connection, sequence: oldest.sequence };
        if has_length {
            let place = self.pattern.first_difference(message, 0, body).unwrap_or(0);
            self.note_altered(id, message, place, &body[place..]);
        } else {
            let size = self.plan.size_bytes;
            let what = format!("its answer has {} bytes instead of {size}", body.len());
            let common = body.len().min(size);
            let place =
                self.pattern.first_difference(message, 0, &body[..common]).unwrap_or(common);
            let expected = self.pattern.fill(message, place, size - place);
            let bytes = Some(Difference::new(place, expected, &body[place..]));
            self.note(id, ErrorKind::WrongLength, Some(oldest.sequence), what, bytes);
        }
        self.go_on(cx, received)
    }

    fn note_altered(&mut self, id: SessionId, message: Message, place: usize, got: &[u8]) {
        let rest = self.plan.size_bytes - place;
        let bytes = Difference::new(place, self.pattern.fill(message, place, rest), got);
        let what = "its answer has other bytes".to_owned();
        self.note(id, ErrorKind::Altered, Some(message.sequence), what, Some(bytes));
    }

    /// Ends a connection on which nothing that follows can be understood.
    fn break_off(&mut self, cx: &mut Context<'_, Connection>) {
        cx.data().is_broken = true;
        cx.abort();
    }

    fn note(
        &mut self,
        connection: SessionId,
        kind: ErrorKind,
        sequence: Option<u64>,
        what: String,
        bytes: Option<Difference>,
    ) {
        let at = Instant::now();
        self.tally.note(kind, || FirstError { at, kind, what, connection, sequence, bytes });
    }

    fn tell(&self, event: Event) {
        // Whoever runs the load may have stopped listening.
        let _ = self.plan.events.send(event);
    }
}

impl Handler for Client {
    type Session = Connection;

    fn on_open(&mut self, cx: &mut Context<'_, Connection>) -> wharf::Result {
        self.tell(Event::Opened);
        if !self.plan.phase.sends() {
            cx.close();
            return Ok(());
        }
        (0..self.plan.depth).try_for_each(|_| self.send(cx, Instant::now()))
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Connection>, frame: Frame<'_>) -> wharf::Result {
        let received = Instant::now();
        let (id, body) = (cx.id(), frame.body());
        if self.plan.is_stream {
            return self.on_piece(cx, body, received);
        }
        if frame.id() != self.plan.packet_id {
            let what =
                format!("an answer has packet id {} and not {}", frame.id(), self.plan.packet_id);
            let sequence = cx.data().under_way.front().map(|message| message.sequence);
            self.note(id, ErrorKind::WrongId, sequence, what, None);
        }
        let data = cx.data();
        if let Some(&oldest) = data.under_way.front()
            && body.len() == self.plan.size_bytes
            && self
                .pattern
                .first_difference(
                    Message { connection: id.as_u64(), sequence: oldest.sequence },
                    0,
                    body,
                )
                .is_none()
        {
            data.under_way.pop_front();
            self.right(cx, oldest, received);
            return self.go_on(cx, received);
        }
        self.on_wrong_answer(cx, body, received)
    }

    fn on_close(&mut self, cx: &mut Context<'_, Connection>, reason: CloseReason) {
        let id = cx.id();
        let data = cx.data();
        let (waiting, oldest) = (data.under_way.len() as u64, data.under_way.front().copied());
        let (is_broken, was_finished) = (data.is_broken, data.is_finished);
        data.is_finished = true;
        if !was_finished {
            self.tell(Event::Finished);
        }
        let is_ours = matches!(reason, CloseReason::Drain | CloseReason::Handler);
        if is_broken || (is_ours && waiting == 0) || (was_finished && waiting == 0) {
            return;
        }
        let sequence = oldest.map(|oldest| oldest.sequence);
        if is_ours {
            let waited = oldest.map_or(Duration::ZERO, |oldest| oldest.sent.elapsed());
            let later = oldest.is_some_and(|oldest| oldest.is_overtaken);
            let what = format!(
                "no answer within {} ms{}",
                waited.as_millis(),
                if later { ", though later messages were answered" } else { "" }
            );
            self.note(id, ErrorKind::Lost, sequence, what, None);
            self.tally.count(ErrorKind::Lost, waiting - 1);
        } else {
            let what = format!("it ended ({reason}) with {waiting} messages under way");
            self.note(id, ErrorKind::ConnectionLost, sequence, what, None);
            *self.tally.lost_connections.entry(reason.name()).or_default() += 1;
            self.tally.count(ErrorKind::Lost, waiting);
        }
    }

    fn on_connect_failed(&mut self, _: SocketAddr, error: &io::Error, _: Option<Duration>) {
        self.tell(Event::ConnectFailed(error.to_string()));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.plan.total.lock().unwrap_or_else(PoisonError::into_inner).add(&self.tally);
    }
}

/// How many messages, apart from those under way, an answer is compared with before it is called
/// altered and not repeated.
const LOOK_BACK: usize = 64;
