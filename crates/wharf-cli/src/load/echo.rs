//! Connections that send messages and check every byte of the answers: the scenarios `echo`, `idle`
//! and `connect`.
//!
//! Hot path: `on_frame`, once per answer. It touches only what belongs to its worker; the phase is
//! shared, but written a few times in a whole run.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wharf::{CloseReason, Context, Frame, Handler, SessionId};

use crate::network;

use super::control::Control;
use super::meter::Meter;
use super::pattern::{Message, Pattern, Sizes};
use super::schedule::{Arrivals, Schedule};
use super::tally::{Difference, ErrorKind};

/// What every worker's client is made from.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) control: Arc<Control>,
    pub(crate) group: usize,
    pub(crate) sizes: Sizes,
    /// Messages that may be under way on one connection.
    pub(crate) depth: usize,
    /// `None`: a closed loop, in which an answer makes room for the next message.
    pub(crate) schedule: Option<Arc<Schedule>>,
    pub(crate) ends: Ends,
    /// The packet id to send and to get back; 0 where the framing carries none.
    pub(crate) packet_id: u32,
    /// Answers come in pieces that have nothing to do with messages.
    pub(crate) is_stream: bool,
    pub(crate) is_text: bool,
}

/// When a connection has sent enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Only with the load.
    WithTheLoad,
    /// After so many messages it is silent.
    IdleAfter(u64),
    /// After so many messages it is reset. What counts is the whole visit: from the moment at which
    /// the connection was asked for to the last answer.
    ResetAfter(u64),
}

/// The load's connections on one worker.
pub(crate) struct Client {
    plan: Plan,
    pattern: Pattern,
    meter: Meter,
}

/// One connection.
#[derive(Default)]
pub(crate) struct Connection {
    next_sequence: u64,
    /// Sent and not yet answered, in order.
    under_way: VecDeque<UnderWay>,
    /// Bytes of the oldest that have come, where answers come in pieces.
    offset: usize,
    /// An error of its own has ended it: what is under way is not counted as lost as well.
    is_broken: bool,
    /// Its visit is over.
    has_visited: bool,
    arrivals: Arrivals,
    /// Messages of an open loop wait for room under way: it is the server that makes them late.
    is_behind: bool,
}

#[derive(Clone, Copy)]
struct UnderWay {
    sequence: u64,
    /// When it was sent or, in an open loop, meant to be sent.
    meant_ns: u64,
    /// A later message was answered before it.
    is_overtaken: bool,
}

impl Client {
    pub(crate) fn new(plan: Plan) -> Self {
        let pattern = Pattern::new(plan.is_text);
        let meter = Meter::new(Arc::clone(&plan.control), plan.group, plan.schedule.clone());
        Self { plan, pattern, meter }
    }

    /// Sends the next message.
    #[inline]
    fn send(&mut self, cx: &mut Context<'_, Connection>, meant_ns: u64) -> wharf::Result {
        let connection = cx.id().as_u64();
        let data = cx.data();
        let sequence = data.next_sequence;
        data.next_sequence += 1;
        data.under_way.push_back(UnderWay { sequence, meant_ns, is_overtaken: false });
        let message = Message { connection, sequence };
        let body = self.pattern.fill(message, 0, self.plan.sizes.of(message));
        self.meter.sent();
        cx.send_packet(self.plan.packet_id, body)?;
        Ok(())
    }

    /// Whether this connection sends messages beside those that it has sent.
    #[inline]
    fn sends(&self, data: &Connection) -> bool {
        let enough = match self.plan.ends {
            Ends::WithTheLoad => false,
            Ends::IdleAfter(messages) | Ends::ResetAfter(messages) => {
                data.next_sequence >= messages
            }
        };
        !enough && self.meter.sends()
    }

    /// A message has its answer, right or wrong: the next one takes its place. One reading of the
    /// clock serves for both, since reading it costs as much as checking 100 bytes.
    #[inline]
    fn go_on(&mut self, cx: &mut Context<'_, Connection>, now_ns: u64) -> wharf::Result {
        if self.plan.schedule.is_some() {
            return if cx.data().is_behind { self.send_due(cx, now_ns) } else { Ok(()) };
        }
        if self.sends(cx.data()) {
            return self.send(cx, now_ns);
        }
        if let Ends::ResetAfter(_) = self.plan.ends
            && cx.data().under_way.is_empty()
        {
            self.end_visit(cx, now_ns);
        }
        Ok(())
    }

    /// Sends what an open loop meant to be sent by now, as far as there is room, and sees to it that
    /// it goes on.
    fn send_due(&mut self, cx: &mut Context<'_, Connection>, now_ns: u64) -> wharf::Result {
        let Some(schedule) = self.plan.schedule.clone() else { return Ok(()) };
        if !self.meter.sends() {
            return Ok(());
        }
        loop {
            let data = cx.data();
            let meant_ns =
                schedule.next_ns(&data.arrivals, self.meter.control().measured_from_ns());
            if meant_ns > now_ns {
                data.is_behind = false;
                let wait_ns = (meant_ns - now_ns).min(schedule.look_again_ns());
                cx.set_timer(Duration::from_nanos(wait_ns), PACE);
                return Ok(());
            }
            if data.under_way.len() >= self.plan.depth {
                // The next answer makes room.
                data.is_behind = true;
                return Ok(());
            }
            schedule.advance(&mut data.arrivals, meant_ns);
            if !data.is_behind {
                self.meter.late(meant_ns, now_ns);
            }
            self.send(cx, meant_ns)?;
        }
    }

    fn end_visit(&mut self, cx: &mut Context<'_, Connection>, now_ns: u64) {
        let took = cx.now().since(cx.opened());
        let began_ns = now_ns.saturating_sub(took.as_nanos() as u64);
        let data = cx.data();
        if !data.has_visited {
            data.has_visited = true;
            self.meter.answered(began_ns, now_ns, 0);
        }
        cx.abort();
    }

    /// Counts a right answer.
    #[inline]
    fn right(
        &mut self,
        cx: &mut Context<'_, Connection>,
        message: UnderWay,
        received_ns: u64,
        bytes: usize,
    ) {
        self.meter.tally.verified += 1;
        self.meter.settled(1);
        if !matches!(self.plan.ends, Ends::ResetAfter(_)) {
            self.meter.answered(message.meant_ns, received_ns, bytes);
        }
        if message.is_overtaken {
            let what = "its answer came after that to a later message".to_owned();
            self.meter.note(cx.id(), ErrorKind::Reordered, Some(message.sequence), what, None);
        }
    }

    /// An answer that is a piece of the stream, wherever that was cut.
    fn on_piece(
        &mut self,
        cx: &mut Context<'_, Connection>,
        mut piece: &[u8],
        received_ns: u64,
    ) -> wharf::Result {
        let id = cx.id();
        while !piece.is_empty() {
            let data = cx.data();
            let Some(&oldest) = data.under_way.front() else {
                let what = format!("{} bytes came that answer no message", piece.len());
                let bytes = Some(Difference::new(0, &[], piece));
                self.meter.note(id, ErrorKind::Unasked, None, what, bytes);
                self.break_off(cx);
                return Ok(());
            };
            let offset = data.offset;
            let message = Message { connection: id.as_u64(), sequence: oldest.sequence };
            let size = self.plan.sizes.of(message);
            let taken = piece.len().min(size - offset);
            if let Some(place) = self.pattern.first_difference(message, offset, &piece[..taken]) {
                self.note_altered(id, message, place, &piece[place - offset..]);
                // Nothing tells where the next message begins.
                self.break_off(cx);
                return Ok(());
            }
            piece = &piece[taken..];
            let data = cx.data();
            data.offset += taken;
            if data.offset == size {
                data.offset = 0;
                data.under_way.pop_front();
                self.right(cx, oldest, received_ns, size);
                self.go_on(cx, received_ns)?;
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
        received_ns: u64,
    ) -> wharf::Result {
        let id = cx.id();
        let connection = id.as_u64();
        let (pattern, sizes) = (&mut self.pattern, self.plan.sizes);
        let mut is = |sequence| {
            let message = Message { connection, sequence };
            body.len() == sizes.of(message) && pattern.is(message, body)
        };
        let data = cx.data();
        if let Some(place) = data.under_way.iter().position(|message| is(message.sequence)) {
            data.under_way.range_mut(..place).for_each(|earlier| earlier.is_overtaken = true);
            let message = data.under_way.remove(place).expect("found there");
            self.right(cx, message, received_ns, body.len());
            return self.go_on(cx, received_ns);
        }
        let earliest = data.next_sequence.saturating_sub((data.under_way.len() + LOOK_BACK) as u64);
        if let Some(sequence) = (earliest..data.next_sequence).rev().find(|&sequence| is(sequence))
        {
            let what = "its answer came twice".to_owned();
            self.meter.note(id, ErrorKind::Repeated, Some(sequence), what, None);
            return Ok(());
        }
        let Some(oldest) = data.under_way.pop_front() else {
            let what = format!("an answer of {} bytes came to no message", body.len());
            let bytes = Some(Difference::new(0, &[], body));
            self.meter.note(id, ErrorKind::Unasked, None, what, bytes);
            return Ok(());
        };
        self.meter.settled(1);
        let message = Message { connection, sequence: oldest.sequence };
        let size = self.plan.sizes.of(message);
        if body.len() == size {
            let place = self.pattern.first_difference(message, 0, body).unwrap_or(0);
            self.note_altered(id, message, place, &body[place..]);
        } else {
            let what = format!("its answer has {} bytes instead of {size}", body.len());
            let common = body.len().min(size);
            let place =
                self.pattern.first_difference(message, 0, &body[..common]).unwrap_or(common);
            let expected = self.pattern.fill(message, place, size - place);
            let bytes = Some(Difference::new(place, expected, &body[place..]));
            self.meter.note(id, ErrorKind::WrongLength, Some(oldest.sequence), what, bytes);
        }
        self.go_on(cx, received_ns)
    }

    fn note_altered(&mut self, id: SessionId, message: Message, place: usize, got: &[u8]) {
        let rest = self.plan.sizes.of(message) - place;
        let bytes = Difference::new(place, self.pattern.fill(message, place, rest), got);
        let what = "its answer has other bytes".to_owned();
        self.meter.note(id, ErrorKind::Altered, Some(message.sequence), what, Some(bytes));
    }

    /// Ends a connection on which nothing that follows can be understood.
    fn break_off(&mut self, cx: &mut Context<'_, Connection>) {
        cx.data().is_broken = true;
        cx.abort();
    }
}

impl Handler for Client {
    type Session = Connection;

    fn on_open(&mut self, cx: &mut Context<'_, Connection>) -> wharf::Result {
        self.meter.opened();
        if !self.meter.sends() {
            cx.close();
            return Ok(());
        }
        let now_ns = self.meter.now_ns();
        if let Some(schedule) = &self.plan.schedule {
            cx.data().arrivals = schedule.begin(now_ns, cx.id().as_u64());
            return self.send_due(cx, now_ns);
        }
        for _ in 0..self.plan.depth {
            if self.sends(cx.data()) {
                self.send(cx, now_ns)?;
            }
        }
        if self.plan.ends == Ends::ResetAfter(0) {
            self.end_visit(cx, now_ns);
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Connection>, _: u64) -> wharf::Result {
        let now_ns = self.meter.now_ns();
        self.send_due(cx, now_ns)
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Connection>, frame: Frame<'_>) -> wharf::Result {
        let received_ns = self.meter.now_ns();
        let (id, body) = (cx.id(), frame.body());
        if self.plan.is_stream {
            return self.on_piece(cx, body, received_ns);
        }
        if frame.id() != self.plan.packet_id {
            if self.plan.packet_id != 0 && frame.id() == network::STUDY_HEARTBEAT_ID {
                cx.send_packet(frame.id(), body)?;
                return Ok(());
            }
            let what =
                format!("an answer has packet id {} and not {}", frame.id(), self.plan.packet_id);
            let sequence = cx.data().under_way.front().map(|message| message.sequence);
            self.meter.note(id, ErrorKind::WrongId, sequence, what, None);
        }
        let data = cx.data();
        if let Some(&oldest) = data.under_way.front() {
            let message = Message { connection: id.as_u64(), sequence: oldest.sequence };
            if body.len() == self.plan.sizes.of(message)
                && self.pattern.first_difference(message, 0, body).is_none()
            {
                data.under_way.pop_front();
                self.right(cx, oldest, received_ns, body.len());
                return self.go_on(cx, received_ns);
            }
        }
        self.on_wrong_answer(cx, body, received_ns)
    }

    fn on_close(&mut self, cx: &mut Context<'_, Connection>, reason: CloseReason) {
        let id = cx.id();
        // Looked at first: once the last connection is known to be over, the load is, too.
        let was_sending = self.meter.sends();
        self.meter.closed(reason);
        let mut data = std::mem::take(cx.data());
        if data.is_behind {
            self.meter.never_sent(&mut data.arrivals);
        }
        let waiting = data.under_way.len() as u64;
        self.meter.settled(waiting);
        let is_ours = matches!(reason, CloseReason::Drain | CloseReason::Handler)
            || data.has_visited && reason == CloseReason::HandlerAbort;
        if data.is_broken || (is_ours && waiting == 0) {
            return;
        }
        let oldest = data.under_way.front().copied();
        let sequence = oldest.map(|oldest| oldest.sequence);
        if is_ours {
            let waited_ns =
                oldest.map_or(0, |oldest| self.meter.now_ns().saturating_sub(oldest.meant_ns));
            let later = oldest.is_some_and(|oldest| oldest.is_overtaken);
            let what = format!(
                "no answer within {} ms{}",
                waited_ns / 1_000_000,
                if later { ", though later messages were answered" } else { "" }
            );
            self.meter.note(id, ErrorKind::Lost, sequence, what, None);
            self.meter.tally.count(ErrorKind::Lost, waiting - 1);
        } else if waiting > 0 || was_sending {
            let what = format!("it ended ({reason}) with {waiting} messages under way");
            self.meter.note(id, ErrorKind::ConnectionLost, sequence, what, None);
            *self.meter.tally.lost_connections.entry(reason.name()).or_default() += 1;
            self.meter.tally.count(ErrorKind::Lost, waiting);
        }
    }

    fn on_connect_failed(&mut self, _: SocketAddr, error: &io::Error, _: Option<Duration>) {
        self.meter.connect_failed(error);
    }
}

/// The only timer of a connection.
const PACE: u64 = 0;

/// How many messages, apart from those under way, an answer is compared with before it is called
/// altered and not repeated.
const LOOK_BACK: usize = 64;
