//! Step 7: asynchronous accept. Accepting becomes an operation on a worker's port like any other: no
//! thread of this server waits in a call that only a peer can end.
//!
//! ```text
//! cargo run -p wharf-examples --example step07_async_accept
//! nc 127.0.0.1 9000     (in another terminal)
//! ```

pub(crate) mod accept;
pub(crate) mod application;
pub(crate) mod logic;
pub(crate) mod network;
pub(crate) mod sending;

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::mpsc::{self, SyncSender},
    thread,
};

use wharf_examples::{address, report_each_second};
use wharf_port::{Config, ListenOptions, Post, UnboundListener};

use self::{
    accept::Acceptor,
    application::Echo,
    logic::{Answers, EVENTS_MAX, Event, Logic},
    network::{CLIENTS_MAX, Newcomer, Worker},
};

fn main() -> Result<(), Box<dyn Error>> {
    let address = start(address()?, &Config::from_env()?)?;
    println!("step 7: echo on {address}, {WORKERS} workers");
    Ok(report_each_second()?)
}

/// Starts the workers, of which the last accepts, and the logic.
pub(crate) fn start(address: SocketAddr, config: &Config) -> io::Result<SocketAddr> {
    let (events, to_logic) = mpsc::sync_channel(EVENTS_MAX);
    let listener = wharf_port::listen(address, &ListenOptions::default(), 1)?.remove(0);
    let local = listener.local_addr();
    let (mut listener, mut newcomers, mut answers) = (Some(listener), Vec::new(), Vec::new());
    for index in 0..WORKERS {
        let last = listener.take_if(|_| index + 1 == WORKERS);
        let accepts = last.map(|listener| (listener, newcomers.clone()));
        let (newcomer, answer) = start_worker(index, config.clone(), events.clone(), accepts)?;
        newcomers.push(newcomer);
        answers.push(answer);
    }
    let mut logic = Logic { application: Echo::default(), workers: answers };
    thread::spawn(move || to_logic.into_iter().for_each(|event| logic.handle(event)));
    Ok(local)
}

/// A port belongs to the thread that opens it; what others know of a worker is where to post.
fn start_worker(
    index: usize,
    config: Config,
    logic: SyncSender<Event>,
    accepts: Option<(UnboundListener, Vec<Post<Newcomer>>)>,
) -> io::Result<(Post<Newcomer>, Post<Answers>)> {
    let (answer, opened) = mpsc::channel();
    thread::spawn(move || -> io::Result<()> {
        let port = match wharf_port::open(&config) {
            Ok(port) => port,
            Err(error) => return answer.send(Err(error)).map_err(io::Error::other),
        };
        let (newcomer, newcomers) = wharf_port::inbox(port.waker(), CLIENTS_MAX);
        let (post, answers) = wharf_port::inbox(port.waker(), CLIENTS_MAX);
        answer.send(Ok((newcomer.clone(), post))).map_err(io::Error::other)?;
        let mut worker = Worker::new(index, port, newcomers, answers, logic);
        if let Some((listener, mut workers)) = accepts {
            workers.push(newcomer);
            let acceptor = Acceptor::start(&mut *worker.port, listener, workers);
            worker.acceptor = Some(acceptor.expect("a new listener can be bound to a port"));
        }
        loop {
            worker.turn(None).expect("a port that fails is beyond repair");
        }
    });
    opened.recv().map_err(io::Error::other)?
}

const WORKERS: usize = 4;
