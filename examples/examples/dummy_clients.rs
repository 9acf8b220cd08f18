//! Dummy clients for the course: each sends a burst of lines, reads them back and compares, again
//! and again. What does not come back is counted.
//!
//! ```text
//! cargo run -p wharf-examples --example dummy_clients -- [CLIENTS] [BURSTS] [LINES] [ADDRESS]
//! ```

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

const USAGE: &str =
    "usage: dummy_clients [CLIENTS=50] [BURSTS=1000] [LINES=1] [ADDRESS=127.0.0.1:9000]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let mut number = |default: usize| match args.next() {
        Some(text) => text.parse().map_err(|_| format!("`{text}` is no number\n{USAGE}")),
        None => Ok(default),
    };
    let (clients, bursts, lines) = (number(50)?, number(1000)?, number(1)?);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:9000".to_owned()).parse()?;
    let start = Instant::now();
    let tally = run(address, clients, bursts, lines)?;
    let seconds = start.elapsed().as_secs_f64();
    let sent = clients * bursts * lines;
    println!("{clients} clients sent {sent} lines in {seconds:.2} s");
    println!("{} came back, {} did not", tally.returned, sent - tally.returned);
    println!("{} clients got something that they had not sent next", tally.confused);
    Ok(())
}

/// What came of it, all clients together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) returned: usize,
    /// Clients that got a wrong line, or lines in another order.
    pub(crate) confused: usize,
}

pub(crate) fn run(
    address: SocketAddr,
    clients: usize,
    bursts: usize,
    lines: usize,
) -> io::Result<Tally> {
    let client = move |number| client(address, number, bursts, lines);
    let threads: Vec<_> = (0..clients).map(|i| thread::spawn(move || client(i))).collect();
    let mut tally = Tally::default();
    for thread in threads {
        let one = thread.join().map_err(|_| io::Error::other("a client's thread panicked"))??;
        tally.returned += one.returned;
        tally.confused += one.confused;
    }
    Ok(tally)
}

fn client(address: SocketAddr, number: usize, bursts: usize, lines: usize) -> io::Result<Tally> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tally = Tally::default();
    let mut answer = Vec::new();
    for burst in 0..bursts {
        let sent: Vec<String> =
            (0..lines).map(|line| format!("client {number} burst {burst} line {line}\n")).collect();
        stream.write_all(sent.concat().as_bytes())?;
        read_lines(&mut stream, lines, &mut answer)?;
        let mut expected = sent.iter();
        for line in answer.split_inclusive(|byte| *byte == b'\n') {
            // One that is missing is lost; one that is not among those that follow is wrong.
            if expected.any(|sent| sent.as_bytes() == line) {
                tally.returned += 1;
            } else {
                tally.confused = 1;
            }
        }
    }
    Ok(tally)
}

/// Reads so many lines, or as many as come while the client is patient.
fn read_lines(stream: &mut TcpStream, lines: usize, answer: &mut Vec<u8>) -> io::Result<()> {
    answer.clear();
    let mut piece = [0; 4096];
    while answer.iter().filter(|byte| **byte == b'\n').count() < lines {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if is_timeout(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A read that found nothing in time: one kind on unix, another on Windows.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Silence after which an answer counts as lost.
const PATIENCE: Duration = Duration::from_millis(300);
