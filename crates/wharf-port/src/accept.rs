//! When accepting fails: what the error says, and the descriptor that is kept for it.

use std::io;

/// What an error that ended an accept ([`AcceptEnd::Failed`](crate::AcceptEnd::Failed)) is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFailure {
    /// One connection, which is gone: it was reset while it waited, or its network failed. Submit
    /// again at once; a pause would let peers hold up everybody else.
    Connection,
    /// The process or the system has no descriptor left, and would say so again at once. See
    /// [`turn_away`](crate::CompletionPort::turn_away).
    Descriptors,
    /// Something else that may pass, such as a lack of memory. Submit again after a while.
    Other,
}

impl AcceptFailure {
    /// Linux passes errors of a new connection on as those of accept(2) ("Error handling" there). Of
    /// its list, `EOPNOTSUPP` is left out: a socket that cannot accept says that, too, and for ever.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::PermissionDenied => Self::Connection,
            _ => error.raw_os_error().map_or(Self::Other, Self::of_code),
        }
    }

    #[cfg(unix)]
    fn of_code(code: i32) -> Self {
        match code {
            libc::EMFILE | libc::ENFILE => Self::Descriptors,
            libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN => Self::Connection,
            #[cfg(target_os = "linux")]
            libc::ENONET => Self::Connection,
            _ => Self::Other,
        }
    }

    #[cfg(not(unix))]
    fn of_code(_: i32) -> Self {
        Self::Other
    }
}

/// How many connections [`turn_away`](crate::CompletionPort::turn_away) closes at most in one call
/// (64), so that a flood of them does not hold up those who are served.
pub const TURNED_AWAY_MAX: usize = 64;

/// A descriptor that is kept so that there is one to accept with when there is no other.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Reserve(Option<socket2::Socket>);

#[cfg(unix)]
impl Reserve {
    pub(crate) fn new() -> Self {
        let mut reserve = Self(None);
        reserve.hold();
        reserve
    }

    /// Takes the descriptor, if it is not held. A socket of its own, no duplicate of another: that
    /// would free nothing where the whole system has none left (`ENFILE`).
    pub(crate) fn hold(&mut self) {
        if self.0.is_none() {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            self.0 = socket.ok();
        }
    }

    /// Gives the descriptor up to accept, and close, what waits on a listener that does not block;
    /// takes it again afterwards. Says how many, and calls `count` for each system call.
    pub(crate) fn turn_away(&mut self, listener: &socket2::Socket, count: impl Fn()) -> usize {
        self.hold();
        if self.0.take().is_none() {
            return 0;
        }
        count();
        let mut closed = 0;
        for _ in 0..TURNED_AWAY_MAX {
            count();
            match listener.accept() {
                Ok(connection) => {
                    count();
                    drop(connection);
                    closed += 1;
                }
                Err(error) if AcceptFailure::of(&error) == AcceptFailure::Connection => {}
                Err(_) => break, // none waits, or somebody else was faster to take the descriptor
            }
        }
        count();
        self.hold();
        closed
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_connections_or_the_processes() {
        use AcceptFailure::*;
        for (code, failure) in [
            (libc::ECONNABORTED, Connection),
            (libc::EPROTO, Connection),
            (libc::ENOPROTOOPT, Connection),
            (libc::EHOSTDOWN, Connection),
            (libc::EHOSTUNREACH, Connection),
            (libc::ENETDOWN, Connection),
            (libc::ENETUNREACH, Connection),
            (libc::EMFILE, Descriptors),
            (libc::ENFILE, Descriptors),
            (libc::ENOMEM, Other),
            (libc::ENOBUFS, Other),
            (libc::EOPNOTSUPP, Other),
            (libc::EINVAL, Other),
        ] {
            assert_eq!(AcceptFailure::of(&io::Error::from_raw_os_error(code)), failure, "{code}");
        }
        assert_eq!(AcceptFailure::of(&io::Error::other("whatever")), Other);
    }
}
