//! What goes over the wire: each packet's id and its fields, defined once. A header of five bytes
//! stands before each, [`LengthField::TUTORIAL`]: the length of all, the id, a type that is 0.
//!
//! [`LengthField::TUTORIAL`]: wharf::framing::LengthField::TUTORIAL

use wharf::packet::{Rest, Text, TextRef};

/// A name or a password in its field: at most 32 bytes of UTF-8, then NULs.
pub(crate) const NAME_BYTES: usize = 33;
pub(crate) type Name = Text<NAME_BYTES>;

wharf::packet! {
    /// For developers: returned unchanged.
    pub(crate) struct Echo<'a> = 1 { pub(crate) bytes: Rest<'a> }

    pub(crate) struct LoginRequest<'a> = 201 {
        pub(crate) id: TextRef<'a, NAME_BYTES>,
        pub(crate) password: TextRef<'a, NAME_BYTES>,
    }

    pub(crate) struct LoginResponse = 202 { pub(crate) result: u16 }
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
    /// Not now: too many logins at one time, or the store does not answer.
    TooMany = 63,
}
