//! What is sent, and how every byte of an answer is verified without copying.
//!
//! All connections send the same endless cycle of messages, each from a start of its own: a
//! message that is lost, swapped, doubled or answered to another connection does not fit. The
//! cycle is laid out once, followed by its own beginning, so that any piece of the stream is one
//! slice.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Bytes as they are; a message is known only by its size
    Raw,
    /// Header of 12 bytes (length, packet id, session id; u32 little endian), then the body
    Study,
}

/// The packet id that a `study` server answers with the same bytes.
const ECHO_ID: u32 = 1;
const STUDY_HEADER_BYTES: usize = 12;
/// The session field belongs to the server, which overwrites it.
const SESSION_FIELD: std::ops::Range<usize> = 8..12;

impl Framing {
    /// Bytes before a message's body.
    pub fn header_bytes(self) -> usize {
        match self {
            Framing::Raw => 0,
            Framing::Study => STUDY_HEADER_BYTES,
        }
    }
}

/// The cycle of messages, ready to be sent from and compared with.
pub struct Pattern {
    cycle: Vec<u8>,
    cycle_bytes: usize,
    framing: Framing,
    message_bytes: usize,
}

impl Pattern {
    /// A cycle of messages with `body_bytes` each, of which any `piece_bytes_max` are one slice.
    pub fn new(framing: Framing, body_bytes: usize, piece_bytes_max: usize) -> Pattern {
        let message_bytes = framing.header_bytes() + body_bytes;
        // Primes, so that no number of connections or depth falls into step with the cycle; few
        // enough large messages that the cycle stays in the cache.
        let messages = match message_bytes {
            0..=256 => 1021,
            257..=4096 => 251,
            _ => 61,
        };
        let cycle_bytes = messages * message_bytes;
        let mut cycle = Vec::with_capacity(cycle_bytes + piece_bytes_max);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..messages {
            if framing == Framing::Study {
                cycle.extend((body_bytes as u32).to_le_bytes());
                cycle.extend(ECHO_ID.to_le_bytes());
                cycle.extend(0_u32.to_le_bytes());
            }
            cycle.extend((0..body_bytes).map(|_| next_random(&mut state)));
        }
        while cycle.len() < cycle_bytes + piece_bytes_max {
            let rest = (cycle_bytes + piece_bytes_max - cycle.len()).min(cycle_bytes);
            cycle.extend_from_within(..rest);
        }
        Pattern { cycle, cycle_bytes, framing, message_bytes }
    }

    /// Bytes of one message on the wire, header included.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Where a connection's stream begins.
    pub fn start_of(&self, connection: usize) -> u64 {
        let messages = self.cycle_bytes / self.message_bytes;
        ((connection * 7) % messages * self.message_bytes) as u64
    }

    /// The piece of the stream at `position`.
    pub fn piece(&self, position: u64, bytes: usize) -> &[u8] {
        let start = (position % self.cycle_bytes as u64) as usize;
        &self.cycle[start..start + bytes]
    }

    /// Whether these bytes are the answer's bytes at `position`.
    pub fn is_answer(&self, position: u64, received: &[u8]) -> bool {
        let expected = self.piece(position, received.len());
        match self.framing {
            Framing::Raw => expected == received,
            Framing::Study => self.is_answer_except_sessions(position, expected, received),
        }
    }

    fn is_answer_except_sessions(&self, position: u64, expected: &[u8], received: &[u8]) -> bool {
        let mut at = 0;
        let mut in_message = (position % self.message_bytes as u64) as usize;
        while at < received.len() {
            let (end_in_message, compare) = match in_message {
                0..8 => (SESSION_FIELD.start, true),
                8..12 => (SESSION_FIELD.end, false),
                _ => (self.message_bytes, true),
            };
            let end = (at + end_in_message - in_message).min(received.len());
            if compare && expected[at..end] != received[at..end] {
                return false;
            }
            in_message = (in_message + end - at) % self.message_bytes;
            at = end;
        }
        true
    }
}

/// The upper byte of a xorshift generator: bytes without a pattern are enough here.
fn next_random(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cycle_goes_on_where_it_ends() {
        let pattern = Pattern::new(Framing::Raw, 32, 5000);
        let end = 1021 * 32;
        let over_the_end = pattern.piece(end - 32, 64);
        assert_eq!(&over_the_end[32..], pattern.piece(0, 32));
        assert_ne!(&over_the_end[..32], pattern.piece(0, 32));
    }

    #[test]
    fn a_tail_longer_than_the_cycle_is_filled() {
        let pattern = Pattern::new(Framing::Study, 1, 1021 * 13 * 2 + 5);
        assert!(pattern.is_answer(3, pattern.piece(3, 1021 * 13 * 2)));
    }

    #[test]
    fn only_the_session_field_may_differ() {
        let pattern = Pattern::new(Framing::Study, 5, 200);
        for start in 0..17_u64 {
            for length in 1..60 {
                for wrong in 0..length {
                    let mut answer = pattern.piece(start, length).to_vec();
                    assert!(pattern.is_answer(start, &answer));
                    answer[wrong] ^= 1;
                    let in_message = (start as usize + wrong) % 17;
                    assert_eq!(
                        pattern.is_answer(start, &answer),
                        SESSION_FIELD.contains(&in_message),
                        "start {start}, length {length}, wrong byte {wrong}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_raw_answer_must_fit_whole() {
        let pattern = Pattern::new(Framing::Raw, 16 * 1024, 64 * 1024);
        let mut answer = pattern.piece(1, 20_000).to_vec();
        assert!(pattern.is_answer(1, &answer));
        assert!(!pattern.is_answer(2, &answer));
        answer[19_999] ^= 1;
        assert!(!pattern.is_answer(1, &answer));
    }
}
