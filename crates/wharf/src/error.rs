//! What can go wrong, for users of the library.

use std::{fmt, io};

use crate::framing::FramingError;

/// `Ok(())` unless said otherwise.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// What a server or a handler failed with.
///
/// Its `Debug` is its `Display`: `fn main() -> wharf::Result` ends with a sentence, not a struct.
#[non_exhaustive]
pub enum Error {
    /// The system refused something; says what was tried.
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A setting that cannot work.
    Settings(String),
    /// A send was refused.
    Send(SendError),
    /// A method that waits for the workers was called on a worker's thread.
    OnWorker,
    /// Something of the handler's own.
    Handler(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An error of the handler's own making.
    pub fn handler(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Handler(error.into())
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { what, source } => write!(f, "{what}: {source}"),
            Error::Settings(what) => f.write_str(what),
            Error::Send(error) => error.fmt(f),
            Error::OnWorker => f.write_str("a worker's thread cannot wait for the workers"),
            Error::Handler(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // `Display` says what the system said: a chain would say it twice.
            Error::Io { source, .. } => source.source(),
            Error::Handler(error) => error.source(),
            Error::Send(_) | Error::Settings(_) | Error::OnWorker => None,
        }
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        Error::Send(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Handler(error.into())
    }
}

/// Why a frame was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The session is closing, closed, or never was.
    Closed,
    /// The session's send queue, or the way to its worker, is full.
    WouldExceed,
    /// The framing cannot say this packet.
    Framing(FramingError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Closed => f.write_str("the session is closed"),
            SendError::WouldExceed => f.write_str("the send queue is full"),
            SendError::Framing(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SendError {}

impl From<FramingError> for SendError {
    fn from(error: FramingError) -> Self {
        SendError::Framing(error)
    }
}
