//! A framing of your own: netstrings (<https://cr.yp.to/proto/netstrings.txt>), which say a body's
//! length in decimal, as in `5:hello,`.
//!
//! ```text
//! cargo run --example custom_framing
//! printf '5:hello,0:,' | nc -q 1 127.0.0.1 9000     (in another terminal)
//! ```
//!
//! A framing is handed bytes and says where a frame lies in them. It keeps nothing between calls,
//! reads nothing and refuses nothing for its length: that a frame is longer than allowed is the
//! session's business, and it notices as soon as the length has been read.

use wharf::{
    Context, Frame, Handler, Server,
    framing::{Decoded, Framing, FramingError, Need, Packet},
};

#[derive(Clone, Copy)]
struct Netstring;

impl Framing for Netstring {
    fn decode(&self, unread: &[u8], _seen: usize) -> Result<Decoded, FramingError> {
        let digits = unread.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let too_long = digits > DIGITS_MAX;
        let leading_zero = digits > 1 && unread[0] == b'0';
        match unread.get(digits) {
            None if !too_long && !leading_zero => Ok(Decoded::Incomplete { need: Need::More }),
            Some(b':') if digits > 0 && !too_long && !leading_zero => {
                let add = |value, digit: &u8| value * 10 + usize::from(digit - b'0');
                let start = digits + 1;
                let end = start + unread[..digits].iter().fold(0, add);
                match unread.get(end) {
                    None => Ok(Decoded::Incomplete { need: Need::AtLeast(end + 1) }),
                    Some(b',') => Ok(Decoded::Frame { len: end + 1, body: start..end, id: 0 }),
                    Some(_) => Err(FramingError::Malformed("no comma after the body")),
                }
            }
            _ => Err(FramingError::Malformed("not a length")),
        }
    }

    fn encoded_len(&self, body_len: usize) -> usize {
        body_len.saturating_add(DIGITS_MAX + 2)
    }

    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        let header = format!("{}:", packet.body.len());
        let end = header.len() + packet.body.len();
        let out = out.get_mut(..=end).ok_or(FramingError::OutputTooSmall)?;
        out[..header.len()].copy_from_slice(header.as_bytes());
        out[header.len()..end].copy_from_slice(packet.body);
        out[end] = b',';
        Ok(end + 1)
    }
}

/// Enough for 99,999,999 bytes, and far from what could overflow.
const DIGITS_MAX: usize = 8;

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        cx.send(frame.body())?;
        Ok(())
    }
}

fn main() -> wharf::Result {
    Server::builder().listen("127.0.0.1:9000", Netstring, || Echo).run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpStream},
        time::Duration,
    };

    use super::*;
    use wharf::framing::{append, frames};

    #[test]
    fn what_is_written_is_read_back() {
        let mut wire = Vec::new();
        for body in [&b"hello"[..], b"", b"5:hello,"] {
            append(&Netstring, Packet { id: 0, session: 0, body }, &mut wire).unwrap();
        }
        assert_eq!(wire, b"5:hello,0:,8:5:hello,,");
        let bodies: Vec<_> = frames(&Netstring, &wire).map(|frame| frame.unwrap().body()).collect();
        assert_eq!(bodies, [&b"hello"[..], b"", b"5:hello,"]);
    }

    #[test]
    fn every_start_of_a_frame_is_incomplete_and_nonsense_is_refused() {
        for end in 0..b"5:hello,".len() {
            let found = Netstring.decode(&b"5:hello,"[..end], 0);
            assert!(matches!(found, Ok(Decoded::Incomplete { .. })), "{end}: {found:?}");
        }
        for wrong in [&b"x"[..], b":", b"-1:", b"05:hello,", b"5:hello;", b"123456789"] {
            assert!(Netstring.decode(wrong, 0).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_server_speaks_it() {
        let server = Server::builder().workers(1).listen("127.0.0.1:0", Netstring, || Echo);
        let server = server.start().unwrap();
        let mut client = TcpStream::connect(server.local_addrs()[0]).unwrap();
        client.write_all(b"5:hello,3:yes,").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"5:hello,3:yes,");
        server.drain(Duration::from_secs(5));
        assert!(server.join().unwrap().leftover.is_nothing());
    }
}
