//! An echo server on the bare port, the same on every engine. One operation is in flight per client:
//! what is received once is sent back, and then the next is received. So from a peer that does not
//! read, no more than that is taken in, and nothing is kept per client.
//! `cargo run -p wharf-port --example port_echo`, then `nc 127.0.0.1 9000`. An argument is another
//! address; `WHARF_ENGINE=poll` picks the engine.

use std::{env, error::Error, io, time::Duration};

use wharf_port::{
    Close, CompletionPort, Config, Done, Gather, ListenOptions, Op, Outcome, UnboundListener,
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
    done: Vec<Done>,
    gathers: Vec<Gather>, // of sends that are over, for others
}

impl Echo {
    pub(crate) fn new(mut port: Box<dyn CompletionPort>, it: UnboundListener) -> io::Result<Self> {
        let listener = port.adopt_listener(it)?;
        port.submit(Op::Accept { listener }, listener.into());
        Ok(Self { port, done: Vec::new(), gathers: Vec::new() })
    }

    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let receive = |socket| Op::ReceiveOnce { socket, bytes_max: 16 * 1024 };
        self.port.wait(timeout, &mut self.done)?;
        for Done { token, outcome } in self.done.drain(..) {
            let socket = token.into(); // each token is its socket's name
            match outcome {
                Outcome::AcceptEnded(_) => self.port.submit(Op::Accept { listener: socket }, token),
                Outcome::Accepted(client) => {
                    let Ok(client) = self.port.adopt(client) else { continue }; // closed
                    self.port.submit(receive(client), client.into());
                }
                Outcome::ReceivedOnce(Ok(bytes)) => {
                    let mut answer = self.port.buffers().take(bytes.len());
                    answer.extend_from_slice(&bytes);
                    let mut gather = self.gathers.pop().unwrap_or_default();
                    gather.push(answer.freeze());
                    self.port.submit(Op::Send { socket, gather }, token);
                }
                Outcome::Sent { mut gather, result: Ok(()) } => {
                    gather.clear();
                    self.gathers.push(gather);
                    self.port.submit(receive(socket), token);
                }
                // The peer has ended its stream, or is gone.
                Outcome::ReceivedOnce(Err(_)) | Outcome::Sent { .. } => {
                    self.port.close(socket, Close::Graceful);
                }
                _ => unreachable!("a client receives once and sends"),
            }
        }
        Ok(())
    }
}
