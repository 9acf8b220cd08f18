//! A worker: its completion port and the clients that live on it.

use std::{collections::HashMap, io, mem, sync::Arc, time::Duration};

use wharf_examples::{RECEIVED, SENT};
use wharf_port::{
    Close, CompletionPort, Done, Gather, Inbox, Op, Outcome, ReceiveEnd, Socket, Token,
    UnboundSocket,
};

use super::application::Application;

/// A connection on its way to its worker. Whoever drops the seat gives it back.
pub(crate) struct Newcomer {
    pub(crate) number: u64,
    pub(crate) socket: UnboundSocket,
    pub(crate) seat: Arc<()>,
}

pub(crate) struct Worker<A> {
    pub(crate) port: Box<dyn CompletionPort>,
    pub(crate) application: A,
    answer: Vec<u8>,
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

impl<A: Application> Worker<A> {
    pub(crate) fn new(port: Box<dyn CompletionPort>, newcomers: Inbox<Newcomer>, it: A) -> Self {
        let (answer, clients, done) = (Vec::new(), HashMap::new(), Vec::new());
        Self { port, application: it, answer, newcomers, clients, done }
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
        self.application.connected(number);
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
            self.application.received(token.0, &client.received, &mut self.answer);
            client.received.clear();
        }
        if !self.answer.is_empty() {
            let mut answer = self.port.buffers().take(self.answer.len());
            answer.append(&self.answer);
            self.answer.clear();
            let mut gather = client.sending.take().expect("no send is in flight");
            gather.push(answer.freeze());
            self.port.submit(Op::Send { socket, gather }, token);
        } else if client.ended {
            self.port.close(socket, Close::Graceful);
            self.clients.remove(&token.0);
            // --- your turn: the client is closed: who has to know?
            // --- until here
        } else {
            self.port.submit(Op::Receive { socket, credit_bytes: CREDIT_BYTES }, token);
        }
    }
}

/// Connections at one time, all workers together.
pub(crate) const CLIENTS_MAX: usize = 100;
/// Bytes that a client may send before it gets its answer.
const CREDIT_BYTES: u32 = 16 * 1024;
