//! The peer that people write by hand on readiness: an edge-triggered echo on mio.
//!
//! One read buffer is shared by all connections; a connection keeps bytes only while its peer does
//! not read. A read that did not fill the buffer has emptied the socket (epoll(7), "edge-triggered
//! ... stream-oriented files"), which saves the read that would say so, unless
//! the peer's end has been announced already.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);
const READ_BYTES: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// Read and not yet written: while there is any, nothing more is read.
    unsent: Vec<u8>,
    /// How much of it is written.
    sent: usize,
    /// The end of the stream is in the socket already: no event will announce it again.
    peer_is_done: bool,
}

/// Serves until the process ends.
///
/// # Errors
/// When the poller cannot be set up, or polling fails.
pub fn serve(listener: TcpListener, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    ready(listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match poll.poll(&mut events, None) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut connections, &mut free)?;
                continue;
            }
            let slot = event.token().0;
            let Some(connection) = connections[slot].as_mut() else { continue };
            connection.peer_is_done |= event.is_read_closed();
            if !matches!(connection.echo(&mut buffer), Ok(State::Open)) {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

fn accept(
    listener: &mio::net::TcpListener,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // Fails only if the peer is gone already, which the first read will say.
                let _ = stream.set_nodelay(true);
                let slot = free.pop().unwrap_or_else(|| {
                    connections.push(None);
                    connections.len() - 1
                });
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, Token(slot), interest)?;
                connections[slot] =
                    Some(Connection { stream, unsent: Vec::new(), sent: 0, peer_is_done: false });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

enum State {
    Open,
    Ended,
}

impl Connection {
    /// Writes what is left, then reads and writes until the socket has nothing more.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<State> {
        if !self.unsent.is_empty() {
            self.sent += write_some(&mut self.stream, &self.unsent[self.sent..])?;
            if self.sent < self.unsent.len() {
                return Ok(State::Open);
            }
            self.unsent = Vec::new();
            self.sent = 0;
        }
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(State::Ended),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(State::Open),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let written = write_some(&mut self.stream, &buffer[..read])?;
            if written < read {
                self.unsent = buffer[written..read].to_vec();
                return Ok(State::Open);
            }
            if read < buffer.len() && !self.peer_is_done {
                return Ok(State::Open);
            }
        }
    }
}

/// Writes until done or until the socket takes no more; returns how much it took.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
