//! One completion port on every system: io_uring on Linux, I/O completion ports on Windows, epoll and
//! kqueue where neither is to be had, and a seeded simulation in memory.
//!
//! A *completion port* is told what to do — accept, connect, receive, send — and later says what was
//! done. It differs from readiness (epoll, kqueue), which says what *could* be done: the bytes have
//! already arrived in a buffer when the port speaks, and a send is over when it says so. The
//! [contract] lists what every backend promises.
//!
//! ```no_run
//! use wharf_port::{Config, ListenOptions, Op, Outcome, Token};
//!
//! fn main() -> std::io::Result<()> {
//!     let mut port = wharf_port::open(&Config::default())?;
//!     let mut sockets = wharf_port::listen("127.0.0.1:9000".parse().unwrap(), &ListenOptions::default(), 1)?;
//!     let listener = port.adopt_listener(sockets.remove(0))?;
//!     port.submit(Op::Accept { listener }, Token(0));
//!     let mut done = Vec::new();
//!     loop {
//!         port.wait(None, &mut done)?;
//!         for completion in done.drain(..) {
//!             if let Outcome::Accepted(socket) = completion.outcome {
//!                 println!("{} is here", socket.peer_addr()?);
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! `examples/port_echo.rs` is a whole echo server on the bare port, with one operation in flight per
//! client: receive once, send, receive. Streaming receives with a credit, beside sends, are what the
//! crate `wharf` builds sessions, framing and limits on.
//!
//! # Engines
//! | engine | system | notes |
//! |---|---|---|
//! | `uring` | Linux 6.1 and later | 6.1 brought deferred task work, without which a message costs 3 to 35 % more; older kernels and containers that forbid io_uring get `poll`. A kernel that would lose a reset right behind bytes (before 7.0, without a stable update of 2026: CVE-2026-23473) is found out at start, and receives there are for one buffer each, which costs up to a fifth more of a message |
//! | `poll` | Linux (epoll), macOS and BSD (kqueue) | the kqueue side is type-checked, not run, by this project's tests |
//! | `iocp` | Windows 10 and later | tested under Wine; see `docs/windows.md` for what that leaves open |
//! | `sim` | everywhere | in memory, with a virtual clock and faults by seed |

mod memory;

mod accept;
mod buffer;
#[cfg(any(unix, windows))]
mod clock;
mod config;
#[cfg(windows)]
pub mod console;
pub mod contract;
mod inbox;
#[cfg(windows)]
mod iocp;
mod operation;
#[cfg(any(unix, windows))]
mod park;
#[cfg(any(unix, windows))]
mod parked;
#[cfg(any(unix, windows))]
pub mod peer;
#[cfg(unix)]
mod poll;
pub mod sim;
mod socket;
#[cfg(target_os = "linux")]
mod uring;
mod wake;

use std::{io, panic::resume_unwind};

#[doc(inline)]
pub use crate::contract::{
    AcceptEnd, Close, CompletionPort, Counts, Done, Engine, EngineInfo, Op, Outcome, ReceiveEnd,
    SendError, Socket, Time, Token,
};
pub use crate::{
    accept::{AcceptFailure, TURNED_AWAY_MAX},
    buffer::{BufferPool, Frame, FrameBuf, Gather, RecvBuffer},
    config::{Config, EngineChoice, IocpConfig, SecondSend, UnknownEngine, UringConfig},
    inbox::{Inbox, Post, PostError, inbox},
    socket::{Keepalive, ListenOptions, SocketOptions, UnboundListener, UnboundSocket},
    wake::Waker,
};
#[cfg(any(unix, windows))]
pub use crate::{park::Parker, socket::listen};

/// Opens a port for the calling thread, on the backend that `config` names or on the best that works
/// here. This is the one place in the project that chooses.
///
/// # Errors
/// A named engine that cannot start, with the reason; with [`EngineChoice::Auto`], that none can.
pub fn open(config: &Config) -> io::Result<Box<dyn CompletionPort>> {
    match config.engine {
        EngineChoice::Named(engine) => open_engine(engine, config, None),
        EngineChoice::Auto => {
            let mut fell_back = None;
            for engine in CANDIDATES {
                match open_engine(*engine, config, fell_back.take()) {
                    Ok(port) => return Ok(port),
                    Err(error) => {
                        tracing::warn!(%engine, %error, "this engine cannot be used here");
                        fell_back = Some(format!("{engine}: {error}"));
                    }
                }
            }
            let reason = fell_back.unwrap_or_else(|| "this system has no engine yet".to_owned());
            Err(io::Error::new(io::ErrorKind::Unsupported, reason))
        }
    }
}

/// Tries every engine that this system could have: what works, and why not.
///
/// Each is tried on a thread of its own: Linux tells the thread that has opened a ring when the ring is
/// gone, which interrupts whatever that thread is waiting for then.
#[must_use]
pub fn probe() -> Vec<(Engine, io::Result<EngineInfo>)> {
    let try_one =
        |engine| open_engine(engine, &Config::default(), None).map(|port| port.engine().clone());
    let on_its_thread = |&engine: &Engine| {
        let tried = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name(format!("probe {engine}"))
                .spawn_scoped(scope, || try_one(engine))
                .and_then(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        (engine, tried)
    };
    CANDIDATES.iter().map(on_its_thread).collect()
}

/// The engines of this system, best first.
const CANDIDATES: &[Engine] = if cfg!(target_os = "linux") {
    &[Engine::Uring, Engine::Poll]
} else if cfg!(unix) {
    &[Engine::Poll]
} else if cfg!(windows) {
    &[Engine::Iocp]
} else {
    &[]
};

fn open_engine(
    engine: Engine,
    config: &Config,
    fell_back: Option<String>,
) -> io::Result<Box<dyn CompletionPort>> {
    match engine {
        #[cfg(target_os = "linux")]
        Engine::Uring => uring::open(config),
        #[cfg(unix)]
        Engine::Poll => poll::open(config, fell_back),
        #[cfg(windows)]
        Engine::Iocp => iocp::open(config),
        Engine::Sim => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a simulated port is opened on its network: wharf_port::sim::SimNet::open",
        )),
        _ => {
            drop(fell_back);
            let system = std::env::consts::OS;
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("there is no {engine} on {system}"),
            ))
        }
    }
}
