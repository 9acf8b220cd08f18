//! Step 1: an echo server on completion ports. One thread accepts and hands each connection to one
//! of four workers; each worker has a completion port of its own and answers with what came.
//!
//! ```text
//! cargo run -p wharf-examples --example step01_echo
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
    println!("step 1: echo on {address}, {WORKERS} workers");
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
    loop {
        match listener.accept() {
            Ok((stream, _)) if Arc::strong_count(&seats) <= CLIENTS_MAX => {
                let newcomer = Newcomer { socket: stream.into(), seat: Arc::clone(&seats) };
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
    pub(crate) socket: UnboundSocket,
    pub(crate) seat: Arc<()>,
}

pub(crate) struct Worker {
    pub(crate) port: Box<dyn CompletionPort>,
    newcomers: Inbox<Newcomer>,
    operations: HashMap<Token, Box<Operation>>,
    operations_made: u64,
    done: Vec<Done>,
}

/// An operation in flight: whom it is for, and a buffer of its own. A client has exactly one.
struct Operation {
    client: Client,
    buffer: Vec<u8>,
}

struct Client {
    socket: Socket,
    ended: bool,
    _seat: Arc<()>,
}

impl Worker {
    pub(crate) fn new(port: Box<dyn CompletionPort>, newcomers: Inbox<Newcomer>) -> Self {
        let (operations, done) = (HashMap::new(), Vec::new());
        Self { port, newcomers, operations, operations_made: 0, done }
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
        for Newcomer { socket, seat } in newcomers {
            // Adopting fails if the peer is gone already; the seat is free again then.
            if let Ok(socket) = self.port.adopt(socket) {
                self.receive(Client { socket, ended: false, _seat: seat });
            }
        }
        Ok(())
    }

    fn receive(&mut self, client: Client) {
        let op = Op::Receive { socket: client.socket, credit_bytes: CREDIT_BYTES };
        self.submit(op, Operation { client, buffer: Vec::new() });
    }

    fn send(&mut self, client: Client, bytes: &[u8]) {
        let mut answer = self.port.buffers().take(bytes.len());
        answer.append(bytes);
        let op = Op::Send { socket: client.socket, gather: Gather::from(answer.freeze()) };
        self.submit(op, Operation { client, buffer: Vec::new() });
    }

    fn submit(&mut self, op: Op, operation: Operation) {
        let token = Token(self.operations_made);
        self.operations_made += 1;
        self.operations.insert(token, Box::new(operation));
        self.port.submit(op, token);
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        if let Outcome::Received(bytes) = outcome {
            let operation = self.operations.get_mut(&token).expect("not over yet");
            operation.buffer.extend_from_slice(&bytes);
            RECEIVED.add_one();
            // One piece at a time: the end comes next, behind what is already here.
            return self.port.pause(operation.client.socket);
        }
        let Operation { mut client, buffer } = *self.operations.remove(&token).expect("in flight");
        match outcome {
            Outcome::ReceiveEnded(end) => {
                client.ended = !matches!(end, ReceiveEnd::Paused | ReceiveEnd::CreditSpent);
            }
            Outcome::Sent { result: Ok(()), .. } => SENT.add_one(),
            Outcome::Sent { result: Err(_), .. } => client.ended = true,
            _ => unreachable!("clients receive and send"),
        }
        // --- your turn: an operation is over: what comes next for the client?
        drop((client, buffer));
        // --- until here
    }
}

const WORKERS: usize = 4;
/// Connections at one time, all workers together.
pub(crate) const CLIENTS_MAX: usize = 100;
/// Bytes that a client may send before it gets its answer.
const CREDIT_BYTES: u32 = 16 * 1024;
