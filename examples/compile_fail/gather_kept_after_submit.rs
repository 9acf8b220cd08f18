//! One record of a send is used for two sends: the second overwrites what the first still needs.
use wharf_port::{CompletionPort, Gather, Op, Socket};

fn answer_twice(port: &mut dyn CompletionPort, socket: Socket, gather: Gather) {
    port.submit(Op::Send { socket, gather }, socket.into());
    port.submit(Op::Send { socket, gather }, socket.into());
}

fn main() {}
