//! Windows' errors as the other backends report theirs.
//!
//! A failed packet carries the number of one of two families: Winsock's (10000 and up) or Win32's. A
//! reset, for example, is 10054 when a call says so and 64 ("the network name is gone") when a
//! packet does. Callers see Winsock's, for which the standard library knows an
//! [`io::ErrorKind`](std::io::ErrorKind).

use std::io;

use windows_sys::Win32::{
    Foundation::{
        ERROR_CONNECTION_ABORTED, ERROR_CONNECTION_REFUSED, ERROR_HOST_UNREACHABLE,
        ERROR_NETNAME_DELETED, ERROR_NETWORK_UNREACHABLE, ERROR_PORT_UNREACHABLE,
        ERROR_SEM_TIMEOUT, ERROR_TOO_MANY_OPEN_FILES, WIN32_ERROR,
    },
    Networking::WinSock::{
        WSA_OPERATION_ABORTED, WSAECANCELLED, WSAECONNABORTED, WSAECONNREFUSED, WSAECONNRESET,
        WSAEHOSTUNREACH, WSAEMFILE, WSAENETRESET, WSAENETUNREACH, WSAENOBUFS, WSAENOTCONN,
        WSAESHUTDOWN, WSAETIMEDOUT,
    },
};

/// The same error as a caller should see it.
pub(super) fn portable(error: io::Error) -> io::Error {
    let Some(code) = error.raw_os_error() else { return error };
    if code == WSAESHUTDOWN {
        // Sending behind one's own end of stream; the standard library has no kind for the number.
        return io::Error::new(io::ErrorKind::BrokenPipe, error);
    }
    let same = TABLE.iter().find(|(win32, _)| *win32 as i32 == code);
    same.map_or(error, |(_, winsock)| io::Error::from_raw_os_error(*winsock))
}

/// An operation that was cancelled before or while the system had it.
pub(super) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(WSAECANCELLED)
}

/// Whether the system ended the operation because it was asked to, or because the socket or the
/// thread went away: says nothing about the connection (W5).
pub(super) fn is_aborted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSA_OPERATION_ABORTED)
}

/// Whether an accept failed because of the connection alone, which its client has given up.
pub(super) fn is_of_the_connection(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [WSAECONNRESET, WSAECONNABORTED, WSAENETRESET, WSAENOTCONN, WSAETIMEDOUT]
        .map(Some)
        .contains(&code)
}

/// Whether the system is short of memory at present, so that the same call may succeed later (W9).
pub(super) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSAENOBUFS)
}

const TABLE: [(WIN32_ERROR, i32); 8] = [
    (ERROR_NETNAME_DELETED, WSAECONNRESET),
    (ERROR_CONNECTION_ABORTED, WSAECONNABORTED),
    (ERROR_CONNECTION_REFUSED, WSAECONNREFUSED),
    (ERROR_SEM_TIMEOUT, WSAETIMEDOUT),
    (ERROR_NETWORK_UNREACHABLE, WSAENETUNREACH),
    (ERROR_HOST_UNREACHABLE, WSAEHOSTUNREACH),
    (ERROR_PORT_UNREACHABLE, WSAECONNRESET),
    (ERROR_TOO_MANY_OPEN_FILES, WSAEMFILE),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_numbers_have_the_kinds_that_other_systems_report() {
        use io::ErrorKind::*;
        let cases = [
            (64, ConnectionReset),
            (10054, ConnectionReset),
            (1236, ConnectionAborted),
            (10053, ConnectionAborted),
            (1225, ConnectionRefused),
            (10061, ConnectionRefused),
            (121, TimedOut),
            (10060, TimedOut),
            (1231, NetworkUnreachable),
            (1232, HostUnreachable),
            (10058, BrokenPipe),
        ];
        for (code, kind) in cases {
            let error = portable(io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), kind, "{code}: {error}");
        }
    }

    #[test]
    fn a_broken_pipe_keeps_the_systems_own_words() {
        let error = portable(io::Error::from_raw_os_error(WSAESHUTDOWN));
        assert!(error.to_string().contains("10058"), "{error}");
    }
}
