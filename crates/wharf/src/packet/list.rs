//! Fields whose length varies: counted lists, and the rest of a body.

use std::{error::Error, fmt, marker::PhantomData, slice};

use super::{
    FromWire, Reader, Wire, Writer,
    error::{DecodeError, DecodeErrorKind},
    number::Be,
};

/// A count of type `C` (`u8`, `i16`, [`Be<u32>`](Be) ...), then so many values, `MAX` at most.
///
/// A received list borrows its bytes from the frame. They are checked when the packet is decoded, and
/// read again by [`iter`](Self::iter): nothing is allocated, however many values a peer sends.
#[derive(Clone, Copy)]
pub struct List<'a, C, T, const MAX: usize> {
    values: Values<'a, T>,
    count: PhantomData<C>,
}

#[derive(Clone, Copy)]
enum Values<'a, T> {
    Given(&'a [T]),
    Received { bytes: &'a [u8], count: usize },
}

impl<'a, C: Count, T, const MAX: usize> List<'a, C, T, MAX> {
    /// A list to be sent.
    ///
    /// # Errors
    /// It has more than `MAX` values.
    pub fn new(values: &'a [T]) -> Result<Self, TooMany> {
        match values.len() {
            count if count <= MAX => Ok(Self { values: Values::Given(values), count: PhantomData }),
            count => Err(TooMany { count, max: MAX }),
        }
    }

    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.values {
            Values::Given(values) => values.len(),
            Values::Received { count, .. } => count,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, C: Count, T: FromWire<'a> + Clone, const MAX: usize> List<'a, C, T, MAX> {
    /// Its values, in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'a, T> {
        Iter(match self.values {
            Values::Given(values) => Source::Given(values.iter()),
            Values::Received { bytes, count } => {
                Source::Received { reader: Reader::new(bytes), left: count }
            }
        })
    }
}

impl<'a, C: Count, T: FromWire<'a> + Clone, const MAX: usize> IntoIterator for List<'a, C, T, MAX> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, C: Count, T: FromWire<'a> + Clone, const MAX: usize> IntoIterator
    for &List<'a, C, T, MAX>
{
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, C: Count, T, const MAX: usize> PartialEq for List<'a, C, T, MAX>
where
    T: FromWire<'a> + Clone + PartialEq,
{
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, C: Count, T, const MAX: usize> fmt::Debug for List<'a, C, T, MAX>
where
    T: FromWire<'a> + Clone + fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, C: Count, T: FromWire<'a>, const MAX: usize> Wire for List<'a, C, T, MAX> {
    const BYTES_MIN: usize = C::BYTES_MIN;
    const BYTES_MAX: usize = {
        assert!(MAX <= C::COUNT_MAX, "the count of a `List` cannot say its maximum");
        assert!(T::BYTES_MIN > 0, "values of a `List` have at least one byte");
        assert!(!T::TAKES_REST, "nothing may follow a `Rest`");
        C::BYTES_MAX.saturating_add(T::BYTES_MAX.saturating_mul(MAX))
    };

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        C::from_count(self.len()).write(out);
        match self.values {
            Values::Given(values) => values.iter().for_each(|value| value.write(out)),
            // Written anew: what a peer hid in padding does not go any further.
            Values::Received { bytes, count } => {
                let mut reader = Reader::new(bytes);
                let values = (0..count).map_while(|_| T::read(&mut reader).ok());
                values.for_each(|value| value.write(out));
            }
        }
    }
}

impl<'a, C: Count, T: FromWire<'a>, const MAX: usize> FromWire<'a> for List<'a, C, T, MAX> {
    fn read(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        const { assert!(Self::BYTES_MAX > 0) };
        let offset = input.offset();
        let Some(count) = C::read(input)?.to_count() else {
            return Err(DecodeError::new(offset, DecodeErrorKind::OutOfRange));
        };
        if count > MAX {
            let kind = DecodeErrorKind::CountTooLarge { count, max: MAX };
            return Err(DecodeError::new(offset, kind));
        }
        let start = input.offset();
        for _ in 0..count {
            T::read(input)?;
        }
        let values = Values::Received { bytes: input.since(start), count };
        Ok(Self { values, count: PhantomData })
    }
}

/// Iterator over the values of a [`List`].
#[derive(Clone, Debug)]
pub struct Iter<'a, T>(Source<'a, T>);

#[derive(Clone, Debug)]
enum Source<'a, T> {
    Given(slice::Iter<'a, T>),
    Received { reader: Reader<'a>, left: usize },
}

impl<'a, T: FromWire<'a> + Clone> Iterator for Iter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            Source::Given(values) => values.next().cloned(),
            Source::Received { left: 0, .. } => None,
            Source::Received { reader, left } => {
                *left -= 1;
                // Was read once when the packet was decoded.
                T::read(reader).ok()
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Source::Given(values) => values.len(),
            Source::Received { left, .. } => *left,
        };
        (left, Some(left))
    }
}

impl<'a, T: FromWire<'a> + Clone> ExactSizeIterator for Iter<'a, T> {}

/// A number that can count the values of a [`List`].
pub trait Count: for<'a> FromWire<'a> + sealed::Sealed {
    /// The largest count that it can say.
    const COUNT_MAX: usize;

    /// As a number of this type; `count` is at most [`COUNT_MAX`](Self::COUNT_MAX).
    #[doc(hidden)]
    fn from_count(count: usize) -> Self;

    /// `None` for what counts nothing: a negative number.
    #[doc(hidden)]
    fn to_count(self) -> Option<usize>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! counts {
    ($($number:ty)*) => {$(
        counts! { @impl $number, $number, count => count, value => value }
        counts! { @impl Be<$number>, $number, count => Be(count), value => value.0 }
    )*};
    (@impl $type:ty, $number:ty, $count:ident => $from:expr, $value:ident => $to:expr) => {
        impl sealed::Sealed for $type {}

        impl Count for $type {
            const COUNT_MAX: usize = <$number>::MAX as usize;

            fn from_count(count: usize) -> Self {
                let $count = count as $number;
                $from
            }

            fn to_count(self) -> Option<usize> {
                let $value = self;
                usize::try_from($to).ok()
            }
        }
    };
}

counts! { u8 u16 u32 i8 i16 i32 }

/// Whatever is left of the body, borrowed from the frame when it is received. Has to be the last
/// field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rest<'a>(pub &'a [u8]);

impl Wire for Rest<'_> {
    const BYTES_MIN: usize = 0;
    const BYTES_MAX: usize = usize::MAX;
    const TAKES_REST: bool = true;

    #[inline]
    fn write(&self, out: &mut Writer<'_>) {
        out.put(self.0);
    }
}

impl<'a> FromWire<'a> for Rest<'a> {
    #[inline]
    fn read(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        input.bytes(input.left()).map(Self)
    }
}

/// More values than a list may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// How many there are.
    pub count: usize,
    /// The most that the list takes.
    pub max: usize,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values in a list for {}", self.count, self.max)
    }
}

impl Error for TooMany {}
