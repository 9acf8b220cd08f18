//! The packets of the chat protocol, in the framing [`LengthField::TUTORIAL`]: one definition each.
//!
//! [`LengthField::TUTORIAL`]: wharf::framing::LengthField::TUTORIAL

use wharf::packet::{List, Packet as _, Rest, ShortText, Text, TextRef};

/// Bytes of a name's or a password's field: 32 and a NUL. One that is received may fill the field.
pub const NAME_BYTES: usize = 33;
/// Bytes of a chat text's field: 256 and a NUL. One that is received may fill the field.
pub const TEXT_BYTES: usize = 257;
/// Entries of one [`UserList`]: the longest is 5 + 1 + 24 x 42 = 1,014 bytes, and 990 with names of
/// 32 bytes. The tutorial's client takes packets of at most 1,024.
pub const LIST_ENTRIES_MAX: usize = 24;

/// A user's name as it is on the wire.
pub type Name = Text<NAME_BYTES>;

wharf::packet! {
    /// Returned unchanged: for developers.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Echo<'a> = 1 {
        /// Anything.
        pub bytes: Rest<'a>,
    }

    /// Asks to be logged in.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct LoginRequest<'a> = 201 {
        /// The user's name.
        pub id: TextRef<'a, NAME_BYTES>,
        /// The user's password.
        pub password: TextRef<'a, NAME_BYTES>,
    }

    /// Answers [`LoginRequest`].
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct LoginResponse = 202 {
        /// The code of an [`Outcome`].
        pub result: u16,
    }

    /// Asks to enter a room.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct EnterRequest = 206 {
        /// Its number, from 0.
        pub room: i32,
    }

    /// Answers [`EnterRequest`].
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct EnterResponse = 207 {
        /// The code of an [`Outcome`].
        pub result: i16,
    }

    /// Tells those in a room who came.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct UserEntered<'a> = 208 {
        /// Who.
        pub user: UserEntry<'a>,
    }

    /// Tells who came who is there; more than one packet if there are many.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct UserList<'a> = 209 {
        /// The users in the room.
        pub users: List<'a, i8, UserEntry<'a>, LIST_ENTRIES_MAX>,
    }

    /// A user in a room.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct UserEntry<'a> {
        /// Different for each login, as long as the server runs.
        pub unique_id: i64,
        /// The user's name.
        pub id: ShortText<'a, NAME_BYTES>,
    }

    /// Asks to leave the room.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct LeaveRequest = 215 {}

    /// Answers [`LeaveRequest`].
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct LeaveResponse = 216 {
        /// The code of an [`Outcome`].
        pub result: i16,
    }

    /// Tells those in a room who left.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct UserLeft = 217 {
        /// Who.
        pub unique_id: i64,
    }

    /// Says something in the room.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ChatRequest<'a> = 221 {
        /// What.
        pub text: TextRef<'a, TEXT_BYTES>,
    }

    /// Answers [`ChatRequest`].
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ChatResponse = 222 {
        /// The code of an [`Outcome`].
        pub result: i16,
    }

    /// Tells all in a room, who said it too, what was said.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ChatNotify<'a> = 223 {
        /// Who said it.
        pub id: TextRef<'a, NAME_BYTES>,
        /// What.
        pub text: TextRef<'a, TEXT_BYTES>,
    }
}

/// What the answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[non_exhaustive]
pub enum Outcome {
    /// Done.
    Ok = 0,
    /// That id is online, or this connection has logged in.
    AlreadyLoggedIn = 31,
    /// No more users can be logged in.
    ServerFull = 32,
    /// Unknown id or wrong password (one code for both), also an id or a password that is no text.
    LoginFailed = 33,
    /// Entering without having logged in.
    NotLoggedIn = 51,
    /// Entering while in a room.
    AlreadyInRoom = 52,
    /// The room is full.
    RoomFull = 54,
    /// Entering a room that is not there, or leaving outside a room; also a request for either that
    /// has the wrong length.
    NoSuchRoom = 61,
    /// Too many packets. To a login also: too many at one time, too many failed ones from this address,
    /// or the store does not answer. Try again later.
    TooMany = 63,
    /// Chat outside a room; also one whose text is not UTF-8 or whose length is wrong.
    CannotChat = 81,
}

impl Outcome {
    /// All outcomes, by rising code.
    pub const ALL: [Outcome; 10] = [
        Outcome::Ok,
        Outcome::AlreadyLoggedIn,
        Outcome::ServerFull,
        Outcome::LoginFailed,
        Outcome::NotLoggedIn,
        Outcome::AlreadyInRoom,
        Outcome::RoomFull,
        Outcome::NoSuchRoom,
        Outcome::TooMany,
        Outcome::CannotChat,
    ];

    /// The outcome of a code, if it is one of this server's.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.code() == code)
    }

    /// The code in an answer.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// As [`code`](Self::code), for the answers whose field has a sign.
    #[must_use]
    pub const fn signed(self) -> i16 {
        self as i16
    }

    /// What a person is told by it in the answer to this request, named by its packet's id: one code
    /// means different things to a login and to a text.
    #[must_use]
    pub const fn text(self, request: u32) -> &'static str {
        match (self, request) {
            (Outcome::Ok, _) => "ok",
            (Outcome::AlreadyLoggedIn, _) => "already logged in",
            (Outcome::ServerFull, _) => "the server is full",
            (Outcome::LoginFailed, _) => "unknown id or wrong password",
            (Outcome::NotLoggedIn, _) => "not logged in",
            (Outcome::AlreadyInRoom, _) => "already in a room",
            (Outcome::RoomFull, _) => "the room is full",
            (Outcome::NoSuchRoom, LeaveRequest::ID) => "in no room",
            (Outcome::NoSuchRoom, _) => "no such room",
            (Outcome::TooMany, LoginRequest::ID) => {
                "too many logins at this time or failed ones from this address, or nobody who can \
                 check it answers: try again later"
            }
            (Outcome::TooMany, _) => "too many packets: try again later",
            (Outcome::CannotChat, _) => "not in a room, or not a text",
        }
    }
}

#[cfg(test)]
mod tests {
    use wharf::{
        framing::{self, LengthField},
        packet::Packet,
    };

    use super::*;

    /// A packet as it is on the wire, header included.
    fn wire<P: Packet>(packet: &P) -> Vec<u8> {
        let mut out = Vec::new();
        let body = packet.to_vec();
        let packet = framing::Packet { id: P::ID, session: 0, body: &body };
        framing::append(&LengthField::TUTORIAL, packet, &mut out).unwrap();
        out
    }

    /// Bytes written as hexadecimal numbers, text in quotes and `NxHH` for repetitions.
    fn bytes(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if let Some(text) = word.strip_prefix('\'') {
                bytes.extend_from_slice(text.trim_end_matches('\'').as_bytes());
            } else if let Some((count, byte)) = word.split_once('x') {
                let byte = u8::from_str_radix(byte, 16).unwrap();
                bytes.extend(std::iter::repeat_n(byte, count.parse().unwrap()));
            } else {
                bytes.push(u8::from_str_radix(word, 16).unwrap());
            }
        }
        bytes
    }

    fn name(text: &str) -> TextRef<'_, NAME_BYTES> {
        TextRef::new(text).unwrap()
    }

    fn entry(unique_id: i64, id: &str) -> UserEntry<'_> {
        UserEntry { unique_id, id: ShortText::new(id).unwrap() }
    }

    #[test]
    fn golden_bytes() {
        let text = |text| TextRef::new(text).unwrap();
        let login = LoginRequest { id: name("user0"), password: name("pw") };
        let users = [entry(7, "user0"), entry(0x0102_0304_0506_0708, "가")];
        let list = UserList { users: List::new(&users).unwrap() };
        for (packet, golden) in [
            (wire(&Echo { bytes: Rest(b"hi") }), "07 00 01 00 00 'hi'"),
            (wire(&login), "47 00 c9 00 00 'user0' 28x00 'pw' 31x00"),
            (wire(&LoginResponse { result: 0 }), "07 00 ca 00 00 00 00"),
            (wire(&LoginResponse { result: 33 }), "07 00 ca 00 00 21 00"),
            (wire(&EnterRequest { room: 0 }), "09 00 ce 00 00 00 00 00 00"),
            (wire(&EnterRequest { room: -2 }), "09 00 ce 00 00 fe ff ff ff"),
            (wire(&EnterResponse { result: 0 }), "07 00 cf 00 00 00 00"),
            (wire(&UserEntered { user: entry(7, "user0") }), "13 00 d0 00 00 07 7x00 05 'user0'"),
            (
                wire(&list),
                "20 00 d1 00 00 02 07 7x00 05 'user0' 08 07 06 05 04 03 02 01 03 ea b0 80",
            ),
            (wire(&LeaveRequest {}), "05 00 d7 00 00"),
            (wire(&LeaveResponse { result: 0 }), "07 00 d8 00 00 00 00"),
            (wire(&UserLeft { unique_id: 7 }), "0d 00 d9 00 00 07 7x00"),
            (wire(&ChatRequest { text: text("hello") }), "06 01 dd 00 00 'hello' 252x00"),
            (wire(&ChatResponse { result: 0 }), "07 00 de 00 00 00 00"),
            (
                wire(&ChatNotify { id: name("user0"), text: text("hello") }),
                "27 01 df 00 00 'user0' 28x00 'hello' 252x00",
            ),
        ] {
            assert_eq!(packet, bytes(golden), "{golden}");
            assert_eq!(usize::from(u16::from_le_bytes([packet[0], packet[1]])), packet.len());
        }
    }

    #[test]
    fn total_lengths_are_those_of_the_table() {
        for (total, min, max) in [
            (71, LoginRequest::BODY_BYTES_MIN, LoginRequest::BODY_BYTES_MAX),
            (7, LoginResponse::BODY_BYTES_MIN, LoginResponse::BODY_BYTES_MAX),
            (9, EnterRequest::BODY_BYTES_MIN, EnterRequest::BODY_BYTES_MAX),
            (7, EnterResponse::BODY_BYTES_MIN, EnterResponse::BODY_BYTES_MAX),
            (5, LeaveRequest::BODY_BYTES_MIN, LeaveRequest::BODY_BYTES_MAX),
            (7, LeaveResponse::BODY_BYTES_MIN, LeaveResponse::BODY_BYTES_MAX),
            (13, UserLeft::BODY_BYTES_MIN, UserLeft::BODY_BYTES_MAX),
            (262, ChatRequest::BODY_BYTES_MIN, ChatRequest::BODY_BYTES_MAX),
            (7, ChatResponse::BODY_BYTES_MIN, ChatResponse::BODY_BYTES_MAX),
            (295, ChatNotify::BODY_BYTES_MIN, ChatNotify::BODY_BYTES_MAX),
        ] {
            assert_eq!((5 + min, 5 + max), (total, total));
        }
    }

    #[test]
    fn a_list_of_24_fits_the_tutorials_client() {
        let longest = "n".repeat(32);
        let users = vec![entry(1, &longest); LIST_ENTRIES_MAX];
        let list = wire(&UserList { users: List::new(&users).unwrap() });
        assert_eq!(list.len(), 990);
        const { assert!(5 + UserList::BODY_BYTES_MAX <= 1024) };
        let users = vec![entry(1, &longest); LIST_ENTRIES_MAX + 1];
        assert!(List::<i8, UserEntry<'_>, LIST_ENTRIES_MAX>::new(&users).is_err());
    }

    #[test]
    fn a_full_field_ends_with_it_and_what_is_behind_a_nul_goes_no_further() {
        let mut body = [b'n'; 66];
        let login = LoginRequest::decode(&body).unwrap();
        assert_eq!(
            (login.id.as_str(), login.password.as_str()),
            (&*"n".repeat(33), &*"n".repeat(33))
        );
        body[5] = 0;
        body[33..].copy_from_slice(&[0xff; 33]);
        body[33] = 0;
        let login = LoginRequest::decode(&body).unwrap();
        assert_eq!((login.id.as_str(), login.password.as_str()), ("nnnnn", ""));
        assert_eq!(&login.to_vec()[5..], [0; 61]);
        assert!(ChatRequest::decode(&[b't'; 257]).is_ok());
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        let mut body = [0; 66];
        body[0] = 0xff;
        assert!(LoginRequest::decode(&body).is_err());
        let mut text = [0; 257];
        text[..2].copy_from_slice(&[0xea, 0xb0]);
        assert!(ChatRequest::decode(&text).is_err());
    }

    #[test]
    fn every_outcome_has_its_code() {
        let codes: Vec<u16> = Outcome::ALL.iter().map(|outcome| outcome.code()).collect();
        assert_eq!(codes, [0, 31, 32, 33, 51, 52, 54, 61, 63, 81]);
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
            assert_eq!(i32::from(outcome.signed()), i32::from(outcome.code()));
        }
        assert_eq!(Outcome::from_code(1), None);
    }
}
