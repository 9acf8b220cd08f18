//! Descriptors: none is leaked, and running out of them ends an accept with an error that passes.
//! A process of its own, since the limit and the count are the process's.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use wharf_port::{
    AcceptEnd, Close, CompletionPort, Config, Done, Engine, EngineChoice, ListenOptions, Op,
    Outcome, Socket, Token,
};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Allows no descriptor beyond those below `count`.
fn limit_descriptors(count: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours and of the right type (getrlimit(2)).
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = count.min(limit.rlim_max);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn open(engine: Engine) -> Option<Box<dyn CompletionPort>> {
    if let EngineChoice::Named(asked) = Config::from_env().unwrap().engine
        && asked != engine
    {
        return None;
    }
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    match wharf_port::open(&config) {
        Ok(port) => Some(port),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{engine} is left out: {error}");
            None
        }
    }
}

fn listener(port: &mut dyn CompletionPort) -> (Socket, SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let unbound = wharf_port::listen(any, &ListenOptions::default(), 1).unwrap().remove(0);
    let address = unbound.local_addr();
    (port.adopt_listener(unbound).unwrap(), address)
}

/// The next completion of the operation; others are dropped.
fn next(port: &mut dyn CompletionPort, token: Token) -> Outcome {
    let mut done = Vec::new();
    for _ in 0..10_000 {
        port.wait(Some(Duration::from_millis(1)), &mut done).unwrap();
        let mut ours = done.drain(..).filter(|done| done.token == token);
        if let Some(Done { outcome, .. }) = ours.next() {
            assert!(ours.next().is_none(), "one at a time in this test");
            return outcome;
        }
    }
    panic!("never came: a completion of {token:?}");
}

fn come_and_go(engine: Engine) {
    let Some(mut port) = open(engine) else { return };
    let (listener, address) = listener(&mut *port);
    port.submit(Op::Accept { listener }, Token(0));
    for round in 0..10_u64 {
        let client = TcpStream::connect(address).unwrap();
        let Outcome::Accepted(accepted) = next(&mut *port, Token(0)) else { panic!("accepted") };
        match round % 3 {
            0 => drop(accepted),
            1 => {
                // Left open, with a receive in flight, when the port is dropped.
                let socket = port.adopt(accepted).unwrap();
                port.submit(Op::Receive { socket, credit_bytes: 10 }, Token(1 + round));
            }
            _ => {
                let socket = port.adopt(accepted).unwrap();
                port.submit(Op::Receive { socket, credit_bytes: 10 }, Token(1 + round));
                drop(client);
                next(&mut *port, Token(1 + round));
                port.close(socket, Close::Graceful);
            }
        }
    }
    let waker = port.waker();
    drop(port);
    waker.wake(); // of nobody: harmless
}

fn run_out(engine: Engine) {
    let Some(mut port) = open(engine) else { return };
    let (listener, address) = listener(&mut *port);
    let client = TcpStream::connect(address).unwrap();
    // The lowest free number would be the next: forbid it.
    let next_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    limit_descriptors(next_free as u64);
    port.submit(Op::Accept { listener }, Token(0));
    for attempt in 1..=2 {
        match next(&mut *port, Token(attempt - 1)) {
            Outcome::AcceptEnded(AcceptEnd::Failed(error)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
            }
            outcome => panic!("{outcome:?}"),
        }
        if attempt == 2 {
            limit_descriptors(1024);
        }
        port.submit(Op::Accept { listener }, Token(attempt));
    }
    match next(&mut *port, Token(2)) {
        Outcome::Accepted(accepted) => {
            assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
        }
        outcome => panic!("{outcome:?}"),
    }
}

/// Turns away so many: whose connect(2) has returned may come to the listener a moment later.
fn turned_away(port: &mut dyn CompletionPort, listener: Socket, clients: usize) {
    let mut gone = 0;
    for _ in 0..10_000 {
        gone += port.turn_away(listener);
        if gone >= clients {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(gone, clients);
}

/// At the limit the port still has a descriptor to turn somebody away with, again and again; one that
/// somebody else took meanwhile it takes again when a socket is closed.
fn turn_away(engine: Engine) {
    let Some(mut port) = open(engine) else { return };
    let (listener, address) = listener(&mut *port);
    let socket = port.stream(address, &wharf_port::SocketOptions::default()).unwrap();
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let next_free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    limit_descriptors(next_free as u64);
    turned_away(&mut *port, listener, 3);
    let mut kept = Vec::new();
    for mut client in clients {
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(!matches!(client.read(&mut [0]), Ok(1..)), "its connection is over");
        // Who comes now has its descriptor from that one.
        drop(client);
        let coming = TcpStream::connect(address).unwrap();
        turned_away(&mut *port, listener, 1);
        assert_eq!(port.turn_away(listener), 0);
        kept.push(coming);
    }
    // Descriptors are free again: who waits is not turned away, but let in.
    kept.clear();
    let waits = TcpStream::connect(address).unwrap();
    assert_eq!(port.turn_away(listener), 0);
    port.submit(Op::Accept { listener }, Token(0));
    assert!(matches!(next(&mut *port, Token(0)), Outcome::Accepted(_)));
    drop(waits);
    // Whether it blocks is as it was: an accept waits for the next one.
    limit_descriptors(1024);
    let mut done = Vec::new();
    (0..3).for_each(|_| _ = port.wait(Some(Duration::from_millis(1)), &mut done).unwrap());
    assert!(done.is_empty(), "{done:?}");
    let _client = TcpStream::connect(address).unwrap();
    assert!(matches!(next(&mut *port, Token(0)), Outcome::Accepted(_)));
    port.close(socket, Close::Graceful);
}

/// A system that refuses the kept descriptor for another reason than a shortage, such as one without
/// IPv4: whoever comes is let in all the same. The filter is this thread's, for good.
fn without_a_reserve(engine: Engine) {
    let Some(mut port) = open(engine) else { return };
    let (listener, address) = listener(&mut *port);
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let (first, second) = (socket().unwrap(), socket().unwrap());
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_socket, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EAFNOSUPPORT as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    first.connect(&address.into()).unwrap();
    // The descriptor is given up for this one, and cannot be had again.
    turned_away(&mut *port, listener, 1);
    second.connect(&address.into()).unwrap();
    port.submit(Op::Accept { listener }, Token(0));
    let Outcome::Accepted(accepted) = next(&mut *port, Token(0)) else { panic!("accepted") };
    port.adopt(accepted).expect("nobody suffers for that");
}

/// One test, so that nothing else in this process opens a descriptor meanwhile.
#[test]
fn descriptors_are_neither_leaked_nor_missed() {
    for engine in [Engine::Poll, Engine::Uring] {
        come_and_go(engine); // what is opened once per process is open now
        let before = open_descriptors();
        come_and_go(engine);
        assert_eq!(open_descriptors(), before, "descriptors after {engine}");
        run_out(engine);
        assert_eq!(open_descriptors(), before, "descriptors after {engine} ran out");
        turn_away(engine);
        assert_eq!(open_descriptors(), before, "descriptors after {engine} turned some away");
        std::thread::scope(|scope| scope.spawn(|| without_a_reserve(engine)).join().unwrap());
        drop(open(engine)); // takes the descriptor again that was lost there
        assert_eq!(open_descriptors(), before, "descriptors after {engine} had no reserve");
    }
}
