//! Step 2: the buffers move from the operation into the client, which keeps them from one message to
//! the next: a warm server allocates nothing.
//!
//! ```text
//! cargo run -p wharf-examples --example step02_buffers
//! nc 127.0.0.1 9000     (in another terminal)
//! ```

use std::{
    collections::HashMap,
    error::Error,
    io, mem,
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use wharf_examples::{RECEIVED, SENT, address, report_each_second};
use wharf_port::{
    Close, CompletionPort, Config, Done, Gather, Inbox, Op, Outcome, Post, ReceiveEnd, Socket,
    Token, UnboundSocket,
};

fn main() -> Result<(), Box<dyn Error>> {
    let address = start(address()?, &Config::from_env()?)?;
    println!("step 2: echo on {address}, {WORKERS} workers");
    Ok(report_each_second()?)
}

/// Starts the workers, then the thread that accepts.
pub(crate) fn start(address: SocketAddr, config: &Config) -> io::Result<SocketAddr> {
    let workers: io::Result<Vec<_>> = (0..WORKERS).map(|_| start_worker(config.clone())).collect();
    let (workers, listener) = (workers?, TcpListener::bind(address)?);
    let local = listener.local_addr()?;
    thread::spawn(move || accept(&listener, &workers));
    Ok(local)
}

/// A port belongs to the thread that opens it; what others know of a worker is where to post.
fn start_worker(config: Config) -> io::Result<Post<Newcomer>> {
    let (answer, opened) = mpsc::channel();
    thread::spawn(move || -> io::Result<()> {
        let port = match wharf_port::open(&config) {
            Ok(port) => port,
            Err(error) => return answer.send(Err(error)).map_err(io::Error::other),
        };
        let (post, newcomers) = wharf_port::inbox(port.waker(), CLIENTS_MAX);
        answer.send(Ok(post)).map_err(io::Error::other)?;
        let mut worker = Worker::new(port, newcomers);
        loop {
            worker.turn(None).expect("a port that fails is beyond repair");
        }
    });
    opened.recv().map_err(io::Error::other)?
}

/// Who finds no seat is closed, and so is one whom no worker takes; accepting goes on.
fn accept(listener: &TcpListener, workers: &[Post<Newcomer>]) {
    let seats = Arc::new(());
    let mut turns = workers.iter().cycle();
    let mut number = 0;
    loop {
        match listener.accept() {
            Ok((stream, _)) if Arc::strong_count(&seats) <= CLIENTS_MAX => {
                let (socket, seat) = (stream.into(), Arc::clone(&seats));
                let newcomer = Newcomer { number, socket, seat };
                number += 1;
                if let Some(Err(refused)) = turns.next().map(|worker| worker.post(newcomer)) {
                    eprintln!("a connection is closed: {refused}");
                }
            }
            Ok((stream, _)) => drop(stream),
            Err(error) => {
                // No descriptor left, or the connection was reset while it waited.
                eprintln!("accept: {error}");
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// A connection on its way to its worker. Whoever drops the seat gives it back.
pub(crate) struct Newcomer {
    pub(crate) number: u64,
    pub(crate) socket: UnboundSocket,
    pub(crate) seat: Arc<()>,
}

pub(crate) struct Worker {
    pub(crate) port: Box<dyn CompletionPort>,
    newcomers: Inbox<Newcomer>,
    /// By number, which is the token of a client's one operation and never another client's.
    clients: HashMap<u64, Client>,
    done: Vec<Done>,
}

/// A connection with its two buffers.
struct Client {
    socket: Socket,
    received: Vec<u8>,
    /// `None` while the port has it.
    sending: Option<Gather>,
    ended: bool,
    _seat: Arc<()>,
}

impl Worker {
    pub(crate) fn new(port: Box<dyn CompletionPort>, newcomers: Inbox<Newcomer>) -> Self {
        Self { port, newcomers, clients: HashMap::new(), done: Vec::new() }
    }

    /// Waits for something to happen and does what comes next.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut done = mem::take(&mut self.done);
        self.port.wait(timeout, &mut done)?;
        for Done { token, outcome } in done.drain(..) {
            self.complete(token, outcome);
        }
        self.done = done;
        let mut newcomers = Vec::new();
        self.newcomers.drain(&mut newcomers);
        for newcomer in newcomers {
            self.greet(newcomer);
        }
        Ok(())
    }

    fn greet(&mut self, Newcomer { number, socket, seat }: Newcomer) {
        // Adopting fails if the peer is gone already; the seat is free again then.
        let Ok(socket) = self.port.adopt(socket) else { return };
        let (received, sending) = (Vec::new(), Some(Gather::new()));
        let client = Client { socket, received, sending, ended: false, _seat: seat };
        self.clients.insert(number, client);
        self.port.submit(Op::Receive { socket, credit_bytes: CREDIT_BYTES }, Token(number));
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        let client = self.clients.get_mut(&token.0).expect("there while an operation is in flight");
        let socket = client.socket;
        match outcome {
            Outcome::Received(bytes) => {
                client.received.extend_from_slice(&bytes);
                RECEIVED.add_one();
                // One piece at a time: the end comes next, behind what is already here.
                return self.port.pause(socket);
            }
            Outcome::ReceiveEnded(end) => {
                client.ended = !matches!(end, ReceiveEnd::Paused | ReceiveEnd::CreditSpent);
            }
            Outcome::Sent { mut gather, result } => {
                gather.clear();
                client.sending = Some(gather);
                match result {
                    Ok(()) => SENT.add_one(),
                    Err(_) => client.ended = true,
                }
            }
            _ => unreachable!("clients receive and send"),
        }
        if !client.received.is_empty() {
            let mut answer = self.port.buffers().take(client.received.len());
            answer.append(&client.received);
            client.received.clear();
            // --- your turn: this allocates; the client has a gather of its own
            let mut gather = Gather::new();
            // --- until here
            gather.push(answer.freeze());
            self.port.submit(Op::Send { socket, gather }, token);
        } else if client.ended {
            self.port.close(socket, Close::Graceful);
            self.clients.remove(&token.0);
        } else {
            self.port.submit(Op::Receive { socket, credit_bytes: CREDIT_BYTES }, token);
        }
    }
}

const WORKERS: usize = 4;
/// Connections at one time, all workers together.
pub(crate) const CLIENTS_MAX: usize = 100;
/// Bytes that a client may send before it gets its answer.
const CREDIT_BYTES: u32 = 16 * 1024;
