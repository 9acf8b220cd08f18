//! Sessions on a completion port: framing, ordered bounded sends, limits, timers and outgoing
//! connections, the same on io_uring, IOCP, and epoll or kqueue.
//!
//! ```no_run
//! use wharf::{Context, Frame, Handler, Server, framing::LengthField};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = (); // your data, one per connection
//!
//!     fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
//!         cx.send(frame.body())?; // limits are on by default
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> wharf::Result {
//!     Server::builder()
//!         .listen("127.0.0.1:9000", LengthField::u16_be(), || Echo) // repeatable
//!         .run() // Ctrl+C drains
//! }
//! ```
//!
//! # How a message goes through
//! In reading order; the first five are the hot path.
//!
//! | file | what happens there |
//! |---|---|
//! | `worker.rs` | one turn: route what completed, run handlers, orders and timers, start the sends |
//! | `session.rs` | one connection's state: what is in flight, what waits, how it ends |
//! | `send_queue.rs` | one send in flight; what is queued meanwhile leaves together in the next |
//! | `sending.rs`, `topic.rs` | what may become of a frame; one frame for many sessions |
//! | `framing.rs` | bytes in, frames out |
//! | `logic.rs` | frames to handlers |
//! | `handler.rs` | what a user writes |
//! | `packet.rs`, `router.rs` | typed packets by id, handed to functions |
//! | `listener.rs`, `connector.rs`, `timer.rs`, `limits.rs` | accepting, connecting, time, limits |
//! | `server.rs`, `handle.rs`, `metrics.rs` | threads, the way in from outside, counters |
//! | `testing.rs` | your own server in the simulator, replayed by a seed |
#![forbid(unsafe_code)]

mod addresses;
mod connector;
#[cfg(all(test, any(unix, windows)))]
mod crowd_tests;
mod error;
#[cfg(all(test, any(unix, windows)))]
mod fairness_tests;
pub mod framing;
mod handle;
mod handler;
mod handler_times;
mod limits;
mod listener;
mod log_limit;
mod logic;
mod memory;
mod metrics;
pub mod packet;
pub mod router;
mod send_queue;
mod sending;
#[cfg(any(unix, windows))]
mod server;
mod session;
#[cfg(all(test, any(unix, windows)))]
mod sim_tests;
#[cfg(any(unix, windows))]
pub mod testing;
mod timer;
mod topic;
mod watch;
mod worker;

pub use wharf_port as port;

#[cfg(any(unix, windows))]
pub use crate::server::{Builder, Dispatch, Server, drain_on_signal, on_signal};
pub use crate::{
    connector::{ConnectorOptions, Reconnect},
    error::{Error, Result, SendError},
    framing::Frame,
    handle::{Handle, SessionInfo},
    handler::{CloseReason, Context, Handler, SessionId, SessionIdError},
    handler_times::{HandlerTimes, PacketTimes},
    limits::{Limits, OverRate},
    logic::{Job, Timer},
    metrics::{Leftover, Report, Stats, TurnTimes},
    packet::Packet,
    router::Router,
    sending::{Class, FlushPolicy, SendPolicy, Sent},
    topic::Topic,
};
