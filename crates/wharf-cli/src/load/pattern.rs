//! What a message contains: bytes that follow from its connection and its place in the sequence.
//!
//! Hot path: [`Pattern::fill`] once per message sent, [`Pattern::first_difference`] once per piece
//! received. Each word is the one before plus a constant, which costs an addition for 8 bytes and
//! still makes a byte that was altered, moved, or left over from another message differ.

use std::fmt;
use std::str::FromStr;

use crate::settings::{Bytes, parse_value};

/// Writes and checks the bodies of messages.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// Only printable characters, for a framing that ends a message at a newline.
    is_text: bool,
    // Kept between messages for its room.
    expected: Vec<u8>,
}

/// Which message: the connection that it is sent on, and how many were sent there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) connection: u64,
    pub(crate) sequence: u64,
}

/// How long bodies are: all the same, or anything from the shortest to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) shortest: usize,
    pub(crate) longest: usize,
}

impl Sizes {
    /// The length of this message's body; it follows from the message, so that it can be checked.
    #[inline]
    pub(crate) fn of(self, message: Message) -> usize {
        if self.shortest == self.longest {
            return self.shortest;
        }
        let span = (self.longest - self.shortest) as u64 + 1;
        self.shortest + (mix(message.seed().rotate_left(17)) % span) as usize
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| parse_value::<Bytes>(text, "bytes").map(|bytes| bytes.0 as usize);
        let (shortest, longest) = match text.split_once("..") {
            Some((shortest, longest)) => (size(shortest)?, size(longest)?),
            None => (size(text)?, size(text)?),
        };
        if shortest > longest {
            return Err("the longest size comes after the `..`".to_owned());
        }
        Ok(Self { shortest, longest })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shortest, longest) = (Bytes(self.shortest as u64), Bytes(self.longest as u64));
        if shortest == longest { longest.fmt(f) } else { write!(f, "{shortest} to {longest}") }
    }
}

impl Pattern {
    pub(crate) fn new(is_text: bool) -> Self {
        Self { is_text, expected: Vec::new() }
    }

    /// The `len` bytes of this message from `offset` on.
    #[inline]
    pub(crate) fn fill(&mut self, message: Message, offset: usize, len: usize) -> &[u8] {
        let skipped = offset % 8;
        let words = (skipped + len).div_ceil(8);
        if self.expected.len() < words * 8 {
            self.expected.resize(words * 8, 0);
        }
        let first = message.seed().wrapping_add(STEP.wrapping_mul((offset / 8) as u64));
        let mut word = first;
        for bytes in self.expected[..words * 8].chunks_exact_mut(8) {
            let shown = if self.is_text { (word & LOW_SIX_BITS) + ZEROS } else { word };
            bytes.copy_from_slice(&shown.to_le_bytes());
            word = word.wrapping_add(STEP);
        }
        &self.expected[skipped..skipped + len]
    }

    /// Where `got`, which starts at `offset` of this message, differs from it first, counted from
    /// the start of the message.
    #[inline]
    pub(crate) fn first_difference(
        &mut self,
        message: Message,
        offset: usize,
        got: &[u8],
    ) -> Option<usize> {
        let expected = self.fill(message, offset, got.len());
        if expected == got {
            return None;
        }
        let place = expected.iter().zip(got).position(|(expected, got)| expected != got);
        place.map(|place| offset + place)
    }

    /// Whether `got` is this whole message. Looks at a few bytes first, for a search among many.
    pub(crate) fn is(&mut self, message: Message, got: &[u8]) -> bool {
        let start = got.len().min(8);
        self.first_difference(message, 0, &got[..start]).is_none()
            && self.first_difference(message, 0, got).is_none()
    }
}

impl Message {
    /// The first word. Its first byte counts messages, so that neighbours differ even if they are
    /// one byte long; the others are mixed from everything (splitmix64: Steele, Lea, Flood, 2014).
    #[inline]
    fn seed(self) -> u64 {
        let connection = mix(self.connection.wrapping_add(STEP));
        let mixed = mix(connection ^ self.sequence);
        let counted = (connection ^ self.sequence) & 0xff;
        (mixed & !0xff) | counted
    }
}

#[inline]
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From word to word: odd, so that no two words of a message are the same.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Added to six bits: `0` to `o`, printable and never a line's end.
const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);
const LOW_SIX_BITS: u64 = u64::from_le_bytes([0x3f; 8]);

#[cfg(test)]
mod tests {
    use super::*;

    fn message(connection: u64, sequence: u64) -> Message {
        Message { connection, sequence }
    }

    #[test]
    fn every_part_of_a_message_is_the_same_as_in_the_whole() {
        for is_text in [false, true] {
            let mut pattern = Pattern::new(is_text);
            let whole = pattern.fill(message(7, 9), 0, 100).to_vec();
            for start in 0..100 {
                for end in start..=100 {
                    assert_eq!(pattern.fill(message(7, 9), start, end - start), &whole[start..end]);
                }
            }
        }
    }

    #[test]
    fn one_altered_byte_is_found_where_it_is() {
        let mut pattern = Pattern::new(false);
        let whole = pattern.fill(message(1, 2), 0, 67).to_vec();
        assert_eq!(pattern.first_difference(message(1, 2), 0, &whole), None);
        for place in 0..67 {
            let mut altered = whole.clone();
            altered[place] ^= 0x20;
            assert_eq!(pattern.first_difference(message(1, 2), 0, &altered), Some(place));
            if place >= 5 {
                let found = pattern.first_difference(message(1, 2), 5, &altered[5..]);
                assert_eq!(found, Some(place));
            }
        }
    }

    #[test]
    fn messages_differ_from_their_neighbours_from_the_first_byte_on() {
        for (is_text, different) in [(false, 256), (true, 64)] {
            let mut pattern = Pattern::new(is_text);
            for len in [1, 2, 7, 8, 64] {
                let first = pattern.fill(message(3, 0), 0, len).to_vec();
                for sequence in 1..different {
                    assert!(!pattern.is(message(3, sequence), &first), "{len} {sequence}");
                }
                assert!(pattern.is(message(3, 0), &first));
            }
            let first = pattern.fill(message(3, 0), 0, 8).to_vec();
            assert!((0..1000).all(|other| other == 3 || !pattern.is(message(other, 0), &first)));
        }
    }

    #[test]
    fn sizes_are_spread_and_follow_from_the_message() {
        let sizes: Sizes = "16..1KiB".parse().unwrap();
        let all: Vec<_> = (0..4000).map(|sequence| sizes.of(message(9, sequence))).collect();
        assert!(all.iter().all(|size| (16..=1024).contains(size)));
        let mean = all.iter().sum::<usize>() / all.len();
        assert!((500..540).contains(&mean), "{mean}");
        assert_eq!(sizes.of(message(9, 5)), all[5]);
        assert_eq!("64".parse::<Sizes>().unwrap().of(message(1, 1)), 64);
        assert!(["", "x", "9..8", "1..", "..4"].iter().all(|text| text.parse::<Sizes>().is_err()));
    }

    #[test]
    fn text_has_no_line_end() {
        let mut pattern = Pattern::new(true);
        for sequence in 0..1000 {
            let bytes = pattern.fill(message(1, sequence), 0, 100);
            assert!(bytes.iter().all(u8::is_ascii_graphic), "{bytes:?}");
        }
    }
}
