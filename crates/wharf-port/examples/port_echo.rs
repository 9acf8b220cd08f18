//! An echo server on the bare port, the same on every engine: what arrives is sent back, one send at
//! a time; from a peer that does not read, no more than a credit is received.
//! `cargo run -p wharf-port --example port_echo`, then `nc 127.0.0.1 9000`. An argument is another
//! address; `WHARF_ENGINE=poll` picks the engine.

use std::{collections::HashMap, env, error::Error, io, mem, time::Duration};

use wharf_port::{
    Close, CompletionPort, Config, Done, FrameBuf, Gather, ListenOptions, Op, Outcome, ReceiveEnd,
    Socket, UnboundListener,
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
    clients: HashMap<Socket, Client>,
    done: Vec<Done>,
}

#[derive(Default)]
struct Client {
    answer: Option<FrameBuf>, // what waits to be sent
    gather: Gather,
    sends: bool,
    end: Option<ReceiveEnd>, // here unless a receive is in flight
}

impl Echo {
    pub(crate) fn new(mut port: Box<dyn CompletionPort>, it: UnboundListener) -> io::Result<Self> {
        let listener = port.adopt_listener(it)?;
        port.submit(Op::Accept { listener }, listener.into());
        Ok(Self { port, clients: HashMap::new(), done: Vec::new() })
    }

    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.port.wait(timeout, &mut self.done)?;
        for Done { token, outcome } in self.done.drain(..) {
            let (socket, outcome) = match outcome {
                Outcome::AcceptEnded(_) => {
                    self.port.submit(Op::Accept { listener: token.into() }, token);
                    continue;
                }
                // A client begins as one whose credit is spent.
                Outcome::Accepted(client) => {
                    (self.port.adopt(client)?, Outcome::ReceiveEnded(ReceiveEnd::CreditSpent))
                }
                outcome => (token.into(), outcome),
            };
            let client = self.clients.entry(socket).or_default();
            match outcome {
                Outcome::Received(bytes) => (client.answer)
                    .get_or_insert_with(|| self.port.buffers().take(bytes.len()))
                    .extend_from_slice(&bytes),
                Outcome::ReceiveEnded(end) => client.end = Some(end),
                Outcome::Sent { mut gather, .. } => {
                    gather.clear(); // also one that failed: so will receiving
                    (client.gather, client.sends) = (gather, false);
                }
                _ => unreachable!("a client receives and sends"),
            }
            if client.sends {
                continue;
            }
            if let Some(answer) = client.answer.take() {
                let mut gather = mem::take(&mut client.gather);
                gather.push(answer.freeze());
                client.sends = true;
                self.port.submit(Op::Send { socket, gather }, socket.into());
            } else if let Some(ReceiveEnd::CreditSpent) = client.end {
                client.end = None;
                self.port.submit(Op::Receive { socket, credit_bytes: 16 * 1024 }, socket.into());
            } else if client.end.is_some() {
                self.clients.remove(&socket);
                self.port.close(socket, Close::Graceful);
            }
        }
        Ok(())
    }
}
