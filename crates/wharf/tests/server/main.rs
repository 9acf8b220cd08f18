//! Whole servers on real sockets on 127.0.0.1, each test on every engine that works here
//! (`WHARF_ENGINE=poll` and the like restrict them to one). Every test ends in
//! [`TestServer::finish`](support::TestServer::finish), which checks the idle invariant.

mod closing;
mod connectors;
mod drain;
mod echo;
mod handle;
mod handlers;
mod heartbeat;
mod limits;
mod listeners;
mod protocol;
mod slow;
mod support;
mod timers;
mod topics;
#[path = "../../../wharf-port/tests/support/wine.rs"]
mod wine;
