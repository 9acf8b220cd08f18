//! A room: who is in it, told and changed by the jobs of its key alone. All that a room sends its jobs
//! send, one after the other, so that all members see one order.

use wharf::{
    Class, Handle, Job, SendError, SessionId, Topic,
    packet::{List, Packet, ShortText, Text, TextRef},
};

use super::{
    chat::{PENDING, User},
    packets::{
        ChatNotify, ChatResponse, EnterResponse, LeaveResponse, Name, Outcome, TEXT_BYTES,
        UserEntered, UserEntry, UserLeft, UserList,
    },
};

/// Somebody with a seat.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    pub(crate) session: SessionId,
    pub(crate) name: Name,
}

impl Member {
    fn entry(&self) -> UserEntry<'_> {
        let id = ShortText::truncated(self.name.as_str());
        UserEntry { unique_id: unique_id(self.session), id }
    }
}

/// The state of a room's key.
#[derive(Default)]
struct Room(Vec<Member>);

/// The key of a room's jobs, and the topic of what it says to all.
pub(crate) fn key(room: u32) -> u64 {
    u64::from(room)
}

/// Gives a seat to somebody, if there is one.
pub(crate) fn enter(job: &mut Job<'_>, room: u32, who: Member) {
    sweep(job, room);
    let (Room(members), handle) = job.split::<Room>();
    if members.len() >= SEATS {
        answer(handle, who.session, &EnterResponse { result: Outcome::RoomFull as i16 });
        return settled(handle, who.session, |user| user.room = None);
    }
    publish(handle, room, members, &UserEntered { user: who.entry() });
    members.push(who);
    answer(handle, who.session, &EnterResponse { result: Outcome::Ok as i16 });
    let entries: Vec<UserEntry<'_>> = members.iter().map(Member::entry).collect();
    let users = List::new(&entries).expect("no more than there are seats");
    answer(handle, who.session, &UserList { users });
    // Behind what was published, so that nobody is told of himself.
    if handle.subscribe(who.session, Topic(key(room))) == Err(SendError::WouldExceed) {
        overrun(handle, who.session);
    }
    settled(handle, who.session, |_| {});
}

/// Takes a seat back, and says so to whoever had it.
pub(crate) fn leave(job: &mut Job<'_>, room: u32, session: SessionId) {
    let (Room(members), handle) = job.split::<Room>();
    members.retain(|member| member.session != session);
    if handle.unsubscribe(session, Topic(key(room))) == Err(SendError::WouldExceed) {
        overrun(handle, session);
    }
    answer(handle, session, &LeaveResponse { result: Outcome::Ok as i16 });
    publish(handle, room, members, &UserLeft { unique_id: unique_id(session) });
    settled(handle, session, |user| user.room = None);
}

/// Takes back the seats of those whose connection is over.
pub(crate) fn sweep(job: &mut Job<'_>, room: u32) {
    let (Room(members), handle) = job.split::<Room>();
    let is_here = |member: &Member| handle.is_open(member.session);
    let (here, gone): (Vec<_>, Vec<_>) = members.drain(..).partition(is_here);
    *members = here;
    for Member { session, .. } in gone {
        publish(handle, room, members, &UserLeft { unique_id: unique_id(session) });
    }
}

/// Says something to all members, whoever said it too, who is answered first.
pub(crate) fn say(job: &mut Job<'_>, room: u32, session: SessionId, text: &Text<TEXT_BYTES>) {
    let (Room(members), handle) = job.split::<Room>();
    // One whose connection is over may have been swept out before this came.
    let Some(who) = members.iter().find(|member| member.session == session) else { return };
    answer(handle, session, &ChatResponse { result: Outcome::Ok as i16 });
    let notify = ChatNotify { id: TextRef::from(&who.name), text: TextRef::from(text) };
    publish(handle, room, members, &notify);
}

/// No other session has it, and a user has one session: that makes it the user's unique id.
fn unique_id(session: SessionId) -> i64 {
    session.as_u64().cast_signed()
}

fn answer<P: Packet>(handle: &Handle, to: SessionId, packet: &P) {
    if handle.send_typed(to, packet) == Err(SendError::WouldExceed) {
        overrun(handle, to);
    }
}

/// Sends a packet to all members; it is encoded once for each worker.
fn publish<P: Packet>(handle: &Handle, room: u32, members: &[Member], packet: &P) {
    if handle.publish(Topic(key(room)), Class::Reliable, P::ID, &packet.to_vec()).is_err() {
        // Some got it and some did not: a member sees all that is said, or its connection ends.
        members.iter().for_each(|member| overrun(handle, member.session));
    }
}

/// Tells a session's own thread what has become of what it asked for, and lets its packets come again.
fn settled(handle: &Handle, session: SessionId, tell: impl FnOnce(&mut User) + Send + 'static) {
    let told = handle.call::<User>(session, |cx| {
        tell(cx.data());
        cx.cancel_timer(PENDING);
        cx.release();
        Ok(())
    });
    if told == Err(SendError::WouldExceed) {
        overrun(handle, session);
    }
}

/// Its worker has more to do than it may, and what the session misses it cannot be told later.
fn overrun(handle: &Handle, session: SessionId) {
    let _ = handle.close(session);
}

pub(crate) const ROOMS: u32 = 10;
const SEATS: usize = 4;
