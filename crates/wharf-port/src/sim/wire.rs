//! Connections: two ends, and in each direction bytes on their way and bytes that have arrived.
//!
//! What writers may have under way is bounded by a window, which the reader opens by reading. A
//! reset destroys what is on its way; what has arrived it leaves to be read, as on Linux, or destroys as
//! well ([`Fault::UnreadLost`]). It comes not only of those who ask for it: who closes with unread input,
//! or is sent something when it has closed, answers with one.

use std::{collections::VecDeque, io, net::SocketAddr};

use super::{
    CONNECT_TIMEOUT,
    faults::Fault,
    in_flight::{Lane, Source},
    world::{Event, Id, World},
};
use crate::{
    accept::TURNED_AWAY_MAX,
    contract::{Close, Time},
};

/// One end of a connection.
pub(super) struct End {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The other end; it may be gone.
    pub(super) other: Option<Id>,
    pub(super) phase: Phase,
    /// Why the connection is no more.
    pub(super) failure: Option<io::ErrorKind>,
    /// Sent by the other end and not yet here.
    under_way: VecDeque<u8>,
    /// Here and unread.
    pub(super) arrived: VecDeque<u8>,
    /// The other end's stream has ended behind what has arrived.
    pub(super) ended: bool,
    /// What the other end may have unacknowledged, and has.
    window_bytes: usize,
    unacknowledged_bytes: usize,
    /// When the last segment to here arrives; nothing overtakes it.
    last_arrival: Time,
    /// This end has ended its own stream.
    pub(super) finished: bool,
    /// Its owner is gone; it goes on until the other end's stream has ended.
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has happened yet, or this is the server's end and nobody knows of it yet.
    New,
    /// The client's end waits for an answer.
    Connecting,
    /// Established.
    Open,
}

/// A listening socket.
pub(super) struct Listener {
    pub(super) local: SocketAddr,
    pub(super) backlog: VecDeque<Id>,
}

impl End {
    fn new(local: SocketAddr, remote: SocketAddr, window_bytes: usize) -> Self {
        Self {
            local,
            remote,
            other: None,
            phase: Phase::New,
            failure: None,
            under_way: VecDeque::new(),
            arrived: VecDeque::new(),
            ended: false,
            window_bytes,
            unacknowledged_bytes: 0,
            last_arrival: Time::ZERO,
            finished: false,
            closed: false,
        }
    }

    /// Why nothing can be sent from this end.
    pub(super) fn send_failure(&self) -> Option<io::ErrorKind> {
        if self.failure.is_some() {
            self.failure
        } else if self.phase != Phase::Open {
            Some(io::ErrorKind::NotConnected)
        } else {
            self.finished.then_some(io::ErrorKind::BrokenPipe)
        }
    }

    /// How much more may be written to this end.
    fn room(&self) -> usize {
        self.window_bytes.saturating_sub(self.unacknowledged_bytes)
    }
}

/// Making connections.
impl World {
    /// An end that is to connect to `remote`.
    pub(super) fn new_end(&mut self, local: SocketAddr, remote: SocketAddr) -> Id {
        let local = self.resolve(local);
        let id = self.next_id();
        self.ends.insert(id, End::new(local, remote, self.window_bytes));
        id
    }

    /// Starts connecting; what is written meanwhile waits for the answer.
    pub(super) fn start_connecting(&mut self, client: Id, to: SocketAddr) {
        if self.ends.get(&client).is_none_or(|end| end.phase != Phase::New) {
            return self.connected(client, Err(io::ErrorKind::InvalidInput));
        }
        let server = self.next_id();
        let window = self.window_bytes;
        let refused = self.chance.strikes(Fault::ConnectRefused);
        let unanswered = !refused && self.chance.strikes(Fault::ConnectTimedOut);
        let mut delay = self.chance.latency();
        let arrival = self.now + delay;
        let Some(end) = self.ends.get_mut(&client) else { return };
        end.phase = Phase::Connecting;
        end.remote = to;
        end.other = Some(server);
        let mut other = End::new(to, end.local, window);
        other.other = Some(client);
        other.last_arrival = arrival;
        self.ends.insert(server, other);
        let failure = if refused {
            io::ErrorKind::ConnectionRefused
        } else if unanswered {
            delay = CONNECT_TIMEOUT;
            io::ErrorKind::TimedOut
        } else {
            return self.at(arrival, Event::Knock { client });
        };
        self.after(delay, Event::ConnectEnds { client, failure: Some(failure) });
    }

    pub(super) fn knock(&mut self, client: Id) {
        let Some(end) = self.ends.get(&client) else { return };
        let Some(server) = end.other else { return };
        let to = end.remote;
        let delay = self.chance.latency();
        let open: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, l)| listens_on(l.local, to))
            .map(|(id, _)| *id)
            .collect();
        if open.is_empty() {
            let failure = Some(io::ErrorKind::ConnectionRefused);
            return self.after(delay, Event::ConnectEnds { client, failure });
        }
        let listener = open[self.chance.listener(open.len())];
        if self.listeners[&listener].backlog.len() >= BACKLOG_MAX {
            let failure = Some(io::ErrorKind::TimedOut);
            return self.after(CONNECT_TIMEOUT, Event::ConnectEnds { client, failure });
        }
        if let Some(server) = self.ends.get_mut(&server) {
            server.phase = Phase::Open;
        }
        let answer = self.now + delay;
        if let Some(client) = self.ends.get_mut(&client) {
            client.last_arrival = answer;
        }
        self.at(answer, Event::ConnectEnds { client, failure: None });
        self.strike_connection(client);
        self.strike_connection(server);
        if self.chance.strikes(Fault::ListenerDelay) {
            let delay = self.chance.delay(Fault::ListenerDelay);
            self.after(delay, Event::HandOff { listener, server });
        } else {
            self.hand_off(listener, server);
        }
    }

    pub(super) fn connect_ends(&mut self, client: Id, failure: Option<io::ErrorKind>) {
        let Some(end) = self.ends.get_mut(&client) else { return };
        if end.failure.is_some() || end.phase != Phase::Connecting {
            return;
        }
        if let Some(kind) = failure {
            let server = end.other.take();
            if let Some(server) = server {
                self.ends.remove(&server);
            }
            return self.fail(client, kind);
        }
        end.phase = Phase::Open;
        self.connected(client, Ok(()));
        self.pump(client);
    }

    pub(super) fn hand_off(&mut self, listener: Id, server: Id) {
        match self.listeners.get_mut(&listener) {
            Some(listener) => listener.backlog.push_back(server),
            None => return self.close(server, Close::Reset),
        }
        self.poke(Source { id: listener, lane: Lane::Accept });
    }

    /// Closes some of those that wait on this listener; says how many.
    pub(super) fn turn_away(&mut self, listener: Id) -> usize {
        let Some(listener) = self.listeners.get_mut(&listener) else { return 0 };
        let count = listener.backlog.len().min(TURNED_AWAY_MAX);
        let turned: Vec<Id> = listener.backlog.drain(..count).collect();
        turned.into_iter().for_each(|server| self.close(server, Close::Graceful));
        count
    }

    pub(super) fn close_listener(&mut self, listener: Id) {
        let Some(listener) = self.listeners.remove(&listener) else { return };
        for server in listener.backlog {
            self.close(server, Close::Reset);
        }
    }

    pub(super) fn is_in_use(&self, address: SocketAddr) -> bool {
        self.listeners.values().any(|listener| {
            listens_on(listener.local, address) || listens_on(address, listener.local)
        })
    }
}

/// Bytes and ends.
impl World {
    /// How much can be written on this end at present; `None` if nothing can ever be.
    pub(super) fn room(&self, end: Id) -> Option<usize> {
        let end = self.ends.get(&end)?;
        if end.failure.is_some() || end.finished || end.phase == Phase::New {
            return None;
        }
        // Where the other end is gone, a reset is on its way and bytes go nowhere.
        Some(end.other.and_then(|other| self.ends.get(&other)).map_or(usize::MAX, End::room))
    }

    /// Sends as much of these bytes as there is room for.
    pub(super) fn write(&mut self, end: Id, bytes: &[u8]) -> usize {
        let len = self.room(end).unwrap_or(0).min(bytes.len());
        let Some(other) = self.ends.get(&end).and_then(|end| end.other) else { return len };
        let Some(receiver) = self.ends.get_mut(&other) else { return len };
        if len > 0 {
            receiver.under_way.extend(&bytes[..len]);
            receiver.unacknowledged_bytes += len;
            self.in_order(other, Event::Arrive { end: other, bytes: len });
        }
        len
    }

    /// Takes up to `max` bytes that have arrived.
    pub(super) fn read(&mut self, end: Id, max: usize) -> Vec<u8> {
        let Some(reader) = self.ends.get_mut(&end) else { return Vec::new() };
        let len = reader.arrived.len().min(max);
        let bytes: Vec<u8> = reader.arrived.drain(..len).collect();
        if len > 0 {
            let delay = self.chance.latency();
            self.after(delay, Event::WindowOpens { reader: end, bytes: len });
        }
        bytes
    }

    pub(super) fn window_opens(&mut self, reader: Id, bytes: usize) {
        let Some(end) = self.ends.get_mut(&reader) else { return };
        end.unacknowledged_bytes -= bytes;
        if let Some(writer) = end.other {
            self.pump(writer);
        }
    }

    pub(super) fn arrive(&mut self, id: Id, bytes: usize) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        // A reset or an early end has destroyed what is not there any more.
        let bytes = bytes.min(end.under_way.len());
        if bytes == 0 {
            return;
        }
        if end.closed {
            return self.reset_other(id);
        }
        end.arrived.extend(end.under_way.drain(..bytes));
        self.strike_connection(id);
        self.poke(Source { id, lane: Lane::Receive });
    }

    /// Ends this end's stream.
    pub(super) fn finish(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if end.failure.is_some() || end.finished || end.phase == Phase::New {
            return;
        }
        end.finished = true;
        let other = end.other.filter(|other| self.ends.contains_key(other));
        if let Some(other) = other {
            self.in_order(other, Event::EndArrives { end: other });
        }
        self.pump(id);
    }

    pub(super) fn end_arrives(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.ended = true;
        if end.closed {
            self.remove(id);
        } else {
            self.poke(Source { id, lane: Lane::Receive });
        }
    }

    /// The owner is done with this end.
    pub(super) fn close(&mut self, id: Id, how: Close) {
        let Some(end) = self.ends.get(&id) else { return };
        let other_is_there = end.other.is_some_and(|other| self.ends.contains_key(&other));
        let Some(end) = self.ends.get_mut(&id) else { return };
        if end.failure.is_some() || !other_is_there {
            self.remove(id);
        } else if how == Close::Reset || !end.arrived.is_empty() || end.phase == Phase::Connecting {
            // Unread input makes a close a reset (RFC 2525, 2.17), which loses what is under way.
            self.reset_other(id);
        } else {
            end.closed = true;
            let done = end.ended;
            self.finish(id);
            if done {
                self.remove(id);
            }
        }
    }

    /// Removes this end, and the other if that has not been told of the connection yet: it never will
    /// be.
    fn remove(&mut self, id: Id) {
        let Some(other) = self.ends.remove(&id).and_then(|end| end.other) else { return };
        if self.ends.get(&other).is_some_and(|end| end.phase == Phase::New) {
            self.ends.remove(&other);
        }
    }

    /// Removes this end and sends a reset to the other.
    fn reset_other(&mut self, id: Id) {
        let Some(other) = self.ends.remove(&id).and_then(|end| end.other) else { return };
        let Some(end) = self.ends.get_mut(&other) else { return };
        end.under_way.clear();
        if end.phase == Phase::New {
            // It has not been told of the connection yet, and never will be.
            self.ends.remove(&other);
        } else {
            self.in_order(other, Event::ResetArrives { end: other });
        }
    }

    /// The other end's reset, or one by somebody between the two.
    pub(super) fn reset_arrives(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if !end.arrived.is_empty() && self.chance.strikes(Fault::UnreadLost) {
            end.arrived.clear();
        }
        self.fail(id, io::ErrorKind::ConnectionReset);
    }

    /// The connection is no more, as far as this end knows.
    pub(super) fn fail(&mut self, id: Id, kind: io::ErrorKind) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        end.failure.get_or_insert(kind);
        end.under_way.clear();
        if end.closed {
            self.remove(id);
            return;
        }
        self.connected(id, Err(kind));
        self.pump(id);
        self.poke(Source { id, lane: Lane::Receive });
    }

    /// Something that travels to this end arrives behind everything else that does.
    fn in_order(&mut self, to: Id, event: Event) {
        let delay = self.chance.latency();
        let Some(end) = self.ends.get_mut(&to) else { return };
        end.last_arrival = end.last_arrival.max(self.now + delay);
        let time = end.last_arrival;
        self.at(time, event);
    }
}

/// Faults of connections.
impl World {
    /// Decides whether the connection is to break soon, or this end's stream to be cut short.
    fn strike_connection(&mut self, end: Id) {
        if self.chance.strikes(Fault::Reset) {
            let delay = self.chance.delay(Fault::Reset);
            self.after(delay, Event::Break { end });
        }
        if self.chance.strikes(Fault::EarlyEnd) {
            let delay = self.chance.delay(Fault::EarlyEnd);
            self.after(delay, Event::CutShort { end });
        }
    }

    pub(super) fn break_connection(&mut self, id: Id) {
        let other = self.ends.get(&id).and_then(|end| end.other);
        for id in [Some(id), other].into_iter().flatten() {
            self.reset_arrives(id);
        }
    }

    pub(super) fn cut_short(&mut self, id: Id) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if end.finished || end.failure.is_some() {
            return;
        }
        end.finished = true;
        let other = end.other;
        self.pump(id);
        if let Some(other) = other.filter(|other| self.ends.contains_key(other)) {
            self.ends.get_mut(&other).expect("just looked up").under_way.clear();
            self.end_arrives(other);
        }
    }
}

/// Whether a listener on `local` takes connections to `address`.
fn listens_on(local: SocketAddr, address: SocketAddr) -> bool {
    let any = local.ip().is_unspecified() && local.is_ipv4() == address.is_ipv4();
    local.port() == address.port() && (any || local.ip() == address.ip())
}

/// Connections that a listener keeps waiting; more are not answered.
const BACKLOG_MAX: usize = 4096;
