//! Why bytes are not a packet.

use std::{error::Error, fmt};

use super::Packet;

/// Why a body was refused: which packet, which field, where, and what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeError {
    /// The packet's name; empty before a packet's decoder has filled it in.
    pub packet: &'static str,
    /// The packet's id.
    pub id: u32,
    /// The innermost field; empty if the body as a whole is wrong.
    pub field: &'static str,
    /// Where in the body the refused value starts, in bytes.
    pub offset: usize,
    /// What is wrong.
    pub kind: DecodeErrorKind,
}

/// What is wrong with a received body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The body as a whole is too short or too long, in bytes.
    Length {
        /// The shortest body of this packet.
        min: usize,
        /// The longest.
        max: usize,
        /// What arrived.
        got: usize,
    },
    /// The body ends within a value, after a part of variable length.
    Ended {
        /// Bytes that the value takes.
        needed: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// Bytes are left after the last field.
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Text that is not UTF-8.
    NotUtf8,
    /// A text's declared length is above its maximum.
    TextTooLong {
        /// What the peer declared, in bytes.
        bytes: usize,
        /// The most allowed.
        max: usize,
    },
    /// A list's declared count is above its maximum.
    CountTooLarge {
        /// What the peer declared.
        count: usize,
        /// The most allowed.
        max: usize,
    },
    /// A value that its field does not have: a negative count, a `bool` of 2.
    OutOfRange,
}

impl DecodeError {
    /// An error of the value that starts at `offset`; whoever reads the field and the packet adds
    /// their names.
    #[cold]
    #[must_use]
    pub const fn new(offset: usize, kind: DecodeErrorKind) -> Self {
        Self { packet: "", id: 0, field: "", offset, kind }
    }

    /// Says in which field it was, unless an inner record has said so.
    #[doc(hidden)]
    #[cold]
    #[must_use]
    pub fn of_field(mut self, field: &'static str) -> Self {
        if self.field.is_empty() {
            self.field = field;
        }
        self
    }

    #[cold]
    pub(super) fn of_packet<P: Packet + ?Sized>(mut self) -> Self {
        self.packet = P::NAME;
        self.id = P::ID;
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.packet, self.id)?;
        if !self.field.is_empty() {
            write!(f, "field {} at byte {}: ", self.field, self.offset)?;
        }
        self.kind.fmt(f)
    }
}

impl Error for DecodeError {}

impl fmt::Display for DecodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { min, max, got } if min == max => {
                write!(f, "body of {got} bytes, not {min}")
            }
            Self::Length { min, max: usize::MAX, got } => {
                write!(f, "body of {got} bytes, not {min} or more")
            }
            Self::Length { min, max, got } => {
                write!(f, "body of {got} bytes, not {min} to {max}")
            }
            Self::Ended { needed, left } => {
                write!(f, "needs {needed} bytes and {left} are left")
            }
            Self::Trailing { bytes } => write!(f, "{bytes} bytes after the last field"),
            Self::NotUtf8 => f.write_str("text is not UTF-8"),
            Self::TextTooLong { bytes, max } => {
                write!(f, "text of {bytes} bytes, {max} allowed")
            }
            Self::CountTooLarge { count, max } => {
                write!(f, "list of {count} values, {max} allowed")
            }
            Self::OutOfRange => f.write_str("value out of range"),
        }
    }
}

/// A body does not fit the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputTooSmall {
    /// How long the body is.
    pub bytes: usize,
}

impl fmt::Display for OutputTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "output is smaller than the body of {} bytes", self.bytes)
    }
}

impl Error for OutputTooSmall {}
