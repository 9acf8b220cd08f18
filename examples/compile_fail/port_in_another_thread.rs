//! One thread submits while another waits: completions of one socket are handled on two threads.
use std::thread;
use wharf_port::CompletionPort;

fn start(mut port: Box<dyn CompletionPort>) {
    thread::spawn(move || port.wait(None, &mut Vec::new()));
}

fn main() {}
