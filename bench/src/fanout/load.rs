//! The members of a room, in one thread: a few talk, all listen, and every delivery is verified.
//!
//! A closed loop: whoever talks says the next text when one of its own has reached everybody. So each
//! delivery is counted, in order, and none is in flight when the run ends.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::wire::{TEXT_BYTES, Wire};
use crate::load::meter::Meter;
use crate::machine;

/// Who talks, and for how long.
#[derive(Args, Clone, Debug)]
pub struct FanLoadArgs {
    /// The server
    #[arg(long)]
    pub addr: SocketAddr,
    /// How it is spoken to
    #[arg(long, value_enum, default_value_t = Wire::Raw)]
    pub wire: Wire,
    /// Members of the room
    #[arg(long, default_value_t = 200)]
    pub members: usize,
    /// How many of them talk
    #[arg(long, default_value_t = 1)]
    pub talkers: usize,
    /// Texts that each of those has under way
    #[arg(long, default_value_t = 1)]
    pub depth: usize,
    /// Seconds measured
    #[arg(long, default_value_t = 3.0)]
    pub duration: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// The core to run on
    #[arg(long, default_value_t = 1)]
    pub core: usize,
    /// The server's process, whose CPU time is read
    #[arg(long)]
    pub pid: Option<u32>,
}

/// What was measured, between the two ends of the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanReport {
    pub deliveries: u64,
    /// The same, from the first text to the last, which was waited for.
    pub deliveries_in_all: u64,
    /// Deliveries that were wrong or missing. The first ends the run.
    pub errors: u64,
    pub first_error: Option<String>,
    pub delivery_bytes: usize,
    pub elapsed_s: f64,
    pub load_cpu_s: f64,
    pub server_cpu_s: Option<f64>,
    /// What other processes used of all cores.
    pub others_cpu_s: Option<f64>,
}

/// Runs the load; what is delivered wrong is in the report, not an `Err`.
///
/// # Errors
/// When the server cannot be reached, or does not let everybody in.
pub fn run(args: &FanLoadArgs) -> anyhow::Result<FanReport> {
    if args.talkers == 0 || args.depth == 0 || args.members < args.talkers {
        bail!("a room has members, and one of them at least talks");
    }
    machine::pin_to(args.core)?;
    let mut load = Load::join(args)?;
    let mut meter = Meter::new(args.pid, false)?;
    let mut report = FanReport {
        deliveries: 0,
        deliveries_in_all: 0,
        errors: 0,
        first_error: None,
        delivery_bytes: args.wire.delivery_bytes(),
        elapsed_s: 0.0,
        load_cpu_s: 0.0,
        server_cpu_s: None,
        others_cpu_s: None,
    };
    let mut measured = || -> anyhow::Result<()> {
        load.talk()?;
        load.run_for(Duration::from_secs_f64(args.warmup))?;
        let (before, start) = (load.deliveries, meter.read()?);
        load.run_for(Duration::from_secs_f64(args.duration))?;
        let (after, end) = (load.deliveries, meter.read()?);
        load.finish()?;
        let load_cpu = end.load_cpu - start.load_cpu;
        let server_cpu = end.server_cpu.zip(start.server_cpu).map(|(end, start)| end - start);
        let others = end.machine_cpu.zip(start.machine_cpu).map(|(end, start)| {
            (end - start).saturating_sub(load_cpu).saturating_sub(server_cpu.unwrap_or_default())
        });
        report.deliveries = after - before;
        report.elapsed_s = (end.at - start.at).as_secs_f64();
        report.load_cpu_s = load_cpu.as_secs_f64();
        report.server_cpu_s = server_cpu.map(|time| time.as_secs_f64());
        report.others_cpu_s = others.map(|time| time.as_secs_f64());
        Ok(())
    };
    if let Err(error) = measured() {
        report.errors = 1;
        report.first_error = Some(format!("{error:#}"));
    }
    report.deliveries_in_all = load.deliveries;
    Ok(report)
}

struct Connection {
    stream: TcpStream,
    /// Received, and not whole yet.
    unfinished: Vec<u8>,
    /// Said, and not taken by the system yet.
    unsent: Vec<u8>,
    /// For a member, of each talker the next text.
    next: Vec<u64>,
}

/// Of one who talks: the connection, and for each text under way how many have not got it.
struct Talker {
    connection: usize,
    said: u64,
    under_way: VecDeque<usize>,
}

struct Load {
    wire: Wire,
    members: usize,
    depth: usize,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    talkers: Vec<Talker>,
    deliveries: u64,
    last_delivery: Instant,
    buffer: Vec<u8>,
    is_ending: bool,
}

/// No delivery at all for this long is an error: something is lost, or the server hangs.
const STALL: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const READ_BYTES: usize = 64 * 1024;

impl Load {
    fn join(args: &FanLoadArgs) -> anyhow::Result<Load> {
        let poll = Poll::new()?;
        let apart = if args.wire.talks_apart() { args.talkers } else { 0 };
        let mut connections = Vec::with_capacity(args.members + apart);
        for index in 0..args.members + apart {
            let what = || format!("member {index} at {}", args.addr);
            let mut stream = std::net::TcpStream::connect(args.addr).with_context(what)?;
            stream.set_nodelay(true)?;
            // A reset at the end leaves no connection waiting for its time to pass.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.set_read_timeout(Some(STALL))?;
            let is_member = index < args.members;
            if is_member {
                args.wire.join(&mut stream, index).with_context(what)?;
            }
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(index), interest)?;
            let next = if is_member { vec![0; args.talkers] } else { Vec::new() };
            connections.push(Connection {
                stream,
                unfinished: Vec::new(),
                unsent: Vec::new(),
                next,
            });
        }
        let first = if apart > 0 { args.members } else { 0 };
        let talkers = (first..first + args.talkers).map(|connection| Talker {
            connection,
            said: 0,
            under_way: VecDeque::new(),
        });
        Ok(Load {
            wire: args.wire,
            members: args.members,
            depth: args.depth,
            poll,
            events: Events::with_capacity(1024),
            connections,
            talkers: talkers.collect(),
            deliveries: 0,
            last_delivery: Instant::now(),
            buffer: vec![0; READ_BYTES],
            is_ending: false,
        })
    }

    /// Says what may be said: all of one who talks in one write.
    fn talk(&mut self) -> anyhow::Result<()> {
        for (talker, state) in self.talkers.iter_mut().enumerate() {
            if self.is_ending || state.under_way.len() == self.depth {
                continue;
            }
            let connection = &mut self.connections[state.connection];
            while state.under_way.len() < self.depth {
                self.wire.say(&text(talker, state.said), &mut connection.unsent);
                state.under_way.push_back(self.members);
                state.said += 1;
            }
            connection.write()?;
        }
        Ok(())
    }

    fn run_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        self.last_delivery = start;
        while start.elapsed() < time {
            self.turn()?;
            self.talk()?;
        }
        Ok(())
    }

    /// Waits for all that is under way.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.is_ending = true;
        self.last_delivery = Instant::now();
        while self.talkers.iter().any(|talker| !talker.under_way.is_empty()) {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        let before = self.deliveries;
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(LOOK_EVERY)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let Token(index) = event.token();
            if event.is_writable() {
                self.connections[index].write()?;
            }
            if event.is_readable() || event.is_read_closed() {
                self.read(index).with_context(|| format!("member {index}"))?;
            }
        }
        self.events = events;
        if self.deliveries > before {
            self.last_delivery = Instant::now();
        } else if self.last_delivery.elapsed() > STALL {
            let missing: usize = self.talkers.iter().flat_map(|talker| &talker.under_way).sum();
            bail!("{missing} deliveries have not come for {} s", STALL.as_secs());
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> anyhow::Result<()> {
        loop {
            match self.connections[index].stream.read(&mut self.buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => self.take(index, count)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, index: usize, count: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let mut unfinished = std::mem::take(&mut connection.unfinished);
        let is_whole = unfinished.is_empty();
        if !is_whole {
            unfinished.extend_from_slice(&self.buffer[..count]);
        }
        let bytes = if is_whole { &self.buffer[..count] } else { &unfinished[..] };
        let mut used = 0;
        while let Some(found) = self.wire.next(&bytes[used..])? {
            if let Some(text) = found.text {
                let text = &bytes[used..][text];
                let talker = verify(text, &connection.next)?;
                let talker = self.talkers.get_mut(talker).context("a text of nobody")?;
                let next = &mut connection.next[talker_index(text)?];
                let place = talker.under_way.len() as u64 + *next - talker.said;
                talker.under_way[place as usize] -= 1;
                *next += 1;
                self.deliveries += 1;
                while talker.under_way.front() == Some(&0) {
                    talker.under_way.pop_front();
                }
            }
            used += found.bytes;
        }
        connection.unfinished = match is_whole {
            true => bytes[used..].to_vec(),
            false => {
                unfinished.drain(..used);
                unfinished
            }
        };
        Ok(())
    }
}

impl Connection {
    fn write(&mut self) -> anyhow::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Who says it and the how many-th text it is, then letters that follow from both.
fn text(talker: usize, sequence: u64) -> [u8; TEXT_BYTES] {
    let mut text = [0; TEXT_BYTES];
    let (mut head, start) = (&mut text[..HEAD_BYTES], (talker + sequence as usize * 7) % 26);
    write!(head, "{talker:04x}{sequence:012x}").expect("as long as that");
    text[HEAD_BYTES..].copy_from_slice(&LETTERS[start..start + TEXT_BYTES - HEAD_BYTES]);
    text
}

fn talker_index(text: &[u8]) -> anyhow::Result<usize> {
    let digits = str::from_utf8(&text[..4]).ok();
    let talker = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    talker.with_context(|| format!("a text begins with {}", text[..HEAD_BYTES].escape_ascii()))
}

/// Who said it. It has to be the text of that talker which is due.
fn verify(bytes: &[u8], next: &[u64]) -> anyhow::Result<usize> {
    let talker = talker_index(bytes)?;
    let due = *next.get(talker).context("a text of nobody")?;
    let expected = text(talker, due);
    if bytes != expected {
        bail!(
            "{} where {} was due",
            bytes[..HEAD_BYTES + 8].escape_ascii(),
            expected[..HEAD_BYTES + 8].escape_ascii()
        );
    }
    Ok(talker)
}

const HEAD_BYTES: usize = 16;

/// The alphabet, again and again.
static LETTERS: [u8; TEXT_BYTES + 26] = {
    let mut letters = [0; TEXT_BYTES + 26];
    let mut index = 0;
    while index < letters.len() {
        letters[index] = b'a' + (index % 26) as u8;
        index += 1;
    }
    letters
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_that_is_due_is_right() {
        let next = [3, 0];
        assert_eq!(verify(&text(0, 3), &next).unwrap(), 0);
        assert_eq!(verify(&text(1, 0), &next).unwrap(), 1);
        let mut altered = text(0, 3);
        altered[200] ^= 1;
        for wrong in [text(0, 2), text(0, 4), text(2, 0), altered, [b'?'; TEXT_BYTES]] {
            assert!(verify(&wrong, &next).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
