//! An echo server on the bare port, the same on every engine: what arrives is sent back, one send at
//! a time; from a peer that does not read, no more than a credit is received.
//! `cargo run -p wharf-port --example port_echo`, then `nc 127.0.0.1 9000`. An argument is another
//! address; `WHARF_ENGINE=poll` picks the engine.

use std::{collections::HashMap, env, error::Error, io, time::Duration};

use wharf_port::{
    Close, CompletionPort, Config, Done, FrameBuf, Gather, ListenOptions, Op, Outcome, ReceiveEnd,
    Socket, Token, UnboundListener,
};

fn main() -> Result<(), Box<dyn Error>> {
    let port = wharf_port::open(&Config::from_env()?)?;
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned()).parse()?;
    let listener = wharf_port::listen(address, &ListenOptions::default(), 1)?.remove(0);
    println!("echo on {} ({})", listener.local_addr(), port.engine().engine);
    let mut echo = Echo::new(port, listener)?;
    loop {
        echo.turn(None)?;
    }
}

pub(crate) struct Echo {
    pub(crate) port: Box<dyn CompletionPort>,
    listener: Socket,
    clients: HashMap<Token, Client>,
    done: Vec<Done>,
}

struct Client {
    socket: Socket,
    answer: Option<FrameBuf>,
    gather: Option<Gather>,  // here unless it is being sent
    end: Option<ReceiveEnd>, // here unless a receive is in flight
}

impl Echo {
    pub(crate) fn new(mut port: Box<dyn CompletionPort>, it: UnboundListener) -> io::Result<Self> {
        let listener = port.adopt_listener(it)?;
        port.submit(Op::Accept { listener }, listener.into());
        Ok(Self { port, listener, clients: HashMap::new(), done: Vec::new() })
    }

    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.port.wait(timeout, &mut self.done)?;
        for Done { token, outcome } in self.done.drain(..) {
            if let Outcome::Accepted(socket) = outcome {
                let socket = self.port.adopt(socket)?;
                let gather = Some(Gather::new());
                self.clients
                    .insert(socket.into(), Client { socket, answer: None, gather, end: None });
                self.port.submit(receive(socket), socket.into());
            } else if let Outcome::AcceptEnded(_) = outcome {
                self.port.submit(Op::Accept { listener: self.listener }, token);
            } else if let Some(client) = self.clients.get_mut(&token)
                && client.advance(outcome, &mut *self.port)
            {
                self.port.close(client.socket, Close::Graceful);
                self.clients.remove(&token);
            }
        }
        Ok(())
    }
}

impl Client {
    /// Takes in what happened and starts what comes next; true when nothing does.
    fn advance(&mut self, outcome: Outcome, port: &mut dyn CompletionPort) -> bool {
        let socket = self.socket;
        match outcome {
            Outcome::Received(bytes) => {
                let answer = self.answer.get_or_insert_with(|| port.buffers().take(bytes.len()));
                answer.extend_from_slice(&bytes);
            }
            Outcome::ReceiveEnded(end) => self.end = Some(end),
            Outcome::Sent { gather, .. } => self.gather = Some(gather), // failed: so will receiving
            _ => unreachable!("it receives and sends"),
        }
        let Some(mut gather) = self.gather.take() else { return false };
        gather.clear();
        if let Some(answer) = self.answer.take() {
            gather.push(answer.freeze());
            port.submit(Op::Send { socket, gather }, socket.into());
            return false;
        }
        self.gather = Some(gather);
        if let Some(ReceiveEnd::CreditSpent) = self.end {
            self.end = None;
            port.submit(receive(socket), socket.into());
        }
        self.end.is_some()
    }
}

fn receive(socket: Socket) -> Op {
    Op::Receive { socket, credit_bytes: 16 * 1024 }
}
