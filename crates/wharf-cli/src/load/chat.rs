//! Users of a chat: log in, enter a room, talk, and check what everybody says. The scenarios `chat`
//! and `fanout`.
//!
//! The wire format is that of the tutorial's chat server (framing `tutorial`). What counts is each
//! delivery: every text names its user, its number and the time for which it was meant, so that each
//! member of the room can tell how long it took and whether anything was lost, repeated, reordered
//! or altered on the way. At the end the members of a room compare how many texts they saw and in
//! which order.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wharf::{CloseReason, Context, Frame, Handler};
use wharf_chat::Outcome;

use super::control::Control;
use super::meter::Meter;
use super::pattern::{Message, Pattern, Sizes, mix};
use super::schedule::{Arrival, Arrivals, Rate, Schedule};
use super::tally::{Difference, ErrorKind};
use crate::settings::Framing;

/// What the users do.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    /// Texts per second of all talkers together.
    pub(crate) rate: Rate,
    pub(crate) arrival: Arrival,
    /// Lengths of texts.
    pub(crate) sizes: Sizes,
    /// Users are spread evenly over so many rooms, from this number on.
    pub(crate) rooms: u32,
    pub(crate) first_room: i32,
    /// Only so many of the users talk; `None`: all.
    pub(crate) talkers: Option<u32>,
    /// After so long in a room a user leaves it and enters again; `None`: stays.
    pub(crate) stay: Option<Duration>,
    /// User n logs in as this and n.
    pub(crate) user_prefix: String,
    pub(crate) password: String,
}

impl Talk {
    pub(crate) fn check(&self, framing: Framing, users: u32) -> Result<(), String> {
        if framing != Framing::Tutorial {
            return Err(format!("the chat speaks tutorial framing, not {framing}"));
        }
        let Sizes { shortest, longest } = self.sizes;
        if shortest < MARK_BYTES || longest > TEXT_BYTES_MAX {
            return Err(format!(
                "--size {} cannot be said: a text has {MARK_BYTES} to {TEXT_BYTES_MAX} bytes",
                self.sizes
            ));
        }
        if self.name(users).len() > NAME_BYTES_MAX || self.password.len() > NAME_BYTES_MAX {
            return Err(format!("names and passwords have {NAME_BYTES_MAX} bytes at most"));
        }
        if self.rooms == 0 || self.rooms > users {
            return Err(format!("{users} users cannot be in {} rooms", self.rooms));
        }
        if self.first_room.checked_add_unsigned(self.rooms - 1).is_none() {
            return Err(format!(
                "--first-room {} leaves no numbers for {} rooms",
                self.first_room, self.rooms
            ));
        }
        if let Some(talkers) = self.talkers.filter(|talkers| !(1..=users).contains(talkers)) {
            return Err(format!("--talkers {talkers} of {users} users is not possible"));
        }
        if self.stay.is_some_and(|stay| stay.is_zero()) {
            return Err("--stay must be above 0".to_owned());
        }
        Ok(())
    }

    pub(crate) fn talkers(&self, users: u32) -> u32 {
        self.talkers.unwrap_or(users)
    }

    fn name(&self, user: u32) -> String {
        format!("{}{user}", self.user_prefix)
    }
}

/// What every worker's client is made from.
#[derive(Clone)]
pub(crate) struct Plan {
    talk: Talk,
    users: u32,
    control: Arc<Control>,
    group: usize,
    schedule: Option<Arc<Schedule>>,
    shared: Arc<Shared>,
}

/// What the users of all workers share; nothing of it is touched per message.
struct Shared {
    next_user: AtomicU32,
    /// Users who are in their room.
    entered: AtomicU32,
    books: Mutex<HashMap<u32, Book>>,
}

/// What the members of a room tell when they leave for good.
#[derive(Default)]
struct Book {
    members: u32,
    sent: u64,
    /// Somebody was lost or came and went: the sums need not agree.
    is_open: bool,
    seen: Vec<Seen>,
}

/// What one member has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    texts: u64,
    /// Depends on all texts and their order.
    order: u64,
}

/// The users on one worker.
pub(crate) struct Client {
    plan: Plan,
    meter: Meter,
    pattern: Pattern,
    text: Vec<u8>,
}

/// One user.
#[derive(Default)]
pub(crate) struct User {
    number: u32,
    stage: Stage,
    sent: u64,
    acknowledged: u64,
    seen: Seen,
    /// Of each other user, the number of the next text.
    expected: HashMap<u32, u64>,
    arrivals: Arrivals,
    /// It would say something, but is not in its room, or has as many texts under way as may be.
    is_behind: bool,
    has_entered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    LoggingIn,
    Entering,
    Inside,
    Leaving,
    /// The server said no.
    Refused,
}

impl Plan {
    pub(crate) fn new(
        talk: &Talk,
        users: u32,
        control: Arc<Control>,
        group: usize,
        schedule: Option<Arc<Schedule>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            next_user: AtomicU32::new(0),
            entered: AtomicU32::new(0),
            books: Mutex::new(HashMap::new()),
        });
        Self { talk: talk.clone(), users, control, group, schedule, shared }
    }

    fn room(&self, user: u32) -> u32 {
        user % self.talk.rooms
    }

    /// How many users a room is to have.
    fn members(&self, room: u32) -> u32 {
        self.users / self.talk.rooms + u32::from(room < self.users % self.talk.rooms)
    }

    fn talks(&self, user: u32) -> bool {
        user < self.talk.talkers(self.users)
    }
}

type Cx<'a> = Context<'a, User>;

impl Client {
    pub(crate) fn new(plan: Plan) -> Self {
        let meter = Meter::new(Arc::clone(&plan.control), plan.group, plan.schedule.clone());
        Self { plan, meter, pattern: Pattern::new(true), text: Vec::new() }
    }

    fn enter(&mut self, cx: &mut Cx<'_>) -> wharf::Result {
        let data = cx.data();
        data.stage = Stage::Entering;
        let room = self.plan.talk.first_room + self.plan.room(data.number) as i32;
        cx.send_packet(ENTER, &room.to_le_bytes())?;
        Ok(())
    }

    /// The user is in the room, for the first time or again.
    fn entered(&mut self, cx: &mut Cx<'_>) {
        let data = cx.data();
        data.stage = Stage::Inside;
        if !data.has_entered {
            data.has_entered = true;
            self.plan.shared.entered.fetch_add(1, Ordering::Relaxed);
            self.meter.opened();
            if self.plan.talks(data.number) {
                cx.set_timer(WAIT_FOR_OTHERS, TALK);
            }
        }
        if let Some(stay) = self.plan.talk.stay {
            cx.set_timer(stay, LEAVE_ROOM);
        }
    }

    /// Says what was meant to be said by now. Nobody talks before everybody is there.
    fn talk(&mut self, cx: &mut Cx<'_>) -> wharf::Result {
        let now_ns = self.meter.now_ns();
        let Some(schedule) = self.plan.schedule.clone() else { return Ok(()) };
        if !self.meter.sends() {
            return Ok(());
        }
        let from_ns = self.meter.control().measured_from_ns();
        let all_there = self.plan.shared.entered.load(Ordering::Relaxed) == self.plan.users;
        let data = cx.data();
        if data.sent == 0 && !all_there && from_ns.is_none() {
            cx.set_timer(WAIT_FOR_OTHERS, TALK);
            return Ok(());
        }
        if data.sent == 0 && data.arrivals.is_new() {
            data.arrivals = schedule.begin(now_ns, u64::from(data.number));
        }
        loop {
            let data = cx.data();
            let meant_ns = schedule.next_ns(&data.arrivals, from_ns);
            if meant_ns > now_ns {
                data.is_behind = false;
                let wait_ns = (meant_ns - now_ns).min(schedule.look_again_ns());
                cx.set_timer(Duration::from_nanos(wait_ns), TALK);
                return Ok(());
            }
            // Said on coming back, or when an answer makes room; it still counts from when it was meant.
            let is_full = data.sent.saturating_sub(data.acknowledged) >= UNDER_WAY_MAX;
            if data.stage != Stage::Inside || is_full {
                data.is_behind = true;
                return Ok(());
            }
            schedule.advance(&mut data.arrivals, meant_ns);
            // Late by the server where that made it wait.
            if !data.is_behind {
                self.meter.late(meant_ns, now_ns);
            }
            self.say(cx, meant_ns)?;
        }
    }

    fn say(&mut self, cx: &mut Cx<'_>, meant_ns: u64) -> wharf::Result {
        let data = cx.data();
        let (user, sequence) = (data.number, data.sent);
        data.sent += 1;
        let message = Message { connection: user.into(), sequence };
        self.text.clear();
        self.text.extend_from_slice(mark(user, sequence, meant_ns).as_bytes());
        let rest = self.plan.talk.sizes.of(message) - MARK_BYTES;
        self.text.extend_from_slice(self.pattern.fill(message, 0, rest));
        self.text.resize(TEXT_BYTES_MAX + 1, 0);
        for _ in 0..self.deliveries(user) {
            self.meter.sent();
        }
        cx.send_packet(CHAT, &self.text)?;
        Ok(())
    }

    /// How many deliveries of a text are waited for at the end.
    fn deliveries(&self, user: u32) -> u32 {
        // Who is in the room when users come and go is the server's to know.
        if self.plan.talk.stay.is_some() { 1 } else { self.plan.members(self.plan.room(user)) }
    }

    /// A text has come, this user's own or another's.
    fn on_text(&mut self, cx: &mut Cx<'_>, body: &[u8]) {
        let (received_ns, id) = (self.meter.now_ns(), cx.id());
        let Some((name, text)) = fields(body) else {
            let what = format!("a text's packet has {} bytes", body.len());
            return self.meter.note(id, ErrorKind::WrongLength, None, what, None);
        };
        let Some((user, sequence, meant_ns)) = read_mark(text) else {
            let what = "a text that nobody of this load has said".to_owned();
            let bytes = Some(Difference::new(0, &[], text));
            return self.meter.note(id, ErrorKind::Unasked, None, what, bytes);
        };
        let is_own = user == cx.data().number;
        let has_left = self.plan.talk.stay.is_some();
        if is_own || !has_left {
            self.meter.settled(1);
        }
        let message = Message { connection: user.into(), sequence };
        let size = self.plan.talk.sizes.of(message);
        if text.len() != size {
            let what = format!("a text of user {user} has {} bytes instead of {size}", text.len());
            return self.meter.note(id, ErrorKind::WrongLength, Some(sequence), what, None);
        }
        let wrong = self.pattern.first_difference(message, 0, &text[MARK_BYTES..]);
        if wrong.is_some() || name != self.plan.talk.name(user).as_bytes() {
            let place = wrong.unwrap_or(0);
            let expected = self.pattern.fill(message, place, size - MARK_BYTES - place);
            let bytes = Difference::new(place + MARK_BYTES, expected, &text[MARK_BYTES + place..]);
            let what = format!("a text of user {user} has other bytes, or another name");
            return self.meter.note(id, ErrorKind::Altered, Some(sequence), what, Some(bytes));
        }
        let data = cx.data();
        data.seen.texts += 1;
        data.seen.order = mix(data.seen.order ^ mix(message.connection << 32 ^ sequence));
        let expected = match data.expected.get(&user) {
            Some(expected) => *expected,
            // Those who come and go join in anywhere.
            None if has_left => sequence,
            None => 0,
        };
        let is_early = is_own && sequence >= data.acknowledged;
        data.expected.insert(user, expected.max(sequence + 1));
        if sequence == expected {
            self.meter.tally.verified += 1;
            self.meter.answered(meant_ns, received_ns, text.len());
        } else {
            let kind = if sequence > expected { ErrorKind::Lost } else { ErrorKind::Repeated };
            let what = format!("text {sequence} of user {user} came where {expected} was due");
            self.meter.note(id, kind, Some(sequence), what, None);
        }
        if is_early {
            let what = "its text came before the answer to it".to_owned();
            self.meter.note(id, ErrorKind::Reordered, Some(sequence), what, None);
        }
    }

    /// The server answered a request with a result that is not 0.
    fn refused(&mut self, cx: &mut Cx<'_>, request: u32, result: u16) {
        let asked = match request {
            LOGIN => "the login",
            ENTER => "entering the room",
            LEAVE => "leaving the room",
            _ => "a text",
        };
        let outcome = Outcome::from_code(result);
        let why = outcome.map_or("a code that the protocol lacks", |code| code.text(request));
        let data = cx.data();
        let sequence = Some(data.acknowledged);
        let what = format!("user {}: {asked} was refused: {why} ({result})", data.number);
        match data.stage {
            Stage::LoggingIn | Stage::Entering if !data.has_entered => {
                data.stage = Stage::Refused;
                self.meter.turned_away(what);
                cx.close();
            }
            _ => self.meter.note(cx.id(), ErrorKind::Refused, sequence, what, None),
        }
    }

    /// A member that is leaving for good tells what it has seen; the last one compares.
    fn close_book(&mut self, cx: &mut Cx<'_>, is_ours: bool) {
        let id = cx.id();
        let data = cx.data();
        let room = self.plan.room(data.number);
        let shared = Arc::clone(&self.plan.shared);
        let mut books = shared.books.lock().unwrap_or_else(PoisonError::into_inner);
        let book = books.entry(room).or_default();
        book.members += 1;
        book.sent += data.sent;
        book.is_open |= !is_ours || self.plan.talk.stay.is_some();
        book.seen.push(data.seen);
        if book.members < self.plan.members(room) || book.is_open {
            return;
        }
        let missing: u64 = book.seen.iter().map(|seen| book.sent.saturating_sub(seen.texts)).sum();
        if missing > 0 {
            let what = format!("the members of room {room} have missed {missing} texts in all");
            self.meter.note(id, ErrorKind::Lost, None, what, None);
            self.meter.tally.count(ErrorKind::Lost, missing - 1);
        } else if book.seen.windows(2).any(|pair| pair[0].order != pair[1].order) {
            let what =
                format!("the members of room {room} have seen its texts in different orders");
            self.meter.note(id, ErrorKind::Reordered, None, what, None);
        }
    }
}

impl Handler for Client {
    type Session = User;

    fn on_open(&mut self, cx: &mut Cx<'_>) -> wharf::Result {
        let number = self.plan.shared.next_user.fetch_add(1, Ordering::Relaxed);
        cx.data().number = number;
        self.meter.taken();
        let mut body = [0; 2 * FIELD_BYTES];
        let (name, password) = body.split_at_mut(FIELD_BYTES);
        for (field, value) in
            [(name, self.plan.talk.name(number)), (password, self.plan.talk.password.clone())]
        {
            field[..value.len()].copy_from_slice(value.as_bytes());
        }
        cx.send_packet(LOGIN, &body)?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> wharf::Result {
        let body = frame.body();
        let result = || body.first_chunk().map_or(u16::MAX, |bytes| u16::from_le_bytes(*bytes));
        let stage = cx.data().stage;
        match (frame.id(), stage) {
            (LOGIN_ANSWER, Stage::LoggingIn) if result() == 0 => self.enter(cx)?,
            (LOGIN_ANSWER, Stage::LoggingIn) => self.refused(cx, LOGIN, result()),
            (ENTER_ANSWER, Stage::Entering) if result() == 0 => {
                let is_back = cx.data().has_entered;
                self.entered(cx);
                if is_back && self.plan.talks(cx.data().number) {
                    self.talk(cx)?;
                }
            }
            (ENTER_ANSWER, Stage::Entering) => self.refused(cx, ENTER, result()),
            (LEAVE_ANSWER, Stage::Leaving) if result() == 0 => {
                cx.data().expected.clear();
                self.enter(cx)?;
            }
            (LEAVE_ANSWER, Stage::Leaving) => self.refused(cx, LEAVE, result()),
            (CHAT_ANSWER, _) => {
                if result() != 0 {
                    let members = self.deliveries(cx.data().number);
                    self.meter.settled(members.into());
                    self.refused(cx, CHAT, result());
                }
                cx.data().acknowledged += 1;
                if cx.data().is_behind {
                    self.talk(cx)?;
                }
            }
            (CHAT_NOTIFY, _) => self.on_text(cx, body),
            (USER_ENTERED | USER_LIST | USER_LEFT, _) => {}
            (id, _) => {
                let what = format!("packet {id} came while {stage:?}");
                self.meter.note(cx.id(), ErrorKind::WrongId, None, what, None);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Cx<'_>, key: u64) -> wharf::Result {
        if key == TALK {
            return self.talk(cx);
        }
        if cx.data().stage == Stage::Inside && self.meter.sends() {
            cx.data().stage = Stage::Leaving;
            cx.send_packet(LEAVE, &[])?;
        }
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        let data = cx.data();
        if data.stage == Stage::Refused {
            return;
        }
        let is_ours = matches!(reason, CloseReason::Drain | CloseReason::Handler);
        if data.is_behind {
            self.meter.never_sent(&mut data.arrivals);
        }
        if data.has_entered {
            self.meter.closed(reason);
        } else {
            let asked = if data.stage == Stage::Entering { "a room" } else { "its login" };
            let what =
                format!("user {}: it ended ({reason}) before {asked} was answered", data.number);
            return self.meter.turned_away(what);
        }
        if !is_ours {
            let what = format!("user {}: it ended ({reason})", data.number);
            self.meter.note(cx.id(), ErrorKind::ConnectionLost, None, what, None);
            *self.meter.tally.lost_connections.entry(reason.name()).or_default() += 1;
        }
        self.close_book(cx, is_ours);
    }

    fn on_connect_failed(&mut self, _: SocketAddr, error: &io::Error, _: Option<Duration>) {
        self.meter.connect_failed(error);
    }
}

/// The start of every text: who says it, its number, and when it was meant.
fn mark(user: u32, sequence: u64, meant_ns: u64) -> String {
    format!("{user:08x}{sequence:08x}{meant_ns:016x}")
}

fn read_mark(text: &[u8]) -> Option<(u32, u64, u64)> {
    let digits = str::from_utf8(text.get(..MARK_BYTES)?).ok()?;
    let number = |range| u64::from_str_radix(digits.get(range)?, 16).ok();
    Some((u32::try_from(number(0..8)?).ok()?, number(8..16)?, number(16..32)?))
}

/// Name and text of a notification, each without the padding.
fn fields(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, text) = body.split_at_checked(FIELD_BYTES)?;
    let cut = |field: &'_ [u8]| field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    (text.len() == TEXT_BYTES_MAX + 1).then(|| (&name[..cut(name)], &text[..cut(text)]))
}

const LOGIN: u32 = 201;
const LOGIN_ANSWER: u32 = 202;
const ENTER: u32 = 206;
const ENTER_ANSWER: u32 = 207;
const USER_ENTERED: u32 = 208;
const USER_LIST: u32 = 209;
const LEAVE: u32 = 215;
const LEAVE_ANSWER: u32 = 216;
const USER_LEFT: u32 = 217;
const CHAT: u32 = 221;
const CHAT_ANSWER: u32 = 222;
const CHAT_NOTIFY: u32 = 223;

/// Names and passwords: 32 bytes and a zero.
const FIELD_BYTES: usize = 33;
const NAME_BYTES_MAX: usize = FIELD_BYTES - 1;

/// Texts: so many bytes and a zero.
const TEXT_BYTES_MAX: usize = 256;

/// Texts of a user that are said and not answered: as many as messages of an echo at a rate.
pub(crate) const UNDER_WAY_MAX: u64 = 1024;

/// What a text begins with.
const MARK_BYTES: usize = 32;

/// The longest packet either side sends, with its header: a list of 24 users.
pub(crate) const FRAME_BYTES_MAX: usize = 1024;

/// Timers.
const TALK: u64 = 0;
const LEAVE_ROOM: u64 = 1;

/// How often one who could talk looks whether the others are there.
const WAIT_FOR_OTHERS: Duration = Duration::from_millis(20);
