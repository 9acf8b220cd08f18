//! What goes over the wire: each packet's id and its fields, defined once. A header of five bytes
//! stands before each, [`LengthField::TUTORIAL`]: the length of all, the id, a type that is 0.
//!
//! [`LengthField::TUTORIAL`]: wharf::framing::LengthField::TUTORIAL

use wharf::packet::{List, Rest, ShortText, Text, TextRef};

/// A name or a password in its field: at most 32 bytes of UTF-8, then NULs.
pub(crate) const NAME_BYTES: usize = 33;
pub(crate) type Name = Text<NAME_BYTES>;
/// What is said: at most 256 bytes of UTF-8, then NULs.
pub(crate) const TEXT_BYTES: usize = 257;
/// So that a packet with names of any length fits into the 1,024 bytes that the tutorial's client takes.
pub(crate) const LIST_ENTRIES_MAX: usize = 24;

wharf::packet! {
    /// For developers: returned unchanged.
    pub(crate) struct Echo<'a> = 1 { pub(crate) bytes: Rest<'a> }

    pub(crate) struct LoginRequest<'a> = 201 {
        pub(crate) id: TextRef<'a, NAME_BYTES>,
        pub(crate) password: TextRef<'a, NAME_BYTES>,
    }

    pub(crate) struct LoginResponse = 202 { pub(crate) result: u16 }

    pub(crate) struct EnterRequest = 206 { pub(crate) room: i32 }
    pub(crate) struct EnterResponse = 207 { pub(crate) result: i16 }
    /// To those in a room: who has come.
    pub(crate) struct UserEntered<'a> = 208 { pub(crate) user: UserEntry<'a> }
    /// To whoever has come: who is there.
    pub(crate) struct UserList<'a> = 209 {
        pub(crate) users: List<'a, i8, UserEntry<'a>, LIST_ENTRIES_MAX>,
    }
    #[derive(Clone, Copy)]
    pub(crate) struct UserEntry<'a> {
        pub(crate) unique_id: i64,
        pub(crate) id: ShortText<'a, NAME_BYTES>,
    }

    pub(crate) struct LeaveRequest = 215 {}
    pub(crate) struct LeaveResponse = 216 { pub(crate) result: i16 }
    /// To those in a room: who has left.
    pub(crate) struct UserLeft = 217 { pub(crate) unique_id: i64 }

    pub(crate) struct ChatRequest<'a> = 221 { pub(crate) text: TextRef<'a, TEXT_BYTES> }
    pub(crate) struct ChatResponse = 222 { pub(crate) result: i16 }
    /// To all in a room, who said it too.
    pub(crate) struct ChatNotify<'a> = 223 {
        pub(crate) id: TextRef<'a, NAME_BYTES>,
        pub(crate) text: TextRef<'a, TEXT_BYTES>,
    }
}

/// What the answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Outcome {
    Ok = 0,
    /// Somebody is online under that id, or this connection has logged in.
    AlreadyLoggedIn = 31,
    /// An unknown id or a wrong password: one answer for both.
    LoginFailed = 33,
    NotLoggedIn = 51,
    AlreadyInRoom = 52,
    RoomFull = 54,
    /// A room that is not there; or leaving where no room is.
    NoSuchRoom = 61,
    /// Not now: too many logins at one time, the store does not answer, a room has too much to do.
    TooMany = 63,
    /// Outside a room, or what is no text.
    CannotChat = 81,
}
