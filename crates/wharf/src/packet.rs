//! Typed packets: one definition gives a packet's id, its layout on the wire, and its bounds.
//!
//! [`packet!`](crate::packet!) makes a struct of named fields into a [`Packet`] or, without an id,
//! into a record that other packets contain. Fields lie one after another, without gaps, in the order
//! of the definition; numbers are little endian unless the field says [`Be`].
//!
//! | field | on the wire |
//! |---|---|
//! | `u8` to `u64`, `i8` to `i64`, `f32`, `f64` | their bytes, little endian |
//! | [`Be<T>`](Be) | a number, big endian |
//! | `bool` | one byte, 0 or 1 and nothing else |
//! | `[T; N]` | `N` values and no count |
//! | [`Text<N>`](Text), [`TextRef<'a, N>`](TextRef) | `N` bytes of UTF-8, padded with NULs |
//! | [`ShortText<'a, MAX>`](ShortText) | a byte with the length, then the UTF-8 |
//! | [`List<'a, C, T, MAX>`](List) | a count of type `C`, then so many `T` |
//! | [`Rest<'a>`](Rest) | whatever is left of the body; the last field only |
//! | another record | its fields |
//!
//! Nothing here allocates when it decodes: what has a fixed size is copied, what has not is borrowed
//! from the frame. No bytes make it panic. Hot path: [`Packet::decode`] once per received frame,
//! [`Packet::encode`] once per sent one.
//!
//! ```
//! use wharf::packet::{List, Packet, ShortText, Text};
//!
//! wharf::packet! {
//!     /// Asks to be let in.
//!     #[derive(Clone, Debug, PartialEq)]
//!     pub struct Login = 201 {
//!         id: Text<33>,
//!         password: Text<33>,
//!     }
//!
//!     /// One user of a room: a record, as it has no id.
//!     #[derive(Clone, Debug, PartialEq)]
//!     pub struct UserEntry<'a> { unique_id: i64, id: ShortText<'a, 32> }
//!
//!     /// Who is in the room.
//!     #[derive(Clone, Debug, PartialEq)]
//!     pub struct UserList<'a> = 209 { users: List<'a, i8, UserEntry<'a>, 24> }
//! }
//!
//! let login = Login { id: Text::new("user0")?, password: Text::new("pw")? };
//! let body = login.to_vec();
//! assert_eq!((Login::ID, body.len()), (201, 66));
//! assert_eq!(Login::decode(&body), Ok(login));
//!
//! let error = Login::decode(&body[..65]).unwrap_err();
//! assert_eq!(error.to_string(), "Login (201): body of 65 bytes, not 66");
//!
//! let users = [UserEntry { unique_id: 7, id: ShortText::new("user0")? }];
//! let body = UserList { users: List::new(&users)? }.to_vec();
//! assert_eq!(body, b"\x01\x07\0\0\0\0\0\0\0\x05user0");
//! for user in UserList::decode(&body)?.users {
//!     assert_eq!(user.id.as_str(), "user0");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod list;
mod number;
mod send;
mod text;

pub use self::{
    error::{DecodeError, DecodeErrorKind, OutputTooSmall},
    list::{Count, Iter, List, Rest, TooMany},
    number::Be,
    text::{ShortText, Text, TextError, TextRef},
};

/// A packet: its id and the layout of its body. Made by [`packet!`](crate::packet!).
pub trait Packet: Wire {
    /// The id in the frame's header.
    const ID: u32;
    /// The struct's name, for errors and counters.
    const NAME: &'static str;
    /// The shortest body, in bytes.
    const BODY_BYTES_MIN: usize = Self::BYTES_MIN;
    /// The longest body, in bytes; [`usize::MAX`] if nothing but the frame limit bounds it.
    const BODY_BYTES_MAX: usize = Self::BYTES_MAX;

    /// The packet as it is received: `Self`, borrowing from the frame where its fields borrow.
    type Received<'a>: FromWire<'a>;

    /// Reads a body, which has to have exactly the packet's length.
    ///
    /// # Errors
    /// The bytes are not such a packet; the error says where and why.
    #[inline]
    fn decode(body: &[u8]) -> Result<Self::Received<'_>, DecodeError> {
        let (min, max) = (Self::BODY_BYTES_MIN, Self::BODY_BYTES_MAX);
        if body.len() < min || body.len() > max {
            let kind = DecodeErrorKind::Length { min, max, got: body.len() };
            return Err(DecodeError::new(0, kind).of_packet::<Self>());
        }
        let mut reader = Reader::new(body);
        let read = Self::Received::read(&mut reader).and_then(|packet| match reader.left() {
            0 => Ok(packet),
            bytes => Err(DecodeError::new(reader.offset(), DecodeErrorKind::Trailing { bytes })),
        });
        read.map_err(DecodeError::of_packet::<Self>)
    }

    /// Writes the body to the start of `out` and returns how many bytes it has. All of them are
    /// written, padding too: what `out` held before does not matter.
    ///
    /// # Errors
    /// `out` is shorter than the body; the error says how long that is.
    #[inline]
    fn encode(&self, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        let mut writer = Writer { out, written: 0 };
        self.write(&mut writer);
        let bytes = writer.written;
        if bytes > writer.out.len() { Err(OutputTooSmall { bytes }) } else { Ok(bytes) }
    }

    /// The body in a vector of its own.
    fn to_vec(&self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Err(OutputTooSmall { bytes }) = self.encode(&mut body) {
            body.resize(bytes, 0);
        }
        body
    }
}

/// What can stand in a packet: how long it is and how it is written.
///
/// # Examples
/// A field of one's own:
/// ```
/// use wharf::packet::{DecodeError, DecodeErrorKind, FromWire, Packet, Reader, Wire, Writer};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// enum Side { Left, Right }
///
/// impl Wire for Side {
///     const BYTES_MIN: usize = 1;
///     const BYTES_MAX: usize = 1;
///     fn write(&self, out: &mut Writer<'_>) {
///         out.put(&[*self as u8]);
///     }
/// }
///
/// impl FromWire<'_> for Side {
///     fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
///         let offset = input.offset();
///         match input.bytes(1)? {
///             [0] => Ok(Side::Left),
///             [1] => Ok(Side::Right),
///             _ => Err(DecodeError::new(offset, DecodeErrorKind::OutOfRange)),
///         }
///     }
/// }
///
/// wharf::packet! {
///     struct Turn = 7 { side: Side, steps: u16 }
/// }
/// assert_eq!(Turn { side: Side::Right, steps: 2 }.to_vec(), [1, 2, 0]);
/// let error = Turn::decode(&[2, 0, 0]).err().unwrap();
/// assert_eq!(error.to_string(), "Turn (7): field side at byte 0: value out of range");
/// ```
pub trait Wire {
    /// The fewest bytes that it takes.
    const BYTES_MIN: usize;
    /// The most bytes that it takes; [`usize::MAX`] for no bound.
    const BYTES_MAX: usize;
    /// Whether it takes all that is left, so that nothing may follow it.
    const TAKES_REST: bool = false;

    /// Writes it, from [`BYTES_MIN`](Self::BYTES_MIN) to [`BYTES_MAX`](Self::BYTES_MAX) bytes.
    fn write(&self, out: &mut Writer<'_>);
}

/// A [`Wire`] type that can be read back, borrowing from the received bytes where it pays.
pub trait FromWire<'a>: Wire + Sized {
    /// Reads it from where `input` stands.
    ///
    /// # Errors
    /// The bytes are not such a value.
    fn read(input: &mut Reader<'a>) -> Result<Self, DecodeError>;
}

/// Goes through a received body.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// How many bytes were read so far.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// How many bytes are left.
    #[inline]
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Takes the next `count` bytes.
    ///
    /// # Errors
    /// So many are not left.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes[self.offset..].get(..count) {
            Some(taken) => {
                self.offset += count;
                Ok(taken)
            }
            None => Err(self.ended(count)),
        }
    }

    /// Takes the next `N` bytes.
    ///
    /// # Errors
    /// So many are not left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.bytes[self.offset..].first_chunk() {
            Some(taken) => {
                self.offset += N;
                Ok(*taken)
            }
            None => Err(self.ended(N)),
        }
    }

    /// What was read since `offset`.
    fn since(&self, offset: usize) -> &'a [u8] {
        &self.bytes[offset..self.offset]
    }

    #[cold]
    fn ended(&self, needed: usize) -> DecodeError {
        DecodeError::new(self.offset, DecodeErrorKind::Ended { needed, left: self.left() })
    }
}

/// Collects the bytes of a body that is to be sent.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    /// Goes on past the end of `out`, to say how long it would have to be.
    written: usize,
}

impl Writer<'_> {
    /// Appends bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.advance(bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Appends bytes that are 0.
    #[inline]
    pub fn put_zeros(&mut self, count: usize) {
        if let Some(place) = self.advance(count) {
            place.fill(0);
        }
    }

    #[inline]
    fn advance(&mut self, count: usize) -> Option<&mut [u8]> {
        let start = self.written;
        self.written = start.saturating_add(count);
        self.out.get_mut(start..self.written)
    }
}

/// Whether a record whose fields take the rest or not, in this order, takes the rest.
///
/// # Panics
/// A field that takes the rest is followed by another one. [`packet!`](crate::packet!) calls this at
/// compile time.
#[doc(hidden)]
#[must_use]
pub const fn takes_rest(fields: &[bool]) -> bool {
    let mut index = 0;
    while index < fields.len() {
        assert!(!fields[index] || index + 1 == fields.len(), "nothing may follow a `Rest`");
        index += 1;
    }
    !fields.is_empty() && fields[fields.len() - 1]
}

/// Defines [packets](Packet) and records. See the [module](mod@crate::packet) for the fields.
///
/// `struct Name = ID { .. }` is a packet; the id is a literal or the name of a `u32` constant.
/// `struct Name { .. }` is a record, for fields of other packets. Attributes, documentation and
/// visibilities are as for any struct. A field that borrows makes the struct have one lifetime.
///
/// ```
/// use wharf::packet::{Be, Packet, Rest};
///
/// const MOVE: u32 = 301;
///
/// wharf::packet! {
///     #[derive(Clone, Copy)]
///     struct Position { x: f32, y: f32 }
///     struct Move = MOVE { step: Be<u16>, path: [Position; 2] }
///     struct Echo<'a> = 1 { bytes: Rest<'a> }
///     struct Leave = 215 {}
/// }
/// assert_eq!((Move::BODY_BYTES_MIN, Move::BODY_BYTES_MAX), (18, 18));
/// assert_eq!((Echo::BODY_BYTES_MIN, Echo::BODY_BYTES_MAX), (0, usize::MAX));
/// assert_eq!((Leave::ID, Leave::BODY_BYTES_MAX), (215, 0));
/// ```
///
/// Nothing may follow a field that takes the rest:
/// ```compile_fail,E0080
/// wharf::packet! {
///     struct Wrong<'a> = 2 { bytes: wharf::packet::Rest<'a>, more: u8 }
/// }
/// ```
#[macro_export]
macro_rules! packet {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident $(<$life:lifetime>)? $(= $id:tt)? {
            $(
                $(#[$field_attribute:meta])*
                $field_visibility:vis $field:ident : $type:ty
            ),* $(,)?
        }
    )*) => {$(
        $(#[$attribute])*
        $visibility struct $name $(<$life>)? {
            $( $(#[$field_attribute])* $field_visibility $field: $type, )*
        }

        impl $(<$life>)? $crate::packet::Wire for $name $(<$life>)? {
            const BYTES_MIN: usize =
                0usize $(.saturating_add(<$type as $crate::packet::Wire>::BYTES_MIN))*;
            const BYTES_MAX: usize =
                0usize $(.saturating_add(<$type as $crate::packet::Wire>::BYTES_MAX))*;
            const TAKES_REST: bool = $crate::packet::takes_rest(
                &[$(<$type as $crate::packet::Wire>::TAKES_REST),*]
            );

            #[inline]
            fn write(&self, out: &mut $crate::packet::Writer<'_>) {
                let _ = &out;
                $( $crate::packet::Wire::write(&self.$field, out); )*
            }
        }

        $crate::__packet_read! { $name [$($life)?] $($field: $type,)* }
        $crate::__packet_id! { $name [$($life)?] $($id)? }
    )*};
}

/// The reading half of a record.
#[doc(hidden)]
#[macro_export]
macro_rules! __packet_read {
    ($name:ident [] $($rest:tt)*) => {
        $crate::__packet_read! { @impl $name ['__wire] [] $($rest)* }
        $crate::__packet_read! { @check $name }
    };
    ($name:ident [$life:lifetime] $($rest:tt)*) => {
        $crate::__packet_read! { @impl $name [$life] [<$life>] $($rest)* }
        $crate::__packet_read! { @check $name<'static> }
    };
    // Fields that cannot be do not compile, even if nothing uses the record.
    (@check $type:ty) => {
        const _: (usize, bool) = (
            <$type as $crate::packet::Wire>::BYTES_MAX,
            <$type as $crate::packet::Wire>::TAKES_REST,
        );
    };
    (@impl $name:ident [$life:lifetime] [$($generics:tt)*] $($field:ident : $type:ty,)*) => {
        impl<$life> $crate::packet::FromWire<$life> for $name $($generics)* {
            #[inline]
            fn read(
                input: &mut $crate::packet::Reader<$life>,
            ) -> ::core::result::Result<Self, $crate::packet::DecodeError> {
                let _ = &input;
                $(
                    let $field = <$type as $crate::packet::FromWire<$life>>::read(input)
                        .map_err(|error| error.of_field(::core::stringify!($field)))?;
                )*
                ::core::result::Result::Ok(Self { $($field),* })
            }
        }
    };
}

/// What makes a record a packet.
#[doc(hidden)]
#[macro_export]
macro_rules! __packet_id {
    ($name:ident [$($life:lifetime)?]) => {};
    ($name:ident [] $id:tt) => {
        impl $crate::packet::Packet for $name {
            const ID: u32 = $id;
            const NAME: &'static str = ::core::stringify!($name);
            type Received<'__wire> = Self;
        }
    };
    ($name:ident [$life:lifetime] $id:tt) => {
        impl<$life> $crate::packet::Packet for $name<$life> {
            const ID: u32 = $id;
            const NAME: &'static str = ::core::stringify!($name);
            type Received<'__wire> = $name<'__wire>;
        }
    };
}
