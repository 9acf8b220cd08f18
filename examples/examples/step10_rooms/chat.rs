//! What each packet does: a function per packet, and a table that finds it by the id.

use std::{sync::Arc, time::Duration};

use wharf::{
    CloseReason, Context, Frame, Job, Router, SendError,
    packet::{DecodeError, Packet},
    router::Action,
};

use super::{
    online::Online,
    packets::{
        ChatRequest, ChatResponse, Echo, EnterRequest, EnterResponse, LeaveRequest, LeaveResponse,
        LoginRequest, LoginResponse, Name, Outcome,
    },
    room::{self, Member, ROOMS},
    store::{Store, Verdict},
};

/// What the functions share: one on each worker.
pub(crate) struct Chat {
    pub(crate) online: Arc<Online>,
    pub(crate) store: Arc<dyn Store>,
}

/// What the server remembers of a connection, on the thread that it lives on.
#[derive(Default)]
pub(crate) struct User {
    name: Option<Name>,
    /// The room that has a seat for this user, or is being asked for one.
    pub(crate) room: Option<u32>,
}

pub(crate) type Cx<'a> = Context<'a, User>;

/// Ids that are not here are nobody's: they are ignored and counted, and the connection stays.
pub(crate) fn router() -> Router<Chat, User> {
    Router::builder()
        .on_raw(Echo::ID, echo)
        .on::<LoginRequest<'static>>(login)
        .malformed_for::<LoginRequest<'static>>(Action::Answer(malformed_login))
        .on::<EnterRequest>(enter)
        .malformed_for::<EnterRequest>(Action::Answer(|_, cx, _, _| {
            answer_enter(cx, Outcome::NoSuchRoom)
        }))
        .on::<LeaveRequest>(leave)
        .malformed_for::<LeaveRequest>(Action::Answer(|_, cx, _, _| {
            answer_leave(cx, Outcome::NoSuchRoom)
        }))
        .on::<ChatRequest<'static>>(say)
        .malformed_for::<ChatRequest<'static>>(Action::Answer(malformed_chat))
        .on_timer(no_answer)
        .on_close(close)
        .build()
}

fn echo(_: &mut Chat, cx: &mut Cx<'_>, frame: Frame<'_>) -> wharf::Result {
    cx.send_packet(Echo::ID, frame.body())?;
    Ok(())
}

/// Asks the store on another thread. Until it has answered, this session's next packets wait, and no
/// other session notices.
fn login(chat: &mut Chat, cx: &mut Cx<'_>, packet: LoginRequest<'_>) -> wharf::Result {
    if cx.data().name.is_some() {
        return answer_login(cx, Outcome::AlreadyLoggedIn);
    }
    let (name, password) = (packet.id.to_text(), packet.password.to_text());
    let (online, store) = (Arc::clone(&chat.online), Arc::clone(&chat.store));
    let ask = move || store.check(name.as_str(), password.as_str());
    let asked = cx.offload(ask, move |cx, verdict| finish_login(&online, cx, name, verdict));
    match asked {
        Ok(()) => cx.hold(),
        Err(SendError::WouldExceed) => return answer_login(cx, Outcome::TooMany),
        Err(_) => {} // nobody is there to be answered
    }
    Ok(())
}

/// On the session's own thread again, if there still is a session.
fn finish_login(online: &Online, cx: &mut Cx<'_>, name: Name, verdict: Verdict) -> wharf::Result {
    let outcome = match verdict {
        Verdict::Right => online.claim(name),
        Verdict::Wrong => Outcome::LoginFailed,
        Verdict::Unknown => Outcome::TooMany,
    };
    cx.release();
    if outcome == Outcome::Ok {
        cx.data().name = Some(name);
        println!("{name:?} has come");
    }
    answer_login(cx, outcome)
}

/// Of the wrong length, or with text that is not UTF-8. The answer says so, and nothing changes.
fn malformed_login(_: &mut Chat, cx: &mut Cx<'_>, _: Frame<'_>, _: &DecodeError) -> wharf::Result {
    let is_here = cx.data().name.is_some();
    answer_login(cx, if is_here { Outcome::AlreadyLoggedIn } else { Outcome::LoginFailed })
}

fn answer_login(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    cx.send_typed(&LoginResponse { result: outcome as u16 })?;
    Ok(())
}

fn enter(_: &mut Chat, cx: &mut Cx<'_>, packet: EnterRequest) -> wharf::Result {
    let Some(name) = cx.data().name else { return answer_enter(cx, Outcome::NotLoggedIn) };
    if cx.data().room.is_some() {
        return answer_enter(cx, Outcome::AlreadyInRoom);
    }
    let room = u32::try_from(packet.room).ok().filter(|room| *room < ROOMS);
    let Some(room) = room else { return answer_enter(cx, Outcome::NoSuchRoom) };
    let who = Member { session: cx.id(), name };
    if ask_room(cx, room, move |job| room::enter(job, room, who)) {
        cx.data().room = Some(room);
        Ok(())
    } else {
        answer_enter(cx, Outcome::TooMany)
    }
}

fn leave(_: &mut Chat, cx: &mut Cx<'_>, _: LeaveRequest) -> wharf::Result {
    let Some(room) = cx.data().room else { return answer_leave(cx, Outcome::NoSuchRoom) };
    let session = cx.id();
    if ask_room(cx, room, move |job| room::leave(job, room, session)) {
        Ok(())
    } else {
        answer_leave(cx, Outcome::TooMany)
    }
}

/// The room answers: behind its answers to what was said before.
fn say(_: &mut Chat, cx: &mut Cx<'_>, packet: ChatRequest<'_>) -> wharf::Result {
    let (text, session) = (packet.text.to_text(), cx.id());
    let Some(room) = cx.data().room else { return answer_chat(cx, Outcome::CannotChat) };
    let said = cx.post(room::key(room), move |job| room::say(job, room, session, &text));
    if said.is_ok() { Ok(()) } else { answer_chat(cx, Outcome::TooMany) }
}

fn malformed_chat(_: &mut Chat, cx: &mut Cx<'_>, _: Frame<'_>, _: &DecodeError) -> wharf::Result {
    answer_chat(cx, Outcome::CannotChat)
}

/// Posts a job of the room, and holds the session until `room::settled`. Whether it could be posted.
fn ask_room(cx: &mut Cx<'_>, room: u32, job: impl FnOnce(&mut Job<'_>) + Send + 'static) -> bool {
    let posted = cx.post(room::key(room), job).is_ok();
    if posted {
        cx.hold();
        cx.set_timer(ANSWER_TIMEOUT, PENDING);
    }
    posted
}

/// A session is not held for ever, even if its worker had no room for the answer.
fn no_answer(_: &mut Chat, cx: &mut Cx<'_>, _: u64) -> wharf::Result {
    cx.close();
    Ok(())
}

fn answer_enter(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    cx.send_typed(&EnterResponse { result: outcome as i16 })?;
    Ok(())
}

fn answer_leave(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    cx.send_typed(&LeaveResponse { result: outcome as i16 })?;
    Ok(())
}

fn answer_chat(cx: &mut Cx<'_>, outcome: Outcome) -> wharf::Result {
    cx.send_typed(&ChatResponse { result: outcome as i16 })?;
    Ok(())
}

/// However the connection has ended, the name and the seat are free at once. If the room has no time
/// to be told now, it finds the empty seat when somebody wants one.
fn close(chat: &mut Chat, cx: &mut Cx<'_>, reason: CloseReason) {
    if let Some(name) = cx.data().name.take() {
        chat.online.release(name);
        println!("{name:?} has gone: {reason}");
    }
    if let Some(room) = cx.data().room.take() {
        let _ = cx.post(room::key(room), move |job| room::sweep(job, room));
    }
}

/// The timer of a session that waits for a room.
pub(crate) const PENDING: u64 = 1;
/// How long a room may take to answer: a matter of microseconds on a machine that keeps up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
