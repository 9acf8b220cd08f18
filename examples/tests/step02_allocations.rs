//! Step 2 allocates nothing for a message once it is warm, and step 1 does. One test in a process of
//! its own, so that nobody else allocates beside it.

#![cfg(any(unix, windows))]

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use wharf_examples::allocations;
use wharf_port::{Config, UnboundSocket, inbox};

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../starters/step02_buffers.rs"]
mod starter;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/step01_echo.rs"]
mod step01;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/step02_buffers.rs"]
mod step02;

/// Two ends of one connection of this machine.
fn pair() -> (TcpStream, UnboundSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    (client, listener.accept().unwrap().0.into())
}

/// Sends so many messages and reads each back.
fn echo(client: &mut TcpStream, messages: usize, mut turn: impl FnMut()) {
    let mut answer = [0; 5];
    for _ in 0..messages {
        client.write_all(b"hello").unwrap();
        let mut filled = 0;
        while filled < answer.len() {
            match client.read(&mut answer[filled..]) {
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => turn(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What a thousand messages allocate, after another thousand.
fn allocations_of_1000(client: &mut TcpStream, mut turn: impl FnMut()) -> u64 {
    echo(client, 1000, &mut turn);
    let before = allocations();
    echo(client, 1000, &mut turn);
    allocations() - before
}

#[test]
fn a_message_allocates_in_step_1_and_not_in_step_2() {
    let turn = Some(Duration::from_millis(1));
    let (mut client, socket) = pair();
    let port = wharf_port::open(&Config::from_env().unwrap()).unwrap();
    let (post, newcomers) = inbox(port.waker(), 1);
    let mut worker = step01::Worker::new(port, newcomers);
    post.post(step01::Newcomer { socket, seat: Arc::new(()) }).ok().unwrap();
    let first = allocations_of_1000(&mut client, || worker.turn(turn).unwrap());
    assert!(first >= 4000, "{first}");

    let (mut client, socket) = pair();
    let port = wharf_port::open(&Config::from_env().unwrap()).unwrap();
    let (post, newcomers) = inbox(port.waker(), 1);
    let mut worker = step02::Worker::new(port, newcomers);
    post.post(step02::Newcomer { number: 0, socket, seat: Arc::new(()) }).ok().unwrap();
    assert_eq!(allocations_of_1000(&mut client, || worker.turn(turn).unwrap()), 0);

    // The starter allocates until its gap is filled: cargo xtask steps try 2.
    let (mut client, socket) = pair();
    let port = wharf_port::open(&Config::from_env().unwrap()).unwrap();
    let (post, newcomers) = inbox(port.waker(), 1);
    let mut worker = starter::Worker::new(port, newcomers);
    post.post(starter::Newcomer { number: 0, socket, seat: Arc::new(()) }).ok().unwrap();
    let started = allocations_of_1000(&mut client, || worker.turn(turn).unwrap());
    if std::env::var("WHARF_TRY").is_ok_and(|tried| tried == "2") {
        assert_eq!(started, 0, "allocations for 1,000 messages");
    } else {
        assert!(started >= 1000, "the gap is filled: cargo xtask steps try 2");
    }
}
