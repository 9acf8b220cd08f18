//! Sending: gathers, partial sends, slow and vanished peers, 1-Send (P1, P2, P5, P7).

use std::io;

use wharf_port::{Config, Gather, Op, Outcome, ReceiveEnd, SecondSend, SendError, Socket, Token};

use crate::lab::{Lab, Peer, Rig, assert_same, panic_of, pattern};

/// Submits a send that cannot end while the peer does not read, and returns what it sends.
fn blocked_send(lab: &mut Lab<'_>, socket: Socket) -> (Token, Vec<u8>) {
    let bytes = pattern(64 * BLOCKED_PART_BYTES);
    let parts: Vec<_> = bytes.chunks(BLOCKED_PART_BYTES).collect();
    let token = lab.send(socket, &parts);
    lab.settle();
    assert!(lab.try_next(token).is_none(), "nobody can take this much");
    (token, bytes)
}

pub(crate) fn frames_arrive_in_order_whatever_their_number(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    for count in [1, 2, 3, 17, 63, 64] {
        let expected = pattern(count * (count + 1) / 2);
        let mut rest = &expected[..];
        let parts: Vec<_> = (1..=count).map(|len| rest.split_off(..len).unwrap()).collect();
        let token = lab.send(socket, &parts);
        match lab.next(token) {
            Outcome::Sent { gather, result: Ok(()) } => {
                assert_eq!((gather.frames().len(), gather.bytes()), (count, expected.len()));
            }
            outcome => panic!("{outcome:?}"),
        }
        assert_same(&lab.peer_reads(&mut *peer, expected.len()), &expected);
    }
    lab.finish();
}

pub(crate) fn eight_megabytes_reach_a_slow_peer_byte_for_byte(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let expected = pattern(8 << 20);
    let mut chunks = expected.chunks(64 * 1024).enumerate();
    let (mut sending, mut got) = (None, Vec::new());
    let mut piece = vec![0; 23_456];
    while got.len() < expected.len() {
        if sending.is_none() {
            // One frame, or the same bytes in 16.
            sending = chunks.next().map(|(i, chunk)| {
                let parts: Vec<_> =
                    chunk.chunks(if i % 2 == 0 { 64 * 1024 } else { 4096 }).collect();
                lab.send(socket, &parts)
            });
        }
        lab.turn();
        match sending.and_then(|token| lab.try_next(token)) {
            Some(Outcome::Sent { result: Ok(()), .. }) => sending = None,
            None => {}
            Some(outcome) => panic!("{outcome:?}"),
        }
        match peer.try_read(&mut piece) {
            Ok(read) => got.extend_from_slice(&piece[..read]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert_same(&got, &expected);
    lab.finish();
}

pub(crate) fn a_partial_send_is_resumed_inside(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let (token, expected) = blocked_send(&mut lab, socket);
    assert_same(&lab.peer_reads(&mut *peer, expected.len()), &expected);
    lab.sent(token);
    lab.finish();
}

/// Whether the system has taken none of the send yet, or part of it.
pub(crate) fn the_end_of_the_stream_waits_for_the_send_in_flight(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let token = lab.send(socket, &[b"at once"]);
    lab.port.shutdown_write(socket);
    lab.sent(token);
    assert_same(&lab.peer_reads_to_end(&mut *peer).0, b"at once");
    let (socket, mut peer) = lab.pair();
    let (token, expected) = blocked_send(&mut lab, socket);
    lab.port.shutdown_write(socket);
    assert_same(&lab.peer_reads(&mut *peer, expected.len()), &expected);
    lab.sent(token);
    let (rest, end) = lab.peer_reads_to_end(&mut *peer);
    assert!(rest.is_empty() && end.is_ok(), "{end:?}");
    lab.finish();
}

pub(crate) fn a_blocked_send_can_be_cancelled(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, _peer) = lab.pair();
    let (token, expected) = blocked_send(&mut lab, socket);
    lab.port.cancel(socket);
    lab.port.cancel(socket);
    match lab.next(token) {
        Outcome::Sent { gather, result: Err(SendError::Cancelled) } => {
            assert_eq!(gather.bytes(), expected.len(), "the gather comes back");
        }
        outcome => panic!("{outcome:?}"),
    }
    lab.finish();
}

/// Cancelled before the port has seen the system: done or cancelled, once, and if it was done the
/// peer has all of it.
pub(crate) fn a_send_cancelled_at_once_completes_once(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let token = lab.send(socket, &[b"hello"]);
    lab.port.cancel(socket);
    match lab.next(token) {
        Outcome::Sent { result: Ok(()), .. } => {
            assert_same(&lab.peer_reads(&mut *peer, 5), b"hello");
        }
        Outcome::Sent { result: Err(SendError::Cancelled), .. } => {}
        outcome => panic!("{outcome:?}"),
    }
    lab.finish();
}

/// Nor does a signal end the process.
pub(crate) fn sending_to_a_peer_that_has_reset_fails(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for parts in [&[&b"one"[..]][..], &[b"one", b"two"]] {
        let (socket, peer) = lab.pair();
        peer.reset();
        // The first may go out before the reset is known; some later one cannot.
        let error = lab.until("a failed send", |lab| {
            let token = lab.send(socket, parts);
            match lab.next(token) {
                Outcome::Sent { result: Ok(()), .. } => None,
                Outcome::Sent { result: Err(SendError::Failed(error)), .. } => Some(error),
                outcome => panic!("{outcome:?}"),
            }
        });
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    lab.finish();
}

pub(crate) fn a_reset_fails_a_blocked_send(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, peer) = lab.pair();
    let (token, expected) = blocked_send(&mut lab, socket);
    peer.reset();
    match lab.next(token) {
        Outcome::Sent { gather, result: Err(SendError::Failed(_)) } => {
            assert_eq!(gather.bytes(), expected.len());
        }
        outcome => panic!("{outcome:?}"),
    }
    lab.finish();
}

/// Sending after `shutdown_write` fails; it neither hangs nor kills.
pub(crate) fn sending_behind_ones_own_end_of_stream_fails(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, _peer) = lab.pair();
    lab.port.shutdown_write(socket);
    lab.settle();
    let token = lab.send(socket, &[b"too late"]);
    match lab.next(token) {
        Outcome::Sent { result: Err(SendError::Failed(error)), .. } => {
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
        outcome => panic!("{outcome:?}"),
    }
    lab.finish();
}

pub(crate) fn a_second_send_panics_and_harms_nothing(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let (token, expected) = blocked_send(&mut lab, socket);
    panic_of(|| lab.send(socket, &[b"second"]));
    assert_same(&lab.peer_reads(&mut *peer, expected.len()), &expected);
    lab.sent(token);
    assert_eq!(nothing_more(&mut lab, &mut *peer), 0);
    lab.finish();
}

pub(crate) fn a_second_send_is_refused_if_so_configured(rig: &dyn Rig, mut config: Config) {
    config.second_send = SecondSend::Refuse;
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let (token, expected) = blocked_send(&mut lab, socket);
    for _ in 0..2 {
        let second = lab.send(socket, &[b"second"]);
        match lab.next(second) {
            Outcome::Sent { gather, result: Err(SendError::AlreadyInFlight) } => {
                assert_eq!(gather.bytes(), 6);
            }
            outcome => panic!("{outcome:?}"),
        }
    }
    assert_same(&lab.peer_reads(&mut *peer, expected.len()), &expected);
    lab.sent(token);
    assert_eq!(nothing_more(&mut lab, &mut *peer), 0);
    let third = lab.send(socket, &[b"third"]);
    lab.sent(third);
    assert_same(&lab.peer_reads(&mut *peer, 5), b"third");
    lab.finish();
}

/// What the peer can still read.
fn nothing_more(lab: &mut Lab<'_>, peer: &mut dyn Peer) -> usize {
    lab.settle();
    peer.try_read(&mut [0; 16]).unwrap_or(0)
}

pub(crate) fn an_empty_gather_panics(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, _peer) = lab.pair();
    panic_of(|| lab.submit(Op::Send { socket, gather: Gather::new() }));
    lab.finish();
}

pub(crate) fn both_directions_flow_at_once(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let (out, input) = (pattern(2 << 20), pattern((2 << 20) - 7));
    let parts: Vec<_> = out.chunks(out.len() / 64).collect();
    let send = lab.send(socket, &parts);
    let receive = lab.receive(socket, u32::MAX);
    let (mut unwritten, mut received, mut got) = (&input[..], Vec::new(), Vec::new());
    let mut piece = vec![0; 40_000];
    lab.until("all bytes both ways", |lab| {
        if let Ok(read) = peer.try_read(&mut piece) {
            got.extend_from_slice(&piece[..read]);
        }
        if let Ok(written) = peer.try_write(&unwritten[..unwritten.len().min(50_000)]) {
            unwritten = &unwritten[written..];
        }
        while let Some(outcome) = lab.try_next(receive) {
            let Outcome::Received(bytes) = outcome else { panic!("{outcome:?}") };
            received.extend_from_slice(&bytes);
        }
        (got.len() == out.len() && received.len() == input.len()).then_some(())
    });
    lab.sent(send);
    assert_same(&got, &out);
    assert_same(&received, &input);
    lab.port.pause(socket);
    assert!(matches!(lab.collect(receive, &mut Vec::new()), ReceiveEnd::Paused));
    lab.finish();
}

/// 64 of these are more than both ends' systems hold together while nobody reads.
const BLOCKED_PART_BYTES: usize = 128 * 1024;
