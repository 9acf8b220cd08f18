//! The simulated network: its clock, its peers, its faults, and that a seed decides everything.

#[path = "sim/bench.rs"]
mod bench;
#[path = "sim/echo.rs"]
mod echo;
#[path = "sim/faults.rs"]
mod faults;

use std::{io, time::Duration};

use bench::{Bench, SERVER};
use wharf_port::{
    Close, Config, Op, Outcome, ReceiveEnd, SendError, SocketOptions, Time, Token, UnboundSocket,
    sim::{Faults, PeerState, SimNet},
};

fn millis(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

#[test]
fn a_wait_advances_exactly_to_its_timeout_or_to_what_comes_first() {
    let net = SimNet::new(1, Faults::none());
    let mut port = net.open(&Config::default());
    let mut done = Vec::new();
    assert_eq!(port.wait(Some(Duration::from_millis(7)), &mut done).unwrap(), millis(7));
    assert_eq!(port.wait(Some(Duration::ZERO), &mut done).unwrap(), millis(7));
    assert_eq!(port.wait(None, &mut done).unwrap(), millis(7), "nothing will ever happen");
    let listener = port.adopt_listener(net.listen(SERVER.parse().unwrap()).unwrap()).unwrap();
    port.submit(Op::Accept { listener }, Token(0));
    let _peer = net.connect(SERVER.parse().unwrap());
    let due = net.next_event().unwrap();
    assert!(due > millis(7));
    assert_eq!(port.wait(Some(Duration::ZERO), &mut done).unwrap(), millis(7), "time stands");
    assert!(done.is_empty());
    assert_eq!(port.wait(Some(Duration::from_secs(9)), &mut done).unwrap(), due);
    assert!(matches!(done[..], [wharf_port::Done { outcome: Outcome::Accepted(_), .. }]));
    assert_eq!(port.now(), net.now());
}

#[test]
fn the_clock_is_driven_by_steps_and_never_goes_back() {
    let net = SimNet::new(1, Faults::none());
    assert!(!net.step());
    net.advance_to(millis(5));
    net.advance_to(millis(3));
    assert_eq!(net.now(), millis(5));
    let mut bench = Bench::new(&net, Config::default());
    let peer = net.connect(SERVER.parse().unwrap());
    assert_eq!(peer.state(), PeerState::Connecting);
    while net.step() {}
    assert_eq!(peer.state(), PeerState::Open);
    let now = net.now();
    bench.turn(Some(Duration::ZERO));
    assert_eq!((bench.arrived.len(), net.now()), (1, now));
}

#[test]
fn a_used_waker_ends_the_wait_before_time_passes() {
    let net = SimNet::new(1, Faults::none());
    let mut port = net.open(&Config::default());
    let waker = port.waker();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    let mut done = Vec::new();
    assert_eq!(port.wait(Some(Duration::from_secs(1)), &mut done).unwrap(), Time::ZERO);
    let later = port.wait(Some(Duration::from_secs(1)), &mut done).unwrap();
    assert_eq!(later, millis(1000), "once");
}

#[test]
fn an_address_can_be_listened_on_once_and_zero_becomes_a_free_port() {
    let net = SimNet::new(1, Faults::none());
    let address = |text: &str| text.parse().unwrap();
    let first = net.listen(address("10.0.0.1:80")).unwrap();
    for taken in ["10.0.0.1:80", "0.0.0.0:80"] {
        let error = net.listen(address(taken)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{taken}");
    }
    let others = ["10.0.0.2:80", "[::]:80", "10.0.0.1:0", "10.0.0.1:0"];
    let others: Vec<_> = others.map(|other| net.listen(address(other)).unwrap()).into();
    assert!(others[2].local_addr().port() != 0);
    assert_ne!(others[2].local_addr(), others[3].local_addr());
    drop(first);
    net.listen(address("10.0.0.1:80")).unwrap();
}

#[test]
fn connections_to_a_shared_address_are_spread_over_its_listeners() {
    let net = SimNet::new(1, Faults::none());
    let listeners = net.listen_shared(SERVER.parse().unwrap(), 2).unwrap();
    let peers: Vec<_> = (0..40).map(|_| net.connect(SERVER.parse().unwrap())).collect();
    while net.step() {}
    let counts: Vec<_> = listeners
        .iter()
        .map(|listener| std::iter::from_fn(|| net.accept(listener)).count())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), peers.len());
    assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
}

#[test]
fn a_peer_sees_what_the_other_end_does() {
    let net = SimNet::new(1, Faults::none());
    let listener = net.listen(SERVER.parse().unwrap()).unwrap();
    let from = "192.0.2.7:1234".parse().unwrap();
    let mut near = net.connect_from(from, SERVER.parse().unwrap());
    assert_eq!((near.local_addr(), near.write(b"early")), (from, 5));
    while net.step() {}
    let mut far = net.accept(&listener).unwrap();
    assert_eq!((far.peer_addr(), far.readable_bytes()), (from, 5));
    assert_eq!(far.read_arrived(), b"early");

    // A window's worth and no more, until some of it is read and that is known.
    let bytes = vec![7; 100_000];
    assert_eq!((near.write(&bytes), near.write(&bytes)), (65_536 - 5, 0));
    while net.step() {}
    assert_eq!(near.write(&bytes), 5);
    while net.step() {}
    assert_eq!((far.read(&mut [0; 1000]), near.is_writable()), (1000, false));
    while net.step() {}
    assert!(near.is_writable());
    assert_eq!(near.write(&bytes), 1000);

    near.shutdown_write();
    assert_eq!((near.write(b"late"), near.can_write()), (0, false));
    while net.step() {}
    assert_eq!(far.state(), PeerState::Open, "there is something to read");
    assert_eq!((far.read_arrived().len(), far.state()), (65_536, PeerState::Ended));
    assert_eq!(far.write(b"answer"), 6);
    while net.step() {}
    assert_eq!(near.read_arrived(), b"answer");
    far.reset();
    while net.step() {}
    assert_eq!(near.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
    drop((near, far));
    assert_eq!(net.ends(), 0);
}

#[test]
fn nobody_listens_and_a_listener_that_goes_away_takes_its_connections_along() {
    let net = SimNet::new(1, Faults::none());
    let refused = net.connect(SERVER.parse().unwrap());
    while net.step() {}
    assert_eq!(refused.state(), PeerState::Failed(io::ErrorKind::ConnectionRefused));
    let listener = net.listen(SERVER.parse().unwrap()).unwrap();
    let waiting = net.connect(SERVER.parse().unwrap());
    while net.step() {}
    drop(listener);
    while net.step() {}
    assert_eq!(waiting.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
    drop((refused, waiting));
    assert_eq!(net.ends(), 0);
}

/// As measured on real systems: what was sent and not yet delivered is lost with a reset.
#[test]
fn closing_with_unread_input_destroys_what_is_under_way_and_closing_after_the_end_does_not() {
    for unread in [true, false] {
        let net = SimNet::new(1, Faults::none());
        let mut bench = Bench::new(&net, Config::default());
        let (socket, mut peer) = bench.pair();
        if unread {
            peer.write(b"never read");
        }
        while net.step() {}
        let sent = bench.send(socket, &[1; 50_000]);
        assert!(matches!(bench.next(sent), Outcome::Sent { result: Ok(()), .. }));
        bench.port.close(socket, Close::Graceful);
        while net.step() {}
        let got = peer.read_arrived().len();
        if unread {
            assert_eq!(got, 0);
            assert_eq!(peer.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
        } else {
            assert_eq!((got, peer.state()), (50_000, PeerState::Ended));
        }
        drop(peer);
        while net.step() {}
        assert_eq!(net.ends(), 0);
    }
}

#[test]
fn input_that_comes_after_a_close_is_answered_with_a_reset() {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config::default());
    let (socket, mut peer) = bench.pair();
    bench.port.close(socket, Close::Graceful);
    while net.step() {}
    assert_eq!((peer.state(), peer.write(b"hello?")), (PeerState::Ended, 6));
    while net.step() {}
    assert_eq!(peer.state(), PeerState::Failed(io::ErrorKind::ConnectionReset));
}

#[test]
fn the_credit_is_kept_to_the_byte() {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config { receive_buffer_bytes: 64, ..Config::default() });
    let (socket, mut peer) = bench.pair();
    assert_eq!(peer.write(&[3; 1000]), 1000);
    while net.step() {}
    for credit in [1, 63, 64, 65, 200] {
        let token = bench.receive(socket, credit);
        let (bytes, end) = bench.received(token);
        assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
        assert_eq!(bytes.len(), credit as usize);
    }
}

#[test]
fn a_port_with_everything_in_flight_can_be_dropped() {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config::default());
    let (socket, peer) = bench.pair();
    bench.receive(socket, 100);
    bench.send(socket, &vec![1; 200_000]);
    let to = SERVER.parse().unwrap();
    let connecting = bench.port.stream(to, &SocketOptions::default()).unwrap();
    bench.submit(Op::Connect { socket: connecting, address: to });
    let waiting = net.connect(to);
    bench.turn(None);
    let pool = bench.port.buffers().clone();
    assert_eq!(pool.blocks_in_use(), 1);
    drop(bench);
    assert_eq!(pool.blocks_in_use(), 0);
    while net.step() {}
    // What had been sent is still there to be read, and then the end.
    let mut peer = peer;
    assert_eq!(peer.read_arrived().len(), 65_536);
    assert!(matches!(peer.state(), PeerState::Ended | PeerState::Failed(_)));
    drop((peer, waiting));
    while net.step() {}
    assert_eq!(net.ends(), 0);
}

#[test]
fn an_unbound_socket_crosses_threads_and_is_closed_when_dropped() {
    fn is_send<T: Send>(_: &T) {}
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config::default());
    let peer = net.connect(SERVER.parse().unwrap());
    let accepted: UnboundSocket = bench.accepted();
    is_send(&accepted);
    assert_eq!(accepted.peer_addr().unwrap(), peer.local_addr());
    std::thread::spawn(move || drop(accepted)).join().unwrap();
    while net.step() {}
    assert_eq!(peer.state(), PeerState::Ended);
}

#[test]
fn sockets_of_elsewhere_are_refused_and_closed() {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config::default());
    let peer = net.connect(SERVER.parse().unwrap());
    let accepted = bench.accepted();
    let other = SimNet::new(1, Faults::none());
    let error = other.open(&Config::default()).adopt(accepted).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    while net.step() {}
    assert_eq!(peer.state(), PeerState::Ended);
}

#[test]
fn a_send_fails_on_a_socket_that_was_never_connected_or_whose_stream_was_ended() {
    let net = SimNet::new(1, Faults::none());
    let mut bench = Bench::new(&net, Config::default());
    let to = SERVER.parse().unwrap();
    let fresh = bench.port.stream(to, &SocketOptions::default()).unwrap();
    let (ended, _peer) = bench.pair();
    bench.port.shutdown_write(ended);
    let expected = [(fresh, io::ErrorKind::NotConnected), (ended, io::ErrorKind::BrokenPipe)];
    for (socket, expected) in expected {
        let token = bench.send(socket, b"x");
        match bench.next(token) {
            Outcome::Sent { result: Err(SendError::Failed(error)), .. } => {
                assert_eq!(error.kind(), expected);
            }
            outcome => panic!("{outcome:?}"),
        }
    }
}
