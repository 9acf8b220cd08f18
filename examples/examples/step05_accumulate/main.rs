//! Step 5: 1-Send by accumulation. While a send is in flight, what is to follow gathers in a buffer;
//! when it completes, all of that leaves in the next. No answer is lost.
//!
//! ```text
//! cargo run -p wharf-examples --example step05_accumulate
//! nc 127.0.0.1 9000     (in another terminal)
//! ```

pub(crate) mod application;
pub(crate) mod logic;
pub(crate) mod network;
pub(crate) mod sending;

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread,
    time::Duration,
};

use wharf_examples::{address, report_each_second};
use wharf_port::{Config, Post};

use self::{
    application::Echo,
    logic::{Answers, EVENTS_MAX, Event, Logic},
    network::{CLIENTS_MAX, Newcomer, Worker},
};

fn main() -> Result<(), Box<dyn Error>> {
    let address = start(address()?, &Config::from_env()?)?;
    println!("step 5: echo on {address}, {WORKERS} workers");
    Ok(report_each_second()?)
}

/// Starts the workers, the logic, then the thread that accepts.
pub(crate) fn start(address: SocketAddr, config: &Config) -> io::Result<SocketAddr> {
    let (events, to_logic) = mpsc::sync_channel(EVENTS_MAX);
    let start = |index| start_worker(index, config.clone(), events.clone());
    let workers: io::Result<Vec<_>> = (0..WORKERS).map(start).collect();
    let (newcomers, answers): (Vec<_>, Vec<_>) = workers?.into_iter().unzip();
    let mut logic = Logic { application: Echo::default(), workers: answers };
    thread::spawn(move || to_logic.into_iter().for_each(|event| logic.handle(event)));
    let listener = TcpListener::bind(address)?;
    let local = listener.local_addr()?;
    thread::spawn(move || accept(&listener, &newcomers));
    Ok(local)
}

/// A port belongs to the thread that opens it; what others know of a worker is where to post.
fn start_worker(
    index: usize,
    config: Config,
    logic: SyncSender<Event>,
) -> io::Result<(Post<Newcomer>, Post<Answers>)> {
    let (answer, opened) = mpsc::channel();
    thread::spawn(move || -> io::Result<()> {
        let port = match wharf_port::open(&config) {
            Ok(port) => port,
            Err(error) => return answer.send(Err(error)).map_err(io::Error::other),
        };
        let (newcomer, newcomers) = wharf_port::inbox(port.waker(), CLIENTS_MAX);
        let (post, answers) = wharf_port::inbox(port.waker(), CLIENTS_MAX);
        answer.send(Ok((newcomer, post))).map_err(io::Error::other)?;
        let mut worker = Worker::new(index, port, newcomers, answers, logic);
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
    let mut number = 0;
    loop {
        match listener.accept() {
            Ok((stream, _)) if Arc::strong_count(&seats) <= CLIENTS_MAX => {
                let (socket, seat) = (stream.into(), Arc::clone(&seats));
                let newcomer = Newcomer { number, socket, seat };
                number += 1;
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

const WORKERS: usize = 4;
