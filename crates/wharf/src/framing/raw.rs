//! No framing: every read that brought bytes is a frame.
//!
//! For proxies, and for measuring what framing costs. Where a frame ends depends on the network.

use super::{Decoded, Framing, FramingError, Need, Packet};

/// Whatever bytes are there are one frame. Nothing is added to what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw;

impl Framing for Raw {
    #[inline]
    fn decode(&self, unread: &[u8], _seen: usize) -> Result<Decoded, FramingError> {
        let len = unread.len();
        if len == 0 {
            return Ok(Decoded::Incomplete { need: Need::AtLeast(1) });
        }
        Ok(Decoded::Frame { len, body: 0..len, id: 0 })
    }

    #[inline]
    fn encoded_len(&self, body_len: usize) -> usize {
        body_len
    }

    #[inline]
    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        let len = packet.body.len();
        if len == 0 {
            return Err(FramingError::BodyEmpty);
        }
        let out = out.get_mut(..len).ok_or(FramingError::OutputTooSmall)?;
        out.copy_from_slice(packet.body);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_a_frame_unless_it_is_empty() {
        assert_eq!(Raw.decode(b"", 0), Ok(Decoded::Incomplete { need: Need::AtLeast(1) }));
        for read in [&b"x"[..], b"\n", b"two words"] {
            let len = read.len();
            assert_eq!(Raw.decode(read, 0), Ok(Decoded::Frame { len, body: 0..len, id: 0 }));
        }
    }

    #[test]
    fn bodies_are_written_as_they_are() {
        let packet = |body| Packet { id: 3, session: 4, body };
        let mut out = [0xee; 4];
        assert_eq!(Raw.encode(packet(b"abc"), &mut out), Ok(3));
        assert_eq!(&out, b"abc\xee");
        assert_eq!(Raw.encode(packet(b""), &mut out), Err(FramingError::BodyEmpty));
        assert_eq!(Raw.encode(packet(b"abcde"), &mut out), Err(FramingError::OutputTooSmall));
    }
}
