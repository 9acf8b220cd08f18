//! A worker: its completion port and the clients that live on it.

use std::{
    collections::HashMap,
    io, mem,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use wharf_examples::{RECEIVED, SENT};
use wharf_port::{
    Close, CompletionPort, Done, Inbox, Op, Outcome, ReceiveEnd, Socket, Token, UnboundSocket,
};

use super::{
    accept::{Acceptor, LISTENER},
    logic::{Answers, Event, What},
    sending::Sending,
};

/// A connection on its way to its worker. Whoever drops the seat gives it back.
pub(crate) struct Newcomer {
    pub(crate) number: u64,
    pub(crate) socket: UnboundSocket,
    pub(crate) seat: Arc<()>,
}

pub(crate) struct Worker {
    index: usize,
    pub(crate) port: Box<dyn CompletionPort>,
    newcomers: Inbox<Newcomer>,
    answers: Inbox<Answers>,
    logic: SyncSender<Event>,
    /// By number, which is the token of a client's operations and never another client's.
    clients: HashMap<u64, Client>,
    done: Vec<Done>,
    /// Of the one that accepts.
    pub(crate) acceptor: Option<Acceptor>,
}

/// A connection and who works for it: the port receives, the port sends, the logic thinks.
struct Client {
    socket: Socket,
    received: Vec<u8>,
    receiving: bool,
    with_logic: bool,
    sending: Sending,
    ended: bool,
    seat: Arc<()>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        port: Box<dyn CompletionPort>,
        newcomers: Inbox<Newcomer>,
        answers: Inbox<Answers>,
        logic: SyncSender<Event>,
    ) -> Self {
        let (clients, done) = (HashMap::new(), Vec::new());
        Self { index, port, newcomers, answers, logic, clients, done, acceptor: None }
    }

    /// Waits for something to happen and does what comes next.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut done = mem::take(&mut self.done);
        let now = self.port.now();
        let again = self.acceptor.as_ref().and_then(|acceptor| acceptor.timeout(now));
        let timeout = timeout.into_iter().chain(again).min();
        self.port.wait(timeout, &mut done)?;
        for Done { token, outcome } in done.drain(..) {
            match &mut self.acceptor {
                Some(acceptor) if token == LISTENER => acceptor.complete(&mut *self.port, outcome),
                _ => self.complete(token, outcome),
            }
        }
        self.done = done;
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.go_on(&mut *self.port);
        }
        let mut newcomers = Vec::new();
        self.newcomers.drain(&mut newcomers);
        newcomers.into_iter().for_each(|newcomer| self.greet(newcomer));
        let mut answers = Vec::new();
        self.answers.drain(&mut answers);
        for Answers { client, answers } in answers {
            let answers = answers.iter().filter(|answer| !answer.is_empty());
            answers.for_each(|answer| self.send(client, answer));
            self.start_send(client);
            self.client(client).with_logic = false;
            self.advance(client);
        }
        Ok(())
    }

    fn greet(&mut self, Newcomer { number, socket, seat }: Newcomer) {
        // Adopting fails if the peer is gone already; the seat is free again then.
        let Ok(socket) = self.port.adopt(socket) else { return };
        let client = Client {
            socket,
            received: Vec::new(),
            receiving: false,
            with_logic: false,
            sending: Sending::new(),
            ended: false,
            seat,
        };
        self.clients.insert(number, client);
        self.tell(number, What::Connected);
        self.advance(number);
    }

    fn client(&mut self, number: u64) -> &mut Client {
        self.clients.get_mut(&number).expect("there while anybody works for it")
    }

    fn tell(&self, client: u64, what: What) {
        let event = Event { worker: self.index, client, what };
        self.logic.send(event).expect("the logic outlives the workers");
    }

    /// Puts the bytes behind those that wait.
    fn send(&mut self, number: u64, bytes: &[u8]) {
        let client = self.clients.get_mut(&number).expect("there while anybody works for it");
        client.sending.put(bytes, self.port.buffers());
    }

    /// Sends what waits, unless a send is in flight: the end of that one comes here again.
    fn start_send(&mut self, number: u64) {
        let client = self.client(number);
        let Some(gather) = client.sending.next() else { return };
        let socket = client.socket;
        self.port.submit(Op::Send { socket, gather }, Token(number));
    }

    fn complete(&mut self, Token(number): Token, outcome: Outcome) {
        let client = self.client(number);
        let socket = client.socket;
        match outcome {
            Outcome::Received(bytes) => {
                client.received.extend_from_slice(&bytes);
                RECEIVED.add_one();
                // One piece at a time: the end comes next, behind what is already here.
                return self.port.pause(socket);
            }
            Outcome::ReceiveEnded(end) => {
                client.receiving = false;
                client.ended |= !matches!(end, ReceiveEnd::Paused | ReceiveEnd::CreditSpent);
                let broken = matches!(end, ReceiveEnd::Failed(_));
                let bytes = mem::take(&mut client.received);
                if !bytes.is_empty() {
                    client.with_logic = true;
                    self.tell(number, What::Received(bytes));
                }
                if broken {
                    self.port.cancel(socket); // a send to nobody ends, too
                }
            }
            Outcome::Sent { gather, result } => {
                client.sending.completed(gather);
                if result.is_ok() {
                    SENT.add_one();
                    self.start_send(number);
                } else {
                    // Not mute: what waits is for nobody any more, and the client is closed.
                    client.sending.clear();
                    client.ended = true;
                    self.port.cancel(socket); // a receive from nobody ends, too
                }
            }
            _ => unreachable!("clients receive and send"),
        }
        self.advance(number);
    }

    /// Starts what comes next: the next receive once the logic has had the last, or the end once
    /// nobody works for the client any more.
    fn advance(&mut self, number: u64) {
        let client = self.client(number);
        let socket = client.socket;
        if client.receiving || client.with_logic {
            return;
        }
        if !client.ended {
            // Who does not read its answers is not received from.
            if client.sending.is_full() {
                return;
            }
            client.receiving = true;
            let op = Op::Receive { socket, credit_bytes: CREDIT_BYTES };
            self.port.submit(op, Token(number));
        } else if !client.sending.is_in_flight() {
            self.port.close(socket, Close::Graceful);
            if let Some(client) = self.clients.remove(&number) {
                self.tell(number, What::Closed(client.seat));
            }
        }
    }
}

/// Connections at one time, all workers together.
pub(crate) const CLIENTS_MAX: usize = 100;
/// Bytes that a client may send before it gets its answer.
const CREDIT_BYTES: u32 = 16 * 1024;
