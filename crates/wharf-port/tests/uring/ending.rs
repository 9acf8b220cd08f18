//! Ports and processes that end, or run out, with operations in flight.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use socket2::{Domain, Socket as Os, Type};
use wharf_port::{
    AcceptEnd, Close, Gather, ListenOptions, Op, Outcome, ReceiveEnd, SocketOptions, Token,
    UnboundSocket, listen,
};

use crate::rig::{Rig, config, in_child, open_descriptors, pattern};

#[test]
fn a_port_dropped_with_everything_in_flight_leaks_nothing() {
    in_child("ending::a_port_dropped_with_everything_in_flight_leaks_nothing", || {
        // A listener whose backlog is full answers no more: a connect to it stays in flight.
        let full = Os::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let full_address = full.local_addr().unwrap().as_socket().unwrap();
        let _filler = TcpStream::connect(full_address).unwrap();
        // One descriptor stays with the process, to turn somebody away with.
        drop_with_everything_in_flight(full_address, 0);
        let before = open_descriptors();
        for round in 0..200 {
            drop_with_everything_in_flight(full_address, round);
            assert_eq!(open_descriptors(), before, "round {round}");
        }
    });
}

fn drop_with_everything_in_flight(full: SocketAddr, round: usize) {
    let mut rig = Rig::new(&wharf_port::Config { receive_buffers: 8, ..config() });
    let mut listeners =
        listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default(), 1).unwrap();
    let address = listeners[0].local_addr();
    let listener = rig.port.adopt_listener(listeners.remove(0)).unwrap();
    rig.port.submit(Op::Accept { listener }, Token(0));
    let (silent, _silent_peer) = rig.connection();
    rig.receive(silent, 100, 1);
    let (talking, mut talking_peer) = rig.connection();
    talking_peer.write_all(b"hello").unwrap();
    rig.receive(talking, 5, 2);
    let (blocked, _blocked_peer) = rig.connection();
    let mut gather = Gather::new();
    let frame = rig.frame(&pattern(64 * 1024, round));
    // Even rounds send one frame, odd ones a list; both more than a socket takes.
    for _ in 0..if round.is_multiple_of(2) { 1 } else { Gather::FRAMES_MAX } {
        gather.push(frame.clone());
    }
    let stuck = gather.bytes() > 4_000_000;
    rig.send(blocked, gather, 3);
    let options = SocketOptions { user_timeout: None, ..SocketOptions::default() };
    let connecting = rig.port.stream(full, &options).unwrap();
    rig.port.submit(Op::Connect { socket: connecting, address: full }, Token(4));
    let mut lent = None;
    if !round.is_multiple_of(3) {
        // Otherwise the kernel has not even seen anything when the port goes.
        while lent.is_none() {
            if let Outcome::Received(buffer) = rig.next().outcome {
                lent = Some(buffer);
            }
        }
        rig.settle();
        // The receive of `talking`, and the send where it fits, are over.
        let in_flight = rig.port.counts().operations_in_flight;
        assert_eq!(in_flight, if stuck { 4 } else { 3 }, "{:?}", rig.done);
    }
    // Accepted by the kernel while the port is being dropped, or reset in the backlog after it.
    let _late = TcpStream::connect(address).unwrap();
    drop(rig);
    assert!(lent.is_none_or(|buffer| *buffer == *b"hello"), "a lent buffer outlives the port");
}

/// Closing a ring ends its operations some time later; a port that left it at that would still
/// listen when it is gone. In a process of its own: one that another test is starting has all descriptors of
/// this one for a moment, the listener's too.
#[test]
fn a_dropped_port_has_let_go_of_everything() {
    in_child("ending::a_dropped_port_has_let_go_of_everything", || {
        let options = ListenOptions::default();
        // No other test's, so that none can take the port between two rounds.
        let mut address = "127.0.0.82:0".parse().unwrap();
        for round in 0..50 {
            let mut listeners = listen(address, &options, 1)
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
            address = listeners[0].local_addr();
            let mut rig = Rig::new(&config());
            let listener = rig.port.adopt_listener(listeners.remove(0)).unwrap();
            rig.port.submit(Op::Accept { listener }, Token(0));
            rig.settle();
            drop(rig);
            assert!(TcpStream::connect(address).is_err(), "round {round}: nobody listens");
        }
    });
}

#[test]
fn a_dropped_port_hangs_up_on_connections_that_it_had_accepted_but_not_delivered() {
    let mut rig = Rig::new(&config());
    let mut listeners =
        listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default(), 1).unwrap();
    let address = listeners[0].local_addr();
    let listener = rig.port.adopt_listener(listeners.remove(0)).unwrap();
    rig.port.submit(Op::Accept { listener }, Token(0));
    rig.settle();
    let mut peer = TcpStream::connect(address).unwrap();
    drop(rig);
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    match peer.read(&mut [0; 8]) {
        Ok(bytes) => assert_eq!(bytes, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn an_accept_without_descriptors_ends_and_goes_on_later() {
    in_child("ending::an_accept_without_descriptors_ends_and_goes_on_later", || {
        const CLIENTS: usize = 6;
        const FREE: usize = 2;
        let mut rig = Rig::new(&config());
        let mut listeners =
            listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default(), 1).unwrap();
        let address = listeners[0].local_addr();
        let listener = rig.port.adopt_listener(listeners.remove(0)).unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64; // closed again
        let old = set_descriptor_limit(next + FREE as u64);
        rig.port.submit(Op::Accept { listener }, Token(0));
        let mut accepted = Vec::new();
        let error = loop {
            match rig.next().outcome {
                Outcome::Accepted(socket) => accepted.push(socket),
                Outcome::AcceptEnded(AcceptEnd::Failed(error)) => break error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        assert_eq!(accepted.len(), FREE);
        rig.settle();
        assert!(rig.done.is_empty(), "the accept is over: {:?}", rig.done);
        set_descriptor_limit(old);
        rig.port.submit(Op::Accept { listener }, Token(0));
        while accepted.len() < CLIENTS {
            let outcome = rig.next().outcome;
            let Outcome::Accepted(socket) = outcome else { panic!("{outcome:?}") };
            accepted.push(socket);
        }
        rig.port.pause(listener);
        let end = rig.next().outcome;
        assert!(matches!(end, Outcome::AcceptEnded(AcceptEnd::Paused)), "{end:?}");
        drop((accepted, clients));
        rig.finish([listener]);
    });
}

/// Sets the soft limit of open descriptors and returns the old one.
fn set_descriptor_limit(soft: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls are given a whole structure of ours.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let old = limit.rlim_cur;
        limit.rlim_cur = soft;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        old
    }
}

#[test]
fn a_stream_that_does_not_block_is_made_to() {
    let mut rig = Rig::new(&config());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    let socket = rig.port.adopt(UnboundSocket::from(ours)).unwrap();
    rig.receive(socket, 100, 0);
    let mut gather = Gather::new();
    let sent = pattern(64 * 1024, 5);
    (0..Gather::FRAMES_MAX).for_each(|_| gather.push(rig.frame(&sent)));
    rig.send(socket, gather, 1);
    rig.settle();
    assert!(rig.done.is_empty(), "both wait: {:?}", rig.done);
    let mut got = vec![0; sent.len() * Gather::FRAMES_MAX];
    let reader = std::thread::spawn(move || {
        peer.read_exact(&mut got).unwrap();
        (peer, got)
    });
    let done = rig.next().outcome;
    assert!(matches!(done, Outcome::Sent { result: Ok(()), .. }), "{done:?}");
    drop(done);
    let (peer, got) = reader.join().unwrap();
    assert!(got.chunks(sent.len()).all(|chunk| chunk == sent));
    drop(peer);
    let end = rig.next().outcome;
    assert!(matches!(end, Outcome::ReceiveEnded(ReceiveEnd::EndOfStream)), "{end:?}");
    rig.finish([socket]);
}

#[test]
#[should_panic(expected = "nothing in flight")]
fn closing_with_a_receive_in_flight_panics() {
    let mut rig = Rig::new(&config());
    let (socket, _peer) = rig.connection();
    rig.receive(socket, 1, 0);
    rig.settle();
    rig.port.cancel(socket);
    rig.port.close(socket, Close::Graceful);
}
