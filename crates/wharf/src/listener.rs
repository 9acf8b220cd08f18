//! Accepting: one streaming accept per listening socket, and what to do when it ends.

use std::{io, net::SocketAddr, time::Duration};

use wharf_port::Socket;

use crate::timer::TimerId;

/// A listening socket on its worker.
pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) address: SocketAddr,
    pub(crate) service: u16,
    /// Accepted sockets go to the worker with the fewest sessions: this listener is the only one of
    /// its address. Otherwise the system has chosen the worker already.
    pub(crate) hand_over: bool,
    pub(crate) accept_in_flight: bool,
    /// Accepting has failed and is tried again then.
    pub(crate) accept_again: Option<TimerId>,
    pub(crate) open: bool,
}

/// How long to wait before accepting again after it failed; `None`: at once.
///
/// An error that concerns one connection must cost the others nothing (accept(2), "Error handling":
/// errors of the new connection are passed on). One that concerns the process, by descriptors or
/// memory, would come again at once.
pub(crate) fn accept_pause(error: &io::Error) -> Option<Duration> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::Interrupted
        | Kind::NetworkDown
        | Kind::NetworkUnreachable
        | Kind::HostUnreachable
        | Kind::TimedOut
        | Kind::PermissionDenied => None,
        _ => Some(Duration::from_millis(50)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_process_pause_accepting() {
        assert_eq!(accept_pause(&io::ErrorKind::ConnectionAborted.into()), None);
        assert!(accept_pause(&io::Error::other("too many open files")).is_some());
    }
}
