//! Copied or gathered: `wharf-bench copied`.
//!
//! A frame that many sessions share can be copied behind what each of them has waiting, or sent from
//! where it lies as one more buffer of the send. Both ways alternate here for frames of several sizes,
//! on wharf's own port, over loopback, and every byte is verified. `COPIED_BYTES_MAX` in wharf's
//! `sending.rs` follows what this prints.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use nix::time::{ClockId, clock_gettime};
use wharf_port::{CompletionPort, Done, Frame, Gather, Op, Outcome, Socket};

use crate::machine::{self, Machine};
use crate::table::Spread;

/// What `wharf-bench copied` can be told.
#[derive(Args)]
pub struct CopiedArgs {
    /// How often all sizes are sent both ways
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Connections that each frame goes to
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Core of the side that sends
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the side that receives
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

/// How the shared frame reaches a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Behind the connection's own bytes, in the same buffer.
    Copied,
    /// In a buffer of its own, which all connections share.
    Gathered,
}

/// What a delivery took of the sending side's CPU, in nanoseconds.
struct Cost {
    bytes: usize,
    copied: f64,
    gathered: f64,
    /// The median of what the rounds gave, each of which sent both ways one after the other.
    ratio: f64,
}

/// Measures, and prints a table and up to which size copying is cheaper.
///
/// # Errors
/// A core cannot be used, the port fails, or a byte is wrong.
pub fn run(args: &CopiedArgs) -> anyhow::Result<()> {
    println!("{}", Machine::read(args.server_core, args.load_core)?.line());
    let costs = measure(args)?;
    println!("\n| bytes of the shared frame | copied, ns | gathered, ns | copied / gathered |");
    println!("|---|---|---|---|");
    for Cost { bytes, copied, gathered, ratio } in &costs {
        println!("| {bytes} | {copied:.0} | {gathered:.0} | {ratio:.3} |");
    }
    let cheaper = costs.iter().take_while(|cost| cost.ratio < 1.0).last();
    println!("\ncopying is cheaper up to {} bytes", cheaper.map_or(0, |cost| cost.bytes));
    Ok(())
}

fn measure(args: &CopiedArgs) -> anyhow::Result<Vec<Cost>> {
    let (senders, receivers) = connect(args.connections)?;
    let (rounds, core) = (args.rounds, args.load_core);
    let reader = thread::spawn(move || {
        machine::pin_to(core)?;
        read(receivers, rounds)
    });
    machine::pin_to(args.server_core)?;
    let sent = Room::open(senders)?.send(rounds);
    let read = reader.join().expect("the thread does not panic");
    // Where one side fails, the other does, too.
    match (sent, read) {
        (Ok(costs), Ok(())) => Ok(costs),
        (Err(sent), Err(read)) => bail!("{sent:#}; {read:#}"),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Pairs of connected sockets: those that send, and those that receive.
fn connect(connections: usize) -> anyhow::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let receiver = TcpStream::connect(listener.local_addr()?)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let (sender, _) = listener.accept()?;
        sender.set_nodelay(true)?;
        receivers.push(receiver);
        senders.push(sender);
    }
    Ok((senders, receivers))
}

/// Every delivery of all rounds, in the order in which they are sent.
fn deliveries(rounds: usize) -> impl Iterator<Item = (usize, Way)> {
    let sizes = move |_| SHARED_BYTES.into_iter();
    let ways = |bytes| [(bytes, Way::Copied), (bytes, Way::Gathered)];
    (0..rounds).flat_map(sizes).flat_map(ways)
}

/// Reads what is sent, and verifies it.
fn read(mut receivers: Vec<TcpStream>, rounds: usize) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    for (bytes, way) in deliveries(rounds) {
        let expected: Vec<u8> = OWN.into_iter().chain(shared_bytes(bytes)).collect();
        buffer.resize(expected.len(), 0);
        for _ in 0..BATCH {
            for receiver in &mut receivers {
                receiver.read_exact(&mut buffer).context("a delivery did not arrive")?;
                ensure!(buffer == expected, "a delivery of {bytes} bytes is wrong, {way:?}");
            }
        }
    }
    Ok(())
}

/// The side that sends.
struct Room {
    port: Box<dyn CompletionPort>,
    sockets: Vec<Socket>,
    gathers: Vec<Gather>,
    done: Vec<Done>,
}

impl Room {
    fn open(senders: Vec<TcpStream>) -> anyhow::Result<Self> {
        let mut port = wharf_port::open(&wharf_port::Config::default())?;
        let adopted = senders.into_iter().map(|sender| port.adopt(sender.into()));
        let sockets = adopted.collect::<Result<_, _>>()?;
        Ok(Self { port, sockets, gathers: Vec::new(), done: Vec::new() })
    }

    fn send(mut self, rounds: usize) -> anyhow::Result<Vec<Cost>> {
        let mut costs = SHARED_BYTES.map(|_| [Vec::new(), Vec::new()]);
        for (bytes, way) in deliveries(rounds) {
            let mut shared = self.port.buffers().take(bytes);
            shared.extend_from_slice(&shared_bytes(bytes).collect::<Vec<_>>());
            let shared = shared.freeze();
            let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            for _ in 0..BATCH {
                self.deliver(&shared, way)?;
            }
            let took = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)? - before);
            let size = SHARED_BYTES.iter().position(|one| *one == bytes).expect("one of them");
            let each = took.as_nanos() as f64 / (BATCH * self.sockets.len()) as f64;
            costs[size][way as usize].push(each);
        }
        let costs = SHARED_BYTES.into_iter().zip(costs).map(|(bytes, [copied, gathered])| {
            let ratios = copied.iter().zip(&gathered).map(|(copied, gathered)| copied / gathered);
            let ratio = Spread::of(ratios).context("no rounds")?.median;
            let median = |all: Vec<f64>| Spread::of(all.into_iter()).map(|all| all.median);
            let (copied, gathered) = median(copied).zip(median(gathered)).context("no rounds")?;
            Ok(Cost { bytes, copied, gathered, ratio })
        });
        costs.collect()
    }

    /// One send on each connection, and all that they complete with.
    fn deliver(&mut self, shared: &Frame, way: Way) -> anyhow::Result<()> {
        for &socket in &self.sockets {
            let mut own = self.port.buffers().take(OWN.len() + shared.len());
            own.append(&OWN);
            let mut gather = self.gathers.pop().unwrap_or_default();
            if way == Way::Copied {
                own.append(shared);
            }
            gather.push(own.freeze());
            if way == Way::Gathered {
                gather.push(shared.clone());
            }
            self.port.submit(Op::Send { socket, gather }, socket.into());
        }
        let mut left = self.sockets.len();
        while left > 0 {
            self.port.wait(None, &mut self.done)?;
            for Done { outcome, .. } in self.done.drain(..) {
                let Outcome::Sent { mut gather, result } = outcome else {
                    bail!("{outcome:?} of a socket that only sends");
                };
                if let Err(error) = result {
                    bail!("a send failed: {error:?}");
                }
                gather.clear();
                self.gathers.push(gather);
                left -= 1;
            }
        }
        Ok(())
    }
}

/// What a shared frame of this size consists of.
fn shared_bytes(bytes: usize) -> impl Iterator<Item = u8> {
    (0..bytes).map(move |place| (place * 7 + bytes) as u8)
}

/// Sizes of the shared frame.
const SHARED_BYTES: [usize; 10] = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// What a connection has waiting before it: the answer to a frame of 32 bytes, for example.
const OWN: [u8; 44] = [0xa5; 44];

/// Deliveries to each connection between two looks at the clock.
const BATCH: usize = 10;

/// How long the receiving side waits for a delivery.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_bring_the_same_bytes() {
        let args = CopiedArgs { rounds: 1, connections: 3, server_core: 0, load_core: 0 };
        let costs = measure(&args).unwrap();
        assert_eq!(costs.len(), SHARED_BYTES.len());
        assert!(costs.iter().all(|cost| cost.copied > 0.0 && cost.gathered > 0.0));
    }
}
