//! Text in packets: in fields of a fixed size, padded with NULs, and after a byte with its length.

use std::{error::Error, fmt, str};

use super::{
    FromWire, Reader, Wire, Writer,
    error::{DecodeError, DecodeErrorKind},
};

/// Text in a field of `N` bytes, kept in place.
///
/// A text made here has at most `N - 1` bytes, so that a NUL ends it on the wire. One that is
/// received may fill the field, and ends with it then; it is sent on the same way. What a peer puts
/// behind the first NUL is ignored and not kept; what is sent there is always 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const N: usize> {
    /// UTF-8 without a NUL up to `len`, 0 from there on.
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// A text that fits with the NUL behind it.
    ///
    /// # Errors
    /// It is longer than `N - 1` bytes, or has a NUL in it.
    pub fn new(text: &str) -> Result<Self, TextError> {
        TextRef::<N>::new(text).map(|text| text.to_text())
    }

    /// As much of `text` as fits with the NUL behind it, and up to a NUL in it: whole characters.
    #[must_use]
    pub fn truncated(text: &str) -> Self {
        TextRef::<N>::truncated(text).to_text()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("checked when it was made")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> AsRef<str> for Text<N> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> Wire for Text<N> {
    const BYTES_MIN: usize = N;
    const BYTES_MAX: usize = N;

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.put(&self.bytes);
    }
}

impl<const N: usize> FromWire<'_> for Text<N> {
    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        TextRef::<N>::read(input).map(|text| text.to_text())
    }
}

/// As [`Text`], borrowed: from the frame when it is received, from anywhere when it is sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TextRef<'a, const N: usize>(&'a str);

impl<'a, const N: usize> TextRef<'a, N> {
    /// A text that fits with the NUL behind it.
    ///
    /// # Errors
    /// It is longer than `N - 1` bytes, or has a NUL in it.
    pub fn new(text: &'a str) -> Result<Self, TextError> {
        if memchr::memchr(0, text.as_bytes()).is_some() {
            return Err(TextError::HasNul);
        }
        match text.len() {
            bytes if bytes < N => Ok(Self(text)),
            bytes => Err(TextError::TooLong { bytes, max: N.saturating_sub(1) }),
        }
    }

    /// As much of `text` as fits with the NUL behind it, and up to a NUL in it: whole characters.
    #[must_use]
    pub fn truncated(text: &'a str) -> Self {
        let nul = memchr::memchr(0, text.as_bytes()).unwrap_or(text.len());
        Self(cut(&text[..nul], N.saturating_sub(1)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// A copy of one's own.
    #[must_use]
    pub fn to_text(self) -> Text<N> {
        let mut bytes = [0; N];
        // Never longer: `new`, `truncated` and `read` see to it.
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        Text { bytes, len: self.0.len() }
    }
}

impl<'a, const N: usize> From<&'a Text<N>> for TextRef<'a, N> {
    fn from(text: &'a Text<N>) -> Self {
        Self(text.as_str())
    }
}

impl<const N: usize> fmt::Debug for TextRef<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl<const N: usize> fmt::Display for TextRef<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl<const N: usize> Wire for TextRef<'_, N> {
    const BYTES_MIN: usize = N;
    const BYTES_MAX: usize = N;

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.put(self.0.as_bytes());
        out.put_zeros(N - self.0.len());
    }
}

impl<'a, const N: usize> FromWire<'a> for TextRef<'a, N> {
    #[inline]
    fn read(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let offset = input.offset();
        let field = input.bytes(N)?;
        let len = memchr::memchr(0, field).unwrap_or(N);
        utf8(&field[..len], offset).map(Self)
    }
}

/// Text after a byte with its length, borrowed from the frame when it is received. `MAX` is the most
/// bytes that it may have, at most 255.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ShortText<'a, const MAX: usize>(&'a str);

impl<'a, const MAX: usize> ShortText<'a, MAX> {
    /// A text of at most `MAX` bytes.
    ///
    /// # Errors
    /// It is longer.
    pub fn new(text: &'a str) -> Result<Self, TextError> {
        match text.len() {
            bytes if bytes <= MAX => Ok(Self(text)),
            bytes => Err(TextError::TooLong { bytes, max: MAX }),
        }
    }

    /// As much of `text` as fits: whole characters.
    #[must_use]
    pub fn truncated(text: &'a str) -> Self {
        Self(cut(text, MAX))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<const MAX: usize> fmt::Debug for ShortText<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl<const MAX: usize> fmt::Display for ShortText<'_, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl<const MAX: usize> Wire for ShortText<'_, MAX> {
    const BYTES_MIN: usize = 1;
    const BYTES_MAX: usize = {
        assert!(MAX <= 255, "one byte says the length of a `ShortText`");
        1 + MAX
    };

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        const { assert!(Self::BYTES_MAX <= 256) };
        out.put(&[self.0.len() as u8]);
        out.put(self.0.as_bytes());
    }
}

impl<'a, const MAX: usize> FromWire<'a> for ShortText<'a, MAX> {
    #[inline]
    fn read(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let offset = input.offset();
        let bytes = usize::from(u8::read(input)?);
        if bytes > MAX {
            let kind = DecodeErrorKind::TextTooLong { bytes, max: MAX };
            return Err(DecodeError::new(offset, kind));
        }
        utf8(input.bytes(bytes)?, offset).map(Self)
    }
}

/// Why a text does not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// It is too long.
    TooLong {
        /// How long it is, in bytes.
        bytes: usize,
        /// The most that the field takes.
        max: usize,
    },
    /// A NUL would end it on the wire.
    HasNul,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, max } => {
                write!(f, "text of {bytes} bytes in a field for {max}")
            }
            Self::HasNul => f.write_str("text with a NUL in a field that a NUL ends"),
        }
    }
}

impl Error for TextError {}

/// The longest start of `text` that has whole characters and at most `bytes_max` bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[inline]
fn utf8(bytes: &[u8], offset: usize) -> Result<&str, DecodeError> {
    str::from_utf8(bytes).map_err(|_| DecodeError::new(offset, DecodeErrorKind::NotUtf8))
}
