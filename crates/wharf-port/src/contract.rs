//! The contract: what a completion port promises, on every system.
//!
//! One port belongs to one thread. The thread submits operations, waits, and is handed what
//! completed. The promises below are numbered, and the code refers to them by number; one
//! conformance suite (`tests/conformance.rs`) checks them on every backend.
//!
//! - **P1** Every submitted operation completes exactly once, also after a cancel. A streaming
//!   operation ([`Op::Accept`], [`Op::Receive`]) yields any number of completions and then exactly
//!   one final one ([`Outcome::AcceptEnded`], [`Outcome::ReceiveEnded`]); any other has its final one
//!   alone.
//! - **P2** The port owns an operation's record and its buffer until the final completion.
//!   Received bytes come in buffers that the port lends ([`RecvBuffer`]): `!Send`, given back on
//!   drop. Each keeps its pool's memory alive, even past the port.
//! - **P3** [`submit`](CompletionPort::submit) runs no user code and never fails for one operation:
//!   failures come back as completions.
//! - **P4** No completion is produced inside `submit`; they come out of
//!   [`wait`](CompletionPort::wait) alone.
//! - **P5** At most one receive, of either kind, and at most one send is in flight per socket. A second
//!   one is a caller's bug and panics; [`SecondSend::Refuse`](crate::SecondSend::Refuse) completes a second
//!   send with [`SendError::AlreadyInFlight`] instead, to show what 1-Send is for.
//! - **P6** No order is promised between sockets, nor between a socket's receive and its send.
//! - **P7** [`cancel`](CompletionPort::cancel) makes every operation in flight on a socket reach its
//!   final completion; one that had already succeeded may still say so.
//!   [`shutdown_write`](CompletionPort::shutdown_write) sends end of stream behind what was sent.
//!   [`close`](CompletionPort::close) with an operation in flight is a caller's bug and panics.
//! - **P8** Dropping a port with operations in flight cancels them all, waits for them with a
//!   deadline ([`Config::drop_deadline`](crate::Config::drop_deadline)), and where that passes leaks
//!   what the system may still write to, and logs it. Nothing is freed on hope.
//! - **P9** A streaming receive has a byte credit. When that is used it ends with
//!   [`ReceiveEnd::CreditSpent`]; going on is a new submit. The receive that uses it
//!   up may bring the rest of its buffer, too, and a backend that cannot stop the system there what was
//!   completed by then. [`pause`](CompletionPort::pause)
//!   ends a receive or an accept early with `Paused`; what was completed before that comes first,
//!   in order. A single receive ([`Op::ReceiveOnce`]) is over with the first bytes and never brings more
//!   than it asked for; one that is paused or cancelled leaves what it does not bring to the next.
//! - **P10** An accepted socket is unbound until [`adopt`](CompletionPort::adopt), which binds it to
//!   one port for life; an [`UnboundSocket`] may cross threads, and a `std::net::TcpStream` becomes
//!   one. A socket for [`Op::Connect`] is made on the port that will own it
//!   ([`stream`](CompletionPort::stream)). A port's [`Waker`] and [`Inbox`](crate::Inbox) bring
//!   values from other threads.
//!
//! "No buffer left" is a state, not an error and never the end of a stream: receives that find no
//! buffer are parked and armed again, first come first served, as buffers come back.
//!
//! "No descriptor left" ends an accept. Who waits then can be [turned away](CompletionPort::turn_away):
//! it sees its connection end instead of silence.

use std::{fmt, io, net::SocketAddr, time::Duration};

use crate::{
    buffer::{BufferPool, Gather, RecvBuffer},
    socket::{SocketOptions, UnboundListener, UnboundSocket},
    wake::Waker,
};

/// A completion port: operations go in, completions come out. See the [module](self) for the
/// numbered promises; [`open`](crate::open) chooses the backend.
pub trait CompletionPort {
    /// Binds an accepted socket (or a `TcpStream`) to this port for life (P10).
    ///
    /// # Errors
    /// What the system says if it cannot register the socket; or there is no descriptor left beside the
    /// socket's, so that the next one could not be [turned away](Self::turn_away). The socket is closed
    /// then.
    fn adopt(&mut self, socket: UnboundSocket) -> io::Result<Socket>;

    /// Binds a listening socket to this port for life.
    ///
    /// # Errors
    /// As for [`adopt`](Self::adopt).
    fn adopt_listener(&mut self, listener: UnboundListener) -> io::Result<Socket>;

    /// Makes a socket for [`Op::Connect`] to `address`, bound to this port.
    ///
    /// # Errors
    /// No descriptor left, or an option or a source address that the system refuses.
    fn stream(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Socket>;

    /// Submits one operation; `token` comes back with each of its completions (P1, P3, P4).
    ///
    /// # Panics
    /// On a caller's bug: a socket that is not of this port or already closed, a second receive or
    /// send on one socket (P5), an empty gather, a receive of zero bytes.
    fn submit(&mut self, op: Op, token: Token);

    /// Hands everything submitted to the system, waits until something completes, another thread
    /// wakes the port, or `timeout` passes (`None`: no limit; zero: do not wait), and appends what
    /// completed to `done`. Returns the time after waiting. May return early with nothing.
    ///
    /// # Errors
    /// Only when the port itself is broken; no operation's failure is reported here (P3).
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<Time>;

    /// Closes connections that wait on a listener with no accept in flight, at most
    /// [`TURNED_AWAY_MAX`](crate::TURNED_AWAY_MAX) of them; says how many. Works where accepting
    /// fails for want of a descriptor: the process keeps one for this, which is given up and taken again
    /// afterwards. 0 where nobody waits, where that one has been lost to somebody else meanwhile (it is
    /// taken again as soon as one is free, at the latest by [`adopt`](Self::adopt)), and on Windows,
    /// which has no such limit.
    ///
    /// # Panics
    /// If an accept is in flight.
    fn turn_away(&mut self, listener: Socket) -> usize;

    /// Ends the socket's receive, or the listener's accept, early with `Paused` (P9). Does nothing
    /// where none is in flight.
    fn pause(&mut self, socket: Socket);

    /// Makes everything in flight on the socket complete soon (P7).
    fn cancel(&mut self, socket: Socket);

    /// Sends end of stream (FIN) behind what was sent, a send in flight included. Does nothing on a
    /// socket that the peer has already reset.
    fn shutdown_write(&mut self, socket: Socket);

    /// Closes a socket with nothing in flight.
    ///
    /// # Panics
    /// If an operation is in flight (P7).
    fn close(&mut self, socket: Socket, how: Close);

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// What the system says.
    fn local_addr(&self, socket: Socket) -> io::Result<SocketAddr>;

    /// The time now, on the same clock as [`wait`](Self::wait) returns.
    fn now(&self) -> Time;

    /// Wakes this port from other threads.
    fn waker(&self) -> Waker;

    /// The pool that bytes to send are written into.
    fn buffers(&self) -> &BufferPool;

    /// Counters; all but the running totals are zero when the port is idle.
    fn counts(&self) -> Counts;

    /// Which backend this is, and why.
    fn engine(&self) -> &EngineInfo;
}

/// The caller's name for an operation: returned with each completion, meaning nothing to the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A token that names the socket itself: no other socket of the port has it, neither now nor later.
impl From<Socket> for Token {
    fn from(socket: Socket) -> Self {
        Self(u64::from(socket.slot) << 32 | u64::from(socket.generation))
    }
}

/// The socket whose name the token is, so that a program need not keep it beside. Of a token that is
/// something else's name, a socket that is not open.
impl From<Token> for Socket {
    fn from(token: Token) -> Self {
        Self { slot: (token.0 >> 32) as u32, generation: token.0 as u32 }
    }
}

/// A socket bound to a port: slot and generation, never a descriptor, so that a stale one is
/// noticed instead of naming the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// An operation to submit.
#[derive(Debug)]
pub enum Op {
    /// Accept connections until it ends: streaming.
    Accept {
        /// From [`CompletionPort::adopt_listener`].
        listener: Socket,
    },
    /// Connect a socket that [`CompletionPort::stream`] made.
    Connect {
        /// The socket.
        socket: Socket,
        /// Where to.
        address: SocketAddr,
    },
    /// Receive until the credit is used or the stream ends: streaming (P9).
    Receive {
        /// The socket.
        socket: Socket,
        /// How many bytes may come before the operation ends with [`ReceiveEnd::CreditSpent`].
        credit_bytes: u32,
    },
    /// Receive once: over with the first bytes that there are, in one buffer, so that no more come than
    /// that holds, either ([`Outcome::ReceivedOnce`]).
    ReceiveOnce {
        /// The socket.
        socket: Socket,
        /// How many bytes may come; what there is beyond stays for the next receive.
        bytes_max: u32,
    },
    /// Send all frames of the gather, in order. A partial send is resumed inside.
    Send {
        /// The socket.
        socket: Socket,
        /// What to send; comes back with the completion.
        gather: Gather,
    },
}

/// One completion.
#[derive(Debug)]
pub struct Done {
    /// The token that the operation was submitted with.
    pub token: Token,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to an operation: the variant says which kind it was and whether it is over.
#[derive(Debug)]
pub enum Outcome {
    /// A connection was accepted; more may follow.
    Accepted(UnboundSocket),
    /// The accept is over (final).
    AcceptEnded(AcceptEnd),
    /// The connect is over (final).
    Connected(io::Result<()>),
    /// Bytes arrived; more may follow. Never empty.
    Received(RecvBuffer),
    /// The receive is over (final).
    ReceiveEnded(ReceiveEnd),
    /// The single receive is over (final): the bytes, never none, or why there are none, which is never
    /// [`ReceiveEnd::CreditSpent`].
    ReceivedOnce(Result<RecvBuffer, ReceiveEnd>),
    /// The send is over (final).
    Sent {
        /// The gather that was submitted, for use again.
        gather: Gather,
        /// All of it was handed to the system, or why not. After an error nothing is known about
        /// how much the peer got.
        result: Result<(), SendError>,
    },
}

impl Outcome {
    /// A receive's final completion. Only that of a single one brings bytes.
    #[inline]
    pub(crate) fn of_receive(once: bool, last: Result<RecvBuffer, ReceiveEnd>) -> Self {
        match last {
            Err(end) if !once => Outcome::ReceiveEnded(end),
            last => Outcome::ReceivedOnce(last),
        }
    }
}

// Moved once by the port and once by who handles it.
const _: () = assert!(size_of::<Done>() <= 40);

/// Why an accept ended.
#[derive(Debug)]
pub enum AcceptEnd {
    /// [`CompletionPort::pause`] was called.
    Paused,
    /// [`CompletionPort::cancel`] was called.
    Cancelled,
    /// The system refused one: no descriptor left, a connection reset before it was accepted ...
    /// The listener is whole; submit again, at once or after a while, as
    /// [`AcceptFailure`](crate::AcceptFailure) says.
    Failed(io::Error),
}

/// Why a receive ended.
#[derive(Debug)]
pub enum ReceiveEnd {
    /// The peer ended its stream.
    EndOfStream,
    /// The credit is used (P9); submit again to go on.
    CreditSpent,
    /// [`CompletionPort::pause`] was called.
    Paused,
    /// [`CompletionPort::cancel`] was called.
    Cancelled,
    /// The connection failed, by a reset for example.
    Failed(io::Error),
}

/// Why a send did not succeed.
#[derive(Debug)]
pub enum SendError {
    /// One was in flight already (only with [`SecondSend::Refuse`](crate::SecondSend::Refuse)).
    AlreadyInFlight,
    /// [`CompletionPort::cancel`] was called.
    Cancelled,
    /// The connection failed.
    Failed(io::Error),
}

/// How to close a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The system goes on delivering what was sent.
    Graceful,
    /// What is unsent is thrown away and the peer sees a reset (`SO_LINGER` with zero seconds,
    /// socket(7)).
    Reset,
}

/// A point in time on a port's clock: nanoseconds since an arbitrary start. Ports of one process
/// share a clock; a simulated port's clock is virtual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);

    /// The point `nanos` nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How much later `self` is than `earlier`; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of the clock (584 years).
    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What a port has out, and what it has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations submitted whose final completion has not been delivered.
    pub operations_in_flight: usize,
    /// Receive buffers lent and not yet given back.
    pub buffers_lent: usize,
    /// Pooled blocks that some [`Frame`](crate::Frame) or [`FrameBuf`](crate::FrameBuf) holds.
    pub blocks_in_use: usize,
    /// Sockets and listeners that are open on this port.
    pub sockets: usize,
    /// Receives that wait for a buffer.
    pub receives_parked: usize,
    /// Total: system calls made.
    pub system_calls: u64,
    /// Total: times that a receive found no buffer.
    pub buffer_shortages: u64,
    /// Total: completions that belonged to nothing any more and were dropped.
    pub stale_completions: u64,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Linux's io_uring.
    Uring,
    /// Readiness (epoll, kqueue) turned into completions.
    Poll,
    /// Windows' I/O completion port.
    Iocp,
    /// In memory, seeded, with a virtual clock.
    Sim,
}

impl Engine {
    /// The short name: `uring`, `poll`, `iocp`, `sim`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Poll => "poll",
            Engine::Iocp => "iocp",
            Engine::Sim => "sim",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which backend a port runs on, and why.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The backend.
    pub engine: Engine,
    /// For people: kernel version, what the probe found.
    pub detail: String,
    /// Why a better backend is not used, if one was tried.
    pub fell_back: Option<String>,
}
