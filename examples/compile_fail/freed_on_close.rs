//! The buffers of a client are freed when it is closed, with a send of them still in flight.
use wharf_port::{Close, CompletionPort, Gather, Op, Socket};

fn leave(port: &mut dyn CompletionPort, socket: Socket, gather: Gather) {
    port.submit(Op::Send { socket, gather }, socket.into());
    port.close(socket, Close::Reset);
    drop(gather);
}

fn main() {}
