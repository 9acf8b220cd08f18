//! The control channel: how `wharf sessions`, `kick`, `drain` and `reload` reach a running server, and
//! `wharf user` the store that a server has for itself.
//!
//! A socket in the file system that only its user may use (Unix), or a named pipe (Windows). One
//! connection carries one request: a line of JSON, answered by lines of JSON of which the last is
//! `done` or `error`. Everything is bounded: the length of a line, the connections at one time, the
//! time for a request and for an answer to be taken. None of it is on a worker's thread, so that
//! whoever is slow here costs no session anything.
//!
//! `place` says where the channel is, `transport` opens it, `server` answers, `client` asks.

mod client;
mod place;
mod server;
mod transport;

use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{settings::excerpt, user::Task};

pub(crate) use client::{
    DrainOptions, KickOptions, Question, SessionsOptions, manage_users, run, store_at,
};
pub(crate) use place::{of_server as place_of, that_may_be as places_that_may_be};
pub(crate) use server::{Channel, Controls, serve};

/// The version of this protocol; both sides say theirs, and differing ones do not talk.
const VERSION: u32 = 1;

/// Longest line of a request, its end included, in bytes: a reason and all names fit many times.
pub const REQUEST_BYTES_MAX: u64 = 4 * 1024;

/// Longest line of an answer, its end included, in bytes: a message or a store's path of 4 KiB, of which
/// each character may be written with six. A client may take 96 bytes for each while it reads one.
pub const ANSWER_BYTES_MAX: u64 = 32 * 1024;

/// So much of a message is answered: a wrong file's problems fit as a rule.
const MESSAGE_CHARACTERS_MAX: usize = 4 * 1024;

/// So much is said of a setting that a reload has changed.
const CHANGE_CHARACTERS_MAX: usize = 1024;

/// So much of what is wrong with a request is said: it may be named as it stands there.
const REFUSAL_CHARACTERS_MAX: usize = 300;

/// What a client asks for.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum Request {
    Sessions,
    Kick {
        session: String,
        reason: Option<String>,
    },
    Drain {
        timeout_ms: Option<u64>,
    },
    Reload,
    /// Which store of users the server has for itself.
    Store,
    /// Something to do with the users of that store.
    Users {
        store: String,
        #[serde(flatten)]
        task: Task,
    },
}

/// One line of an answer.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    Session(Session),
    Kicked {
        session: String,
        peer: String,
    },
    Draining {
        sessions: usize,
        queued_bytes: u64,
        left_ms: u64,
    },
    /// A setting that a reload has changed.
    Changed {
        setting: String,
    },
    /// One that differs and counts only after a restart.
    Restart {
        setting: String,
    },
    /// `null`: none that others could not use themselves.
    Store {
        store: Option<String>,
    },
    User {
        name: String,
    },
    /// The store was asked for something that cannot be done.
    Refused {
        message: String,
    },
    /// The last line of an answer.
    Done,
    /// The last line of an answer to a request that was not fulfilled.
    Error {
        message: String,
    },
}

impl Answer {
    /// To a client that has sent something else than a request.
    fn to_no_request(error: &io::Error) -> Self {
        let why = error.to_string();
        let why = excerpt(&why, REFUSAL_CHARACTERS_MAX);
        Self::Error { message: format!("this is not a request: {why}") }
    }

    fn error(message: &str) -> Self {
        Self::Error { message: excerpt(message, MESSAGE_CHARACTERS_MAX).into_owned() }
    }

    fn refused(message: &str) -> Self {
        Self::Refused { message: excerpt(message, MESSAGE_CHARACTERS_MAX).into_owned() }
    }

    fn changed(setting: &str) -> Self {
        Self::Changed { setting: excerpt(setting, CHANGE_CHARACTERS_MAX).into_owned() }
    }

    fn restart(setting: &str) -> Self {
        Self::Restart { setting: excerpt(setting, CHANGE_CHARACTERS_MAX).into_owned() }
    }
}

/// A session as the channel, `wharf sessions --json` and programs that read either are told it.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Session {
    id: String,
    peer: String,
    /// `null`: the server made the connection.
    listener: Option<String>,
    age_ms: u64,
    queued_bytes: u64,
    /// `null`: not measured, or not yet.
    round_trip_us: Option<u64>,
    closing: bool,
}

/// A message with the version of the protocol in front.
#[derive(Deserialize, Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    message: T,
}

/// Reads the version alone, whatever else there is.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Reads one line of at most `bytes_max` bytes.
///
/// # Errors
/// The stream fails or ends, or the line is too long, of another version, or not such a message.
fn receive<T: DeserializeOwned>(stream: &mut impl BufRead, bytes_max: u64) -> io::Result<T> {
    let mut line = Vec::new();
    let read = stream.take(bytes_max).read_until(b'\n', &mut line)?;
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if line.last() != Some(&b'\n') {
        return match read {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side has hung up")),
            _ if read as u64 == bytes_max => {
                wrong(format!("a line of more than {bytes_max} bytes"))
            }
            _ => wrong("a line without an end".to_owned()),
        };
    }
    match serde_json::from_slice::<VersionOnly>(&line) {
        Ok(VersionOnly { version: VERSION }) => {}
        Ok(VersionOnly { version }) => {
            return wrong(format!("version {version} of the protocol, where {VERSION} is spoken"));
        }
        Err(error) => return wrong(format!("not a line of this protocol: {error}")),
    }
    match serde_json::from_slice::<Versioned<T>>(&line) {
        Ok(versioned) => Ok(versioned.message),
        Err(error) => wrong(format!("not a line of this protocol: {error}")),
    }
}

/// Writes one line.
fn send(stream: &mut impl Write, message: impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Versioned { version: VERSION, message })?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// For fuzzing: reads a request as the server does, and writes it again.
///
/// # Errors
/// The line that is answered to what is no request.
pub(crate) fn request_again(mut bytes: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let mut line = Vec::new();
    match receive::<Request>(&mut bytes, REQUEST_BYTES_MAX) {
        Ok(request) => {
            if let Request::Kick { session, .. } = &request {
                // Whatever stands there is an id or none.
                let _ = session.parse::<wharf::SessionId>();
            }
            send(&mut line, &request).expect("a request can be written");
            Ok(line)
        }
        Err(error) => {
            let answer = Answer::to_no_request(&error);
            send(&mut line, answer).expect("an answer can be written");
            Err(line)
        }
    }
}

/// For fuzzing: reads a line of an answer as a client does, and writes it again.
///
/// # Errors
/// What the client is told of a line that is none.
pub(crate) fn answer_again(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let answer: Answer = receive(&mut bytes, ANSWER_BYTES_MAX)?;
    let mut line = Vec::new();
    send(&mut line, answer)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::Password;

    fn received(line: &[u8]) -> Result<Request, String> {
        receive(&mut &line[..], REQUEST_BYTES_MAX).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_sent_is_received() {
        for request in [
            Request::Sessions,
            Request::Kick { session: "0.1.2".to_owned(), reason: Some("a\nb".to_owned()) },
            Request::Drain { timeout_ms: None },
            Request::Reload,
            Request::Store,
            Request::Users {
                store: "embedded:/users.redb".to_owned(),
                task: Task::Add { name: "김".to_owned(), password: Password("\n".to_owned()) },
            },
        ] {
            let mut line = Vec::new();
            send(&mut line, &request).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(received(&line), Ok(request));
        }
        let written = br#"{"version":1,"command":"kick","session":"0.1.2"}"#;
        let request = Request::Kick { session: "0.1.2".to_owned(), reason: None };
        assert_eq!(received(&[written, &b"\n"[..]].concat()), Ok(request));
    }

    /// Whatever there is to say: no answer is longer than a client reads.
    #[test]
    fn the_longest_answers_are_received() {
        let long = "\u{1}".repeat(100_000);
        let error = io::Error::other(long.clone());
        for (answer, bytes_max) in [
            (Answer::error(&long), ANSWER_BYTES_MAX),
            (Answer::refused(&long), ANSWER_BYTES_MAX),
            (Answer::Store { store: Some("\u{1}".repeat(4096)) }, ANSWER_BYTES_MAX),
            (Answer::changed(&long), ANSWER_BYTES_MAX / 4),
            (Answer::restart(&long), ANSWER_BYTES_MAX / 4),
            (Answer::to_no_request(&error), 2048),
        ] {
            let mut line = Vec::new();
            send(&mut line, &answer).unwrap();
            assert!(line.len() as u64 <= bytes_max, "{} bytes", line.len());
            assert_eq!(receive::<Answer>(&mut &line[..], ANSWER_BYTES_MAX).unwrap(), answer);
        }
    }

    #[test]
    fn whatever_else_comes_is_told_apart() {
        let long = [b"{\"version\":1,\"command\":\"".as_slice(), &[b'a'; 5000], b"\"}\n"].concat();
        for (line, expected) in [
            (&b""[..], "hung up"),
            (b"{\"version\":1,\"command\":\"sessions\"}", "without an end"),
            (&long, "more than 4096 bytes"),
            (b"\n", "not a line of this protocol"),
            (b"GET / HTTP/1.1\r\n", "not a line of this protocol"),
            (b"\xff\xfe\n", "not a line of this protocol"),
            (b"{\"command\":\"sessions\"}\n", "missing field `version`"),
            (b"{\"version\":2,\"anything\":[]}\n", "version 2 of the protocol, where 1 is spoken"),
            (b"{\"version\":-1}\n", "not a line"),
            (b"{\"version\":1,\"command\":\"explode\"}\n", "unknown variant `explode`"),
            (b"{\"version\":1,\"command\":\"kick\"}\n", "missing field `session`"),
            (b"{\"version\":1,\"command\":\"drain\",\"timeout_ms\":-1}\n", "not a line"),
        ] {
            let refusal = received(line).unwrap_err();
            assert!(refusal.contains(expected), "{refusal:?} for {:?}", line.escape_ascii());
        }
        // Nested as deeply as fits: refused, and no stack is exhausted.
        let deep = [b"{\"version\":".as_slice(), &[b'['; 4000], b"\n"].concat();
        assert!(received(&deep).unwrap_err().contains("not a line"));
    }
}
