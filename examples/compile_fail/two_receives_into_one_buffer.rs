//! Two receives are posted into one buffer of the program's: their bytes overwrite each other.
use wharf_port::{CompletionPort, Op, Socket};

fn receive_twice(port: &mut dyn CompletionPort, socket: Socket, buffer: &mut [u8]) {
    port.submit(Op::Receive { socket, buffer }, socket.into());
    port.submit(Op::Receive { socket, buffer }, socket.into());
}

fn main() {}
