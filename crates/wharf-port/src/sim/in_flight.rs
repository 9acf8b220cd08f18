//! Operations in flight: what starts them, what ends them, and the next completion of each.

use std::{io, net::SocketAddr, time::Duration};

use super::{
    faults::Fault,
    wire::{End, Phase},
    world::{Event, Id, PortId, WORK_TIME, World},
};
use crate::contract::{AcceptEnd, Close, ReceiveEnd, SendError, Socket, Token};

/// Names an operation: an end or a listener, and which of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) id: Id,
    pub(super) lane: Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Accept,
    Connect,
    Receive,
    Send,
}

/// An operation in flight.
pub(super) struct Operation {
    pub(super) port: PortId,
    pub(super) stage: Stage,
    /// Does nothing until it is cancelled ([`Fault::SilentUntilCancel`]).
    pub(super) silent: bool,
    socket: Socket,
    token: Token,
    ending: Option<Ending>,
    /// What may still come before it ends: bytes of a receive, connections of an accept.
    before_end: usize,
    work: Work,
}

/// Where an operation stands on its way to its next completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the system.
    Working,
    /// Completed, but the port is not to know yet.
    Late,
    /// In line.
    Ready,
    /// In line for a buffer.
    Parked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Paused,
    Cancelled,
    CreditSpent,
}

/// What an operation is to do, and how far it is.
pub(super) enum Work {
    Accept,
    Connect { result: Option<Result<(), io::ErrorKind>> },
    Receive { credit_left: usize, once: bool },
    Send { bytes: Vec<u8>, sent: usize, result: Option<Result<(), io::ErrorKind>> },
}

/// A completion on its way to its port.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) socket: Socket,
    pub(super) token: Token,
    pub(super) what: Delivered,
}

#[derive(Debug)]
pub(super) enum Delivered {
    Accepted { end: Id, remote: SocketAddr },
    AcceptEnded(AcceptEnd),
    Connected(io::Result<()>),
    Received(Vec<u8>),
    ReceiveEnded(ReceiveEnd),
    ReceivedOnce(Result<Vec<u8>, ReceiveEnd>),
    Sent(Result<(), SendError>),
}

impl Delivered {
    /// Whether nothing comes after it (P1).
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Delivered::Accepted { .. } | Delivered::Received(_))
    }
}

/// Starting and ending.
impl World {
    pub(super) fn start(
        &mut self,
        source: Source,
        port: PortId,
        socket: Socket,
        token: Token,
        work: Work,
    ) {
        let operation = Operation {
            port,
            stage: Stage::Working,
            silent: self.chance.strikes(Fault::SilentUntilCancel),
            socket,
            token,
            ending: None,
            before_end: 0,
            work,
        };
        self.operations.insert(source, operation);
        self.pump(source.id);
        self.poke_after_work(source);
    }

    /// Ends the accept or receive of this socket.
    pub(super) fn pause(&mut self, id: Id) {
        for lane in [Lane::Accept, Lane::Receive] {
            self.end_early(Source { id, lane }, Ending::Paused);
        }
    }

    /// Ends everything that is in flight on this socket.
    pub(super) fn cancel(&mut self, id: Id) {
        for lane in [Lane::Accept, Lane::Connect, Lane::Receive, Lane::Send] {
            self.end_early(Source { id, lane }, Ending::Cancelled);
        }
    }

    fn end_early(&mut self, source: Source, ending: Ending) {
        let could_succeed = self.could_succeed(source);
        let Some(op) = self.operations.get_mut(&source) else { return };
        if op.ending.is_some() {
            return;
        }
        op.ending = Some(ending);
        let raced = could_succeed > 0 && self.chance.strikes(Fault::SuccessAfterCancel);
        let mut rest = None;
        match &mut op.work {
            Work::Accept | Work::Receive { .. } if raced => op.before_end = could_succeed,
            Work::Accept | Work::Receive { .. } => {}
            Work::Connect { result } if op.silent && !raced => *result = None,
            Work::Connect { .. } => {}
            Work::Send { bytes, sent, result } if raced => {
                rest = Some(bytes.split_off(*sent));
                *result = Some(Ok(()));
            }
            Work::Send { .. } => {}
        }
        op.silent = false;
        if op.stage == Stage::Parked {
            op.stage = Stage::Working;
            if let Some(queue) = self.ports.get_mut(&op.port) {
                queue.parked.retain(|parked| *parked != source);
            }
        }
        if let Some(rest) = rest {
            self.write(source.id, &rest);
        }
        self.poke(source);
    }

    /// How much of what the operation waits for could still come although it is cancelled: bytes,
    /// connections, or 1 for all of it.
    fn could_succeed(&self, source: Source) -> usize {
        let Some(op) = self.operations.get(&source) else { return 0 };
        match &op.work {
            Work::Accept => self.listeners[&source.id].backlog.len().min(1),
            Work::Connect { result } => usize::from(op.silent && *result == Some(Ok(()))),
            Work::Receive { credit_left, .. } => {
                self.ends[&source.id].arrived.len().min(*credit_left)
            }
            Work::Send { bytes, sent, result: None } => {
                let open = self.ends[&source.id].phase == Phase::Open;
                let fits = self.room(source.id).is_some_and(|room| bytes.len() - sent <= room);
                usize::from(open && fits)
            }
            Work::Send { .. } => 0,
        }
    }

    /// A port is gone with these operations in flight.
    pub(super) fn forget(&mut self, id: Id) {
        for lane in [Lane::Accept, Lane::Connect, Lane::Receive, Lane::Send] {
            self.operations.remove(&Source { id, lane });
        }
    }
}

/// Progress.
impl World {
    /// The end's connect, if there is one, is over.
    pub(super) fn connected(&mut self, id: Id, how: Result<(), io::ErrorKind>) {
        let source = Source { id, lane: Lane::Connect };
        let Some(op) = self.operations.get_mut(&source) else { return };
        if let Work::Connect { result: result @ None } = &mut op.work {
            *result = Some(how);
            self.poke(source);
        }
    }

    /// Lets the end's send, if there is one, send what there is room for.
    pub(super) fn pump(&mut self, id: Id) {
        let source = Source { id, lane: Lane::Send };
        let failure = self.ends.get(&id).and_then(End::send_failure);
        let Some(op) = self.operations.get_mut(&source) else { return };
        let Work::Send { bytes, sent, result: result @ None } = &mut op.work else { return };
        if op.silent || op.ending.is_some() {
            return;
        }
        if failure.is_some() {
            *result = failure.map(Err);
        } else {
            let (all, so_far) = (std::mem::take(bytes), *sent);
            let len = self.send_part(id, &all[so_far..]);
            self.sent(source, all, so_far + len);
        }
        self.poke_after_work(source);
    }

    /// Sends what there is room for, or less.
    fn send_part(&mut self, id: Id, rest: &[u8]) -> usize {
        let fits = rest.len().min(self.room(id).unwrap_or(0));
        let short = fits > 1 && self.chance.strikes(Fault::ShortSend);
        let len = if short { self.chance.up_to(Fault::ShortSend, fits - 1) } else { fits };
        self.write(id, &rest[..len]);
        if short {
            self.after(WORK_TIME, Event::Resume { end: id });
        }
        len
    }

    fn sent(&mut self, source: Source, all: Vec<u8>, so_far: usize) {
        let Some(op) = self.operations.get_mut(&source) else { return };
        let Work::Send { bytes, sent, result } = &mut op.work else { return };
        if so_far == all.len() {
            *result = Some(Ok(()));
        }
        *bytes = all;
        *sent = so_far;
    }

    /// Whether the operation has a completion to give and is not in line for it yet.
    pub(super) fn can_complete(&self, source: Source) -> bool {
        let Some(op) = self.operations.get(&source) else { return false };
        if op.stage != Stage::Working || op.silent {
            return false;
        }
        op.ending.is_some()
            || match &op.work {
                Work::Accept => !self.listeners[&source.id].backlog.is_empty(),
                Work::Connect { result } | Work::Send { result, .. } => result.is_some(),
                Work::Receive { .. } => {
                    let end = &self.ends[&source.id];
                    !end.arrived.is_empty() || end.ended || end.failure.is_some()
                }
            }
    }
}

/// Completions.
impl World {
    /// The next completion of an operation whose turn it is, if it still has one. `piece_bytes` is
    /// the size of a free buffer, `None` where there is none.
    pub(super) fn complete(
        &mut self,
        source: Source,
        piece_bytes: Option<usize>,
        parked: bool,
    ) -> Option<Delivery> {
        let op = self.operations.get_mut(&source)?;
        op.stage = Stage::Working;
        let (socket, token) = (op.socket, op.token);
        let what = match source.lane {
            Lane::Accept => self.complete_accept(source),
            Lane::Receive => self.complete_receive(source, piece_bytes, parked),
            Lane::Connect | Lane::Send => self.complete_once(source),
        }?;
        if what.is_final() {
            self.operations.remove(&source);
        } else {
            self.poke(source);
        }
        Some(Delivery { socket, token, what })
    }

    fn complete_accept(&mut self, source: Source) -> Option<Delivered> {
        let op = self.operations.get_mut(&source)?;
        let listener = self.listeners.get_mut(&source.id)?;
        let ended = |end| Some(Delivered::AcceptEnded(end));
        match op.ending {
            Some(Ending::Cancelled) if op.before_end == 0 => return ended(AcceptEnd::Cancelled),
            Some(_) if op.before_end == 0 => return ended(AcceptEnd::Paused),
            Some(_) => op.before_end -= 1,
            None if listener.backlog.is_empty() => return None,
            None if self.chance.strikes(Fault::DescriptorsExhausted) => {
                return ended(AcceptEnd::Failed(descriptors_exhausted()));
            }
            None => {}
        }
        let aborted = op.ending.is_none() && self.chance.strikes(Fault::AcceptAborted);
        let end = listener.backlog.pop_front()?;
        if aborted {
            self.close(end, Close::Reset);
            return ended(AcceptEnd::Failed(io::ErrorKind::ConnectionAborted.into()));
        }
        let remote = self.ends.get(&end)?.remote;
        Some(Delivered::Accepted { end, remote })
    }

    fn complete_receive(
        &mut self,
        source: Source,
        piece_bytes: Option<usize>,
        parked: bool,
    ) -> Option<Delivered> {
        let op = self.operations.get_mut(&source)?;
        let end = self.ends.get(&source.id)?;
        let Work::Receive { credit_left, once } = op.work else { return None };
        let limit = if op.ending.is_some() { op.before_end } else { credit_left };
        let there = end.arrived.len().min(limit);
        if there > 0 {
            let short_of_buffers = piece_bytes.is_some()
                && !parked
                && op.ending.is_none()
                && self.chance.strikes(Fault::NoBuffer);
            match piece_bytes {
                Some(piece_bytes) if !short_of_buffers => {
                    let bytes = self.receive_piece(source, there.min(piece_bytes));
                    return Some(if once {
                        Delivered::ReceivedOnce(Ok(bytes))
                    } else {
                        Delivered::Received(bytes)
                    });
                }
                _ if op.ending.is_none() => {
                    self.park(source, short_of_buffers);
                    return None;
                }
                // It ends now; the bytes stay for the next receive.
                _ => {}
            }
        }
        let ended = |end| {
            Some(if once {
                Delivered::ReceivedOnce(Err(end))
            } else {
                Delivered::ReceiveEnded(end)
            })
        };
        match op.ending {
            Some(Ending::Paused) => ended(ReceiveEnd::Paused),
            Some(Ending::Cancelled) => ended(ReceiveEnd::Cancelled),
            Some(Ending::CreditSpent) => ended(ReceiveEnd::CreditSpent),
            None if end.failure.is_some() => {
                ended(ReceiveEnd::Failed(end.failure.expect("just checked").into()))
            }
            None if end.ended => ended(ReceiveEnd::EndOfStream),
            None => None,
        }
    }

    /// Receives up to `len` bytes, which are there, and charges the credit with them (P9).
    fn receive_piece(&mut self, source: Source, len: usize) -> Vec<u8> {
        let short = len > 1 && self.chance.strikes(Fault::ShortReceive);
        let len = if short { self.chance.up_to(Fault::ShortReceive, len - 1) } else { len };
        let bytes = self.read(source.id, len);
        let still_there = self.ends.get(&source.id).map_or(0, |end| end.arrived.len());
        if let Some(op) = self.operations.get_mut(&source)
            && let Work::Receive { credit_left, once: false } = &mut op.work
        {
            if op.ending.is_some() {
                op.before_end -= len;
            } else {
                *credit_left -= len;
                if *credit_left == 0 {
                    op.ending = Some(Ending::CreditSpent);
                    let overrun = still_there > 0 && self.chance.strikes(Fault::CreditOverrun);
                    op.before_end = if overrun { still_there } else { 0 };
                }
            }
        }
        bytes
    }

    /// Puts a receive in line for a buffer; `by_fault`: the port has none for a while.
    fn park(&mut self, source: Source, by_fault: bool) {
        let delay = if by_fault { self.chance.delay(Fault::NoBuffer) } else { Duration::ZERO };
        let Some(op) = self.operations.get_mut(&source) else { return };
        op.stage = Stage::Parked;
        let Some(queue) = self.ports.get_mut(&op.port) else { return };
        queue.parked.push_back(source);
        queue.shortages += 1;
        if by_fault {
            queue.no_buffers_until = self.now + delay;
            self.after(delay, Event::Buffers);
        }
    }

    fn complete_once(&mut self, source: Source) -> Option<Delivered> {
        let op = self.operations.get(&source)?;
        match &op.work {
            Work::Connect { result } => match result {
                Some(result) => Some(Delivered::Connected(result.map_err(io::Error::from))),
                None => op.ending.map(|_| Delivered::Connected(Err(cancelled()))),
            },
            Work::Send { result, .. } => match result {
                Some(result) => {
                    Some(Delivered::Sent(result.map_err(|kind| SendError::Failed(kind.into()))))
                }
                None => op.ending.map(|_| Delivered::Sent(Err(SendError::Cancelled))),
            },
            Work::Accept | Work::Receive { .. } => None,
        }
    }
}

/// As the system reports it, where there is one.
fn descriptors_exhausted() -> io::Error {
    #[cfg(unix)]
    return io::Error::from_raw_os_error(libc::EMFILE);
    #[cfg(windows)]
    return io::Error::from_raw_os_error(windows_sys::Win32::Networking::WinSock::WSAEMFILE);
    #[cfg(not(any(unix, windows)))]
    return io::Error::other("no descriptor is left");
}

/// As the system reports it, where there is one.
fn cancelled() -> io::Error {
    #[cfg(unix)]
    return io::Error::from_raw_os_error(libc::ECANCELED);
    #[cfg(not(unix))]
    return io::Error::other("the operation was cancelled");
}
