//! Ports on this system's sockets, and the cases that only these have.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use wharf_port::{
    Close, CompletionPort, Config, Engine, EngineChoice, ListenOptions, Op, Outcome, SocketOptions,
    UnboundListener, inbox,
};

use crate::{
    lab::{Lab, Peer, Rig, assert_same},
    wine,
};

/// The rig of an engine, or `None` where it is left out: it was not asked for, or the kernel
/// refuses it.
pub(crate) fn rig(engine: Engine) -> Option<Box<dyn Rig>> {
    rig_with(engine, |_| {})
}

/// The same, whose ports have other settings than the default.
pub(crate) fn rig_with(engine: Engine, adjust: fn(&mut Config)) -> Option<Box<dyn Rig>> {
    let left_out = |why: &str| {
        // Past the test harness, which shows what a passing test prints to nobody.
        let _ = writeln!(io::stderr(), "{engine} is left out: {why}");
        None
    };
    match Config::from_env().unwrap().engine {
        EngineChoice::Named(asked) if asked != engine => return left_out("WHARF_ENGINE"),
        _ => {}
    }
    #[cfg(unix)]
    // Rust's runtime ignores the signal: back to what it does to a program by default, which ends.
    // SAFETY: no handler of ours is involved (signal(2)).
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL)
    };
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    match wharf_port::open(&config) {
        Ok(port) => {
            let wine = port.engine().detail.contains("Wine");
            Some(Box::new(OsRig { engine, adjust, wine, refusing: bound() }))
        }
        Err(error) if is_refused_by_the_kernel(&error) => left_out(&error.to_string()),
        Err(error) => panic!("{engine} cannot be opened: {error}"),
    }
}

/// Forbidden (a sysctl, a container's seccomp profile) or too old, as opposed to broken.
fn is_refused_by_the_kernel(error: &io::Error) -> bool {
    let says_why = error.raw_os_error().is_some() || error.get_ref().is_some();
    let refusals = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported];
    says_why && refusals.contains(&error.kind())
}

struct OsRig {
    engine: Engine,
    adjust: fn(&mut Config),
    /// Windows' calls are Wine's.
    wine: bool,
    /// Has an address and does not listen.
    refusing: socket2::Socket,
}

/// A socket with an address of its own.
fn bound() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&ANY.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket
}

impl Rig for OsRig {
    fn port(&self, mut config: Config) -> Box<dyn CompletionPort> {
        (self.adjust)(&mut config);
        let engine = EngineChoice::Named(self.engine);
        let port = wharf_port::open(&Config { engine, ..config }).unwrap();
        assert_eq!(port.engine().engine, self.engine);
        port
    }

    fn listen(&self) -> UnboundListener {
        let options = ListenOptions {
            socket: SocketOptions {
                send_buffer_bytes: Some(SEND_BUFFER_BYTES),
                ..SocketOptions::default()
            },
            ..ListenOptions::default()
        };
        wharf_port::listen(ANY.parse().unwrap(), &options, 1).unwrap().remove(0)
    }

    fn connect(&self, address: SocketAddr) -> Box<dyn Peer> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        Box::new(OsPeer(stream))
    }

    fn refusing_address(&self) -> SocketAddr {
        self.refusing.local_addr().unwrap().as_socket().unwrap()
    }

    fn cannot_judge(&self, case: &str) -> Option<&'static str> {
        let known = wine::CANNOT_JUDGE.iter().find(|(name, _)| self.wine && *name == case);
        known.map(|(_, why)| *why)
    }
}

struct OsPeer(TcpStream);

impl Peer for OsPeer {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }

    fn shutdown_write(&mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    fn reset(self: Box<Self>) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// Blocking or not: the port makes it its own.
pub(crate) fn a_tcp_stream_can_be_adopted(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let outside = TcpListener::bind(ANY).unwrap();
    for nonblocking in [false, true] {
        let stream = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(nonblocking).unwrap();
        let mut peer = outside.accept().unwrap().0;
        let socket = lab.adopt(stream.into());
        let receive = lab.receive(socket, 5);
        lab.settle();
        peer.write_all(b"hello").unwrap();
        let mut bytes = Vec::new();
        lab.collect(receive, &mut bytes);
        assert_same(&bytes, b"hello");
        let token = lab.send(socket, &[b"good", b"bye"]);
        lab.sent(token);
        let mut bytes = [0; 7];
        peer.read_exact(&mut bytes).unwrap();
        assert_same(&bytes, b"goodbye");
    }
    lab.finish();
}

/// A listener whose queue is full drops what else comes: the connect stays in flight.
pub(crate) fn a_connect_that_nobody_answers_can_be_cancelled(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let deaf = bound();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap();
    let fillers: Vec<_> = (0..4)
        .map(|_| {
            let filler = bound();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address);
            filler
        })
        .collect();
    let address = address.as_socket().unwrap();
    let socket = lab.stream(address);
    let token = lab.submit(Op::Connect { socket, address });
    lab.settle();
    assert!(lab.try_next(token).is_none(), "nobody answers");
    lab.port.cancel(socket);
    let outcome = lab.next(token);
    assert!(matches!(outcome, Outcome::Connected(Err(_))), "{outcome:?}");
    lab.close(socket, Close::Graceful);
    drop(fillers);
    lab.finish();
}

/// recv(2) stops at the urgent mark, although there is more.
pub(crate) fn urgent_data_does_not_hold_up_what_follows(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for settled in [false, true] {
        let stream = TcpStream::connect(lab.address).unwrap();
        let accepted = lab.accepted();
        let socket = lab.adopt(accepted);
        let token = lab.receive(socket, 10);
        (0..if settled { 5 } else { 0 }).for_each(|_| lab.turn());
        let peer = socket2::SockRef::from(&stream);
        (&stream).write_all(b"hello").unwrap();
        peer.send_out_of_band(b"!").unwrap();
        (&stream).write_all(b"world").unwrap();
        let mut bytes = Vec::new();
        lab.collect(token, &mut bytes);
        assert_same(&bytes, b"helloworld");
    }
    lab.finish();
}

/// Ping-pong between two ports that sleep: one lost wake-up and the time limit is what ends it.
pub(crate) fn a_sleeping_port_is_woken_by_other_threads(rig: &dyn Rig, config: Config) {
    let mut port = rig.port(config.clone());
    let (to_us, mut ours) = inbox(port.waker(), 4);
    let engine = EngineChoice::Named(port.engine().engine);
    let config = Config { engine, ..config };
    let (tell, told) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let mut port = wharf_port::open(&config).unwrap();
        let (post, mut inbox) = inbox(port.waker(), 4);
        tell.send(post).unwrap();
        for round in 0..ROUNDS {
            assert_eq!(next(&mut *port, &mut inbox), round);
            to_us.post(round).unwrap();
        }
    });
    let to_them = told.recv().unwrap();
    for round in 0..ROUNDS {
        to_them.post(round).unwrap();
        assert_eq!(next(&mut *port, &mut ours), round);
    }
    other.join().unwrap();
}

/// Sleeps until a value comes.
fn next(port: &mut dyn CompletionPort, inbox: &mut wharf_port::Inbox<u32>) -> u32 {
    let (mut done, mut values) = (Vec::new(), Vec::new());
    let start = port.now();
    while values.is_empty() {
        let time = port.wait(Some(2 * TOO_LONG), &mut done).unwrap();
        assert!(time.since(start) < TOO_LONG, "a wake-up was lost");
        inbox.drain(&mut values);
    }
    values[0]
}

pub(crate) fn a_wake_up_before_waiting_is_not_lost(rig: &dyn Rig, config: Config) {
    let mut port = rig.port(config);
    for _ in 0..3 {
        port.waker().wake();
        let start = port.now();
        let time = port.wait(Some(2 * TOO_LONG), &mut Vec::new()).unwrap();
        assert!(time.since(start) < TOO_LONG, "the wake-up was lost");
    }
}

pub(crate) fn spinning_finds_completions_and_wake_ups(rig: &dyn Rig, config: Config) {
    let config = Config { spin: Duration::from_millis(20), ..config };
    a_sleeping_port_is_woken_by_other_threads(rig, config.clone());
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    for _ in 0..10 {
        let token = lab.receive(socket, 5);
        lab.peer_writes(&mut *peer, b"hello");
        let mut bytes = Vec::new();
        lab.collect(token, &mut bytes);
        assert_same(&bytes, b"hello");
    }
    lab.finish();
}

const ANY: &str = "127.0.0.1:0";

/// Several of loopback's segments (64 KiB): of less, each waits for a delayed acknowledgement.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

const ROUNDS: u32 = 200;

/// Longer than anything here takes on a loaded machine.
const TOO_LONG: Duration = Duration::from_secs(30);
