//! An accepted socket is handed to two threads' ports: each receives half of what comes.
use wharf_port::{CompletionPort, UnboundSocket};

fn share(one: &mut dyn CompletionPort, other: &mut dyn CompletionPort, socket: UnboundSocket) {
    let here = one.adopt(socket);
    let there = other.adopt(socket);
    drop((here, there));
}

fn main() {}
