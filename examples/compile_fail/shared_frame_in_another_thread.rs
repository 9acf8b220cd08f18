//! A frame that many sends share is released on two threads at one time: its count goes wrong.
use std::thread;
use wharf_port::Frame;

fn broadcast(frame: &Frame) {
    let frame = frame.clone();
    thread::spawn(move || drop(frame));
}

fn main() {}
