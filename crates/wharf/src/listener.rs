//! Accepting: one streaming accept per listening socket, and what to do when it ends.

use std::{net::SocketAddr, time::Duration};

use wharf_port::Socket;

use crate::{log_limit::LogLimit, timer::TimerId};

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
    pub(crate) failures_logged: LogLimit,
}

/// How long accepting waits after the process has run out of something that it needs (50 ms): at once
/// it would fail again. Who comes meanwhile waits no longer than that for an answer or an end.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
