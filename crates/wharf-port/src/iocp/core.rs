//! What the steps of every operation need: the queue, the buffers, the counts.

use std::{cell::Cell, io, rc::Rc, sync::Arc};

use super::{
    packet::Packet,
    queue::Queue,
    winsock::{self, Extensions},
};
use crate::{
    buffer::RecvPool,
    contract::{Done, Outcome, Token},
    parked::Parked,
};

/// What trying an operation needs besides its socket.
pub(super) struct Core {
    pub(super) queue: Arc<Queue>,
    pub(super) extensions: Extensions,
    pub(super) pool: Rc<RecvPool>,
    /// Receives that wait for a buffer.
    pub(super) parked: Parked,
    /// Packets of sends that are over.
    pub(super) idle_sends: Vec<Rc<Packet>>,
    pub(super) accepts_outstanding: usize,
    /// What succeeds at once queues no packet.
    pub(super) skips: bool,
    pub(super) refuses_second_sends: bool,
    pub(super) operations_in_flight: usize,
    /// Packets that the system has.
    pub(super) packets_posted: Cell<usize>,
    pub(super) buffer_shortages: u64,
    pub(super) system_calls: Cell<u64>,
}

/// How the caller ends a streaming operation early.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    Pause,
    Cancel,
}

/// Whether and when an operation has to be tried again although no packet will say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Again {
    No,
    /// The system is short of memory.
    Later,
    Soon,
}

impl Core {
    pub(super) fn count_system_call(&self) {
        self.system_calls.set(self.system_calls.get() + 1);
    }

    pub(super) fn packet_posted(&self) {
        self.packets_posted.set(self.packets_posted.get() + 1);
    }

    pub(super) fn packet_returned(&self) {
        self.packets_posted.set(self.packets_posted.get() - 1);
    }

    /// Delivers an operation's final completion.
    pub(super) fn finish(&mut self, token: Token, outcome: Outcome, done: &mut Vec<Done>) {
        self.operations_in_flight -= 1;
        done.push(Done { token, outcome });
    }

    pub(super) fn keep_idle_send(&mut self, packet: Rc<Packet>) {
        if self.idle_sends.len() < IDLE_SENDS_MAX {
            self.idle_sends.push(packet);
        }
    }

    /// Makes a connection's socket this port's for life.
    pub(super) fn prepare(&self, os: &socket2::Socket) -> io::Result<()> {
        // Without effect on operations with a packet; what is there is received without one.
        self.count_system_call();
        os.set_nonblocking(true)?;
        self.count_system_call();
        self.queue.associate(os)?;
        if self.skips {
            self.count_system_call();
            winsock::skip_packets_on_success(os)?;
        }
        Ok(())
    }
}

/// Packets of sends kept for later ones; a kilobyte each.
const IDLE_SENDS_MAX: usize = 1024;
