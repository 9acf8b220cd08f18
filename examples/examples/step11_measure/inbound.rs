//! From received bytes to whole packets: two bytes of length (big-endian), then so many.

use wharf_examples::Counter;

use super::ring::Ring;

/// Bytes that were moved only to make room behind them.
pub(crate) static MOVED: Counter = Counter::new();

/// What a client has sent and is not a whole packet yet.
pub(crate) enum Inbound {
    /// In a vector: what is behind a packet moves to the front.
    Shifted(Vec<u8>),
    Circle(Ring),
}

impl Inbound {
    pub(crate) fn new(ring: bool) -> Self {
        if ring {
            Self::Circle(Ring::new(INBOUND_BYTES))
        } else {
            Self::Shifted(Vec::with_capacity(INBOUND_BYTES))
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Shifted(bytes) => bytes.len(),
            Self::Circle(ring) => ring.len(),
        }
    }

    /// Takes as much as there is room for, and says how much that is.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Circle(ring) => ring.write(bytes),
            Self::Shifted(waiting) => {
                let taken = bytes.len().min(INBOUND_BYTES - waiting.len());
                waiting.extend_from_slice(&bytes[..taken]);
                taken
            }
        }
    }

    /// Takes the first packet out, if it is whole.
    ///
    /// # Errors
    /// It would be larger than any is.
    pub(crate) fn packet(&mut self, out: &mut Vec<u8>) -> Result<bool, TooLong> {
        let mut header = [0; HEADER_BYTES];
        if self.len() < header.len() {
            return Ok(false);
        }
        self.peek(&mut header);
        let len = HEADER_BYTES + usize::from(u16::from_be_bytes(header));
        if len > PACKET_BYTES_MAX {
            return Err(TooLong);
        }
        if self.len() < len {
            return Ok(false);
        }
        out.resize(len, 0);
        self.peek(out);
        match self {
            Self::Circle(ring) => ring.consume(len),
            Self::Shifted(bytes) => {
                MOVED.add((bytes.len() - len) as u64);
                drop(bytes.drain(..len));
            }
        }
        Ok(true)
    }

    fn peek(&self, out: &mut [u8]) {
        match self {
            Self::Circle(ring) => ring.peek(out),
            Self::Shifted(bytes) => out.copy_from_slice(&bytes[..out.len()]),
        }
    }
}

/// A length that no packet has.
#[derive(Debug)]
pub(crate) struct TooLong;

const HEADER_BYTES: usize = 2;
/// With its header.
pub(crate) const PACKET_BYTES_MAX: usize = 1024;
/// More than a packet, so that there is always room for the rest of one.
const INBOUND_BYTES: usize = 4096;
