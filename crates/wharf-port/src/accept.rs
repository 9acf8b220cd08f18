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
    /// Linux passes errors of a new connection on as those of accept(2) ("Error handling" there). Left
    /// out of its list are `EOPNOTSUPP` and `EPERM`: a socket that cannot accept, or may not, says that,
    /// too, and for ever.
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
            | Kind::TimedOut => Self::Connection,
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

    #[cfg(windows)]
    fn of_code(code: i32) -> Self {
        use windows_sys::Win32::Networking::WinSock::WSAEMFILE;
        if code == WSAEMFILE { Self::Descriptors } else { Self::Other }
    }

    #[cfg(not(any(unix, windows)))]
    fn of_code(_: i32) -> Self {
        Self::Other
    }
}

/// How many connections [`turn_away`](crate::CompletionPort::turn_away) closes at most in one call
/// (64), so that a flood of them does not hold up those who are served.
pub const TURNED_AWAY_MAX: usize = 64;

/// A descriptor that is kept so that there is one to accept with when there is no other: one for all
/// ports, as the limit is the process's.
#[cfg(unix)]
pub(crate) mod reserve {
    use std::{
        io,
        os::fd::AsRawFd,
        sync::{Mutex, MutexGuard, PoisonError},
    };

    use socket2::{Domain, Socket, Type};

    use super::{AcceptFailure, TURNED_AWAY_MAX};

    static RESERVE: Mutex<Option<Socket>> = Mutex::new(None);

    /// Takes the descriptor, if it is not held. A socket of its own, no duplicate of another: that
    /// would free nothing where the whole system has none left (`ENFILE`).
    pub(crate) fn hold() -> MutexGuard<'static, Option<Socket>> {
        hold_or_why_not().0
    }

    /// As [`hold`]; also why there is none.
    fn hold_or_why_not() -> (MutexGuard<'static, Option<Socket>>, Option<io::Error>) {
        let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
        if reserve.is_some() {
            return (reserve, None);
        }
        match make() {
            Ok(socket) => {
                *reserve = Some(socket);
                (reserve, None)
            }
            Err(error) => (reserve, Some(error)),
        }
    }

    fn make() -> io::Result<Socket> {
        Socket::new(Domain::IPV4, Type::STREAM, None)
    }

    /// Lets a connection in. Where the descriptor has been lost for want of descriptors, the
    /// connection's own takes its place instead: those who come later are to see an end, too. Where
    /// there is none for another reason, such as a system without IPv4, nobody suffers for that.
    ///
    /// # Errors
    /// It took its place, and the connection is closed.
    pub(crate) fn admit(connection: Socket) -> io::Result<Socket> {
        match hold_or_why_not().1 {
            Some(error) if AcceptFailure::of(&error) == AcceptFailure::Descriptors => {}
            _ => return Ok(connection),
        }
        drop(connection);
        drop(hold());
        Err(io::Error::from_raw_os_error(libc::EMFILE))
    }

    /// Gives the descriptor up to accept, and close, what waits on a listener that only the caller
    /// accepts from; takes it again afterwards. Says how many, and calls `count` for each system call.
    pub(crate) fn turn_away(listener: &Socket, count: impl Fn()) -> usize {
        let mut reserve = hold();
        let mut closed = 0;
        count();
        if reserve.is_some() && make().is_ok() {
            return 0; // the shortage is over: whoever waits is let in
        }
        for _ in 0..TURNED_AWAY_MAX {
            count();
            if reserve.is_none() && closed == 0 || !has_waiting(listener) {
                break;
            }
            drop(reserve.take());
            count();
            match listener.accept() {
                Ok(connection) => {
                    count();
                    drop(connection);
                    closed += 1;
                }
                Err(error) if AcceptFailure::of(&error) == AcceptFailure::Connection => {}
                Err(_) => break, // somebody else was faster to take the descriptor
            }
        }
        drop(reserve);
        drop(hold());
        closed
    }

    /// Whether accepting would not wait.
    fn has_waiting(listener: &Socket) -> bool {
        let mut asked = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, of ours and of the right type; poll(2) writes to nothing else.
        let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
        ready > 0 && asked.revents & libc::POLLIN != 0
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
            (libc::EPERM, Other),
            (libc::EINVAL, Other),
        ] {
            assert_eq!(AcceptFailure::of(&io::Error::from_raw_os_error(code)), failure, "{code}");
        }
        assert_eq!(AcceptFailure::of(&io::Error::other("whatever")), Other);
    }
}
