//! What a room's members say and hear, in each server's protocol. A text has the same 256 bytes in all
//! of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Bytes of every text.
pub const TEXT_BYTES: usize = 256;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Texts and nothing else; the server says one byte when it has a new member.
    Raw,
    /// The chat of `wharf serve`.
    Chat,
    /// Redis pub/sub.
    Redis,
    /// NATS.
    Nats,
}

/// Something whole at the start of what was received.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// Its bytes.
    pub bytes: usize,
    /// Where the text is, if it is one.
    pub text: Option<Range<usize>>,
}

const LOGIN: u16 = 201;
const ENTER: u16 = 206;
const CHAT: u16 = 221;
const LOGIN_ANSWER: u16 = 202;
const ENTER_ANSWER: u16 = 207;
const CHAT_ANSWER: u16 = 222;
const CHAT_NOTIFY: u16 = 223;
const CHAT_HEADER: usize = 5;
/// A name's field: 32 bytes and a zero.
const NAME_FIELD: usize = 33;

const REDIS_MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$256\r\n";
const REDIS_SUBSCRIBED: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nroom\r\n:1\r\n";
const NATS_MESSAGE: &[u8] = b"MSG room 1 256\r\n";

impl Wire {
    /// Whether those who talk need connections of their own: a subscriber of Redis may not publish.
    pub fn talks_apart(self) -> bool {
        self == Wire::Redis
    }

    /// Bytes of one delivery.
    pub fn delivery_bytes(self) -> usize {
        match self {
            Wire::Raw => TEXT_BYTES,
            Wire::Chat => CHAT_HEADER + NAME_FIELD + TEXT_BYTES + 1,
            Wire::Redis => REDIS_MESSAGE.len() + TEXT_BYTES + 2,
            Wire::Nats => NATS_MESSAGE.len() + TEXT_BYTES + 2,
        }
    }

    /// Makes a connection a member of the room; it is one when this returns.
    pub fn join(self, stream: &mut TcpStream, member: usize) -> anyhow::Result<()> {
        match self {
            Wire::Raw => {
                let mut greeting = [0];
                stream.read_exact(&mut greeting).context("the greeting")?;
            }
            Wire::Chat => {
                let mut login = [0; 2 * NAME_FIELD];
                let name = format!("m{member}");
                login[..name.len()].copy_from_slice(name.as_bytes());
                login[NAME_FIELD] = b'p';
                for (id, body, answer) in
                    [(LOGIN, &login[..], LOGIN_ANSWER), (ENTER, &[0; 4], ENTER_ANSWER)]
                {
                    stream.write_all(&packet(id, body))?;
                    let mut answered = [0; 7];
                    stream.read_exact(&mut answered)?;
                    let expected =
                        [&7_u16.to_le_bytes()[..], &answer.to_le_bytes(), &[0; 3]].concat();
                    ensure!(answered == expected[..], "{answered:?} to packet {id}");
                }
            }
            Wire::Redis => {
                stream.write_all(b"SUBSCRIBE room\r\n")?;
                expect(stream, REDIS_SUBSCRIBED)?;
            }
            Wire::Nats => {
                stream.write_all(b"CONNECT {\"verbose\":false}\r\nSUB room 1\r\nPING\r\n")?;
                let mut said = String::new();
                while !said.ends_with("PONG\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    said.push(char::from(byte[0]));
                    ensure!(said.len() < 16 * 1024 && !said.contains("-ERR"), "{said}");
                }
            }
        }
        Ok(())
    }

    /// Says a text.
    pub fn say(self, text: &[u8; TEXT_BYTES], out: &mut Vec<u8>) {
        match self {
            Wire::Raw => out.extend_from_slice(text),
            Wire::Chat => {
                let mut body = [0; TEXT_BYTES + 1];
                body[..TEXT_BYTES].copy_from_slice(text);
                out.extend_from_slice(&packet(CHAT, &body));
            }
            Wire::Redis => {
                out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nroom\r\n$256\r\n");
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Wire::Nats => {
                out.extend_from_slice(b"PUB room 256\r\n");
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// What stands whole at the start of these bytes; `None`: more has to come.
    ///
    /// # Errors
    /// It is nothing that the server should say.
    pub fn next(self, bytes: &[u8]) -> anyhow::Result<Option<Found>> {
        match self {
            Wire::Raw => Ok(text_behind(bytes, 0, 0)),
            Wire::Chat => next_of_chat(bytes),
            Wire::Redis if bytes.first() == Some(&b':') => Ok(line(bytes)),
            Wire::Redis => behind_prefix(bytes, REDIS_MESSAGE),
            Wire::Nats if bytes.starts_with(b"P") => Ok(line(bytes)),
            Wire::Nats => behind_prefix(bytes, NATS_MESSAGE),
        }
    }
}

fn packet(id: u16, body: &[u8]) -> Vec<u8> {
    let length = (CHAT_HEADER + body.len()) as u16;
    [&length.to_le_bytes()[..], &id.to_le_bytes(), &[0], body].concat()
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> anyhow::Result<()> {
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said)?;
    ensure!(said == expected, "{}", said.escape_ascii());
    Ok(())
}

/// A text behind so many bytes, with so many behind it.
fn text_behind(bytes: &[u8], before: usize, after: usize) -> Option<Found> {
    let all = before + TEXT_BYTES + after;
    (bytes.len() >= all).then(|| Found { bytes: all, text: Some(before..before + TEXT_BYTES) })
}

fn behind_prefix(bytes: &[u8], prefix: &[u8]) -> anyhow::Result<Option<Found>> {
    let seen = bytes.len().min(prefix.len());
    if bytes[..seen] != prefix[..seen] {
        bail!("it says {}", bytes[..bytes.len().min(60)].escape_ascii());
    }
    Ok(text_behind(bytes, prefix.len(), 2))
}

fn line(bytes: &[u8]) -> Option<Found> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some(Found { bytes: end + 2, text: None })
}

fn next_of_chat(bytes: &[u8]) -> anyhow::Result<Option<Found>> {
    let Some(&[length, more, id, high, _]) = bytes.first_chunk() else { return Ok(None) };
    let (length, id) = (u16::from_le_bytes([length, more]), u16::from_le_bytes([id, high]));
    match (id, length) {
        (CHAT_NOTIFY, 295) => Ok(text_behind(bytes, CHAT_HEADER + NAME_FIELD, 1)),
        (CHAT_ANSWER, 7) => match bytes.get(5..7) {
            Some([0, 0]) => Ok(Some(Found { bytes: 7, text: None })),
            Some(result) => bail!("a text was answered with {result:?}"),
            None => Ok(None),
        },
        _ => bail!("a packet {id} of {length} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_however_they_are_cut() {
        let text = [b'x'; TEXT_BYTES];
        let chat = packet(CHAT_NOTIFY, &[&[b'n'; NAME_FIELD][..], &text, &[0]].concat());
        let redis = [REDIS_MESSAGE, &text, b"\r\n"].concat();
        let nats = [NATS_MESSAGE, &text, b"\r\n"].concat();
        for (wire, message) in [
            (Wire::Raw, text.to_vec()),
            (Wire::Chat, chat),
            (Wire::Redis, redis),
            (Wire::Nats, nats),
        ] {
            assert_eq!(message.len(), wire.delivery_bytes());
            for cut in 0..message.len() {
                assert_eq!(wire.next(&message[..cut]).unwrap(), None, "{wire:?} {cut}");
            }
            let found = wire.next(&[&message[..], b"more"].concat()).unwrap().unwrap();
            assert_eq!(found.bytes, message.len());
            assert_eq!(message[found.text.unwrap()], text);
        }
    }

    #[test]
    fn what_is_no_text_is_told_apart() {
        let ignored = |bytes| Some(Found { bytes, text: None });
        assert_eq!(Wire::Redis.next(b":200\r\n*3").unwrap(), ignored(6));
        assert_eq!(Wire::Nats.next(b"PING\r\nMSG").unwrap(), ignored(6));
        assert_eq!(Wire::Chat.next(&packet(CHAT_ANSWER, &[0, 0])).unwrap(), ignored(7));
        for (wire, wrong) in [
            (Wire::Redis, &b"-ERR unknown command\r\n"[..]),
            (Wire::Nats, b"-ERR 'Slow Consumer'\r\n"),
            (Wire::Chat, &packet(CHAT_ANSWER, &[63, 0])),
            (Wire::Chat, &packet(208, &[0; 20])),
        ] {
            assert!(wire.next(wrong).is_err(), "{wire:?}");
        }
    }
}
