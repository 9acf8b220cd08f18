//! Accepting, as an operation of a worker's port: what a worker that does it has in addition.

use std::{io, sync::Arc, time::Duration};

use wharf_port::{
    AcceptEnd, CompletionPort, Op, Outcome, Post, Socket, Time, Token, UnboundListener,
    UnboundSocket,
};

use super::network::{CLIENTS_MAX, Newcomer};

pub(crate) struct Acceptor {
    listener: Socket,
    workers: Vec<Post<Newcomer>>,
    seats: Arc<()>,
    accepted: u64,
    /// When to go on, after an accept has failed.
    again_at: Option<Time>,
}

impl Acceptor {
    pub(crate) fn start(
        port: &mut dyn CompletionPort,
        listener: UnboundListener,
        workers: Vec<Post<Newcomer>>,
    ) -> io::Result<Self> {
        let listener = port.adopt_listener(listener)?;
        port.submit(Op::Accept { listener }, LISTENER);
        Ok(Self { listener, workers, seats: Arc::new(()), accepted: 0, again_at: None })
    }

    /// The listener is whole after each failure, so accepting always goes on.
    pub(crate) fn complete(&mut self, port: &mut dyn CompletionPort, outcome: Outcome) {
        match outcome {
            Outcome::Accepted(socket) => self.place(socket),
            Outcome::AcceptEnded(AcceptEnd::Failed(error)) => {
                eprintln!("accept: {error}");
                // --- your turn: the accept has ended with an error: when does the next begin?
                // --- until here
            }
            Outcome::AcceptEnded(AcceptEnd::Paused | AcceptEnd::Cancelled) => {}
            _ => unreachable!("a listener accepts"),
        }
    }

    /// Who finds no seat is closed, and so is one whom no worker takes.
    fn place(&mut self, socket: UnboundSocket) {
        if Arc::strong_count(&self.seats) > CLIENTS_MAX {
            return;
        }
        let worker = &self.workers[self.accepted as usize % self.workers.len()];
        let newcomer = Newcomer { number: self.accepted, socket, seat: Arc::clone(&self.seats) };
        self.accepted += 1;
        if let Err(refused) = worker.post(newcomer) {
            eprintln!("a connection is closed: {refused}");
        }
    }

    /// How long the port may wait at most.
    pub(crate) fn timeout(&self, now: Time) -> Option<Duration> {
        self.again_at.map(|at| at.since(now))
    }

    /// Accepts again once it is time.
    pub(crate) fn go_on(&mut self, port: &mut dyn CompletionPort) {
        let now = port.now();
        if self.again_at.take_if(|at| *at <= now).is_some() {
            port.submit(Op::Accept { listener: self.listener }, LISTENER);
        }
    }
}

/// No client has this number.
pub(crate) const LISTENER: Token = Token(u64::MAX);
/// How long to leave the listener alone when the system has no descriptor left.
const PAUSE: Duration = Duration::from_millis(50);
