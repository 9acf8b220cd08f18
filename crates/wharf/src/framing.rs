//! Where one packet ends and the next begins in a stream of bytes.
//!
//! TCP hands over bytes, not packets: two sends may arrive as one read, and one send as twenty. A
//! [`Framing`] finds the packets again. It is sans-IO: it is handed bytes and gives positions in
//! them, it reads nothing, keeps nothing between calls, allocates nothing and knows no clock, so
//! that the same code runs on every port, in the simulator, in a fuzzer and in a browser.
//!
//! Hot path: [`Framing::decode`] runs once per received frame and [`Framing::encode`] once per sent
//! one. Frames are borrowed from the receive buffer; nothing is copied here.
//!
//! | framing | a frame on the wire |
//! |---|---|
//! | [`LengthField`] | a fixed header that says how long the frame is, then the body |
//! | [`Lines`] | text up to a newline |
//! | [`Raw`] | whatever one read brought |
//! | [`AnyFraming`] | one of these, picked by name at run time |

mod length_field;
mod lines;
mod raw;

use core::error::Error;
use core::fmt;
use core::ops::Range;
use core::str::FromStr;

pub use length_field::{Endian, HeaderField, LayoutError, LengthField, LengthFieldBuilder};
pub use lines::Lines;
pub use raw::Raw;

/// Finds frames in received bytes and writes frames to be sent.
///
/// A framing is a description, not a state machine: every call gets all it needs, and one value may
/// serve any number of sessions. The session, not the framing, refuses frames that are too long: it
/// hands in at most as many bytes as the longest allowed frame has, and closes as soon as
/// [`Need::frame_bytes_min`] goes past that, before it makes room for anything. So a framing reports
/// the declared length as soon as it can be read, whatever it is, and computes it without overflow.
///
/// # Examples
///
/// A framing of one's own: a byte with the length, a byte with the packet id, the body.
///
/// ```
/// use wharf::framing::{self, Decoded, Framing, FramingError, Need, Packet};
///
/// struct Tiny;
///
/// impl Framing for Tiny {
///     fn decode(&self, unread: &[u8], _seen: usize) -> Result<Decoded, FramingError> {
///         let &[body_len, id, ..] = unread else {
///             return Ok(Decoded::Incomplete { need: Need::AtLeast(2) });
///         };
///         let len = 2 + usize::from(body_len);
///         if unread.len() < len {
///             return Ok(Decoded::Incomplete { need: Need::AtLeast(len) });
///         }
///         Ok(Decoded::Frame { len, body: 2..len, id: id.into() })
///     }
///
///     fn encoded_len(&self, body_len: usize) -> usize {
///         body_len.saturating_add(2)
///     }
///
///     fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
///         let len = self.encoded_len(packet.body.len());
///         let out = out.get_mut(..len).ok_or(FramingError::OutputTooSmall)?;
///         out[0] = u8::try_from(packet.body.len())
///             .map_err(|_| FramingError::BodyTooLong { body_bytes_max: 255 })?;
///         out[1] = u8::try_from(packet.id).map_err(|_| FramingError::IdTooLarge { id_max: 255 })?;
///         out[2..].copy_from_slice(packet.body);
///         Ok(len)
///     }
/// }
///
/// let mut wire = Vec::new();
/// framing::append(&Tiny, Packet { id: 7, session: 0, body: b"hello" }, &mut wire)?;
/// framing::append(&Tiny, Packet { id: 8, session: 0, body: b"" }, &mut wire)?;
/// assert_eq!(wire, b"\x05\x07hello\x00\x08");
///
/// let mut frames = framing::frames(&Tiny, &wire[..7]);
/// assert_eq!(frames.next().unwrap()?.body(), b"hello");
/// assert!(frames.next().is_none());
/// # Ok::<(), FramingError>(())
/// ```
pub trait Framing: Send + 'static {
    /// Looks for a whole frame at the start of `unread`, which starts at the start of a frame.
    ///
    /// `seen` is how many leading bytes of `unread` an earlier call for this same frame was handed
    /// already, at most `unread.len()`; a search for a delimiter goes on there, so that bytes which
    /// arrive one at a time cost no more than bytes which arrive together. Zero is always right.
    ///
    /// A returned frame has at least one byte, ends within `unread`, and its body lies within it.
    /// [`Need::AtLeast`] names more bytes than `unread` has.
    ///
    /// # Errors
    /// The bytes can never become a frame. There is no way to find the next one: the session closes.
    fn decode(&self, unread: &[u8], seen: usize) -> Result<Decoded, FramingError>;

    /// Upper bound of the encoded size in bytes of a body with `body_len` bytes.
    ///
    /// `encoded_len(0)` is the overhead. Never smaller for a longer body; saturates.
    fn encoded_len(&self, body_len: usize) -> usize;

    /// Writes the whole frame to the start of `out` and returns how many bytes it wrote.
    ///
    /// `out` has at least `encoded_len(packet.body.len())` bytes. A framing without a field for the
    /// packet id or the session leaves that value out.
    ///
    /// # Errors
    /// The packet cannot be said in this format. What `out` then holds is not to be sent.
    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError>;
}

/// What [`Framing::encode`] makes a frame of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Packet id, for framings that carry one.
    pub id: u32,
    /// Session id for display, for framings that carry one.
    pub session: u32,
    /// The payload.
    pub body: &'a [u8],
}

/// What [`Framing::decode`] found at the start of the unread bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame.
    Frame {
        /// Bytes of the whole frame, never 0.
        len: usize,
        /// Where the body lies, counted from the start of the frame.
        body: Range<usize>,
        /// Packet id, 0 where the framing carries none.
        id: u32,
    },
    /// The start of a frame, or nothing yet.
    Incomplete {
        /// How much longer the frame is known to be.
        need: Need,
    },
}

/// How long a frame that has not arrived in full is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The frame has at least this many bytes in total, those already there included. A length that
    /// does not fit is [`usize::MAX`].
    AtLeast(usize),
    /// No telling: any next byte may be the last.
    More,
}

impl Need {
    /// The fewest bytes in total that the frame can have, given that `unread_bytes` are not enough.
    /// A session that allows less closes.
    #[inline]
    #[must_use]
    pub fn frame_bytes_min(self, unread_bytes: usize) -> usize {
        let more = unread_bytes.saturating_add(1);
        match self {
            Self::AtLeast(bytes) => bytes.max(more),
            Self::More => more,
        }
    }
}

/// One received frame, borrowed from the buffer that it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    body: &'a [u8],
    id: u32,
}

impl<'a> Frame<'a> {
    /// The frame that a framing found at the start of `unread`.
    ///
    /// Framings are user code, so that their word on positions is checked and not trusted.
    #[inline]
    pub(crate) fn new(
        unread: &'a [u8],
        len: usize,
        body: Range<usize>,
        id: u32,
    ) -> Result<Self, FramingError> {
        match unread.get(..len) {
            Some(bytes) if len > 0 => match bytes.get(body) {
                Some(body) => Ok(Self { bytes, body, id }),
                None => Err(FramingError::OutOfBounds),
            },
            _ => Err(FramingError::OutOfBounds),
        }
    }

    /// The whole frame as it was on the wire, header and delimiter included.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The payload.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Where the body lies in [`bytes`](Self::bytes).
    #[inline]
    pub(crate) fn body_range(&self) -> Range<usize> {
        let start = self.body.as_ptr().addr() - self.bytes.as_ptr().addr();
        start..start + self.body.len()
    }

    /// The packet id, 0 where the framing carries none.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// Walks over the whole frames in `bytes`, which starts at the start of a frame.
///
/// For clients, tests and tools; it knows no limit on the size of a frame.
pub fn frames<'a, F: Framing + ?Sized>(framing: &'a F, bytes: &'a [u8]) -> Frames<'a, F> {
    Frames { framing, unread: bytes, failed: false }
}

/// Iterator over the frames in a slice, made by [`frames`]. Ends at the first frame that is not
/// whole, and after the first error.
#[derive(Debug)]
pub struct Frames<'a, F: ?Sized> {
    framing: &'a F,
    unread: &'a [u8],
    failed: bool,
}

impl<'a, F: ?Sized> Frames<'a, F> {
    /// The bytes after the last frame that was given out.
    #[must_use]
    pub fn unread(&self) -> &'a [u8] {
        self.unread
    }
}

impl<'a, F: Framing + ?Sized> Iterator for Frames<'a, F> {
    type Item = Result<Frame<'a>, FramingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.unread.is_empty() {
            return None;
        }
        let found = match self.framing.decode(self.unread, 0) {
            Ok(Decoded::Incomplete { .. }) => return None,
            Ok(Decoded::Frame { len, body, id }) => Frame::new(self.unread, len, body, id),
            Err(error) => Err(error),
        };
        match &found {
            Ok(frame) => self.unread = &self.unread[frame.bytes.len()..],
            Err(_) => self.failed = true,
        }
        Some(found)
    }
}

/// Appends `packet` as one frame to `out`, which stays as it was if that fails.
///
/// # Errors
/// The packet cannot be said in this format.
pub fn append<F: Framing + ?Sized>(
    framing: &F,
    packet: Packet<'_>,
    out: &mut Vec<u8>,
) -> Result<(), FramingError> {
    let start = out.len();
    out.resize(start + framing.encoded_len(packet.body.len()), 0);
    let written = framing.encode(packet, &mut out[start..]);
    out.truncate(start + written.unwrap_or(0));
    written.map(|_| ())
}

/// Why bytes are not a frame, or why a packet cannot be made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FramingError {
    /// Received: the declared length of the whole frame is shorter than its own header.
    LengthBelowHeader {
        /// The length that the peer declared.
        declared_bytes: u32,
        /// What a frame has at the least.
        header_bytes: u8,
    },
    /// Received: not a frame, for the reason that a custom framing gives.
    Malformed(&'static str),
    /// The framing gave a frame that is empty or lies outside the bytes it was handed, or says that
    /// it wrote more than it asked room for, which is a bug in the framing.
    OutOfBounds,
    /// To be sent: the length field cannot say how long the body is.
    BodyTooLong {
        /// The longest body that can be said.
        body_bytes_max: usize,
    },
    /// To be sent: the packet id does not fit its field.
    IdTooLarge {
        /// The largest id that fits.
        id_max: u32,
    },
    /// To be sent: the body contains the delimiter, and would arrive as two frames.
    BodyHasDelimiter,
    /// To be sent: an empty body leaves no trace on the wire.
    BodyEmpty,
    /// To be sent: the output has less than `encoded_len` bytes, which is a bug in the caller.
    OutputTooSmall,
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LengthBelowHeader { declared_bytes, header_bytes } => write!(
                f,
                "declared length {declared_bytes} is shorter than the {header_bytes} byte header"
            ),
            Self::Malformed(reason) => write!(f, "malformed frame: {reason}"),
            Self::OutOfBounds => f.write_str("framing gave a frame outside the received bytes"),
            Self::BodyTooLong { body_bytes_max } => {
                write!(f, "body is longer than the {body_bytes_max} bytes the length field can say")
            }
            Self::IdTooLarge { id_max } => {
                write!(f, "packet id does not fit its field, whose maximum is {id_max}")
            }
            Self::BodyHasDelimiter => f.write_str("body contains the frame delimiter"),
            Self::BodyEmpty => f.write_str("raw framing cannot carry an empty body"),
            Self::OutputTooSmall => f.write_str("output is smaller than the encoded frame"),
        }
    }
}

impl Error for FramingError {}

// Goes through the result of every decode.
const _: () = assert!(size_of::<FramingError>() <= 24);

/// A framing picked at run time, by name in settings and on the command line.
///
/// ```
/// use wharf::framing::{AnyFraming, LengthField};
///
/// let framing: AnyFraming = "study".parse()?;
/// assert_eq!(framing, AnyFraming::LengthField(LengthField::STUDY));
/// assert_eq!(framing.to_string(), "study");
/// # Ok::<(), wharf::framing::UnknownFraming>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyFraming {
    /// A header with a length.
    LengthField(LengthField),
    /// Text up to a newline.
    Lines(Lines),
    /// Whatever one read brought.
    Raw(Raw),
}

impl AnyFraming {
    /// Every framing that has a name.
    pub const NAMED: [(&'static str, Self); 8] = [
        ("study", Self::LengthField(LengthField::STUDY)),
        ("tutorial", Self::LengthField(LengthField::TUTORIAL)),
        ("u16be", Self::LengthField(LengthField::u16_be())),
        ("u32be", Self::LengthField(LengthField::u32_be())),
        ("u16le", Self::LengthField(LengthField::u16_le())),
        ("u32le", Self::LengthField(LengthField::u32_le())),
        ("lines", Self::Lines(Lines)),
        ("raw", Self::Raw(Raw)),
    ];
}

impl Framing for AnyFraming {
    #[inline]
    fn decode(&self, unread: &[u8], seen: usize) -> Result<Decoded, FramingError> {
        match self {
            Self::LengthField(framing) => framing.decode(unread, seen),
            Self::Lines(framing) => framing.decode(unread, seen),
            Self::Raw(framing) => framing.decode(unread, seen),
        }
    }

    #[inline]
    fn encoded_len(&self, body_len: usize) -> usize {
        match self {
            Self::LengthField(framing) => framing.encoded_len(body_len),
            Self::Lines(framing) => framing.encoded_len(body_len),
            Self::Raw(framing) => framing.encoded_len(body_len),
        }
    }

    #[inline]
    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        match self {
            Self::LengthField(framing) => framing.encode(packet, out),
            Self::Lines(framing) => framing.encode(packet, out),
            Self::Raw(framing) => framing.encode(packet, out),
        }
    }
}

impl FromStr for AnyFraming {
    type Err = UnknownFraming;

    fn from_str(name: &str) -> Result<Self, UnknownFraming> {
        let named = Self::NAMED.iter().find(|(known, _)| *known == name);
        named.map(|(_, framing)| *framing).ok_or(UnknownFraming)
    }
}

impl fmt::Display for AnyFraming {
    /// The name, or `custom` for a layout that has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMED.iter().find(|(_, framing)| framing == self);
        f.pad(named.map_or("custom", |(name, _)| name))
    }
}

/// No framing has this name. The message lists those that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFraming;

impl fmt::Display for UnknownFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown framing, expected one of")?;
        for (index, (name, _)) in AnyFraming::NAMED.iter().enumerate() {
            write!(f, "{}{name}", if index == 0 { " " } else { ", " })?;
        }
        Ok(())
    }
}

impl Error for UnknownFraming {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_are_written() {
        for (name, framing) in AnyFraming::NAMED {
            assert_eq!(name.parse(), Ok(framing));
            assert_eq!(framing.to_string(), name);
        }
        for wrong in ["", "STUDY", "u16", "lines "] {
            assert_eq!(wrong.parse::<AnyFraming>(), Err(UnknownFraming), "{wrong:?}");
        }
        let layout = LengthField::builder(9, Endian::Big).length(0, 4).build().unwrap();
        assert_eq!(AnyFraming::LengthField(layout).to_string(), "custom");
        assert_eq!(
            UnknownFraming.to_string(),
            "unknown framing, expected one of study, tutorial, u16be, u32be, u16le, u32le, lines, raw"
        );
    }

    #[test]
    fn positions_from_a_framing_are_checked() {
        let unread = b"abcdef";
        let frame = Frame::new(unread, 4, 1..3, 9).unwrap();
        assert_eq!((frame.bytes(), frame.body(), frame.id()), (&b"abcd"[..], &b"bc"[..], 9));
        #[expect(clippy::reversed_empty_ranges, reason = "what a broken framing might return")]
        for (len, body) in [(0, 0..0), (7, 0..1), (4, 3..5), (4, 3..2), (usize::MAX, 0..usize::MAX)]
        {
            assert_eq!(Frame::new(unread, len, body, 0), Err(FramingError::OutOfBounds), "{len}");
        }
    }

    #[test]
    fn frames_stop_at_an_incomplete_frame_and_after_an_error() {
        let mut lines = frames(&Lines, b"one\ntwo\nthr");
        let bodies: Vec<_> = lines.by_ref().map(|frame| frame.unwrap().body()).collect();
        assert_eq!(bodies, [b"one", b"two"]);
        assert_eq!(lines.unread(), b"thr");

        let mut broken = frames(&LengthField::TUTORIAL, &[4, 0, 1, 0, 0]);
        assert!(broken.next().unwrap().is_err());
        assert!(broken.next().is_none());
        assert_eq!(broken.unread().len(), 5);
    }

    #[test]
    fn a_packet_that_is_refused_leaves_the_output_alone() {
        let mut out = b"before".to_vec();
        let packet = Packet { id: 0, session: 0, body: b"two\nlines" };
        assert_eq!(append(&Lines, packet, &mut out), Err(FramingError::BodyHasDelimiter));
        assert_eq!(out, b"before");
    }

    #[test]
    fn need_tells_the_shortest_frame_possible() {
        for (need, unread, expected) in [
            (Need::More, 0, 1),
            (Need::More, usize::MAX, usize::MAX),
            (Need::AtLeast(12), 3, 12),
            (Need::AtLeast(3), 3, 4),
        ] {
            assert_eq!(need.frame_bytes_min(unread), expected, "{need:?} {unread}");
        }
    }
}
