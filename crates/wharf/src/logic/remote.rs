//! Sending from a logic thread: what a handler says there goes to the session's worker in the order in
//! which it was said, through the outbox.

use crate::{
    error::SendError,
    framing::{Framing, Packet},
    sending::{Class, Sent},
    session::{Session, Shared},
};

impl Session {
    /// Writes a frame for the session's worker, which queues it in its turn. The answer counts all that
    /// is on its way there.
    pub(crate) fn enqueue_remotely(
        &mut self,
        shared: &mut Shared,
        framing: &dyn Framing,
        packet: Packet<'_>,
    ) -> Result<(), SendError> {
        let link = shared.link(self.id);
        if !self.is_open() || !link.is_live(self.id) {
            return Err(SendError::Closed);
        }
        let len = framing.encoded_len(packet.body.len());
        if link.unsent.bytes(self.id).saturating_add(len) > self.limits.send_queue_bytes_max {
            return Err(SendError::WouldExceed);
        }
        let written = link.post.write(self.id, framing, packet)?;
        link.unsent.write(self.id, written.ok_or(SendError::WouldExceed)?);
        Ok(())
    }

    /// As [`enqueue_remotely`](Self::enqueue_remotely) for the classes that may be dropped or overtake:
    /// that is the worker's to see. [`Sent::Queued`] means that it is on its way.
    pub(crate) fn enqueue_remotely_as(
        &mut self,
        shared: &mut Shared,
        framing: &dyn Framing,
        class: Class,
        packet: Packet<'_>,
    ) -> Result<Sent, SendError> {
        if class == Class::Reliable {
            return self.enqueue_remotely(shared, framing, packet).map(|()| Sent::Queued);
        }
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        shared.handle.send_as(self.id, class, packet.id, packet.body)
    }

    /// Everything for the peer that has not been handed to the system.
    pub(crate) fn queued_bytes(&self, shared: &Shared) -> usize {
        if shared.is_remote {
            shared.link(self.id).unsent.bytes(self.id)
        } else {
            self.queue.bytes()
        }
    }
}
