//! 1-Send by queue: what waits for the end of a client's send in flight.

use std::collections::VecDeque;

use wharf_port::{BufferPool, Frame, Gather};

pub(crate) struct Sending {
    /// What the next sends will take, and how much that is.
    waiting: VecDeque<Frame>,
    waiting_bytes: usize,
    /// `None` while a send is in flight.
    gather: Option<Gather>,
}

impl Sending {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), waiting_bytes: 0, gather: Some(Gather::new()) }
    }

    /// Puts the bytes behind those that wait.
    pub(crate) fn put(&mut self, bytes: &[u8], pool: &BufferPool) {
        let mut frame = pool.take(bytes.len());
        frame.append(bytes);
        self.waiting.push_back(frame.freeze());
        self.waiting_bytes += bytes.len();
    }

    /// What to send now: as much of what waits as one send takes, unless one is in flight.
    pub(crate) fn next(&mut self) -> Option<Gather> {
        let mut gather = self.gather.take_if(|_| !self.waiting.is_empty())?;
        while !gather.is_full()
            && let Some(frame) = self.waiting.pop_front()
        {
            self.waiting_bytes -= frame.len();
            gather.push(frame);
        }
        Some(gather)
    }

    /// The send in flight is over.
    pub(crate) fn completed(&mut self, mut gather: Gather) {
        gather.clear();
        self.gather = Some(gather);
    }

    /// Lets go of what waits.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.gather.is_none()
    }

    /// So much waits that the client is to read first.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting_bytes > WAITING_BYTES
    }
}

/// While more than this waits behind a send in flight, the client is not received from: the queue
/// holds this and the answers to one packet.
const WAITING_BYTES: usize = 4096;
