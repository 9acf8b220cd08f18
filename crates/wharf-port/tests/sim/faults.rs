//! Each fault alone and certain: that it happens, what it does, and that it is counted.

use std::{io, time::Duration};

use wharf_port::{
    AcceptEnd, AcceptFailure, Close, Config, Op, Outcome, ReceiveEnd, SendError, SocketOptions,
    sim::{CONNECT_TIMEOUT, Fault, Faults, PeerState, SimNet},
};

use crate::bench::{Bench, SERVER};

/// A connection made in peace, then the faults.
fn pair_then(
    faults: Faults,
    config: Config,
) -> (Bench, wharf_port::Socket, wharf_port::sim::SimPeer) {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, config);
    let (socket, peer) = bench.pair();
    while net.step() {}
    net.set_faults(faults);
    (bench, socket, peer)
}

/// Checks that this fault has struck and no other.
#[track_caller]
fn only(net: &SimNet, fault: Fault) {
    for other in Fault::ALL {
        let applied = net.applied(other);
        assert_eq!(applied > 0, other == fault, "{other:?}: {applied}");
    }
}

#[test]
fn none_has_no_fault_and_rough_has_all() {
    for fault in Fault::ALL {
        assert_eq!(Faults::none().probability(fault), 0.0, "{fault:?}");
        let rough = Faults::rough().probability(fault);
        assert!(rough > 0.0 && rough < 1.0, "{fault:?}");
    }
}

#[test]
fn short_sends_are_resumed_and_complete_once() {
    let faults = Faults { short_send: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    let expected: Vec<u8> = (0..20_000_u32).map(|i| i as u8).collect();
    let token = bench.send(socket, &expected);
    assert!(matches!(bench.next(token), Outcome::Sent { result: Ok(()), .. }));
    assert!(bench.net.applied(Fault::ShortSend) > 3);
    while bench.net.step() {}
    assert_eq!(peer.read_arrived(), expected);
    only(&bench.net, Fault::ShortSend);
}

#[test]
fn short_receives_cut_the_stream_anywhere() {
    let faults = Faults { short_receive: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    let expected: Vec<u8> = (0..1000_u32).map(|i| i as u8).collect();
    peer.write(&expected);
    while bench.net.step() {}
    let token = bench.receive(socket, 1000);
    let (bytes, _) = bench.received(token);
    assert_eq!(bytes, expected);
    assert!(bench.net.applied(Fault::ShortReceive) > 3);
    only(&bench.net, Fault::ShortReceive);
}

#[test]
fn a_late_completion_comes_after_its_time_and_not_much_later() {
    let delay_max = Duration::from_secs(1);
    let faults = Faults { late_completion: 1.0, delay_max, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    let start = bench.net.now();
    peer.write(b"x");
    let token = bench.receive(socket, 1);
    let (bytes, _) = bench.received(token);
    let took = bench.net.now().since(start);
    assert_eq!(bytes, b"x");
    // Two completions, the bytes and the end, each up to a second late.
    assert!(took > Duration::from_millis(1) && took < 3 * delay_max, "{took:?}");
    only(&bench.net, Fault::LateCompletion);
}

#[test]
fn a_silent_operation_ends_only_when_cancelled() {
    let faults = Faults { silent_until_cancel: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    peer.write(b"hello");
    let receive = bench.receive(socket, 5);
    let send = bench.send(socket, b"hello");
    assert!(bench.try_next(receive).is_none() && bench.try_next(send).is_none());
    assert_eq!(peer.readable_bytes(), 0);
    bench.port.cancel(socket);
    assert!(matches!(bench.next(receive), Outcome::ReceiveEnded(ReceiveEnd::Cancelled)));
    let outcome = bench.next(send);
    assert!(matches!(outcome, Outcome::Sent { result: Err(SendError::Cancelled), .. }));
    only(&bench.net, Fault::SilentUntilCancel);
}

#[test]
fn silent_operations_wake_when_faults_stop() {
    let faults = Faults { silent_until_cancel: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    peer.write(b"hello");
    let receive = bench.receive(socket, 5);
    let send = bench.send(socket, b"hello");
    assert!(bench.try_next(receive).is_none() && bench.try_next(send).is_none());
    bench.net.stop_faults();
    assert_eq!(bench.received(receive).0, b"hello");
    assert!(matches!(bench.next(send), Outcome::Sent { result: Ok(()), .. }));
    while bench.net.step() {}
    assert_eq!(peer.read_arrived(), b"hello");
}

/// Everything is silent, so that the cancel finds it in flight, and everything succeeds all the same.
#[test]
fn operations_that_succeed_although_cancelled_say_so_and_then_end() {
    let net = SimNet::new(1, Faults::none());
    let faults = Faults { silent_until_cancel: 1.0, success_after_cancel: 1.0, ..Faults::none() };
    let mut bench = Bench::new(&net, Config::default());
    let (socket, mut peer) = bench.pair();
    bench.port.pause(bench.listener);
    bench.next(bench.accept);
    net.set_faults(faults);
    let accept = bench.submit(Op::Accept { listener: bench.listener });
    let to = SERVER.parse().unwrap();
    let connecting = bench.port.stream(to, &SocketOptions::default()).unwrap();
    let connect = bench.submit(Op::Connect { socket: connecting, address: to });
    let receive = bench.receive(socket, 100);
    let send = bench.send(socket, b"sent");
    peer.write(b"received");
    while net.step() {}
    bench.port.cancel(socket);
    bench.port.cancel(connecting);
    bench.port.cancel(bench.listener);
    let (bytes, end) = bench.received(receive);
    assert_eq!(bytes, b"received");
    assert!(matches!(end, ReceiveEnd::Cancelled), "{end:?}");
    assert!(matches!(bench.next(send), Outcome::Sent { result: Ok(()), .. }));
    assert!(matches!(bench.next(connect), Outcome::Connected(Ok(()))));
    assert!(matches!(bench.next(accept), Outcome::Accepted(_)));
    assert!(matches!(bench.next(accept), Outcome::AcceptEnded(AcceptEnd::Cancelled)));
    assert_eq!(net.applied(Fault::SuccessAfterCancel), 4);
    while net.step() {}
    assert_eq!(peer.read_arrived(), b"sent");
}

#[test]
fn a_receive_that_finds_no_buffer_is_parked_and_goes_on() {
    let delay_max = Duration::from_millis(50);
    let faults = Faults { no_buffer: 1.0, delay_max, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    peer.write(b"hello");
    let receive = bench.receive(socket, 5);
    // Up to the moment when the receive finds no buffer.
    while bench.port.counts().receives_parked == 0 {
        assert!(bench.net.step() && bench.arrived.is_empty());
        bench.turn(Some(Duration::ZERO));
    }
    let (bytes, end) = bench.received(receive);
    assert_eq!(bytes, b"hello");
    assert!(matches!(end, ReceiveEnd::CreditSpent), "neither an error nor an end: {end:?}");
    let counts = bench.port.counts();
    assert_eq!((counts.receives_parked, counts.buffer_shortages), (0, 1));
    only(&bench.net, Fault::NoBuffer);
}

/// Bytes that are there come in one completion: all of them, or some and the rest with the next; and what
/// the faults of a stream's credit do does not happen to it.
#[test]
fn a_single_receive_is_over_with_its_bytes_whatever_strikes() {
    let delay_max = Duration::from_millis(50);
    let none = Faults::none;
    for (faults, fault) in [
        (Faults { short_receive: 1.0, ..none() }, Some(Fault::ShortReceive)),
        (Faults { late_completion: 1.0, delay_max, ..none() }, Some(Fault::LateCompletion)),
        (Faults { no_buffer: 1.0, delay_max, ..none() }, Some(Fault::NoBuffer)),
        (Faults { credit_overrun: 1.0, ..none() }, None),
    ] {
        let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
        peer.write(b"hello world");
        while bench.net.step() {}
        let mut bytes = Vec::new();
        while bytes.len() < 11 {
            let token = bench.receive_once(socket, 5);
            let Outcome::ReceivedOnce(Ok(piece)) = bench.next(token) else { panic!("{fault:?}") };
            assert!(piece.len() <= 5 && (piece.len() < 5 || fault != Some(Fault::ShortReceive)));
            bytes.extend_from_slice(&piece);
            assert_eq!(bench.port.counts().operations_in_flight, 1, "the accept alone");
        }
        assert_eq!(bytes, b"hello world");
        match fault {
            Some(fault) => only(&bench.net, fault),
            None => assert_eq!(bench.net.applied(Fault::CreditOverrun), 0),
        }
    }
}

#[test]
fn a_cancelled_single_receive_has_its_bytes_or_leaves_them() {
    for success_after_cancel in [1.0, 0.0] {
        let faults = Faults { silent_until_cancel: 1.0, success_after_cancel, ..Faults::none() };
        let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
        peer.write(b"hello");
        while bench.net.step() {}
        let token = bench.receive_once(socket, 3);
        assert!(bench.try_next(token).is_none(), "silent");
        bench.port.cancel(socket);
        let Outcome::ReceivedOnce(last) = bench.next(token) else { panic!("another kind") };
        bench.net.set_faults(Faults::none());
        let token = bench.receive_once(socket, 100);
        let Outcome::ReceivedOnce(Ok(rest)) = bench.next(token) else { panic!("no bytes") };
        match last {
            Ok(bytes) => assert_eq!((&*bytes, &*rest), (&b"hel"[..], &b"lo"[..])),
            Err(end) => {
                assert!(matches!(end, ReceiveEnd::Cancelled), "{end:?}");
                assert_eq!((success_after_cancel, &*rest), (0.0, &b"hello"[..]));
            }
        }
        let applied = bench.net.applied(Fault::SuccessAfterCancel);
        assert_eq!(applied, u64::from(success_after_cancel > 0.0));
    }
}

#[test]
fn an_accept_without_descriptors_fails_and_keeps_the_connection() {
    let net = SimNet::new(1, Faults { descriptors_exhausted: 1.0, ..Faults::none() });
    let mut bench = Bench::new(&net, Config::default());
    let peer = net.connect(SERVER.parse().unwrap());
    match bench.next(bench.accept) {
        Outcome::AcceptEnded(AcceptEnd::Failed(error)) => {
            assert_eq!(AcceptFailure::of(&error), AcceptFailure::Descriptors, "{error}");
        }
        outcome => panic!("{outcome:?}"),
    }
    only(&net, Fault::DescriptorsExhausted);
    net.stop_faults();
    bench.accept = bench.submit(Op::Accept { listener: bench.listener });
    assert_eq!(bench.accepted().peer_addr().unwrap(), peer.local_addr());
}

#[test]
fn an_aborted_connection_ends_the_accept_and_is_gone() {
    let net = SimNet::new(1, Faults { accept_aborted: 1.0, ..Faults::none() });
    let mut bench = Bench::new(&net, Config::default());
    let peer = net.connect(SERVER.parse().unwrap());
    match bench.next(bench.accept) {
        Outcome::AcceptEnded(AcceptEnd::Failed(error)) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
        outcome => panic!("{outcome:?}"),
    }
    while net.step() {}
    assert_eq!(peer.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
    only(&net, Fault::AcceptAborted);
}

#[test]
fn a_connection_is_reset_on_both_sides() {
    let faults = Faults { reset: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    peer.write(b"hello");
    let receive = bench.receive(socket, 100);
    let (_, end) = bench.received(receive);
    let ReceiveEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(peer.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
    let send = bench.send(socket, b"x");
    let outcome = bench.next(send);
    assert!(matches!(outcome, Outcome::Sent { result: Err(SendError::Failed(_)), .. }));
    only(&bench.net, Fault::Reset);
}

#[test]
fn a_reset_destroys_what_is_unread() {
    let faults = Faults { unread_lost: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    let send = bench.send(socket, b"an answer");
    assert!(matches!(bench.next(send), Outcome::Sent { result: Ok(()), .. }));
    while bench.net.step() {}
    assert_eq!((peer.readable_bytes(), bench.net.applied(Fault::UnreadLost)), (9, 0));
    bench.port.close(socket, Close::Graceful);
    // Nobody is there who could read it: the answer is a reset.
    assert_eq!(peer.write(b"and another thing"), 17);
    while bench.net.step() {}
    assert_eq!(peer.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
    assert_eq!(peer.read_arrived(), b"");
    only(&bench.net, Fault::UnreadLost);
}

#[test]
fn a_stream_ends_early() {
    let net = SimNet::new(1, Faults { early_end: 1.0, ..Faults::none() });
    let mut bench = Bench::new(&net, Config::default());
    let (socket, mut peer) = bench.pair();
    let receive = bench.receive(socket, 100);
    let (bytes, end) = bench.received(receive);
    assert!(bytes.is_empty() && matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
    assert_eq!((peer.can_write(), peer.write(b"too late")), (false, 0));
    only(&net, Fault::EarlyEnd);
}

#[test]
fn connects_are_refused_and_time_out() {
    for (faults, fault, kind) in [
        (
            Faults { connect_refused: 1.0, ..Faults::none() },
            Fault::ConnectRefused,
            io::ErrorKind::ConnectionRefused,
        ),
        (
            Faults { connect_timed_out: 1.0, ..Faults::none() },
            Fault::ConnectTimedOut,
            io::ErrorKind::TimedOut,
        ),
    ] {
        let net = SimNet::new(1, faults);
        let mut bench = Bench::new(&net, Config::default());
        let address = SERVER.parse().unwrap();
        let socket = bench.port.stream(address, &SocketOptions::default()).unwrap();
        let connect = bench.submit(Op::Connect { socket, address });
        match bench.next(connect) {
            Outcome::Connected(Err(error)) => assert_eq!(error.kind(), kind),
            outcome => panic!("{outcome:?}"),
        }
        let slow = bench.net.now().since(wharf_port::Time::ZERO) >= CONNECT_TIMEOUT;
        assert_eq!(slow, fault == Fault::ConnectTimedOut);
        only(&net, fault);
    }
}

/// In which order eight sockets' bytes are delivered, which all are there.
fn order_of_eight(faults: Faults) -> (Vec<u64>, Bench) {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config { receive_buffer_bytes: 2, ..Config::default() });
    let mut pairs: Vec<_> = (0..8).map(|_| bench.pair()).collect();
    for (_, peer) in &mut pairs {
        assert_eq!(peer.write(b"abcdef"), 6);
    }
    while net.step() {}
    net.set_faults(faults);
    let tokens: Vec<_> = pairs.iter().map(|(socket, _)| bench.receive(*socket, 6)).collect();
    while net.step() {}
    bench.turn(Some(Duration::ZERO));
    let mut streams = vec![Vec::new(); 8];
    let mut order = Vec::new();
    for done in &bench.arrived {
        let socket = done.token.0 - tokens[0].0;
        order.push(socket);
        if let Outcome::Received(bytes) = &done.outcome {
            streams[socket as usize].extend_from_slice(bytes);
        }
    }
    assert!(streams.iter().all(|stream| stream == b"abcdef"), "{streams:?}");
    (order, bench)
}

#[test]
fn sockets_overtake_each_other_but_no_socket_itself() {
    let (in_turn, _bench) = order_of_eight(Faults::none());
    assert_eq!(in_turn.len(), 8 * 4, "three pieces and an end each");
    assert!(in_turn.chunks(8).all(|round| round == &in_turn[..8]), "{in_turn:?}");
    let (order, bench) = order_of_eight(Faults { reorder: 1.0, ..Faults::none() });
    assert_eq!(order.len(), 8 * 4);
    assert_ne!(order, in_turn);
    only(&bench.net, Fault::Reorder);
}

#[test]
fn a_credit_is_overrun_by_what_is_there() {
    let faults = Faults { credit_overrun: 1.0, ..Faults::none() };
    let (mut bench, socket, mut peer) = pair_then(faults, Config::default());
    peer.write(&[1; 1000]);
    while bench.net.step() {}
    let receive = bench.receive(socket, 10);
    let (bytes, end) = bench.received(receive);
    assert_eq!(bytes.len(), 1000);
    assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
    only(&bench.net, Fault::CreditOverrun);
}

#[test]
fn a_wait_returns_early_with_nothing() {
    let net = SimNet::new(1, Faults { early_return: 1.0, ..Faults::none() });
    let mut port = net.open(&Config::default());
    let mut done = Vec::new();
    let time = port.wait(Some(Duration::from_secs(1)), &mut done).unwrap();
    assert!(done.is_empty());
    assert!(
        time > wharf_port::Time::ZERO && time < wharf_port::Time::ZERO + Duration::from_secs(1)
    );
    only(&net, Fault::EarlyReturn);
}

#[test]
fn a_connection_reaches_its_listener_late() {
    let delay_max = Duration::from_secs(1);
    let net = SimNet::new(1, Faults { listener_delay: 1.0, delay_max, ..Faults::none() });
    let mut bench = Bench::new(&net, Config::default());
    let peer = net.connect(SERVER.parse().unwrap());
    while peer.state() == PeerState::Connecting {
        assert!(net.step());
    }
    bench.turn(Some(Duration::ZERO));
    assert!(bench.arrived.is_empty(), "the peer is connected and the server knows nothing of it");
    drop(bench.accepted());
    only(&net, Fault::ListenerDelay);
}
