//! A fixed header with the length of the frame, then the body.
//!
//! One framing with settings serves the whole family: two or four bytes of length and nothing else,
//! or a header with packet id, session and flags. The layout is data, checked once when it is built,
//! so that decoding is a compare, one or two loads and an addition.

use core::error::Error;
use core::fmt;

use super::{Decoded, Framing, FramingError, Need, Packet};

/// A layout of header fields around a length. Header bytes that no field names are sent as 0 and
/// ignored when received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthField {
    header_bytes: u8,
    /// Added to the declared length to get the whole frame's: 0 if the header is counted in it.
    uncounted_bytes: u8,
    endian: Endian,
    length: Field,
    id: Option<Field>,
    session: Option<Field>,
    /// The header has bytes that no field names.
    unnamed_bytes: bool,
    /// Which of the layouts with a name it is.
    known: Known,
}

/// A layout that has a name, whose code is compiled with its numbers in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Study,
    Tutorial,
    U16Be,
    U32Be,
    U16Le,
    U32Le,
}

impl LengthField {
    /// The 12 byte header of the `study` format, little endian: u32 length of the body alone, u32
    /// packet id, u32 session id.
    pub const STUDY: Self = Self {
        header_bytes: 12,
        uncounted_bytes: 12,
        endian: Endian::Little,
        length: Field { offset: 0, width: Width::Four },
        id: Some(Field { offset: 4, width: Width::Four }),
        session: Some(Field { offset: 8, width: Width::Four }),
        unnamed_bytes: false,
        known: Known::Study,
    };

    /// The 5 byte header of the `tutorial` format, little endian: u16 length of the whole packet,
    /// u16 packet id, u8 type, which is reserved.
    pub const TUTORIAL: Self = Self {
        header_bytes: 5,
        uncounted_bytes: 0,
        endian: Endian::Little,
        length: Field { offset: 0, width: Width::Two },
        id: Some(Field { offset: 2, width: Width::Two }),
        session: None,
        unnamed_bytes: true,
        known: Known::Tutorial,
    };

    /// Two bytes of body length, big endian, then the body.
    #[must_use]
    pub const fn u16_be() -> Self {
        Self::prefix(Width::Two, Endian::Big, Known::U16Be)
    }

    /// Four bytes of body length, big endian, then the body.
    #[must_use]
    pub const fn u32_be() -> Self {
        Self::prefix(Width::Four, Endian::Big, Known::U32Be)
    }

    /// Two bytes of body length, little endian, then the body.
    #[must_use]
    pub const fn u16_le() -> Self {
        Self::prefix(Width::Two, Endian::Little, Known::U16Le)
    }

    /// Four bytes of body length, little endian, then the body.
    #[must_use]
    pub const fn u32_le() -> Self {
        Self::prefix(Width::Four, Endian::Little, Known::U32Le)
    }

    /// All layouts that have a name.
    const KNOWN: [Self; 6] = [
        Self::STUDY,
        Self::TUTORIAL,
        Self::u16_be(),
        Self::u32_be(),
        Self::u16_le(),
        Self::u32_le(),
    ];

    const fn prefix(width: Width, endian: Endian, known: Known) -> Self {
        let bytes = width as u8;
        let length = Field { offset: 0, width };
        Self {
            header_bytes: bytes,
            uncounted_bytes: bytes,
            endian,
            length,
            id: None,
            session: None,
            unnamed_bytes: false,
            known,
        }
    }

    /// Starts a layout of one's own with a header of `header_bytes` (1 to 255), whose fields all
    /// have the byte order `endian`.
    ///
    /// ```
    /// use wharf::framing::{Endian, LengthField};
    ///
    /// // u8 version, u8 flags, u16 packet id, u32 length of the whole frame
    /// let framing = LengthField::builder(8, Endian::Big)
    ///     .length(4, 4)
    ///     .length_counts_header()
    ///     .id(2, 2)
    ///     .build()?;
    /// # Ok::<(), wharf::framing::LayoutError>(())
    /// ```
    pub const fn builder(header_bytes: usize, endian: Endian) -> LengthFieldBuilder {
        LengthFieldBuilder {
            header_bytes,
            endian,
            counts_header: false,
            length: None,
            id: None,
            session: None,
        }
    }

    /// The longest body whose length the length field can say.
    fn body_bytes_max(&self) -> usize {
        let counted_bytes = self.header_bytes - self.uncounted_bytes;
        to_usize(self.length.width.value_max().saturating_sub(u32::from(counted_bytes)))
    }
}

/// Evaluates an expression with a layout. Where that has a name the compiler knows all numbers in it,
/// which leaves a fraction of the instructions.
macro_rules! with_known {
    ($self:ident, $layout:ident => $expression:expr) => {{
        macro_rules! with {
            ($known:expr) => {{
                let $layout = $known;
                $expression
            }};
        }
        match $self.known {
            Known::No => with!($self),
            Known::Study => with!(&const { Self::STUDY }),
            Known::Tutorial => with!(&const { Self::TUTORIAL }),
            Known::U16Be => with!(&const { Self::u16_be() }),
            Known::U32Be => with!(&const { Self::u32_be() }),
            Known::U16Le => with!(&const { Self::u16_le() }),
            Known::U32Le => with!(&const { Self::u32_le() }),
        }
    }};
}

impl Framing for LengthField {
    #[inline(always)]
    fn decode(&self, unread: &[u8], _seen: usize) -> Result<Decoded, FramingError> {
        let header = usize::from(self.header_bytes);
        let Some((declared, id)) = with_known!(self, layout => layout.read(unread)) else {
            return Ok(Decoded::Incomplete { need: Need::AtLeast(header) });
        };
        // Saturated on 32 bit systems: longer than any limit, and so refused like any such length.
        let len = to_usize(declared).saturating_add(usize::from(self.uncounted_bytes));
        if unread.len() < len {
            return Ok(Decoded::Incomplete { need: Need::AtLeast(len) });
        }
        if len < header {
            return Err(FramingError::LengthBelowHeader {
                declared_bytes: declared,
                header_bytes: self.header_bytes,
            });
        }
        Ok(Decoded::Frame { len, body: header..len, id })
    }

    #[inline]
    fn encoded_len(&self, body_len: usize) -> usize {
        body_len.saturating_add(usize::from(self.header_bytes))
    }

    #[inline(always)]
    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        let len = self.encoded_len(packet.body.len());
        let out = out.get_mut(..len).ok_or(FramingError::OutputTooSmall)?;
        let (header, body) = out.split_at_mut(usize::from(self.header_bytes));
        if !with_known!(self, layout => layout.write(packet, header)) {
            return Err(self.refusal(packet));
        }
        body.copy_from_slice(packet.body);
        Ok(len)
    }
}

// Of each layout with a name only this is compiled apart: with results of theirs to bring together the
// code would be longer.
impl LengthField {
    /// The length and the packet id of a header; `None` if it is not whole.
    #[inline(always)]
    fn read(&self, unread: &[u8]) -> Option<(u32, u32)> {
        let header = unread.get(..usize::from(self.header_bytes))?;
        let declared = self.length.load(header, self.endian);
        let id = self.id.map_or(0, |field| field.load(header, self.endian));
        Some((declared, id))
    }

    /// Writes a header; false if it cannot say what is asked.
    #[inline(always)]
    fn write(&self, packet: Packet<'_>, header: &mut [u8]) -> bool {
        let too_long = packet.body.len() > self.body_bytes_max();
        if too_long || self.id.is_some_and(|field| packet.id > field.width.value_max()) {
            return false;
        }
        let header = &mut header[..usize::from(self.header_bytes)];
        if self.unnamed_bytes {
            header.fill(0);
        }
        // Fits: the body's maximum is what is left of the field's after the header.
        let counted_bytes = self.header_bytes - self.uncounted_bytes;
        let declared = packet.body.len() as u32 + u32::from(counted_bytes);
        self.length.store(header, self.endian, declared);
        if let Some(field) = self.id {
            field.store(header, self.endian, packet.id);
        }
        if let Some(field) = self.session {
            // For display alone: a narrow field carries the low bits.
            field.store(header, self.endian, packet.session);
        }
        true
    }

    /// What a header cannot say of this packet.
    #[cold]
    fn refusal(&self, packet: Packet<'_>) -> FramingError {
        let body_bytes_max = self.body_bytes_max();
        match self.id {
            Some(field) if packet.body.len() <= body_bytes_max => {
                FramingError::IdTooLarge { id_max: field.width.value_max() }
            }
            _ => FramingError::BodyTooLong { body_bytes_max },
        }
    }
}

/// Collects a layout; made by [`LengthField::builder`], checked by
/// [`build`](LengthFieldBuilder::build).
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct LengthFieldBuilder {
    header_bytes: usize,
    endian: Endian,
    counts_header: bool,
    length: Option<(usize, usize)>,
    id: Option<(usize, usize)>,
    session: Option<(usize, usize)>,
}

impl LengthFieldBuilder {
    /// Where the length is: `offset` and `width` (1, 2 or 4) in bytes. Has to be there.
    pub const fn length(mut self, offset: usize, width: usize) -> Self {
        self.length = Some((offset, width));
        self
    }

    /// The length is that of the whole frame, not of the body alone.
    pub const fn length_counts_header(mut self) -> Self {
        self.counts_header = true;
        self
    }

    /// Where the packet id is: `offset` and `width` (1, 2 or 4) in bytes.
    pub const fn id(mut self, offset: usize, width: usize) -> Self {
        self.id = Some((offset, width));
        self
    }

    /// Where the session id is: `offset` and `width` (1, 2 or 4) in bytes. A narrow field carries
    /// its low bits.
    pub const fn session(mut self, offset: usize, width: usize) -> Self {
        self.session = Some((offset, width));
        self
    }

    /// Checks the layout.
    ///
    /// # Errors
    /// The header is empty or longer than 255 bytes; the length is missing; a field has another
    /// width than 1, 2 or 4, reaches past the header, or lies over another one.
    pub fn build(self) -> Result<LengthField, LayoutError> {
        let header_bytes = match u8::try_from(self.header_bytes) {
            Ok(bytes) if bytes > 0 => bytes,
            _ => return Err(LayoutError::HeaderSize { header_bytes: self.header_bytes }),
        };
        let check = |field, place: Option<(usize, usize)>| {
            place.map(|place| Field::checked(field, place, self.header_bytes)).transpose()
        };
        let length = check(HeaderField::Length, self.length)?.ok_or(LayoutError::NoLength)?;
        let id = check(HeaderField::Id, self.id)?;
        let session = check(HeaderField::Session, self.session)?;
        let fields = [
            (HeaderField::Length, Some(length)),
            (HeaderField::Id, id),
            (HeaderField::Session, session),
        ];
        for (index, (first, one)) in fields.iter().enumerate() {
            for (second, other) in &fields[index + 1..] {
                if let (Some(one), Some(other)) = (one, other)
                    && one.start() < other.end()
                    && other.start() < one.end()
                {
                    return Err(LayoutError::Overlap { first: *first, second: *second });
                }
            }
        }
        let named: usize = fields.iter().filter_map(|(_, field)| *field).map(Field::bytes).sum();
        let layout = LengthField {
            header_bytes,
            uncounted_bytes: if self.counts_header { 0 } else { header_bytes },
            endian: self.endian,
            length,
            id,
            session,
            unnamed_bytes: named < self.header_bytes,
            known: Known::No,
        };
        let is_known = |known: &&LengthField| LengthField { known: Known::No, ..**known } == layout;
        Ok(*LengthField::KNOWN.iter().find(is_known).unwrap_or(&layout))
    }
}

/// Byte order of the header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// Most significant byte first, as is usual on the network.
    Big,
    /// Least significant byte first, as in the memory of most machines.
    Little,
}

/// A field of the header, named in a [`LayoutError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderField {
    /// The length.
    Length,
    /// The packet id.
    Id,
    /// The session id.
    Session,
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Length => "length",
            Self::Id => "id",
            Self::Session => "session",
        })
    }
}

/// Why a layout is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// The header has no byte, or more than 255.
    HeaderSize {
        /// The size asked for.
        header_bytes: usize,
    },
    /// No place was given for the length.
    NoLength,
    /// A field is not 1, 2 or 4 bytes wide.
    Width {
        /// Which field.
        field: HeaderField,
        /// The width asked for.
        width: usize,
    },
    /// A field reaches past the end of the header.
    Outside {
        /// Which field.
        field: HeaderField,
        /// Size of the header.
        header_bytes: usize,
    },
    /// Two fields share bytes.
    Overlap {
        /// One of them.
        first: HeaderField,
        /// The other.
        second: HeaderField,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderSize { header_bytes } => {
                write!(f, "header of {header_bytes} bytes, must have 1 to 255")
            }
            Self::NoLength => f.write_str("layout names no place for the length"),
            Self::Width { field, width } => {
                write!(f, "{field} field is {width} bytes wide, must be 1, 2 or 4")
            }
            Self::Outside { field, header_bytes } => {
                write!(f, "{field} field reaches past the end of the {header_bytes} byte header")
            }
            Self::Overlap { first, second } => {
                write!(f, "{first} field and {second} field overlap")
            }
        }
    }
}

impl Error for LayoutError {}

/// An unsigned number in the header, which lies within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    offset: u8,
    width: Width,
}

impl Field {
    fn checked(
        field: HeaderField,
        (offset, width): (usize, usize),
        header_bytes: usize,
    ) -> Result<Self, LayoutError> {
        let width = match width {
            1 => Width::One,
            2 => Width::Two,
            4 => Width::Four,
            _ => return Err(LayoutError::Width { field, width }),
        };
        let outside = LayoutError::Outside { field, header_bytes };
        let offset = u8::try_from(offset).map_err(|_| outside)?;
        let place = Self { offset, width };
        if place.end() > header_bytes { Err(outside) } else { Ok(place) }
    }

    #[inline]
    fn start(self) -> usize {
        usize::from(self.offset)
    }

    #[inline]
    fn end(self) -> usize {
        self.start() + self.bytes()
    }

    #[inline]
    fn bytes(self) -> usize {
        self.width as usize
    }

    /// Reads the field from bytes that start with a whole header.
    #[inline]
    fn load(self, header: &[u8], endian: Endian) -> u32 {
        match (self.width, &header[self.start()..self.end()], endian) {
            (Width::Two, &[a, b], Endian::Big) => u16::from_be_bytes([a, b]).into(),
            (Width::Two, &[a, b], Endian::Little) => u16::from_le_bytes([a, b]).into(),
            (Width::Four, &[a, b, c, d], Endian::Big) => u32::from_be_bytes([a, b, c, d]),
            (Width::Four, &[a, b, c, d], Endian::Little) => u32::from_le_bytes([a, b, c, d]),
            (_, field, _) => field[0].into(),
        }
    }

    /// Writes the low bits of `value` that the field has room for. (Spelled out as in `load`: copying
    /// so few bytes by a length that is not known would be a call each.)
    #[inline]
    fn store(self, header: &mut [u8], endian: Endian, value: u32) {
        let (low_half, low_byte) = (value as u16, value as u8);
        match (self.width, &mut header[self.start()..self.end()], endian) {
            (Width::Two, [a, b], Endian::Big) => [*a, *b] = low_half.to_be_bytes(),
            (Width::Two, [a, b], Endian::Little) => [*a, *b] = low_half.to_le_bytes(),
            (Width::Four, [a, b, c, d], Endian::Big) => [*a, *b, *c, *d] = value.to_be_bytes(),
            (Width::Four, [a, b, c, d], Endian::Little) => [*a, *b, *c, *d] = value.to_le_bytes(),
            (_, field, _) => field[0] = low_byte,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    One = 1,
    Two = 2,
    Four = 4,
}

impl Width {
    #[inline]
    fn value_max(self) -> u32 {
        u32::MAX >> (32 - 8 * self as u32)
    }
}

/// The same number, or the largest there is where it does not fit.
#[inline]
fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_width_and_order_read_and_write_the_same_bytes() {
        for (width, endian, expected, value) in [
            (Width::One, Endian::Big, &[0x44, 0, 0, 0], 0x44),
            (Width::One, Endian::Little, &[0x44, 0, 0, 0], 0x44),
            (Width::Two, Endian::Big, &[0x33, 0x44, 0, 0], 0x3344),
            (Width::Two, Endian::Little, &[0x44, 0x33, 0, 0], 0x3344),
            (Width::Four, Endian::Big, &[0x11, 0x22, 0x33, 0x44], 0x1122_3344),
            (Width::Four, Endian::Little, &[0x44, 0x33, 0x22, 0x11], 0x1122_3344),
        ] {
            let field = Field { offset: 1, width };
            let mut header = [0; 6];
            field.store(&mut header, endian, 0x1122_3344);
            assert_eq!(header[1..5], expected[..], "{width:?} {endian:?}");
            assert_eq!((header[0], header[5]), (0, 0), "{width:?} {endian:?}");
            assert_eq!(field.load(&header, endian), value, "{width:?} {endian:?}");
        }
    }

    #[test]
    fn the_longest_body_leaves_room_for_a_counted_header() {
        assert_eq!(LengthField::TUTORIAL.body_bytes_max(), 65_530);
        assert_eq!(LengthField::u16_be().body_bytes_max(), 65_535);
        assert_eq!(LengthField::STUDY.body_bytes_max(), to_usize(u32::MAX));
        let narrow = LengthField::builder(255, Endian::Big).length(0, 1).length_counts_header();
        assert_eq!(narrow.build().unwrap().body_bytes_max(), 0);
    }
}
