//! A single receive: over with the first bytes, or with why there are none (P1, P5, P7, P9).

use std::io;

use wharf_port::{Close, Config, ReceiveEnd, Socket, Token};

use crate::lab::{Lab, Rig, assert_same, panic_of, pattern};

/// All is there at once: more than is asked for, and more than a buffer holds.
pub(crate) fn a_single_receive_brings_at_most_so_many_bytes(rig: &dyn Rig, mut config: Config) {
    config.receive_buffer_bytes = 1024;
    let mut lab = Lab::open(rig, config);
    let (socket, _peer, expected) = lab.pair_with_input(60_000);
    let mut bytes = Vec::new();
    for bytes_max in [1, 2, 1023, 1024, 1025, u32::MAX].into_iter().cycle() {
        let token = lab.receive_once(socket, bytes_max);
        let buffer = lab.once(token).unwrap();
        assert!(buffer.len() <= bytes_max.min(1024) as usize, "{} bytes", buffer.len());
        bytes.extend_from_slice(&buffer);
        if bytes.len() > 20_000 {
            break;
        }
    }
    lab.settle();
    assert_eq!(lab.port.counts().buffers_lent, 0, "nothing is received without being asked for");
    // It leaves a receive that streams what it would have had, and the other way round.
    bytes.extend(lab.receive_exactly(socket, 30_000));
    while bytes.len() < expected.len() {
        let token = lab.receive_once(socket, 999);
        bytes.extend_from_slice(&lab.once(token).unwrap());
    }
    assert_same(&bytes, &expected);
    lab.finish();
}

/// One receive and one send in flight, in turn: what comes while none is in flight is not lost.
pub(crate) fn a_single_receive_waits_for_the_first_bytes(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    for word in [&b"one"[..], b"two", b"three"] {
        let token = lab.receive_once(socket, 100);
        lab.settle();
        assert!(lab.try_next(token).is_none(), "nothing has come");
        lab.peer_writes(&mut *peer, word);
        let buffer = lab.once(token).unwrap();
        assert_same(&buffer, word);
        lab.peer_writes(&mut *peer, b"meanwhile");
        let token = lab.send(socket, &[&buffer]);
        lab.sent(token);
        assert_same(&lab.peer_reads(&mut *peer, word.len()), word);
        let token = lab.receive_once(socket, 100);
        assert_same(&lab.once(token).unwrap(), b"meanwhile");
    }
    lab.finish();
}

pub(crate) fn the_end_of_the_stream_ends_a_single_receive(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for submitted_first in [true, false] {
        let (socket, mut peer) = lab.pair();
        let early = submitted_first.then(|| lab.receive_once(socket, 100));
        lab.settle();
        lab.peer_writes(&mut *peer, b"last words");
        peer.shutdown_write();
        let token = early.unwrap_or_else(|| lab.receive_once(socket, 100));
        let (bytes, end) = once_after_once(&mut lab, socket, token);
        assert_same(&bytes, b"last words");
        assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
        let token = lab.receive_once(socket, 100);
        let end = lab.once(token).unwrap_err();
        assert!(matches!(end, ReceiveEnd::EndOfStream), "still: {end:?}");
        let token = lab.send(socket, &[b"goodbye"]);
        lab.sent(token);
        assert_same(&lab.peer_reads(&mut *peer, 7), b"goodbye");
    }
    lab.finish();
}

pub(crate) fn a_reset_fails_a_single_receive(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for (submitted_first, says) in [(true, true), (true, false), (false, true), (false, false)] {
        let (socket, mut peer) = lab.pair();
        let early = submitted_first.then(|| lab.receive_once(socket, 100));
        lab.settle();
        if says {
            lab.peer_writes(&mut *peer, b"last words");
        }
        peer.reset();
        if !submitted_first {
            lab.settle(); // both are there before anyone looks
        }
        let token = early.unwrap_or_else(|| lab.receive_once(socket, 100));
        let (bytes, end) = once_after_once(&mut lab, socket, token);
        // A reset may destroy what was sent before it.
        assert!(bytes.is_empty() || (says && bytes == b"last words"), "{bytes:?}");
        let ReceiveEnd::Failed(error) = end else { panic!("{end:?}") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        lab.close(socket, Close::Graceful);
    }
    lab.finish();
}

/// Everything from this receive on, and why there is no more.
fn once_after_once(lab: &mut Lab<'_>, socket: Socket, mut token: Token) -> (Vec<u8>, ReceiveEnd) {
    let mut bytes = Vec::new();
    loop {
        match lab.once(token) {
            Ok(buffer) => bytes.extend_from_slice(&buffer),
            Err(end) => return (bytes, end),
        }
        token = lab.receive_once(socket, 100);
    }
}

/// Told to end while bytes are on their way: they are in its completion or still to be received.
pub(crate) fn pause_and_cancel_end_a_single_receive(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    for settled in [false, true] {
        for pauses in [true, false] {
            let token = lab.receive_once(socket, 100);
            (0..if settled { 5 } else { 0 }).for_each(|_| lab.turn());
            if pauses {
                lab.port.pause(socket)
            } else {
                lab.port.cancel(socket)
            }
            let end = lab.once(token).unwrap_err();
            assert_eq!(matches!(end, ReceiveEnd::Paused), pauses, "{end:?}");
            assert_eq!(matches!(end, ReceiveEnd::Cancelled), !pauses, "{end:?}");
        }
    }
    let expected = pattern(100_000);
    let (mut unwritten, mut bytes) = (&expected[..], Vec::new());
    for round in 0.. {
        let token = lab.receive_once(socket, 2_000);
        if let Ok(written) = peer.try_write(&unwritten[..unwritten.len().min(1_501)]) {
            unwritten = &unwritten[written..];
        }
        if round % 3 > 0 {
            lab.turn();
        }
        if round % 2 == 0 {
            lab.port.pause(socket)
        } else {
            lab.port.cancel(socket)
        }
        match lab.once(token) {
            Ok(buffer) => bytes.extend_from_slice(&buffer),
            Err(ReceiveEnd::Paused | ReceiveEnd::Cancelled) => {}
            Err(end) => panic!("{end:?}"),
        }
        if bytes.len() == expected.len() {
            break;
        }
        assert!(round < 20_000, "{} bytes of {}", bytes.len(), expected.len());
    }
    assert_same(&bytes, &expected);
    lab.finish();
}

pub(crate) fn a_single_receive_is_the_one_in_flight(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    panic_of(|| lab.receive_once(socket, 0));
    let token = lab.receive_once(socket, 5);
    for _ in 0..2 {
        panic_of(|| lab.receive_once(socket, 5));
        panic_of(|| lab.receive(socket, 5));
        panic_of(|| lab.port.close(socket, Close::Graceful));
        lab.turn();
    }
    lab.peer_writes(&mut *peer, b"hello");
    assert_same(&lab.once(token).unwrap(), b"hello");
    let token = lab.receive(socket, 5);
    panic_of(|| lab.receive_once(socket, 5));
    lab.port.cancel(socket);
    lab.collect(token, &mut Vec::new());
    let token = lab.receive_once(socket, 5);
    lab.port.cancel(socket);
    // Cancelled is in flight still, until the final completion.
    panic_of(|| lab.port.close(socket, Close::Graceful));
    lab.once(token).unwrap_err();
    lab.close(socket, Close::Graceful);
    lab.finish();
}

/// One buffer for three: each that waits has it in turn, and can be told not to wait any more.
pub(crate) fn a_single_receive_waits_in_line_for_a_buffer(rig: &dyn Rig, mut config: Config) {
    config.receive_buffers = 1;
    config.receive_buffer_bytes = 1024;
    let mut lab = Lab::open(rig, config);
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..4).map(|_| lab.pair()).unzip();
    lab.peer_writes(&mut *peers[0], b"hello");
    let token = lab.receive_once(sockets[0], 100);
    let held = lab.once(token).unwrap();
    let mut tokens = Vec::new();
    for i in 1..4 {
        lab.peer_writes(&mut *peers[i], &[i as u8; 10]);
        tokens.push(lab.receive_once(sockets[i], 10));
        lab.until("parked", |lab| (lab.port.counts().receives_parked == i).then_some(()));
    }
    lab.port.cancel(sockets[2]);
    let end = lab.once(tokens[1]).unwrap_err();
    assert!(matches!(end, ReceiveEnd::Cancelled), "{end:?}");
    drop(held);
    assert_same(&lab.once(tokens[0]).unwrap(), &[1; 10]);
    assert_same(&lab.once(tokens[2]).unwrap(), &[3; 10]);
    let token = lab.receive_once(sockets[2], 10);
    assert_same(&lab.once(token).unwrap(), &[2; 10]);
    lab.finish();
}
