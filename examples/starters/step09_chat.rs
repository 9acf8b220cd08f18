//! What each packet does: a function per packet, and a table that finds it by the id.

use std::sync::Arc;

use wharf::{
    CloseReason, Context, Frame, Router, SendError,
    packet::{DecodeError, Packet},
    router::Action,
};

use super::{
    online::Online,
    packets::{Echo, LoginRequest, LoginResponse, Name, Outcome},
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
}

pub(crate) type Cx<'a> = Context<'a, User>;

/// Ids that are not here are nobody's: they are ignored and counted, and the connection stays.
pub(crate) fn router() -> Router<Chat, User> {
    Router::builder()
        .on_raw(Echo::ID, echo)
        .on::<LoginRequest<'static>>(login)
        .malformed_for::<LoginRequest<'static>>(Action::Answer(malformed_login))
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
    // --- your turn: this asks on the worker, and everybody there waits for the answer
    let verdict = store.check(name.as_str(), password.as_str());
    finish_login(&online, cx, name, verdict)
    // --- until here
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

/// However the connection has ended, the name is free at once.
fn close(chat: &mut Chat, cx: &mut Cx<'_>, reason: CloseReason) {
    if let Some(name) = cx.data().name.take() {
        chat.online.release(name);
        println!("{name:?} has gone: {reason}");
    }
}
