//! Closed-loop echo load: connections of the library itself, every byte of every answer verified.
//!
//! One thread runs the load (this file): it opens connections, lets them warm up, measures, stops
//! and reports. The workers do the rest: `client` sends and checks, `pattern` says what a message
//! contains, `tally` counts, `report` prints, `progress` shows that it goes on.

mod client;
mod pattern;
mod progress;
mod report;
mod tally;

use std::io::{self, Write as _};
use std::num::NonZero;
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wharf::framing::{self, FramingError, Packet};
use wharf::{ConnectorOptions, Handle, Limits, Server, port};

use crate::bench::Options;
use crate::settings::{Bytes, Framing, grouped};
use crate::{descriptors, network};
use client::{Client, Event, Phase, Plan};
use pattern::{Message, Pattern};
use progress::Progress;
use report::Outcome;
use tally::{ErrorKind, Tally};

/// Finds options that cannot go together.
///
/// # Errors
/// A sentence that says which, and what would do.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    let under_way = options.size.0.saturating_mul(options.depth.into());
    if under_way > UNDER_WAY_BYTES_MAX {
        return Err(format!(
            "--depth {} of --size {} is more than {} under way on each connection",
            options.depth,
            options.size,
            Bytes(UNDER_WAY_BYTES_MAX)
        ));
    }
    if options.duration.is_zero() {
        return Err("--duration must be above 0".to_owned());
    }
    frame_bytes(options).map(drop)
}

/// How long one message of these options is on the wire.
fn frame_bytes(options: &Options) -> Result<usize, String> {
    // The length fields that a size can be too long for have 16 bits: a longer body need not be made.
    let tried = options.size.0.min(u64::from(u16::MAX) + 1) as usize;
    let body = Pattern::new(is_text(options)).fill(FIRST, 0, tried).to_vec();
    let packet = Packet { id: packet_id(options.framing), session: 0, body: &body };
    let mut frame = Vec::new();
    let (framing, size) = (options.framing, options.size);
    framing::append(&network::any_framing(framing), packet, &mut frame).map_err(
        |error| match error {
            FramingError::BodyTooLong { body_bytes_max } => format!(
                "--size {size} cannot be sent in {framing} framing, which takes up to {} bytes",
                grouped(body_bytes_max as u64)
            ),
            FramingError::BodyEmpty => format!(
                "--size 0 cannot be sent in {framing} framing, which takes 1 byte or more: an \
                 empty message leaves no trace there"
            ),
            other => format!("--size {size} cannot be sent in {framing} framing: {other}"),
        },
    )?;
    Ok(frame.len() - tried + options.size.0 as usize)
}

/// Runs the echo load; whether every byte that came back was right.
///
/// # Errors
/// If the load cannot start, or not one connection can be made.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let frame_bytes = frame_bytes(options).map_err(anyhow::Error::msg)?;
    check_descriptors(options.connections)?;
    let workers = workers(options);
    let (events_in, events) = mpsc::channel();
    let interrupts = events_in.clone();
    let total = Arc::new(Mutex::new(Tally::new()));
    let plan = Plan {
        size_bytes: options.size.0 as usize,
        depth: options.depth as usize,
        packet_id: packet_id(options.framing),
        is_stream: options.framing == Framing::Raw,
        is_text: is_text(options),
        phase: Arc::new(Phase::warm_up()),
        events: events_in,
        total: Arc::clone(&total),
    };
    let phase = Arc::clone(&plan.phase);
    let handle = start(options, workers, frame_bytes, plan)?;
    let mut run = Run {
        options,
        progress: Progress::start(options.warmup + options.duration),
        frame_bytes: frame_bytes as u64,
        handle,
        events,
        opened: 0,
        failed: 0,
        finished: 0,
        connect_error: None,
        was_interrupted: false,
        ended_early: false,
    };
    interrupt_on_signal(interrupts)?;
    run.open()?;
    let (measured, processor_time) = run.load(&phase);
    run.finish()?;
    let mut tally =
        std::mem::replace(&mut *total.lock().unwrap_or_else(PoisonError::into_inner), Tally::new());
    tally.count(ErrorKind::ConnectFailed, run.failed);
    let engine = &run.handle.engines()[0];
    let outcome = Outcome {
        options,
        engine: engine.engine.to_string(),
        engine_detail: network::engine_detail(engine),
        workers,
        opened: run.opened,
        measured,
        processor_time,
        was_interrupted: run.was_interrupted,
        ended_early: run.ended_early,
        connect_error: run.connect_error,
        tally,
    };
    print(&outcome)?;
    Ok(outcome.is_right())
}

/// Starts the workers, still without a connection.
fn start(
    options: &Options,
    workers: usize,
    frame_bytes: usize,
    plan: Plan,
) -> wharf::Result<Handle> {
    let engine = network::engine_choice(options.engine);
    let framing = network::any_framing(options.framing);
    Server::builder()
        .workers(workers)
        .port(port::Config { engine, ..port::Config::default() })
        .max_sessions(options.connections as usize)
        .limits(limits(options, frame_bytes))
        .connector(CONNECTOR, ConnectorOptions::default(), framing, move || {
            Client::new(plan.clone())
        })
        .start()
}

/// A load that is going on, as the thread that runs it sees it.
struct Run<'a> {
    options: &'a Options,
    progress: Progress,
    /// One message on the wire.
    frame_bytes: u64,
    handle: Handle,
    events: Receiver<Event>,
    /// Connections that were made, could not be made, and have ended or have all their answers.
    opened: u64,
    failed: u64,
    finished: u64,
    /// Why the first connection that could not be made could not.
    connect_error: Option<String>,
    was_interrupted: bool,
    /// No connection was left before the time was over.
    ended_early: bool,
}

impl Run<'_> {
    /// Opens the connections, a few at a time: more would overrun the server's backlog, and the
    /// system would drop them without a word.
    fn open(&mut self) -> Result<()> {
        let address = self.options.addr;
        let wanted = u64::from(self.options.connections);
        let mut asked = 0;
        loop {
            let goes_on = !self.was_interrupted && self.failed < CONNECT_FAILURES_MAX;
            while goes_on && asked < wanted && asked - self.opened - self.failed < CONNECTING_MAX {
                self.handle.connect(CONNECTOR, address)?;
                asked += 1;
            }
            if asked == self.opened + self.failed || self.was_interrupted {
                break;
            }
            self.next_event("connecting", None);
        }
        if self.opened > 0 {
            return Ok(());
        }
        self.progress.end();
        self.finish()?;
        match &self.connect_error {
            Some(error) => {
                bail!("cannot connect to {address}: {error} (is a server running there?)")
            }
            None => bail!("interrupted before a connection to {address} was made"),
        }
    }

    /// Warms up, measures, and waits for what is under way then. Returns how long it measured, and
    /// what processor time that took.
    fn load(&mut self, phase: &Phase) -> (Duration, Option<Duration>) {
        self.wait("warming up", Instant::now() + self.options.warmup);
        phase.measure();
        let (started, used_before) = (Instant::now(), processor_time());
        self.wait("measuring", started + self.options.duration);
        self.ended_early = self.open_connections() == 0;
        phase.stop();
        let (measured, used_after) = (started.elapsed(), processor_time());
        let grace_ends = Instant::now() + self.options.grace;
        while self.open_connections() > 0 && Instant::now() < grace_ends {
            self.next_event("waiting for the last answers", Some(grace_ends));
        }
        self.progress.end();
        // An answer too many is noticed only if somebody still listens.
        thread::sleep(SETTLE);
        (measured, used_before.zip(used_after).map(|(before, after)| after.saturating_sub(before)))
    }

    /// Lets the load go on until then, or until it is interrupted or has no connection left.
    fn wait(&mut self, doing: &str, until: Instant) {
        while Instant::now() < until && !self.was_interrupted && self.open_connections() > 0 {
            self.next_event(doing, Some(until));
        }
    }

    /// Takes in one thing that has happened, or shows that it goes on if that is due.
    fn next_event(&mut self, doing: &str, until: Option<Instant>) {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let due = self.progress.due_in();
        match self.events.recv_timeout(left.unwrap_or(due).min(due)) {
            Ok(Event::Opened) => self.opened += 1,
            Ok(Event::ConnectFailed(error)) => {
                self.failed += 1;
                self.connect_error.get_or_insert(error);
            }
            Ok(Event::Finished) => self.finished += 1,
            Ok(Event::Interrupted) => self.was_interrupted = true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if self.progress.due_in().is_zero() {
            let bytes = self.handle.stats().map_or(0, |stats| stats.bytes_received);
            self.progress.show(doing, self.open_connections(), bytes, self.frame_bytes);
        }
    }

    fn open_connections(&self) -> u64 {
        self.opened - self.finished
    }

    /// Ends every connection and the workers; each then adds what it has counted to the total.
    fn finish(&self) -> Result<()> {
        self.handle.drain(DRAIN_TIMEOUT);
        let report = self.handle.join()?;
        debug_assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
        Ok(())
    }
}

/// The limits of the load's own connections: they must be able to have everything under way, and go
/// on reading whatever waits to be sent, or two sides that only write would wait for each other.
fn limits(options: &Options, frame_bytes: usize) -> Limits {
    let queue_bytes = frame_bytes * options.depth as usize + SPARE_BYTES;
    Limits {
        // Longer answers than were asked for are to be seen, and a piece of a raw stream has no size.
        frame_bytes_max: options.size.0 as usize + SPARE_BYTES,
        first_frame_timeout: None,
        frame_timeout: None,
        idle_read_timeout: None,
        idle_write_timeout: None,
        send_queue_bytes_soft: queue_bytes,
        send_queue_bytes_max: queue_bytes,
        ..Limits::default()
    }
}

fn packet_id(framing: Framing) -> u32 {
    match framing {
        Framing::Study | Framing::Tutorial => network::STUDY_ECHO_ID,
        _ => 0,
    }
}

fn is_text(options: &Options) -> bool {
    options.framing == Framing::Lines
}

fn workers(options: &Options) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let default = (processors / 2).clamp(1, usize::from(u8::MAX));
    let wanted = options.workers.map_or(default, usize::from);
    wanted.min(options.connections as usize)
}

fn check_descriptors(connections: u32) -> Result<()> {
    let limit = descriptors::raise(u64::from(connections)).unwrap_or_else(|_| descriptors::limit());
    let needed = u64::from(connections) + descriptors::RESERVED;
    match limit.and_then(|limit| limit.soft) {
        Some(allowed) if allowed < needed => bail!(
            "{connections} connections need {needed} descriptors, but this process may have \
             {allowed}: raise the limit (`ulimit -n`), or load with fewer --connections"
        ),
        _ => Ok(()),
    }
}

/// Ends the load early on the first Ctrl+C or SIGTERM, with the result so far, and the process on
/// the second.
fn interrupt_on_signal(events: mpsc::Sender<Event>) -> Result<()> {
    let mut is_second = false;
    ctrlc::set_handler(move || {
        if std::mem::replace(&mut is_second, true) || events.send(Event::Interrupted).is_err() {
            process::exit(1);
        }
    })
    .context("signals cannot be handled")
}

/// Processor time that this process has used, in user and kernel mode.
#[cfg(unix)]
fn processor_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

/// Processor time that this process has used; not told here.
#[cfg(not(unix))]
fn processor_time() -> Option<Duration> {
    None
}

fn print(outcome: &Outcome<'_>) -> Result<()> {
    let text =
        if outcome.options.json { format!("{:#}\n", outcome.json()) } else { outcome.text() };
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("writing the result to standard output")
}

/// The connector's name within the library.
const CONNECTOR: &str = "echo";

const FIRST: Message = Message { connection: 0, sequence: 0 };

/// Connections that are being made at one time: what a small backlog holds.
const CONNECTING_MAX: u64 = 100;

/// After so many the rest is not even tried.
const CONNECT_FAILURES_MAX: u64 = 100;

/// What one connection may have under way.
const UNDER_WAY_BYTES_MAX: u64 = 1 << 30;

/// Room beside the messages that are under way.
const SPARE_BYTES: usize = 64 * 1024;

/// How long answers too many are listened for.
const SETTLE: Duration = Duration::from_millis(50);

/// How long the connections may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
