//! A port and what the tests need around it.

use std::{
    collections::VecDeque,
    env,
    net::{TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use wharf_port::{
    Close, CompletionPort, Config, Counts, Done, Engine, EngineChoice, Frame, Gather, Op, Outcome,
    ReceiveEnd, Socket, Token, UnboundSocket,
};

pub(crate) struct Rig {
    pub(crate) port: Box<dyn CompletionPort>,
    pub(crate) done: VecDeque<Done>,
}

/// io_uring with guard pages.
pub(crate) fn config() -> Config {
    let engine = EngineChoice::Named(Engine::Uring);
    Config { engine, guard_pages: true, ..Config::default() }
}

impl Rig {
    pub(crate) fn new(config: &Config) -> Self {
        Self { port: wharf_port::open(config).unwrap(), done: VecDeque::new() }
    }

    /// A connection: our end on the port, and the peer's.
    pub(crate) fn connection(&mut self) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        (self.port.adopt(UnboundSocket::from(ours)).unwrap(), peer)
    }

    /// One `wait`; false if nothing came.
    pub(crate) fn turn(&mut self, timeout: Duration) -> bool {
        let mut done = Vec::new();
        self.port.wait(Some(timeout), &mut done).unwrap();
        let some = !done.is_empty();
        self.done.extend(done);
        some
    }

    /// The next completion.
    pub(crate) fn next(&mut self) -> Done {
        for _ in 0..200 {
            if let Some(done) = self.done.pop_front() {
                return done;
            }
            self.turn(Duration::from_millis(100));
        }
        panic!("nothing completes: {:?}", self.port.counts());
    }

    /// Lets the kernel do what it can do at once.
    pub(crate) fn settle(&mut self) {
        for _ in 0..3 {
            self.turn(Duration::from_millis(1));
        }
    }

    pub(crate) fn receive(&mut self, socket: Socket, credit_bytes: u32, token: u64) {
        self.port.submit(Op::Receive { socket, credit_bytes }, Token(token));
    }

    pub(crate) fn send(&mut self, socket: Socket, gather: Gather, token: u64) {
        self.port.submit(Op::Send { socket, gather }, Token(token));
    }

    pub(crate) fn frame(&self, bytes: &[u8]) -> Frame {
        let mut buf = self.port.buffers().take(bytes.len());
        assert_eq!(buf.append(bytes), bytes.len());
        buf.freeze()
    }

    /// Receives with one submit until it is over.
    pub(crate) fn receive_once(&mut self, socket: Socket, credit: u32) -> (Vec<u8>, ReceiveEnd) {
        self.receive(socket, credit, 7);
        let mut bytes = Vec::new();
        loop {
            let done = self.next();
            assert_eq!(done.token, Token(7));
            match done.outcome {
                Outcome::Received(buffer) => {
                    assert!(!buffer.is_empty(), "a received buffer is never empty");
                    bytes.extend_from_slice(&buffer);
                }
                Outcome::ReceiveEnded(end) => return (bytes, end),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Closes the sockets and checks that nothing is left.
    pub(crate) fn finish(mut self, sockets: impl IntoIterator<Item = Socket>) -> Counts {
        for socket in sockets {
            self.port.close(socket, Close::Graceful);
        }
        assert!(self.done.is_empty(), "left over: {:?}", self.done);
        let counts = self.port.counts();
        let totals = Counts {
            system_calls: counts.system_calls,
            buffer_shortages: counts.buffer_shortages,
            ..Counts::default()
        };
        assert_eq!(counts, totals, "all but the totals is zero when the port is idle");
        counts
    }
}

/// Bytes that show a piece that is lost, doubled or out of order.
pub(crate) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (seed..seed + len).map(|at| ((at * 2_654_435_761) >> 11) as u8).collect()
}

/// Runs `body` in a process of its own, for what concerns a whole process: descriptors, limits,
/// signals, filters. `name` is the test's own name.
pub(crate) fn in_child(name: &str, body: impl FnOnce()) {
    in_child_with(name, &[], body);
}

/// As [`in_child`], for what leaks memory rather than free it on hope (P8): the address sanitizer is
/// not to look for leaks.
pub(crate) fn in_child_that_leaks(name: &str, body: impl FnOnce()) {
    in_child_with(name, &[("ASAN_OPTIONS", "detect_leaks=0")], body);
}

fn in_child_with(name: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    const CHILD: &str = "WHARF_TEST_CHILD";
    if env::var(CHILD).as_deref() == Ok(name) {
        return body();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
