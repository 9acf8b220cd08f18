//! What a port can be told when it is opened.

use std::{fmt, str::FromStr, time::Duration};

use crate::contract::Engine;

/// Settings of a port; the defaults suit a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which backend.
    pub engine: EngineChoice,
    /// Receive buffers of the port. An idle connection holds none, and no more of them are touched than
    /// turns take.
    pub receive_buffers: u16,
    /// Size of each receive buffer, in bytes. Of a large one only those pages become resident that what
    /// arrives reaches.
    pub receive_buffer_bytes: u32,
    /// How long to look for completions before sleeping. Spares one connection's answer the wake-up
    /// of an idle processor, at the price of a busy one.
    pub spin: Duration,
    /// What a second send on a socket does (P5).
    pub second_send: SecondSend,
    /// How long dropping the port waits for operations in flight (P8).
    pub drop_deadline: Duration,
    /// Put every buffer behind guard pages, so that a write that comes too late fails instead of
    /// corrupting memory. Slow; for tests.
    pub guard_pages: bool,
    /// Settings of io_uring.
    pub uring: UringConfig,
    /// Settings of Windows' completion ports.
    pub iocp: IocpConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            receive_buffers: 512,
            receive_buffer_bytes: 17 * 1024,
            spin: Duration::ZERO,
            second_send: SecondSend::Panic,
            drop_deadline: Duration::from_secs(2),
            guard_pages: false,
            uring: UringConfig::default(),
            iocp: IocpConfig::default(),
        }
    }
}

impl Config {
    /// The default, on the engine that the environment variable `WHARF_ENGINE` names if it is set.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn from_env() -> Result<Self, UnknownEngine> {
        let engine = match std::env::var("WHARF_ENGINE") {
            Ok(name) => name.parse()?,
            Err(_) => EngineChoice::Auto,
        };
        Ok(Self { engine, ..Self::default() })
    }
}

/// Which backend to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one or an error.
    Named(Engine),
}

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Ok(EngineChoice::Named(match name {
            "auto" => return Ok(EngineChoice::Auto),
            "uring" | "io_uring" => Engine::Uring,
            "poll" | "epoll" | "kqueue" => Engine::Poll,
            "iocp" => Engine::Iocp,
            _ => return Err(UnknownEngine(name.to_owned())),
        }))
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineChoice::Auto => f.write_str("auto"),
            EngineChoice::Named(engine) => engine.fmt(f),
        }
    }
}

/// A name that is no engine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEngine(String);

impl fmt::Display for UnknownEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown engine `{}`: it is one of auto, uring, poll, iocp", self.0)
    }
}

impl std::error::Error for UnknownEngine {}

/// What happens to a send that is submitted while another is in flight on the same socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecondSend {
    /// Panic: it is a bug of the caller.
    #[default]
    Panic,
    /// Complete it with [`SendError::AlreadyInFlight`](crate::SendError::AlreadyInFlight).
    Refuse,
}

/// Settings of io_uring, each a newer kernel feature with its fallback.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// Let a receive go on in the kernel from buffer to buffer, where the kernel tells it of a reset that
    /// comes right behind bytes. Kernels before 7.0 do so with a stable update of 2026 (CVE-2026-23473);
    /// on others, which the probe at start finds out, each receive is for one buffer and armed again.
    pub streaming_receive: bool,
    /// Let the kernel end a receive exactly at its byte credit, where it can (Linux 6.17); otherwise
    /// the receive is cancelled once the credit is used.
    pub receive_cap: bool,
    /// Forbid the ring every opcode that this backend does not use (Linux 5.10): less for an
    /// attacker who has got that far.
    pub restrict_opcodes: bool,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self { streaming_receive: true, receive_cap: true, restrict_opcodes: true }
    }
}

/// Settings of Windows' I/O completion ports.
#[derive(Clone, Debug)]
pub struct IocpConfig {
    /// `AcceptEx` calls that a listener keeps outstanding; each holds a socket made in advance. What
    /// comes while all are used waits in the system's queue.
    pub accepts_outstanding: u16,
    /// Take the result of an operation that succeeds at once from the call itself, without a packet
    /// (`FILE_SKIP_COMPLETION_PORT_ON_SUCCESS`): one packet less for most sends. Has no effect where
    /// some installed network provider does not hand out true file handles, since packets would then
    /// be missing (Microsoft's KB 2568167).
    pub skip_on_success: bool,
}

impl Default for IocpConfig {
    fn default() -> Self {
        Self { accepts_outstanding: 16, skip_on_success: true }
    }
}
