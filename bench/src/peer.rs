//! The peers: echo servers that answer raw bytes, without framing and without sessions.

mod compio;
mod floor;
#[cfg(feature = "glommio")]
mod glommio;
mod mio;
mod monoio;
mod tokio;

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use clap::ValueEnum;
use socket2::{Domain, Socket, Type};

use crate::machine;

const BACKLOG: i32 = 4096;

/// Which peer to run.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Peer {
    /// Written by hand on the raw ring: what the others are compared with
    Floor,
    /// Written by hand on mio, edge-triggered
    Mio,
    /// tokio, current-thread scheduler
    Tokio,
    /// tokio, multi-thread scheduler
    TokioMulti,
    /// compio on its ring
    Compio,
    /// monoio on its ring
    Monoio,
    /// glommio on its rings (built with `--features glommio`)
    #[cfg(feature = "glommio")]
    Glommio,
}

/// Serves on `addr`, pinned to `core`, until the process is ended. Prints `ready ADDR`.
///
/// # Errors
/// When the address cannot be bound, or the server fails.
pub fn run(peer: Peer, addr: SocketAddr, core: usize) -> anyhow::Result<()> {
    let listener = listen(addr, core)?;
    let ready = |addr: SocketAddr| println!("ready {addr}");
    match peer {
        Peer::Floor => floor::serve(listener, ready),
        Peer::Mio => mio::serve(listener, ready),
        Peer::Tokio => tokio::serve(tokio::Scheduler::CurrentThread, listener, ready),
        Peer::TokioMulti => tokio::serve(tokio::Scheduler::MultiThread, listener, ready),
        Peer::Compio => compio::serve(listener, ready),
        Peer::Monoio => monoio::serve(listener, ready),
        #[cfg(feature = "glommio")]
        Peer::Glommio => glommio::serve(listener, ready),
    }
    .with_context(|| format!("{peer:?}"))
}

/// Listens on `addr`, with the calling thread pinned to `core`.
///
/// # Errors
/// When the address cannot be bound, or there is no such core.
pub fn listen(addr: SocketAddr, core: usize) -> anyhow::Result<TcpListener> {
    machine::pin_to(core)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into()).with_context(|| format!("cannot bind {addr}"))?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(socket))
}
