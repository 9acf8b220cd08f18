//! The handle of a connection is used after it was closed: by then it may be another connection's.
use std::io;
use wharf_port::{CompletionPort, Socket, UnboundSocket};

fn refuse(port: &mut dyn CompletionPort, socket: UnboundSocket) -> io::Result<Socket> {
    drop(socket); // closes it
    port.adopt(socket)
}

fn main() {}
