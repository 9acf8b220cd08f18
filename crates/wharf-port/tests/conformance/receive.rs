//! Receiving: order, credit, pause, the end of the stream (P1, P5, P7, P9).

use std::io;

use wharf_port::{Config, Outcome, ReceiveEnd};

use crate::lab::{Lab, Rig, assert_same, panic_of, pattern};

pub(crate) fn a_megabyte_arrives_in_order_over_many_credits(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let expected = pattern(1 << 20);
    let (mut unwritten, mut bytes) = (&expected[..], Vec::new());
    let mut token = lab.receive(socket, 10_000);
    let mut before = 0;
    loop {
        if !unwritten.is_empty() {
            let piece = &unwritten[..unwritten.len().min(30_000)];
            match peer.try_write(piece) {
                Ok(written) => unwritten = &unwritten[written..],
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            if unwritten.is_empty() {
                peer.shutdown_write();
            }
        }
        lab.turn();
        match lab.try_next(token) {
            None => {}
            Some(Outcome::Received(piece)) => bytes.extend_from_slice(&piece),
            Some(Outcome::ReceiveEnded(ReceiveEnd::CreditSpent)) => {
                assert!(
                    bytes.len() - before >= 10_000,
                    "ended with {} bytes",
                    bytes.len() - before
                );
                before = bytes.len();
                token = lab.receive(socket, 10_000);
            }
            Some(Outcome::ReceiveEnded(ReceiveEnd::EndOfStream)) => break,
            Some(outcome) => panic!("{outcome:?}"),
        }
    }
    assert_same(&bytes, &expected);
    lab.finish();
}

/// All is there at once: the system could give more than the credit, at most what the buffers hold.
pub(crate) fn a_credit_ends_the_receive(rig: &dyn Rig, mut config: Config) {
    config.receive_buffers = 4;
    config.receive_buffer_bytes = 1024;
    let buffers_bytes = 4 * 1024;
    let mut lab = Lab::open(rig, config);
    let (socket, _peer, expected) = lab.pair_with_input(60_000);
    let mut bytes = Vec::new();
    for credit in [1, 2, 1023, 1024, 1025, 5000] {
        let before = bytes.len();
        let token = lab.receive(socket, credit);
        let end = lab.collect(token, &mut bytes);
        assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
        let got = bytes.len() - before;
        let most = credit as usize + buffers_bytes;
        assert!((credit as usize..=most).contains(&got), "{got} bytes for {credit}");
    }
    let rest = lab.receive_exactly(socket, expected.len() - bytes.len());
    bytes.extend(rest);
    assert_same(&bytes, &expected);
    lab.finish();
}

pub(crate) fn bytes_that_came_before_adopt_or_before_submit_are_received(
    rig: &dyn Rig,
    config: Config,
) {
    let mut lab = Lab::open(rig, config);
    let mut peer = rig.connect(lab.address);
    lab.peer_writes(&mut *peer, b"before adopt ");
    let accepted = lab.accepted();
    lab.settle();
    let socket = lab.adopt(accepted);
    lab.settle();
    lab.peer_writes(&mut *peer, b"before submit");
    lab.settle();
    assert_same(&lab.receive_exactly(socket, 26), b"before adopt before submit");
    lab.finish();
}

pub(crate) fn pause_and_cancel_end_an_idle_receive(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    lab.port.pause(socket); // nothing in flight: nothing happens
    lab.port.cancel(socket);
    for settled in [false, true] {
        let token = lab.receive(socket, 100);
        (0..if settled { 5 } else { 0 }).for_each(|_| lab.turn());
        lab.port.pause(socket);
        lab.port.pause(socket);
        let end = lab.collect(token, &mut Vec::new());
        assert!(matches!(end, ReceiveEnd::Paused), "{end:?}");

        let token = lab.receive(socket, 100);
        (0..if settled { 5 } else { 0 }).for_each(|_| lab.turn());
        lab.port.cancel(socket);
        lab.port.cancel(socket);
        let end = lab.collect(token, &mut Vec::new());
        assert!(matches!(end, ReceiveEnd::Cancelled), "{end:?}");
    }
    lab.peer_writes(&mut *peer, b"hello");
    assert_same(&lab.receive_exactly(socket, 5), b"hello");
    lab.finish();
}

pub(crate) fn what_was_received_before_a_pause_comes_first_and_the_rest_later(
    rig: &dyn Rig,
    config: Config,
) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let expected = pattern(200_000);
    let (mut unwritten, mut bytes) = (&expected[..], Vec::new());
    while bytes.len() < expected.len() {
        let token = lab.receive(socket, 50_000);
        if let Ok(written) = peer.try_write(&unwritten[..unwritten.len().min(7_001)]) {
            unwritten = &unwritten[written..];
        }
        lab.turn();
        lab.port.pause(socket);
        let end = lab.collect(token, &mut bytes);
        assert!(matches!(end, ReceiveEnd::Paused | ReceiveEnd::CreditSpent), "{end:?}");
    }
    assert_same(&bytes, &expected);
    lab.finish();
}

/// As [`what_was_received_before_a_pause_comes_first_and_the_rest_later`], for cancel: bytes that
/// the peer's system has acknowledged are in the completions or still to be received.
pub(crate) fn a_cancelled_receive_loses_no_bytes(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let expected = pattern(100_000);
    let (mut unwritten, mut bytes) = (&expected[..], Vec::new());
    while bytes.len() < expected.len() {
        let token = lab.receive(socket, 50_000);
        if let Ok(written) = peer.try_write(&unwritten[..unwritten.len().min(3_001)]) {
            unwritten = &unwritten[written..];
        }
        lab.turn();
        lab.port.cancel(socket);
        let end = lab.collect(token, &mut bytes);
        assert!(matches!(end, ReceiveEnd::Cancelled | ReceiveEnd::CreditSpent), "{end:?}");
    }
    assert_same(&bytes, &expected);
    lab.finish();
}

pub(crate) fn the_end_of_the_stream_comes_after_its_bytes_and_stays(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for len in [0, 3, 20_000] {
        let (socket, mut peer) = lab.pair();
        let token = lab.receive(socket, 1 << 20);
        let expected = pattern(len);
        lab.peer_writes(&mut *peer, &expected);
        lab.settle();
        peer.shutdown_write();
        let mut bytes = Vec::new();
        let end = lab.collect(token, &mut bytes);
        assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
        assert_same(&bytes, &expected);
        let token = lab.receive(socket, 10);
        let end = lab.collect(token, &mut bytes);
        assert!(matches!(end, ReceiveEnd::EndOfStream), "still: {end:?}");
        assert_eq!(bytes.len(), len);
    }
    lab.finish();
}

/// Bytes and the end arrive together, before anyone looks.
pub(crate) fn an_end_that_came_with_the_bytes_is_noticed(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    lab.peer_writes(&mut *peer, b"bye");
    peer.shutdown_write();
    lab.settle();
    let (token, mut bytes) = (lab.receive(socket, 100), Vec::new());
    let end = lab.collect(token, &mut bytes);
    assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
    assert_same(&bytes, b"bye");
    lab.finish();
}

pub(crate) fn a_peer_that_has_ended_its_stream_can_still_be_answered(
    rig: &dyn Rig,
    config: Config,
) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let token = lab.receive(socket, 100);
    peer.shutdown_write();
    let end = lab.collect(token, &mut Vec::new());
    assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
    let token = lab.send(socket, &[b"good", b"bye"]);
    lab.sent(token);
    assert_same(&lab.peer_reads(&mut *peer, 7), b"goodbye");
    lab.finish();
}

pub(crate) fn after_shutdown_write_the_peer_is_still_heard(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let receive = lab.receive(socket, 1000);
    let token = lab.send(socket, &[b"last words"]);
    lab.sent(token);
    lab.port.shutdown_write(socket);
    let (bytes, end) = lab.peer_reads_to_end(&mut *peer);
    end.unwrap();
    assert_same(&bytes, b"last words");
    lab.peer_writes(&mut *peer, b"and an answer");
    peer.shutdown_write();
    let mut bytes = Vec::new();
    let end = lab.collect(receive, &mut bytes);
    assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
    assert_same(&bytes, b"and an answer");
    lab.finish();
}

pub(crate) fn a_reset_fails_the_receive(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for settled in [false, true] {
        let (socket, peer) = lab.pair();
        let token = lab.receive(socket, 100);
        (0..if settled { 5 } else { 0 }).for_each(|_| lab.turn());
        peer.reset();
        match lab.collect(token, &mut Vec::new()) {
            ReceiveEnd::Failed(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            end => panic!("{end:?}"),
        }
        lab.port.shutdown_write(socket); // does nothing
        lab.close(socket, wharf_port::Close::Graceful);
    }
    lab.finish();
}

/// Bytes and a reset right behind them come while the port looks elsewhere.
pub(crate) fn a_reset_right_behind_bytes_is_noticed(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let token = lab.receive(socket, 10_000);
    lab.settle();
    assert_eq!(peer.try_write(b"last words").unwrap(), 10);
    peer.reset();
    let mut bytes = Vec::new();
    match lab.collect(token, &mut bytes) {
        ReceiveEnd::Failed(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        end => panic!("{end:?}"),
    }
    // A reset may destroy what was sent before it.
    assert!(bytes.is_empty() || bytes == b"last words", "{bytes:?}");
    lab.finish();
}

pub(crate) fn a_second_receive_panics_and_harms_nothing(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let token = lab.receive(socket, 5);
    panic_of(|| lab.receive(socket, 5));
    lab.turn();
    panic_of(|| lab.receive(socket, 5));
    lab.peer_writes(&mut *peer, b"hello");
    let mut bytes = Vec::new();
    let end = lab.collect(token, &mut bytes);
    assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
    assert_same(&bytes, b"hello");
    lab.finish();
}

/// A paused receive is in flight until its final completion (P1).
pub(crate) fn a_receive_is_in_flight_until_its_end_is_delivered(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, _peer) = lab.pair();
    let token = lab.receive(socket, 5);
    lab.port.pause(socket);
    panic_of(|| lab.receive(socket, 5));
    let end = lab.collect(token, &mut Vec::new());
    assert!(matches!(end, ReceiveEnd::Paused), "{end:?}");
    lab.receive(socket, 5);
    lab.finish();
}

pub(crate) fn a_credit_of_zero_panics(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, _peer) = lab.pair();
    panic_of(|| lab.receive(socket, 0));
    lab.receive(socket, 1);
    lab.finish();
}
