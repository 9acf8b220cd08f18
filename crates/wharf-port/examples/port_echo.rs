//! An echo server on the bare port: `cargo run -p wharf-port --example port_echo`, then
//! `nc 127.0.0.1 9000`. `-- --engine poll` or `WHARF_ENGINE=poll` picks the engine.

use std::{error::Error, io, mem, time::Duration};

use wharf_port::{
    Close, CompletionPort, Config, Done, FrameBuf, Gather, ListenOptions, Op, Outcome, ReceiveEnd,
    Socket, Token, UnboundListener, UnboundSocket,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::from_env()?;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--engine" => config.engine = arguments.next().ok_or("--engine NAME")?.parse()?,
            other => return Err(format!("unknown argument `{other}`; there is --engine").into()),
        }
    }
    let port = wharf_port::open(&config)?;
    let mut listeners =
        wharf_port::listen("127.0.0.1:9000".parse()?, &ListenOptions::default(), 1)?;
    println!("echo on {} ({})", listeners[0].local_addr(), port.engine().engine);
    let mut echo = Echo::new(port, listeners.remove(0))?;
    loop {
        echo.turn(None)?;
    }
}

/// The server: a port, a listener, and its clients. A client's token is its place in the list.
pub(crate) struct Echo {
    pub(crate) port: Box<dyn CompletionPort>,
    listener: Socket,
    clients: Vec<Option<Client>>,
    done: Vec<Done>,
}

struct Client {
    socket: Socket,
    /// Received and not yet sent; at most one credit's worth.
    waiting: Option<FrameBuf>,
    /// The gather for the next send; the port has it while one is in flight.
    gather: Option<Gather>,
    receiving: bool,
    ended: bool,
}

impl Echo {
    pub(crate) fn new(
        mut port: Box<dyn CompletionPort>,
        listener: UnboundListener,
    ) -> io::Result<Self> {
        let listener = port.adopt_listener(listener)?;
        port.submit(Op::Accept { listener }, LISTENER);
        Ok(Self { port, listener, clients: Vec::new(), done: Vec::new() })
    }

    /// Waits for something to happen and answers it.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut done = mem::take(&mut self.done);
        self.port.wait(timeout, &mut done)?;
        for Done { token, outcome } in done.drain(..) {
            match outcome {
                Outcome::Accepted(socket) => self.open(socket),
                Outcome::AcceptEnded(_) => {
                    self.port.submit(Op::Accept { listener: self.listener }, LISTENER);
                }
                outcome => self.advance(token, outcome),
            }
        }
        self.done = done;
        Ok(())
    }

    fn open(&mut self, socket: UnboundSocket) {
        let Ok(socket) = self.port.adopt(socket) else { return };
        let free = self.clients.iter().position(Option::is_none).unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        let gather = Some(Gather::new());
        let client = Client { socket, waiting: None, gather, receiving: true, ended: false };
        self.clients[free] = Some(client);
        self.port.submit(Op::Receive { socket, credit_bytes: CREDIT_BYTES }, Token(free as u64));
    }

    /// Takes in what happened to a client and starts what comes next.
    fn advance(&mut self, token: Token, outcome: Outcome) {
        let place = &mut self.clients[token.0 as usize];
        let client = place.as_mut().expect("there until nothing is in flight");
        let socket = client.socket;
        match outcome {
            Outcome::Received(bytes) => {
                let pool = self.port.buffers();
                let waiting =
                    client.waiting.get_or_insert_with(|| pool.take(CREDIT_BYTES as usize));
                waiting.append(&bytes);
            }
            Outcome::ReceiveEnded(end) => {
                client.receiving = false;
                client.ended |= !matches!(end, ReceiveEnd::CreditSpent);
            }
            Outcome::Sent { mut gather, result } => {
                gather.clear();
                client.gather = Some(gather);
                if result.is_err() {
                    client.ended = true;
                    client.waiting = None;
                    self.port.cancel(socket);
                }
            }
            _ => unreachable!("clients receive and send"),
        }
        if let Some(mut gather) = client.gather.take_if(|_| client.waiting.is_some()) {
            gather.push(client.waiting.take().expect("looked at above").freeze());
            self.port.submit(Op::Send { socket, gather }, token);
        }
        let sending = client.gather.is_none();
        if client.ended && !client.receiving && !sending {
            self.port.close(socket, Close::Graceful);
            *place = None;
        } else if !client.ended && !client.receiving && client.waiting.is_none() {
            client.receiving = true;
            self.port.submit(Op::Receive { socket, credit_bytes: CREDIT_BYTES }, token);
        }
    }
}

const LISTENER: Token = Token(u64::MAX);
const CREDIT_BYTES: u32 = 16 * 1024;
