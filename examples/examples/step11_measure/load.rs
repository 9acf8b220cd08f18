//! Dummy clients on the server's own thread, turn by turn, so that a count is the same in each run.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use wharf_examples::allocations;
use wharf_port::Config;

use super::{
    handover::LOCKS,
    inbound::MOVED,
    server::{Server, Tuning},
};

/// Each client sends so many bursts of so many packets, and reads the answers to each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) bursts: usize,
    pub(crate) packets: usize,
    /// Whether a burst comes in two pieces, with a packet cut by them.
    pub(crate) cut: bool,
    /// `TCP_NODELAY` of the server's end.
    pub(crate) nodelay: bool,
}

/// What it cost the server: totals, but for `burst`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) messages: u64,
    pub(crate) system_calls: u64,
    pub(crate) waits: u64,
    pub(crate) completions: u64,
    pub(crate) allocations: u64,
    pub(crate) moved_bytes: u64,
    pub(crate) locks: u64,
    pub(crate) cpu: Duration,
    /// From a burst to its last answer, on average.
    pub(crate) burst: Duration,
}

/// Loads a server of its own.
///
/// # Errors
/// The system refuses something, or an answer is missing or wrong.
pub(crate) fn measure(tuning: Tuning, config: &Config, load: Load) -> io::Result<Cost> {
    let mut server = Server::new(wharf_port::open(config)?, tuning);
    let mut clients = Vec::new();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    for number in 0..load.clients {
        let stream = TcpStream::connect(listener.local_addr()?)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let accepted = listener.accept()?.0;
        accepted.set_nodelay(load.nodelay)?;
        server.greet(number as u64, accepted.into())?;
        clients.push(Client::new(stream, number, load.packets));
    }
    let mut cost = Cost::default();
    // Until pools and queues have the size that they need.
    for _ in 0..load.bursts.div_ceil(4) {
        burst(&mut server, &mut clients, load.cut, &mut cost)?;
    }
    cost = Cost::default();
    let start = Instant::now();
    for _ in 0..load.bursts {
        burst(&mut server, &mut clients, load.cut, &mut cost)?;
    }
    cost.burst = start.elapsed() / u32::try_from(load.bursts).map_err(io::Error::other)?;
    cost.messages = (load.clients * load.bursts * load.packets) as u64;
    Ok(cost)
}

struct Client {
    stream: TcpStream,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Client {
    fn new(stream: TcpStream, number: usize, packets: usize) -> Self {
        let mut sent = Vec::new();
        for packet in 0..packets {
            sent.extend_from_slice(&(BODY_BYTES as u16).to_be_bytes());
            sent.resize(sent.len() + BODY_BYTES, (number + packet) as u8);
        }
        Self { stream, received: vec![0; sent.len()], sent }
    }
}

fn burst(
    server: &mut Server,
    clients: &mut [Client],
    cut: bool,
    cost: &mut Cost,
) -> io::Result<()> {
    let before = server.answered;
    let whole = clients.first().map_or(0, |client| client.sent.len());
    let cut = if cut { whole / 2 + BODY_BYTES / 2 } else { whole };
    for piece in [0..cut, cut..whole] {
        for client in clients.iter_mut() {
            client.stream.write_all(&client.sent[piece.clone()])?;
        }
        let packets = piece.end / (HEADER_BYTES + BODY_BYTES) * clients.len();
        serve(server, before + packets as u64, cost)?;
    }
    for client in clients {
        client.stream.read_exact(&mut client.received)?;
        if client.received != client.sent {
            return Err(io::Error::other("an answer is not what was sent"));
        }
    }
    Ok(())
}

/// Lets the server work until so many packets are answered, and counts what that costs.
fn serve(server: &mut Server, answered: u64, cost: &mut Cost) -> io::Result<()> {
    let read = |server: &Server| {
        let counts = [server.port.counts().system_calls, server.waits, server.completions];
        (counts, [allocations(), MOVED.total(), LOCKS.total()])
    };
    let (before, of_process, cpu) = (read(server), read(server).1, ThreadTime::now());
    for _ in 0..TURNS_MAX {
        if server.answered >= answered {
            break;
        }
        server.turn(Duration::from_millis(1))?;
    }
    cost.cpu += cpu.elapsed();
    let (now, now_of_process) = read(server);
    cost.system_calls += now[0] - before.0[0];
    cost.waits += now[1] - before.0[1];
    cost.completions += now[2] - before.0[2];
    cost.allocations += now_of_process[0] - of_process[0];
    cost.moved_bytes += now_of_process[1] - of_process[1];
    cost.locks += now_of_process[2] - of_process[2];
    if server.answered < answered {
        return Err(io::Error::other("the server does not answer"));
    }
    Ok(())
}

const HEADER_BYTES: usize = 2;
const BODY_BYTES: usize = 32;
/// Silence after which an answer counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Turns of a millisecond and less in which a server answers a burst.
const TURNS_MAX: usize = 10_000;
