//! A room: who is in it, told and changed by the jobs of the room's key alone. Whatever a room sends
//! (207, 208, 209, 216, 217, 222, 223) its jobs send, one after the other: so all its members see one
//! order, and rooms run beside each other.

use std::collections::BTreeMap;

use wharf::{
    Class, Handle, Job, SendError, SessionId, Topic,
    packet::{List, Packet, ShortText, Text, TextRef},
};

use crate::{
    chat::Shared,
    packets::{
        ChatNotify, ChatResponse, EnterResponse, LIST_ENTRIES_MAX, LeaveResponse, Outcome,
        TEXT_BYTES, UserEntered, UserEntry, UserLeft, UserList,
    },
    user::{Identity, User},
};

/// The state of a room's key: its members by their unique id, so in the order of their logins.
#[derive(Debug, Default)]
struct Room {
    members: BTreeMap<i64, Identity>,
}

/// The key and the topic of a room: the letters `room`, and its number.
pub(crate) fn key(room: u32) -> u64 {
    u64::from(u32::from_be_bytes(*b"room")) << 32 | u64::from(room)
}

fn topic(room: u32) -> Topic {
    Topic(key(room))
}

/// Gives a seat to somebody, if there is one.
pub(crate) fn enter(job: &mut Job<'_>, shared: &Shared, room: u32, who: Identity) {
    let (state, handle) = job.split::<Room>();
    settle(state, handle, shared, room);
    // Whoever is gone has told the room, or does so after this.
    if !handle.is_open(who.session) {
        return;
    }
    let outcome = if state.members.len() < shared.settings.room_seats as usize {
        state.members.insert(who.unique_id, who);
        shared.seats_taken(1);
        Outcome::Ok
    } else {
        Outcome::RoomFull
    };
    let entered = outcome == Outcome::Ok;
    answer(handle, who.session, &EnterResponse { result: outcome.signed() });
    if entered {
        if shared.notifies() {
            send_list(state, handle, who.session);
            let user = entry(&who);
            publish(state, handle, room, &UserEntered { user });
        }
        // Behind what was published, so that nobody is told of himself.
        if handle.subscribe(who.session, topic(room)) == Err(SendError::WouldExceed) {
            overrun(handle, who.session);
        }
    }
    settled(handle, who.session, move |user| user.end_enter(entered));
}

/// Takes a seat back, and says so to whoever had it.
pub(crate) fn leave(job: &mut Job<'_>, shared: &Shared, room: u32, who: Identity) {
    let (state, handle) = job.split::<Room>();
    settle(state, handle, shared, room);
    if handle.unsubscribe(who.session, topic(room)) == Err(SendError::WouldExceed) {
        overrun(handle, who.session);
    }
    answer(handle, who.session, &LeaveResponse { result: Outcome::Ok.signed() });
    take_out(state, handle, shared, room, who.unique_id);
    settled(handle, who.session, User::end_leave);
}

/// Takes back the seat of somebody who is gone.
pub(crate) fn depart(job: &mut Job<'_>, shared: &Shared, room: u32, unique_id: i64) {
    let (state, handle) = job.split::<Room>();
    settle(state, handle, shared, room);
    take_out(state, handle, shared, room, unique_id);
}

/// Says something to all members, or answers that it is not said.
pub(crate) fn chat(
    job: &mut Job<'_>,
    shared: &Shared,
    room: u32,
    who: &Identity,
    said: Result<Text<TEXT_BYTES>, Outcome>,
) {
    let (state, handle) = job.split::<Room>();
    settle(state, handle, shared, room);
    let text = match said {
        Ok(text) if state.members.contains_key(&who.unique_id) => text,
        Ok(_) => return answer_chat(handle, who, Outcome::CannotChat),
        Err(outcome) => return answer_chat(handle, who, outcome),
    };
    answer_chat(handle, who, Outcome::Ok);
    let notify = ChatNotify { id: TextRef::from(&who.name), text: TextRef::from(&text) };
    publish(state, handle, room, &notify);
}

fn answer_chat(handle: &Handle, who: &Identity, outcome: Outcome) {
    answer(handle, who.session, &ChatResponse { result: outcome.signed() });
}

/// Takes out those who are gone and could not be told of, because this thread had more to do than it
/// may.
fn settle(state: &mut Room, handle: &Handle, shared: &Shared, room: u32) {
    for unique_id in shared.take_departed(room) {
        take_out(state, handle, shared, room, unique_id);
    }
}

fn take_out(state: &mut Room, handle: &Handle, shared: &Shared, room: u32, unique_id: i64) {
    if state.members.remove(&unique_id).is_some() {
        shared.seats_taken(-1);
        if shared.notifies() {
            publish(state, handle, room, &UserLeft { unique_id });
        }
    }
}

/// Who is there, also whoever is told.
fn send_list(state: &Room, handle: &Handle, to: SessionId) {
    let entries: Vec<UserEntry<'_>> = state.members.values().map(entry).collect();
    for entries in entries.chunks(LIST_ENTRIES_MAX) {
        let users = List::new(entries).expect("no more than fit");
        answer(handle, to, &UserList { users });
    }
}

fn entry(member: &Identity) -> UserEntry<'_> {
    UserEntry { unique_id: member.unique_id, id: ShortText::truncated(member.name.as_str()) }
}

fn answer<P: Packet>(handle: &Handle, to: SessionId, packet: &P) {
    match handle.send_typed(to, packet) {
        // Whoever is gone needs no answer.
        Ok(()) | Err(SendError::Closed) => {}
        Err(_) => overrun(handle, to),
    }
}

/// Sends a packet to all members.
fn publish<P: Packet>(state: &Room, handle: &Handle, room: u32, packet: &P) {
    let mut body = [0; PUBLISHED_BYTES_MAX];
    let bytes = packet.encode(&mut body).expect("none is longer");
    let published = handle.publish(topic(room), Class::Reliable, P::ID, &body[..bytes]);
    if published.is_err_and(|error| error != SendError::Closed) {
        // Some got it and some did not: a member sees all that is said, or its connection ends.
        state.members.values().for_each(|member| overrun(handle, member.session));
    }
}

const PUBLISHED_BYTES_MAX: usize = ChatNotify::BODY_BYTES_MAX;
const _: () = assert!(UserEntered::BODY_BYTES_MAX <= PUBLISHED_BYTES_MAX);

/// Tells a session's thread what has become of what it asked for, and lets its frames come again.
fn settled(handle: &Handle, session: SessionId, tell: impl FnOnce(&mut User) + Send + 'static) {
    let told = handle.call::<User>(session, |cx| {
        tell(cx.data());
        cx.cancel_timer(crate::chat::PENDING_TIMER);
        cx.release();
        Ok(())
    });
    if told == Err(SendError::WouldExceed) {
        overrun(handle, session);
    }
}

/// The way to a session's worker is full: what it misses it cannot be told later. If not even the end
/// can be asked for, and it waits for an answer, its own timer ends it.
fn overrun(handle: &Handle, session: SessionId) {
    tracing::warn!(%session, "closed: its worker has more to do than it may");
    let _ = handle.close(session);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use wharf::Server;

    use super::*;
    use crate::{Accounts, Chat, Memory, Scheme, Settings, packets::Name};

    /// It may be gone before the room comes to it, and the room told so first: by way of those who could
    /// not be told of. Then nobody would ever take the seat back.
    #[test]
    fn whoever_is_gone_gets_no_seat() {
        let chat = Chat::new(Settings::default(), Accounts::new(Memory::new(Scheme::Plain)));
        let address = "127.0.0.1:0".parse().unwrap();
        let builder = Server::builder().workers(1);
        let builder = chat.listen(builder, address, wharf::Limits::default()).unwrap();
        let handle = builder.start().unwrap();
        let gone = Identity {
            session: SessionId::from_u64(0),
            unique_id: 7,
            name: Name::new("user0").unwrap(),
        };
        assert!(!handle.is_open(gone.session));
        let shared = Arc::clone(chat.shared());
        shared.departed(3, gone.unique_id);
        let (tell, told) = mpsc::channel();
        handle
            .post(key(3), move |job| {
                enter(job, &shared, 3, gone);
                let _ = tell.send(job.state::<Room>().members.len());
            })
            .unwrap();
        assert_eq!(told.recv(), Ok(0));
        assert_eq!(chat.counts().seats, 0);
        handle.drain(std::time::Duration::ZERO);
        assert!(handle.join().unwrap().leftover.is_nothing());
    }
}
