//! The state of a simulated network: its clock, what will happen when, and whose turn it is.
//!
//! Everything is found by ascending number: no iteration order is left to chance.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    time::Duration,
};

use super::{
    faults::{Chance, Fault, Faults},
    in_flight::{Delivered, Delivery, Operation, Source, Stage},
    wire::{End, Listener},
};
use crate::contract::Time;

/// Names an end of a connection or a listener; used once.
pub(super) type Id = u64;

/// Names a port of the network.
pub(super) type PortId = u64;

pub(super) struct World {
    pub(super) now: Time,
    pub(super) chance: Chance,
    pub(super) ends: BTreeMap<Id, End>,
    pub(super) listeners: BTreeMap<Id, Listener>,
    pub(super) operations: BTreeMap<Source, Operation>,
    pub(super) ports: BTreeMap<PortId, Queue>,
    pub(super) window_bytes: usize,
    /// By time, and of the same time by age.
    events: BTreeMap<(Time, u64), Event>,
    ids_made: u64,
    next_port_number: u16,
    trace: Trace,
}

/// Whose turn it is on a port.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) ready: VecDeque<Source>,
    /// Receives that found no buffer, the one that has waited longest first.
    pub(super) parked: VecDeque<Source>,
    /// Until then the port has no buffers ([`Fault::NoBuffer`]).
    pub(super) no_buffers_until: Time,
    pub(super) shortages: u64,
}

/// What will happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A client's wish to connect reaches the listeners of its address.
    Knock { client: Id },
    /// The client learns what became of it.
    ConnectEnds { client: Id, failure: Option<io::ErrorKind> },
    /// A connection reaches the queue of its listener.
    HandOff { listener: Id, server: Id },
    /// Bytes reach this end.
    Arrive { end: Id, bytes: usize },
    /// The other end's end of stream reaches this end.
    EndArrives { end: Id },
    /// The other end's reset reaches this end.
    ResetArrives { end: Id },
    /// The writer learns that this end has read so much.
    WindowOpens { reader: Id, bytes: usize },
    /// A send goes on.
    Resume { end: Id },
    /// An operation's completion is due.
    Due { source: Source },
    /// [`Fault::Reset`] strikes.
    Break { end: Id },
    /// [`Fault::EarlyEnd`] strikes the stream that this end writes.
    CutShort { end: Id },
    /// A port has buffers again.
    Buffers,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            now: Time::ZERO,
            chance: Chance::new(seed, faults),
            ends: BTreeMap::new(),
            listeners: BTreeMap::new(),
            operations: BTreeMap::new(),
            ports: BTreeMap::new(),
            window_bytes: 64 * 1024,
            events: BTreeMap::new(),
            ids_made: 0,
            next_port_number: FIRST_FREE_PORT,
            trace: Trace::new(),
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids_made += 1;
        self.ids_made
    }

    /// The address with a port number that nobody has, if it has none.
    pub(super) fn resolve(&mut self, mut address: SocketAddr) -> SocketAddr {
        while address.port() == 0 {
            let port = self.next_port_number;
            self.next_port_number = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            let taken = |local: SocketAddr| local.port() == port;
            let free = !self.listeners.values().any(|listener| taken(listener.local))
                && !self.ends.values().any(|end| taken(end.local));
            if free {
                address.set_port(port);
            }
        }
        address
    }

    pub(super) fn at(&mut self, time: Time, event: Event) {
        self.ids_made += 1;
        self.events.insert((time, self.ids_made), event);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn next_event(&self) -> Option<Time> {
        self.events.first_key_value().map(|((time, _), _)| *time)
    }

    /// Advances to the next event and applies it; false if there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(((time, _), event)) = self.events.pop_first() else { return false };
        self.now = self.now.max(time);
        self.apply(event);
        true
    }

    /// Applies everything up to then.
    pub(super) fn advance_to(&mut self, time: Time) {
        while self.next_event().is_some_and(|next| next <= time) {
            self.step();
        }
        self.now = self.now.max(time);
    }

    /// Lets time pass for a port that waits until `deadline`: one event, or the rest of the time.
    /// False if it is to return.
    pub(super) fn pass_time(&mut self, deadline: Option<Time>) -> bool {
        match (self.next_event(), deadline) {
            (None, None) => false,
            (Some(next), deadline) if deadline.is_none_or(|deadline| next <= deadline) => {
                self.step();
                !self.chance.strikes(Fault::EarlyReturn)
            }
            (_, Some(deadline)) if deadline > self.now => {
                let rest = deadline.since(self.now).as_nanos();
                let rest = usize::try_from(rest).unwrap_or(usize::MAX);
                if self.chance.strikes(Fault::EarlyReturn) {
                    let part = self.chance.up_to(Fault::EarlyReturn, rest);
                    self.now = self.now + Duration::from_nanos(part as u64);
                } else {
                    self.now = deadline;
                }
                false
            }
            _ => false,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Knock { client } => self.knock(client),
            Event::ConnectEnds { client, failure } => self.connect_ends(client, failure),
            Event::HandOff { listener, server } => self.hand_off(listener, server),
            Event::Arrive { end, bytes } => self.arrive(end, bytes),
            Event::EndArrives { end } => self.end_arrives(end),
            Event::ResetArrives { end } => self.reset_arrives(end),
            Event::WindowOpens { reader, bytes } => self.window_opens(reader, bytes),
            Event::Resume { end } => self.pump(end),
            Event::Due { source } => self.due(source),
            Event::Break { end } => self.break_connection(end),
            Event::CutShort { end } => self.cut_short(end),
            Event::Buffers => {}
        }
    }

    /// Changes the faults. Operations that were silent wake where [`Fault::SilentUntilCancel`] is
    /// off now.
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.chance.faults = faults;
        if self.chance.faults.silent_until_cancel > 0.0 {
            return;
        }
        let silent: Vec<_> =
            self.operations.iter().filter(|(_, op)| op.silent).map(|(source, _)| *source).collect();
        for source in silent {
            if let Some(op) = self.operations.get_mut(&source) {
                op.silent = false;
            }
            self.pump(source.id);
            self.poke(source);
        }
    }

    /// Puts an operation in line if it can complete and is not in line yet.
    pub(super) fn poke(&mut self, source: Source) {
        if self.can_complete(source) {
            self.line_up_after(source, Duration::ZERO);
        }
    }

    /// As [`poke`](Self::poke), for an operation that the system has just done.
    pub(super) fn poke_after_work(&mut self, source: Source) {
        if self.can_complete(source) {
            self.line_up_after(source, WORK_TIME);
        }
    }

    fn line_up_after(&mut self, source: Source, mut delay: Duration) {
        if self.chance.strikes(Fault::LateCompletion) {
            delay += self.chance.delay(Fault::LateCompletion);
        }
        self.line_up(source, delay);
    }

    /// Puts an operation in line, after a delay if there is one.
    fn line_up(&mut self, source: Source, delay: Duration) {
        let Some(op) = self.operations.get_mut(&source) else { return };
        if delay.is_zero() {
            op.stage = Stage::Ready;
            if let Some(queue) = self.ports.get_mut(&op.port) {
                queue.ready.push_back(source);
            }
        } else {
            op.stage = Stage::Late;
            self.after(delay, Event::Due { source });
        }
    }

    fn due(&mut self, source: Source) {
        if self.operations.get(&source).is_some_and(|op| op.stage == Stage::Late) {
            self.line_up(source, Duration::ZERO);
        }
    }

    /// Takes the next completion of a port that has so many free buffers.
    pub(super) fn take(&mut self, port: PortId, buffers: Buffers) -> Option<Delivery> {
        loop {
            let queue = self.ports.get_mut(&port)?;
            let have_buffers = buffers.free > 0 && self.now >= queue.no_buffers_until;
            let (source, parked) = if have_buffers && let Some(first) = queue.parked.pop_front() {
                (first, true)
            } else {
                let waiting = queue.ready.len();
                let turn = if waiting > 1 && self.chance.strikes(Fault::Reorder) {
                    self.chance.up_to(Fault::Reorder, waiting - 1)
                } else {
                    0
                };
                (queue.ready.remove(turn)?, false)
            };
            let piece_bytes = have_buffers.then_some(buffers.bytes_each);
            if let Some(delivery) = self.complete(source, piece_bytes, parked) {
                self.trace.record(self.now, port, &delivery);
                return Some(delivery);
            }
        }
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.0
    }
}

/// What a port has to receive into.
#[derive(Clone, Copy)]
pub(super) struct Buffers {
    pub(super) free: usize,
    pub(super) bytes_each: usize,
}

/// A running hash (FNV-1a, 64 bits) over every completion and its time.
struct Trace(u64);

impl Trace {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn record(&mut self, now: Time, port: PortId, delivery: &Delivery) {
        self.number(now.as_nanos());
        self.number(port);
        self.number(delivery.token.0);
        match &delivery.what {
            Delivered::Received(bytes) => {
                self.number(bytes.len() as u64);
                self.bytes(bytes);
            }
            // The names of the variants and of the errors, and an accepted socket's address.
            other => self.bytes(format!("{other:?}").as_bytes()),
        }
    }
}

/// How long the system works on an operation that it can do at once. Nothing is free: who does
/// nothing but submit gets older by it. The same for all, so that without faults those that are
/// submitted first are done first.
pub(super) const WORK_TIME: Duration = Duration::from_micros(10);

/// The first of the port numbers that are given out (RFC 6335, dynamic ports).
const FIRST_FREE_PORT: u16 = 49_152;
