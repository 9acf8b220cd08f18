//! The buffer of a send is written to while the send is in flight: what arrives is a mixture.
use wharf_port::{CompletionPort, Gather, Op, Socket};

fn answer(port: &mut dyn CompletionPort, socket: Socket) {
    let mut buffer = port.buffers().take(5);
    buffer.append(b"first");
    let gather = Gather::from(buffer.freeze());
    port.submit(Op::Send { socket, gather }, socket.into());
    buffer.append(b"again");
}

fn main() {}
