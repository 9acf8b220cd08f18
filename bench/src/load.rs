//! The load generator: closed loop, one thread, one ring, every byte of every answer verified.
//!
//! Each connection keeps `depth` messages on the way: what a batch of completions answered is
//! asked again in one send. The loop is closed, so it measures cost per message and the peak rate;
//! it does not measure latency.

pub mod meter;
mod pattern;

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{IntoRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use io_uring::{cqueue, opcode, squeue, types};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::buffer_ring::BufferRing;
use crate::machine;
use crate::ring::{self, Ring};
use meter::{Meter, Reading};
pub use pattern::Framing;
use pattern::Pattern;

const SUBMISSIONS: u32 = 2048;
const COMPLETIONS: u32 = 16 * 1024;
const BUFFERS: u16 = 1024;
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// No answer at all for this long is an error: the server hangs.
const STALL: Duration = Duration::from_secs(5);
static TICK: types::Timespec = types::Timespec::new().nsec(50_000_000);

const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const TIMER: u64 = 3 << 32;

/// What to ask, and for how long.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// The server
    #[arg(long)]
    pub addr: SocketAddr,
    /// Connections, all opened before the first message
    #[arg(long, default_value_t = 50)]
    pub connections: usize,
    /// Messages on the way per connection
    #[arg(long, default_value_t = 1)]
    pub depth: usize,
    /// Bytes of a message's body, without a header
    #[arg(long, default_value_t = 32)]
    pub size: usize,
    /// Seconds measured
    #[arg(long, default_value_t = 3.0)]
    pub duration: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// How bytes become messages
    #[arg(long, value_enum, default_value_t = Framing::Raw)]
    pub framing: Framing,
    /// The core to run on
    #[arg(long, default_value_t = 1)]
    pub core: usize,
    /// The server's process, whose CPU time and memory are read
    #[arg(long)]
    pub pid: Option<u32>,
    /// Count the server's system calls too (slows the server a little; needs perf's rights)
    #[arg(long, requires = "pid")]
    pub count_syscalls: bool,
}

/// What was measured, between the two ends of the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadReport {
    /// Answers received whole.
    pub messages: u64,
    /// The same, from the first message of the warm-up on.
    pub messages_since_start: u64,
    /// Connections that ended, or whose answers were wrong.
    pub errors: u64,
    pub first_error: Option<String>,
    /// Connections without a single answer in the window.
    pub starved_connections: usize,
    pub wire_bytes_per_message: usize,
    pub elapsed_s: f64,
    pub load_cpu_s: f64,
    pub server_cpu_s: Option<f64>,
    /// What other processes used of all cores.
    pub others_cpu_s: Option<f64>,
    pub server_resident_bytes: Option<u64>,
    pub server_private_bytes: Option<u64>,
    pub syscalls: Option<u64>,
}

/// Runs the load and returns what it saw; wrong answers are counted, not an `Err`.
///
/// # Errors
/// When the server cannot be reached, has ended or hangs, or the ring cannot be set up.
pub fn run(args: &LoadArgs) -> anyhow::Result<LoadReport> {
    if args.connections == 0 || args.depth == 0 || args.size == 0 {
        bail!("connections, depth and size start at 1");
    }
    machine::pin_to(args.core)?;
    let mut load = Load::connect(args)?;
    let mut meter = Meter::new(args.pid, args.count_syscalls)?;
    load.start()?;
    load.run_for(Duration::from_secs_f64(args.warmup))?;
    let before = load.messages;
    let before_per_connection: Vec<u64> =
        load.connections.iter().map(|connection| connection.received).collect();
    let start = meter.read()?;
    load.run_for(Duration::from_secs_f64(args.duration))?;
    let end = meter.read()?;
    let starved_connections = load
        .connections
        .iter()
        .zip(before_per_connection)
        .filter(|(connection, before)| {
            connection.received - before < load.pattern.message_bytes() as u64
        })
        .count();
    Ok(load.report(before, starved_connections, &start, &end))
}

struct Connection {
    fd: RawFd,
    /// Where this connection's stream begins in the pattern.
    start: u64,
    /// Bytes sent, allowed to be sent (the closed loop), and received.
    sent: u64,
    may_send: u64,
    received: u64,
    send_in_flight: bool,
    will_send: bool,
    is_dead: bool,
}

struct Load {
    ring: Ring,
    buffers: BufferRing,
    /// Leaked on purpose: closing a ring is not synchronous, and sends read from it.
    pattern: &'static Pattern,
    connections: Vec<Connection>,
    depth: usize,
    to_send: Vec<usize>,
    batch: Vec<cqueue::Entry>,
    messages: u64,
    errors: u64,
    first_error: Option<String>,
    last_answer: Instant,
}

impl Load {
    fn connect(args: &LoadArgs) -> anyhow::Result<Load> {
        let ring =
            Ring::open(SUBMISSIONS, COMPLETIONS).context("the load generator needs io_uring")?;
        let asked_bytes = args.depth * (args.size + args.framing.header_bytes());
        let buffer_bytes = asked_bytes.next_power_of_two().clamp(1024, BUFFER_BYTES_MAX);
        let buffers = ring.buffers(BUFFERS, buffer_bytes)?;
        let pattern = Pattern::new(args.framing, args.size, asked_bytes.max(buffer_bytes));
        let pattern: &'static Pattern = Box::leak(Box::new(pattern));
        let mut connections = Vec::with_capacity(args.connections);
        for index in 0..args.connections {
            let stream = TcpStream::connect(args.addr)
                .with_context(|| format!("connection {index} to {}", args.addr))?;
            stream.set_nodelay(true)?;
            // A reset at the end leaves no connection waiting for its time to pass.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            connections.push(Connection {
                fd: stream.into_raw_fd(),
                start: pattern.start_of(index),
                sent: 0,
                may_send: asked_bytes as u64,
                received: 0,
                send_in_flight: false,
                will_send: false,
                is_dead: false,
            });
        }
        Ok(Load {
            ring,
            buffers,
            pattern,
            connections,
            depth: args.depth,
            to_send: Vec::new(),
            batch: Vec::with_capacity(COMPLETIONS as usize),
            messages: 0,
            errors: 0,
            first_error: None,
            last_answer: Instant::now(),
        })
    }

    fn start(&mut self) -> anyhow::Result<()> {
        for index in 0..self.connections.len() {
            self.start_receive(index)?;
            self.start_send(index)?;
        }
        self.start_timer()?;
        self.last_answer = Instant::now();
        Ok(())
    }

    /// Runs until the time is over; checked once per batch.
    fn run_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let mut batch = std::mem::take(&mut self.batch);
            self.ring.wait(&mut batch).context("the load generator's ring")?;
            let answered_before = self.messages;
            for completion in batch.drain(..) {
                self.route(&completion)?;
            }
            self.batch = batch;
            for index in 0..self.to_send.len() {
                let connection = self.to_send[index];
                self.connections[connection].will_send = false;
                self.start_send(connection)?;
            }
            self.to_send.clear();
            self.buffers.publish();
            let now = Instant::now();
            if self.messages > answered_before {
                self.last_answer = now;
            }
            if self.errors as usize == self.connections.len() {
                bail!("every connection failed: {}", self.first_error.as_deref().unwrap_or(""));
            }
            if now - self.last_answer > STALL {
                bail!("the server hangs: no answer for {} s", STALL.as_secs());
            }
            if now - start >= time {
                return Ok(());
            }
        }
    }

    fn route(&mut self, completion: &cqueue::Entry) -> anyhow::Result<()> {
        let index = (completion.user_data() & 0xffff_ffff) as usize;
        match completion.user_data() & !0xffff_ffff {
            RECEIVE => self.on_receive(index, completion.result(), completion.flags()),
            SEND => self.on_send(index, completion.result()),
            TIMER => self.start_timer(),
            other => unreachable!("a completion that was never asked for: {other:#x}"),
        }
    }

    fn on_receive(&mut self, index: usize, result: i32, flags: u32) -> anyhow::Result<()> {
        // SAFETY: this is a completion of a receive into this group, seen once.
        if let Some(filled) = unsafe { self.buffers.take(flags, result.max(0) as u32) } {
            let wrong = self.verify(index, self.buffers.bytes(&filled));
            self.buffers.give_back(filled);
            match wrong {
                Some(wrong) => self.fail(index, wrong),
                None => self.answered(index, result as u64),
            }
        }
        if cqueue::more(flags) || self.connections[index].is_dead {
            return Ok(());
        }
        match -result {
            0 => self.fail(index, "the server closed the connection".to_owned()),
            // The batch gives its buffers back before the next one is asked for.
            libc::ENOBUFS | libc::EINTR => return self.start_receive(index),
            _ if result > 0 => return self.start_receive(index),
            code => self.fail(index, std::io::Error::from_raw_os_error(code).to_string()),
        }
        Ok(())
    }

    /// Says what is wrong with these bytes, if anything is.
    fn verify(&self, index: usize, bytes: &[u8]) -> Option<String> {
        let connection = &self.connections[index];
        if connection.received + bytes.len() as u64 > connection.may_send {
            return Some("more bytes came back than were sent".to_owned());
        }
        let position = connection.start + connection.received;
        (!self.pattern.is_answer(position, bytes))
            .then(|| format!("wrong bytes in the answer after byte {}", connection.received))
    }

    fn answered(&mut self, index: usize, bytes: u64) {
        let connection = &mut self.connections[index];
        if connection.is_dead {
            return;
        }
        let message_bytes = self.pattern.message_bytes() as u64;
        let before = connection.received / message_bytes;
        connection.received += bytes;
        let answered = connection.received / message_bytes;
        self.messages += answered - before;
        connection.may_send = (answered + self.depth as u64) * message_bytes;
        if !connection.will_send {
            connection.will_send = true;
            self.to_send.push(index);
        }
    }

    fn on_send(&mut self, index: usize, result: i32) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        connection.send_in_flight = false;
        if result >= 0 {
            connection.sent += result as u64;
        } else if -result != libc::EINTR {
            self.fail(index, std::io::Error::from_raw_os_error(-result).to_string());
        }
        self.start_send(index)
    }

    fn fail(&mut self, index: usize, why: String) {
        let connection = &mut self.connections[index];
        if connection.is_dead {
            return;
        }
        connection.is_dead = true;
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("connection {index}: {why}"));
        // SAFETY: a plain call on a descriptor that stays open until the process ends.
        unsafe { libc::shutdown(connection.fd, libc::SHUT_RDWR) };
    }

    fn start_receive(&mut self, index: usize) -> anyhow::Result<()> {
        let entry = ring::receive(self.connections[index].fd).user_data(RECEIVE | index as u64);
        self.push(&entry)
    }

    fn start_send(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let bytes = (connection.may_send - connection.sent) as usize;
        if connection.send_in_flight || connection.is_dead || bytes == 0 {
            return Ok(());
        }
        connection.send_in_flight = true;
        let piece = self.pattern.piece(connection.start + connection.sent, bytes);
        let entry = opcode::Send::new(types::Fd(connection.fd), piece.as_ptr(), bytes as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(&entry.user_data(SEND | index as u64))
    }

    /// Wakes the loop when nothing else does, so that time is looked at.
    fn start_timer(&mut self) -> anyhow::Result<()> {
        self.push(&opcode::Timeout::new(&raw const TICK).build().user_data(TIMER))
    }

    fn push(&mut self, entry: &squeue::Entry) -> anyhow::Result<()> {
        // SAFETY: entries point at the pattern, which never changes and is leaked, or at a
        // static.
        unsafe { self.ring.push(entry) }.context("the load generator's ring")
    }

    fn report(&self, before: u64, starved: usize, start: &Reading, end: &Reading) -> LoadReport {
        let load_cpu = end.load_cpu - start.load_cpu;
        let server_cpu = end.server_cpu.zip(start.server_cpu).map(|(end, start)| end - start);
        let others = end.machine_cpu.zip(start.machine_cpu).map(|(end, start)| {
            (end - start).saturating_sub(load_cpu).saturating_sub(server_cpu.unwrap_or_default())
        });
        LoadReport {
            messages: self.messages - before,
            messages_since_start: self.messages,
            errors: self.errors,
            first_error: self.first_error.clone(),
            starved_connections: starved,
            wire_bytes_per_message: self.pattern.message_bytes(),
            elapsed_s: (end.at - start.at).as_secs_f64(),
            load_cpu_s: load_cpu.as_secs_f64(),
            server_cpu_s: server_cpu.map(|time| time.as_secs_f64()),
            others_cpu_s: others.map(|time| time.as_secs_f64()),
            server_resident_bytes: end.server_resident_bytes,
            server_private_bytes: end.server_private_bytes,
            syscalls: end.syscalls.zip(start.syscalls).map(|(end, start)| end - start),
        }
    }
}
