//! Settings that are one of a few words: what the words are, their aliases, and what was probably
//! meant by another word.

use std::fmt;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::nearest;
use super::value::{Value, quoted};

/// Which completion engine carries the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// The best that this machine allows; says which and why
    Auto,
    /// io_uring (Linux 6.1 or newer)
    #[value(alias = "io_uring")]
    Uring,
    /// Readiness: epoll on Linux, kqueue on macOS and BSD
    #[value(aliases = ["epoll", "kqueue"])]
    Poll,
    /// I/O completion ports (Windows)
    Iocp,
}

/// The least important event that is still logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// Nothing
    Off,
    /// What failed
    Error,
    /// What looks wrong, but goes on
    Warn,
    /// Start, stop and what an operator wants to know
    Info,
    /// One line per connection
    Debug,
    /// Everything: slow
    Trace,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line, for collectors
    Json,
}

/// What becomes of a login under a name that is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DuplicateLogin {
    /// It is refused with 31
    Refuse,
    /// It takes the name over, and the other session is closed
    Kick,
}

/// How a byte stream is cut into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Framing {
    /// 12-byte header, little endian: u32 body length, u32 packet id, u32 session; echoes id 1
    Study,
    /// 5-byte header, little endian: u16 total length, u16 packet id, u8 type
    Tutorial,
    /// Length as 16 bits, big endian
    U16be,
    /// Length as 32 bits, big endian
    U32be,
    /// Length as 16 bits, little endian
    U16le,
    /// Length as 32 bits, little endian
    U32le,
    /// Text lines
    Lines,
    /// No frames: bytes as they come
    Raw,
}

/// What happens to a peer that sends faster than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverRate {
    /// It is not received from for a while
    Delay,
    /// Its session is closed
    Close,
}

/// How frames that wait for one session become buffers of one send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendPolicy {
    /// Small frames are copied together, large and shared ones keep their buffers
    Auto,
    /// All bytes are copied together
    Accumulate,
    /// Each frame keeps a buffer of its own
    Queue,
}

/// Makes an enum of words a [`Value`] and gives it the name that it is written with.
macro_rules! choice {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            fn parse(text: &str, _unit: &str) -> Result<Self, String> {
                parse_choice(text)
            }

            fn toml(&self) -> String {
                quoted(&self.to_string())
            }

            fn choices() -> Vec<PossibleValue> {
                Self::value_variants().iter().filter_map(Self::to_possible_value).collect()
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.write_str(value.as_ref().map_or("", PossibleValue::get_name))
            }
        }
    )+};
}

choice!(DuplicateLogin, Engine, LogLevel, LogFormat, OverRate, Framing, SendPolicy);

/// Reads one of the words of `T`.
pub(crate) fn parse_choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values: Vec<PossibleValue> =
            T::value_variants().iter().filter_map(T::to_possible_value).collect();
        let names = || values.iter().map(PossibleValue::get_name);
        let mut message = format!(
            "`{text}` is not one of {}",
            names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        );
        if let Some(name) = nearest(text, names()) {
            message.push_str(&format!("; did you mean `{name}`?"));
        }
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_have_aliases_and_suggestions() {
        for (text, shown) in [
            ("auto", "\"auto\""),
            ("uring", "\"uring\""),
            ("io_uring", "\"uring\""),
            ("epoll", "\"poll\""),
            ("kqueue", "\"poll\""),
            ("iocp", "\"iocp\""),
        ] {
            assert_eq!(Engine::parse(text, "").unwrap().toml(), shown);
        }
        let refusal = |text| Engine::parse(text, "").unwrap_err();
        assert_eq!(refusal("sim"), "`sim` is not one of `auto`, `uring`, `poll`, `iocp`");
        assert!(refusal("urnig").ends_with("; did you mean `uring`?"));
    }
}
