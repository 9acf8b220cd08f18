//! Fields of a fixed size: numbers, truth values, arrays.

use std::array;

use super::{
    FromWire, Reader, Wire, Writer,
    error::{DecodeError, DecodeErrorKind},
};

/// A number that is big endian on the wire.
///
/// ```
/// use wharf::packet::{Be, Packet};
///
/// wharf::packet! {
///     struct Port = 9 { port: Be<u16> }
/// }
/// assert_eq!(Port { port: Be(9000) }.to_vec(), [0x23, 0x28]);
/// assert_eq!(Port::decode(&[0x23, 0x28])?.port.0, 9000);
/// # Ok::<(), wharf::packet::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be<T>(pub T);

impl<T> From<T> for Be<T> {
    fn from(value: T) -> Self {
        Be(value)
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        numbers! { @impl $type, value => value.to_le_bytes(), bytes => <$type>::from_le_bytes(bytes) }
        numbers! { @impl Be<$type>, value => value.0.to_be_bytes(), bytes => Be(<$type>::from_be_bytes(bytes)) }
    )*};
    (@impl $type:ty, $value:ident => $to:expr, $bytes:ident => $from:expr) => {
        impl Wire for $type {
            const BYTES_MIN: usize = size_of::<Self>();
            const BYTES_MAX: usize = size_of::<Self>();

            #[inline]
            fn write(&self, out: &mut Writer<'_>) {
                let $value = self;
                out.put(&$to);
            }
        }

        impl FromWire<'_> for $type {
            #[inline]
            fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let $bytes = input.array()?;
                Ok($from)
            }
        }
    };
}

numbers! { u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 }

impl Wire for bool {
    const BYTES_MIN: usize = 1;
    const BYTES_MAX: usize = 1;

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.put(&[u8::from(*self)]);
    }
}

impl FromWire<'_> for bool {
    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let offset = input.offset();
        match input.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(DecodeError::new(offset, DecodeErrorKind::OutOfRange)),
        }
    }
}

impl<T: Wire, const N: usize> Wire for [T; N] {
    const BYTES_MIN: usize = T::BYTES_MIN.saturating_mul(N);
    const BYTES_MAX: usize = T::BYTES_MAX.saturating_mul(N);
    const TAKES_REST: bool = {
        assert!(!T::TAKES_REST, "nothing may follow a `Rest`");
        false
    };

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        for value in self {
            value.write(out);
        }
    }
}

impl<'a, T: FromWire<'a>, const N: usize> FromWire<'a> for [T; N] {
    #[inline]
    fn read(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut failed = None;
        let values: [Option<T>; N] = array::from_fn(|_| match failed {
            None => T::read(input).map_err(|error| failed = Some(error)).ok(),
            Some(_) => None,
        });
        match failed {
            None => Ok(values.map(|value| value.expect("every one was read"))),
            Some(error) => Err(error),
        }
    }
}
