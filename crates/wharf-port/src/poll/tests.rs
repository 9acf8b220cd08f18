//! What this backend does beyond the contract, and what its calls cost. The contract's own tests are
//! in `tests/conformance.rs`.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::*;
use crate::{ListenOptions, ReceiveEnd, listen};

/// A port with one connection, and its peer.
fn connection() -> (Box<dyn CompletionPort>, Socket, TcpStream) {
    let mut port = open(&Config::default(), Some("why".to_owned())).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = listen(any, &ListenOptions::default(), 1).unwrap().remove(0);
    let peer = TcpStream::connect(listener.local_addr()).unwrap();
    let Listening::Os(listening) = &listener.socket else { unreachable!() };
    let (accepted, _) = listening.accept().unwrap();
    let socket = port.adopt(UnboundSocket(Stream::Os(accepted))).unwrap();
    (port, socket, peer)
}

fn wait(port: &mut dyn CompletionPort) -> Vec<Outcome> {
    let mut done = Vec::new();
    while done.is_empty() {
        port.wait(None, &mut done).unwrap();
    }
    done.into_iter().map(|done| done.outcome).collect()
}

#[test]
fn the_end_of_stream_goes_behind_the_send_in_flight() {
    let (mut port, socket, mut peer) = connection();
    let mut buf = port.buffers().take(16 << 20);
    buf.spare_mut().fill(7);
    buf.advance(16 << 20);
    port.submit(Op::Send { socket, gather: buf.freeze().into() }, Token(1));
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    port.shutdown_write(socket);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).map(|_| bytes)
    });
    let outcomes = wait(&mut *port);
    assert!(matches!(outcomes[..], [Outcome::Sent { result: Ok(()), .. }]), "{outcomes:?}");
    assert_eq!(reader.join().unwrap().unwrap(), vec![7; 16 << 20]);
}

/// Other backends may deliver more than the credit (P9); this one stops exactly there, and the
/// next receive goes on at once, without an event.
#[test]
fn a_receive_ends_exactly_at_its_credit() {
    let (mut port, socket, mut peer) = connection();
    peer.write_all(&[7; 10_000]).unwrap();
    for (token, credit_bytes) in [(1, 4_100), (2, 5_900)] {
        port.submit(Op::Receive { socket, credit_bytes }, Token(token));
        let mut bytes = 0;
        'receive: loop {
            for outcome in wait(&mut *port) {
                match outcome {
                    Outcome::Received(piece) => bytes += piece.len(),
                    Outcome::ReceiveEnded(ReceiveEnd::CreditSpent) => break 'receive,
                    outcome => panic!("{outcome:?}"),
                }
            }
        }
        assert_eq!(bytes, credit_bytes as usize);
    }
}

#[test]
fn the_engine_says_what_it_is_and_what_it_stands_in_for() {
    let (port, ..) = connection();
    let info = port.engine();
    assert_eq!((info.engine, info.fell_back.as_deref()), (Engine::Poll, Some("why")));
    assert_eq!(info.detail, if cfg!(target_os = "linux") { "epoll" } else { "kqueue" });
}

#[test]
fn a_port_without_buffers_is_not_opened() {
    let config = Config { receive_buffers: 0, ..Config::default() };
    let error = open(&config, None).err().expect("an error");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

/// What a message costs: the sleep, its receive and its send. Nothing asks for what the system
/// has already said.
#[test]
fn a_warm_message_costs_three_system_calls() {
    let (mut port, socket, mut peer) = connection();
    port.submit(Op::Receive { socket, credit_bytes: 1 << 20 }, Token(1));
    let mut answer = [0; 5];
    let mut before = 0;
    for round in 0..10 {
        peer.write_all(b"hello").unwrap();
        let mut buf = port.buffers().take(5);
        for outcome in wait(&mut *port) {
            let Outcome::Received(bytes) = outcome else { panic!("{outcome:?}") };
            buf.append(&bytes);
        }
        port.submit(Op::Send { socket, gather: buf.freeze().into() }, Token(2));
        wait(&mut *port);
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        let calls = port.counts().system_calls;
        if cfg!(target_os = "linux") && round > 1 {
            assert_eq!(calls - before, 3, "round {round}");
        }
        before = calls;
    }
}
