//! The chat as a handler of sessions: what each packet does. A session's thread owns how far the
//! session has come ([`User`]); rooms are owned by the jobs of their keys.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use wharf::{
    Builder, CloseReason, Context, Frame, Limits, Router, SendError,
    framing::LengthField,
    packet::{DecodeError, Packet},
    router::Action,
};

use crate::{
    failures::Failures,
    online::{Claim, Online},
    packets::{
        ChatRequest, ChatResponse, Echo, EnterRequest, EnterResponse, LeaveRequest, LeaveResponse,
        LoginRequest, LoginResponse, Name, Outcome,
    },
    rate, room,
    settings::Settings,
    store::{Accounts, Verdict, check},
    user::{Identity, Stage, User},
};

/// A chat: its users, its rooms, and what it has counted. A clone is the same chat.
#[derive(Clone)]
pub struct Chat {
    shared: Arc<Shared>,
    router: Router<Content, User>,
}

/// What all threads share. Nothing of it is touched for a message.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    accounts: Accounts,
    online: Online,
    failures: Failures,
    /// By room: who is gone and could not be told of.
    departed: Vec<Mutex<Vec<i64>>>,
    seats: AtomicI64,
    logins: AtomicU64,
    logins_failed: AtomicU64,
    logins_shed: AtomicU64,
    logins_unavailable: AtomicU64,
}

/// What a chat has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Users that are logged in.
    pub online: usize,
    /// Seats that are taken, in all rooms.
    pub seats: i64,
    /// Logins that worked, since the start.
    pub logins: u64,
    /// Logins with an unknown id or a wrong password.
    pub logins_failed: u64,
    /// Logins that were answered with 63: too many at one time, or from one address.
    pub logins_shed: u64,
    /// Logins that the store could not judge.
    pub logins_unavailable: u64,
    /// Password hashes made.
    pub hashes: u64,
    /// Packets with an id that no client sends.
    pub packets_unknown: u64,
}

/// The handler's state, one on each thread.
struct Content(Arc<Shared>);

type Cx<'a> = Context<'a, User>;

impl Chat {
    /// A chat with these users.
    #[must_use]
    pub fn new(settings: Settings, accounts: Accounts) -> Self {
        let shared = Arc::new(Shared {
            online: Online::new(settings.users_max),
            failures: Failures::new(settings.address_failures_per_minute),
            departed: (0..settings.rooms).map(|_| Mutex::default()).collect(),
            settings,
            accounts,
            seats: AtomicI64::new(0),
            logins: AtomicU64::new(0),
            logins_failed: AtomicU64::new(0),
            logins_shed: AtomicU64::new(0),
            logins_unavailable: AtomicU64::new(0),
        });
        Self { shared, router: router() }
    }

    /// Adds a listener for this chat to a server, with `limits` but for the first frame, for which
    /// there is more time. What the server offloads is hashing passwords and asking the store:
    /// [`offload_threads`](Builder::offload_threads) says how many at one time.
    ///
    /// # Errors
    /// Somebody could listen in: passwords go over the network as they are, so that an address that
    /// others reach needs [`Settings::allow_plaintext_login`], and a store that lets anybody in is for
    /// loopback alone.
    pub fn listen(
        &self,
        builder: Builder,
        address: SocketAddr,
        limits: Limits,
    ) -> wharf::Result<Builder> {
        self.shared.settings.validate(address, self.shared.accounts.store.scheme())?;
        let limits = self.shared.settings.session_limits(limits);
        let (shared, router) = (Arc::clone(&self.shared), self.router.clone());
        let handler = move || router.handler(Content(Arc::clone(&shared)));
        Ok(builder.limits(limits).listen(address, LengthField::TUTORIAL, handler))
    }

    /// The users.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.shared.accounts
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let shared = &self.shared;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            online: shared.online.count(),
            seats: shared.seats.load(Ordering::Relaxed),
            logins: load(&shared.logins),
            logins_failed: load(&shared.logins_failed),
            logins_shed: load(&shared.logins_shed),
            logins_unavailable: load(&shared.logins_unavailable),
            hashes: shared.accounts.hashes(),
            packets_unknown: self.router.counts().unknown,
        }
    }
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Whether rooms tell who comes and goes: in large ones everybody would be told of everybody.
    pub(crate) fn notifies(&self) -> bool {
        self.settings.room_notifications
            && self.settings.room_seats <= self.settings.notify_seats_max
    }

    pub(crate) fn seats_taken(&self, change: i64) {
        self.seats.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn take_departed(&self, room: u32) -> Vec<i64> {
        let mut departed =
            self.departed[room as usize].lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut departed)
    }

    /// Tells a room of somebody who is gone, when its thread has no room for a job.
    pub(crate) fn departed(&self, room: u32, unique_id: i64) {
        let mut departed =
            self.departed[room as usize].lock().unwrap_or_else(PoisonError::into_inner);
        departed.push(unique_id);
    }

    /// Takes the name for a session whose password was right.
    fn claim(&self, cx: &Cx<'_>, name: Name) -> Result<Identity, Outcome> {
        let session = cx.id();
        let Claim { unique_id, kicked } =
            self.online.claim(name, session, self.settings.duplicate_login)?;
        if let Some(kicked) = kicked {
            // Why it ends, or a client that comes back by itself would kick this one.
            let why = LoginResponse { result: Outcome::AlreadyLoggedIn.code() }.to_vec();
            // If that cannot be asked for now, its worker is the one that has too much to do; and who has no
            // room left for a word is closed without.
            let _ = cx.handle().send_packet(kicked, LoginResponse::ID, &why);
            let _ = cx.handle().close(kicked);
        }
        Ok(Identity { session, unique_id, name })
    }
}

fn router() -> Router<Content, User> {
    Router::builder()
        .on_raw(Echo::ID, echo)
        .on::<LoginRequest<'static>>(login)
        .on::<EnterRequest>(enter)
        .on::<LeaveRequest>(leave)
        .on::<ChatRequest<'static>>(chat)
        .malformed_for::<LoginRequest<'static>>(Action::Answer(malformed_login))
        .malformed_for::<EnterRequest>(Action::Answer(malformed_enter))
        .malformed_for::<LeaveRequest>(Action::Answer(malformed_leave))
        .malformed_for::<ChatRequest<'static>>(Action::Answer(malformed_chat))
        .unknown(Action::Answer(unknown))
        .on_open(open)
        .on_timer(timer)
        .on_close(close)
        .build()
}

/// Still not logged in.
const LOGIN_TIMER: u64 = 1;
/// Still no answer from the store or a room.
pub(crate) const PENDING_TIMER: u64 = 2;

/// How long the store may take to judge a login, with all those before it; then the session is ended.
/// A full queue of hashes takes a few seconds, and one of Redis' time-outs one.
const LOGIN_PENDING_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a room may take to answer: a matter of microseconds, on a machine that keeps up.
const ROOM_PENDING_TIMEOUT: Duration = Duration::from_secs(30);

fn open(content: &mut Content, cx: &mut Cx<'_>) -> wharf::Result {
    if let Some(timeout) = content.0.settings.login_timeout {
        cx.set_timer(timeout, LOGIN_TIMER);
    }
    Ok(())
}

fn timer(_: &mut Content, cx: &mut Cx<'_>, key: u64) -> wharf::Result {
    let stage = cx.data().stage();
    let is_late = match key {
        LOGIN_TIMER => matches!(stage, Stage::Connected | Stage::LoggingIn),
        _ => stage.is_pending(),
    };
    if is_late {
        tracing::debug!(session = %cx.id(), ?stage, "closed: it takes too long");
        cx.close();
    }
    Ok(())
}

fn close(content: &mut Content, cx: &mut Cx<'_>, _: CloseReason) {
    let Some((identity, room)) = cx.data().end() else { return };
    content.0.online.release(&identity.name, identity.session);
    if let Some(room) = room {
        let (shared, unique_id) = (Arc::clone(&content.0), identity.unique_id);
        let depart = move |job: &mut wharf::Job<'_>| room::depart(job, &shared, room, unique_id);
        if cx.post(room::key(room), depart) == Err(SendError::WouldExceed) {
            content.0.departed(room, unique_id);
        }
    }
}

/// Whether a packet is within what the session may send; otherwise `None` where the session ends.
fn within_rate(content: &Content, cx: &mut Cx<'_>) -> Option<bool> {
    let now_ns = cx.now().as_nanos();
    match cx.data().bucket.take(now_ns, content.0.settings.rate) {
        rate::Verdict::Allowed => Some(true),
        rate::Verdict::Refused => Some(false),
        rate::Verdict::Close => {
            tracing::debug!(session = %cx.id(), "closed: it goes on sending too many packets");
            cx.close();
            None
        }
    }
}

fn echo(content: &mut Content, cx: &mut Cx<'_>, frame: Frame<'_>) -> wharf::Result {
    if within_rate(content, cx) == Some(true) {
        cx.send_packet(Echo::ID, frame.body())?;
    }
    Ok(())
}

/// Ignored, and counted by the router; the connection stays.
fn unknown(content: &mut Content, cx: &mut Cx<'_>, _: Frame<'_>) -> wharf::Result {
    within_rate(content, cx);
    Ok(())
}

fn login(content: &mut Content, cx: &mut Cx<'_>, packet: LoginRequest<'_>) -> wharf::Result {
    match within_rate(content, cx) {
        Some(true) => {}
        Some(false) => return answer_login(cx, Outcome::TooMany),
        None => return Ok(()),
    }
    let shared = &content.0;
    if let Err(outcome) = cx.data().begin_login() {
        return answer_login(cx, outcome);
    }
    let outcome = if shared.failures.allow(cx.peer().ip(), cx.now().as_nanos()) {
        match ask_store(shared, cx, packet) {
            Ok(()) => {
                cx.hold();
                cx.set_timer(LOGIN_PENDING_TIMEOUT, PENDING_TIMER);
                return Ok(());
            }
            Err(SendError::Closed) => return Ok(()),
            Err(_) => Outcome::TooMany,
        }
    } else {
        Outcome::TooMany
    };
    shared.logins_shed.fetch_add(1, Ordering::Relaxed);
    cx.data().end_login(None);
    answer_login(cx, outcome)
}

/// Has the password checked where that holds nobody up, and then the login ended.
fn ask_store(
    shared: &Arc<Shared>,
    cx: &mut Cx<'_>,
    packet: LoginRequest<'_>,
) -> Result<(), SendError> {
    let (name, password) = (packet.id.to_text(), packet.password.to_text());
    let accounts = shared.accounts.clone();
    let shared = Arc::clone(shared);
    let work =
        move || check(&*accounts.store, &accounts.passwords, name.as_str(), password.as_str());
    cx.offload(work, move |cx, verdict| finish_login(&shared, cx, name, verdict))
}

/// On the session's thread again, if the session still is.
fn finish_login(shared: &Shared, cx: &mut Cx<'_>, name: Name, verdict: Verdict) -> wharf::Result {
    let claimed = match verdict {
        Verdict::Accepted => shared.claim(cx, name),
        Verdict::Rejected => {
            shared.failures.record(cx.peer().ip(), cx.now().as_nanos());
            Err(Outcome::LoginFailed)
        }
        Verdict::Unavailable => Err(Outcome::TooMany),
    };
    let counter = match (&claimed, verdict) {
        (Ok(_), _) => &shared.logins,
        (Err(_), Verdict::Unavailable) => &shared.logins_unavailable,
        (Err(_), _) => &shared.logins_failed,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    let outcome = claimed.err().unwrap_or(Outcome::Ok);
    cx.data().end_login(claimed.ok());
    cx.cancel_timer(PENDING_TIMER);
    cx.release();
    if outcome == Outcome::Ok {
        cx.cancel_timer(LOGIN_TIMER);
    }
    answer_login(cx, outcome)
}

fn enter(content: &mut Content, cx: &mut Cx<'_>, packet: EnterRequest) -> wharf::Result {
    match within_rate(content, cx) {
        Some(true) => {}
        Some(false) => return answer_enter(cx, Outcome::TooMany),
        None => return Ok(()),
    }
    let (who, room) = match cx.data().begin_enter(packet.room, content.0.settings.rooms) {
        Ok(begun) => begun,
        Err(outcome) => return answer_enter(cx, outcome),
    };
    let shared = Arc::clone(&content.0);
    match cx.post(room::key(room), move |job| room::enter(job, &shared, room, who)) {
        Ok(()) => await_room(cx),
        Err(_) => {
            cx.data().end_enter(false);
            return answer_enter(cx, Outcome::TooMany);
        }
    }
    Ok(())
}

fn leave(content: &mut Content, cx: &mut Cx<'_>, _: LeaveRequest) -> wharf::Result {
    match within_rate(content, cx) {
        Some(true) => {}
        Some(false) => return answer_leave(cx, Outcome::TooMany),
        None => return Ok(()),
    }
    let (who, room) = match cx.data().begin_leave() {
        Ok(begun) => begun,
        Err(outcome) => return answer_leave(cx, outcome),
    };
    let shared = Arc::clone(&content.0);
    match cx.post(room::key(room), move |job| room::leave(job, &shared, room, who)) {
        Ok(()) => await_room(cx),
        Err(_) => {
            cx.data().stay();
            return answer_leave(cx, Outcome::TooMany);
        }
    }
    Ok(())
}

fn await_room(cx: &mut Cx<'_>) {
    cx.hold();
    cx.set_timer(ROOM_PENDING_TIMEOUT, PENDING_TIMER);
}

fn chat(content: &mut Content, cx: &mut Cx<'_>, packet: ChatRequest<'_>) -> wharf::Result {
    let said = match within_rate(content, cx) {
        Some(true) => Ok(packet.text.to_text()),
        Some(false) => Err(Outcome::TooMany),
        None => return Ok(()),
    };
    say(content, cx, said)
}

/// In a room, the room answers: behind its answers to what was said before.
fn say(content: &Content, cx: &mut Cx<'_>, said: Result<ChatText, Outcome>) -> wharf::Result {
    let (who, room) = match cx.data().speaks() {
        Ok(who_and_where) => who_and_where,
        Err(outcome) => return answer_chat(cx, said.err().unwrap_or(outcome)),
    };
    let shared = Arc::clone(&content.0);
    let posted = cx.post(room::key(room), move |job| room::chat(job, &shared, room, &who, said));
    if posted.is_err() { answer_chat(cx, Outcome::TooMany) } else { Ok(()) }
}

type ChatText = wharf::packet::Text<{ crate::packets::TEXT_BYTES }>;

fn malformed_login(
    content: &mut Content,
    cx: &mut Cx<'_>,
    _: Frame<'_>,
    _: &DecodeError,
) -> wharf::Result {
    let outcome = cx.data().can_log_in().err().unwrap_or(Outcome::LoginFailed);
    refuse(content, cx, outcome, answer_login)
}

fn malformed_enter(
    content: &mut Content,
    cx: &mut Cx<'_>,
    _: Frame<'_>,
    _: &DecodeError,
) -> wharf::Result {
    refuse(content, cx, Outcome::NoSuchRoom, answer_enter)
}

fn malformed_leave(
    content: &mut Content,
    cx: &mut Cx<'_>,
    _: Frame<'_>,
    _: &DecodeError,
) -> wharf::Result {
    refuse(content, cx, Outcome::NoSuchRoom, answer_leave)
}

fn malformed_chat(
    content: &mut Content,
    cx: &mut Cx<'_>,
    _: Frame<'_>,
    _: &DecodeError,
) -> wharf::Result {
    match within_rate(content, cx) {
        Some(true) => say(content, cx, Err(Outcome::CannotChat)),
        Some(false) => say(content, cx, Err(Outcome::TooMany)),
        None => Ok(()),
    }
}

/// Answers a packet that is none.
fn refuse(
    content: &Content,
    cx: &mut Cx<'_>,
    outcome: Outcome,
    answer: fn(&mut Cx<'_>, Outcome) -> wharf::Result,
) -> wharf::Result {
    match within_rate(content, cx) {
        Some(true) => answer(cx, outcome),
        Some(false) => answer(cx, Outcome::TooMany),
        None => Ok(()),
    }
}

fn answer_login(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    Ok(cx.send_typed(&LoginResponse { result: outcome.code() })?)
}

fn answer_enter(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    Ok(cx.send_typed(&EnterResponse { result: outcome.signed() })?)
}

fn answer_leave(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    Ok(cx.send_typed(&LeaveResponse { result: outcome.signed() })?)
}

fn answer_chat(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    Ok(cx.send_typed(&ChatResponse { result: outcome.signed() })?)
}
