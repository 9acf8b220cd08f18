//! 1-Send by accumulation: what waits for the end of a client's send in flight.

use wharf_port::{BufferPool, FrameBuf, Gather};

pub(crate) struct Sending {
    /// What the next send will take.
    waiting: Option<FrameBuf>,
    /// `None` while a send is in flight.
    gather: Option<Gather>,
}

impl Sending {
    pub(crate) fn new() -> Self {
        Self { waiting: None, gather: Some(Gather::new()) }
    }

    /// Puts the bytes behind those that wait. A full buffer is exchanged for a larger one: nothing
    /// is overwritten.
    pub(crate) fn put(&mut self, bytes: &[u8], pool: &BufferPool) {
        let waiting = self.waiting.get_or_insert_with(|| pool.take(WAITING_BYTES));
        let needed = waiting.len() + bytes.len();
        if needed > waiting.capacity() {
            let mut larger = pool.take(needed.max(2 * waiting.capacity()));
            larger.append(waiting);
            *waiting = larger;
        }
        waiting.append(bytes);
    }

    /// What to send now: all that waits, unless a send is in flight.
    pub(crate) fn next(&mut self) -> Option<Gather> {
        let mut gather = self.gather.take_if(|_| self.waiting.is_some())?;
        gather.push(self.waiting.take()?.freeze());
        Some(gather)
    }

    /// The send in flight is over.
    pub(crate) fn completed(&mut self, mut gather: Gather) {
        gather.clear();
        self.gather = Some(gather);
    }

    /// Lets go of what waits.
    pub(crate) fn clear(&mut self) {
        self.waiting = None;
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.gather.is_none()
    }

    /// So much waits that the client is to read first.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.len() > WAITING_BYTES)
    }
}

/// Room for what waits behind a send in flight. It grows for the answers to one packet; while more
/// than this waits, the client is not received from.
const WAITING_BYTES: usize = 4096;
