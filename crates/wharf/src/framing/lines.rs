//! Text lines: a frame ends with a newline.
//!
//! For people with `nc` or `telnet`, and for text protocols. `\r\n` ends a line as well as `\n`.

use memchr::memchr;

use super::{Decoded, Framing, FramingError, Need, Packet};

/// Newline-delimited frames. The body comes without the `\n`, and without one `\r` right before it.
///
/// What is sent ends with `\n`; a body whose own last byte is `\r` with `\r\n`, so that the receiver
/// takes away what was added and not a byte of the body. The bytes need not be UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines;

impl Framing for Lines {
    #[inline]
    fn decode(&self, unread: &[u8], seen: usize) -> Result<Decoded, FramingError> {
        let fresh = unread.get(seen..).unwrap_or_default();
        let Some(at) = memchr(b'\n', fresh) else {
            return Ok(Decoded::Incomplete { need: Need::More });
        };
        let newline = seen + at;
        let body_end = match unread[..newline] {
            [.., b'\r'] => newline - 1,
            _ => newline,
        };
        Ok(Decoded::Frame { len: newline + 1, body: 0..body_end, id: 0 })
    }

    /// Two more than the body, for the `\r\n` that a line may end with.
    #[inline]
    fn encoded_len(&self, body_len: usize) -> usize {
        body_len.saturating_add(2)
    }

    #[inline]
    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        let body = packet.body;
        if memchr(b'\n', body).is_some() {
            return Err(FramingError::BodyHasDelimiter);
        }
        let end: &[u8] = if body.ends_with(b"\r") { b"\r\n" } else { b"\n" };
        let len = body.len() + end.len();
        let out = out.get_mut(..len).ok_or(FramingError::OutputTooSmall)?;
        let (body_out, end_out) = out.split_at_mut(body.len());
        body_out.copy_from_slice(body);
        end_out.copy_from_slice(end);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize, body_end: usize) -> Decoded {
        Decoded::Frame { len, body: 0..body_end, id: 0 }
    }

    #[test]
    fn a_line_ends_with_a_newline() {
        let more = Decoded::Incomplete { need: Need::More };
        for (unread, expected) in [
            (&b""[..], more.clone()),
            (b"abc", more.clone()),
            (b"abc\r", more),
            (b"\n", frame(1, 0)),
            (b"\r\n", frame(2, 0)),
            (b"\r\r\n", frame(3, 1)),
            (b"abc\n", frame(4, 3)),
            (b"abc\r\n", frame(5, 3)),
            (b"a\rc\nd\n", frame(4, 3)),
            (b"\xff\x00\n", frame(3, 2)),
        ] {
            assert_eq!(Lines.decode(unread, 0), Ok(expected), "{unread:?}");
        }
    }

    /// A newline among bytes that were looked at before is not found again: the search goes on
    /// where it stopped. Starting over would cost the square of a line that trickles in.
    #[test]
    fn the_search_goes_on_where_it_stopped() {
        let more = Decoded::Incomplete { need: Need::More };
        for (unread, seen, expected) in [
            (&b"a\nb"[..], 2, more.clone()),
            (b"a\nb\n", 2, frame(4, 3)),
            (b"abc\r\n", 4, frame(5, 3)),
            (b"abc", 3, more.clone()),
            (b"abc", 9, more),
        ] {
            assert_eq!(Lines.decode(unread, seen), Ok(expected), "{unread:?} {seen}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for (body, expected) in [
            (&b""[..], Ok(&b"\n"[..])),
            (b"abc", Ok(b"abc\n")),
            (b"abc\r", Ok(b"abc\r\r\n")),
            (b"a\nb", Err(FramingError::BodyHasDelimiter)),
            (b"\n", Err(FramingError::BodyHasDelimiter)),
        ] {
            let mut out = vec![0xee; Lines.encoded_len(body.len())];
            let written = Lines.encode(Packet { id: 0, session: 0, body }, &mut out);
            assert_eq!(written.map(|len| &out[..len]), expected, "{body:?}");
            if let Ok(len) = written {
                assert_eq!(Lines.decode(&out[..len], 0), Ok(frame(len, body.len())));
            }
        }
        let packet = Packet { id: 0, session: 0, body: b"abc" };
        assert_eq!(Lines.encode(packet, &mut [0; 3]), Err(FramingError::OutputTooSmall));
    }
}
