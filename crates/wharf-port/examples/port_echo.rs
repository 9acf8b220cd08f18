//! An echo server on the bare port, the same on every engine: it receives a piece, sends it back,
//! then receives the next. `cargo run -p wharf-port --example port_echo`, then `nc 127.0.0.1 9000`;
//! `WHARF_ENGINE=poll` picks the engine.

use std::{error::Error, io, mem, time::Duration};

use wharf_port::{
    Close, CompletionPort, Config, Done, FrameBuf, Gather, ListenOptions, Op, Outcome, ReceiveEnd,
    Socket, Token, UnboundListener,
};

fn main() -> Result<(), Box<dyn Error>> {
    let port = wharf_port::open(&Config::from_env()?)?;
    let address = "127.0.0.1:9000".parse()?;
    let listener = wharf_port::listen(address, &ListenOptions::default(), 1)?.remove(0);
    println!("echo on {address} ({})", port.engine().engine);
    let mut echo = Echo::new(port, listener)?;
    loop {
        echo.turn(None)?;
    }
}

pub(crate) struct Echo {
    pub(crate) port: Box<dyn CompletionPort>,
    listener: Socket,
    clients: Vec<Option<Client>>, // a client's token is its place here
    gathers: Vec<Gather>,
    done: Vec<Done>,
}

struct Client {
    socket: Socket,
    answer: Option<FrameBuf>,
    ended: bool,
}

impl Echo {
    pub(crate) fn new(mut port: Box<dyn CompletionPort>, it: UnboundListener) -> io::Result<Self> {
        let listener = port.adopt_listener(it)?;
        port.submit(Op::Accept { listener }, LISTENER);
        let (clients, gathers, done) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { port, listener, clients, gathers, done })
    }

    /// Waits for something to happen and does what comes next.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut done = mem::take(&mut self.done);
        self.port.wait(timeout, &mut done)?;
        for Done { token, outcome } in done.drain(..) {
            if let Outcome::Accepted(socket) = outcome {
                let free = self.clients.iter().position(Option::is_none);
                let place = free.unwrap_or(self.clients.len());
                self.clients.resize_with(self.clients.len().max(place + 1), || None);
                let socket = self.port.adopt(socket)?;
                self.clients[place] = Some(Client { socket, answer: None, ended: false });
                self.port.submit(
                    Op::Receive { socket, credit_bytes: CREDIT_BYTES },
                    Token(place as u64),
                );
            } else if let Outcome::AcceptEnded(_) = outcome {
                self.port.submit(Op::Accept { listener: self.listener }, LISTENER);
            } else {
                self.advance(token, outcome);
            }
        }
        self.done = done;
        Ok(())
    }

    fn advance(&mut self, token: Token, outcome: Outcome) {
        let place = &mut self.clients[token.0 as usize];
        let client = place.as_mut().expect("there while an operation is in flight");
        let socket = client.socket;
        match outcome {
            Outcome::Received(bytes) => {
                let (pool, room) = (self.port.buffers(), CREDIT_BYTES as usize);
                let answer = client.answer.get_or_insert_with(|| pool.take(room));
                if answer.len() + bytes.len() > answer.capacity() {
                    let mut larger = pool.take(answer.len() + bytes.len()); // a credit may be overrun (P9)
                    larger.append(answer);
                    *answer = larger;
                }
                answer.append(&bytes);
                return self.port.pause(socket); // the end comes next, after what is already here
            }
            Outcome::ReceiveEnded(end) => {
                client.ended = !matches!(end, ReceiveEnd::Paused | ReceiveEnd::CreditSpent);
            }
            Outcome::Sent { mut gather, result } => {
                gather.clear();
                self.gathers.push(gather);
                client.ended |= result.is_err();
            }
            _ => unreachable!("clients receive and send"),
        }
        if let Some(answer) = client.answer.take() {
            let mut gather = self.gathers.pop().unwrap_or_default();
            gather.push(answer.freeze());
            self.port.submit(Op::Send { socket, gather }, token);
        } else if client.ended {
            self.port.close(socket, Close::Graceful);
            *place = None;
        } else {
            self.port.submit(Op::Receive { socket, credit_bytes: CREDIT_BYTES }, token);
        }
    }
}

const LISTENER: Token = Token(u64::MAX);
const CREDIT_BYTES: u32 = 16 * 1024;
