//! A received buffer is handed to the logic thread, and read there while the port uses it again.
use std::thread;
use wharf_port::RecvBuffer;

fn on_received(buffer: RecvBuffer) {
    thread::spawn(move || println!("{} bytes", buffer.len()));
}

fn main() {}
