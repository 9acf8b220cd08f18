//! Sending packets from handlers and from outside. Hot path: the body is made on the stack and copied
//! into the send queue from there.

use super::{OutputTooSmall, Packet};
use crate::{
    error::SendError,
    framing::FramingError,
    handle::Handle,
    handler::{Context, SessionId},
};

impl<S> Context<'_, S> {
    /// Queues a packet, as [`send_packet`](Self::send_packet) does. Allocates nothing for packets of
    /// at most 8 KiB whose size is fixed, or of at most 1 KiB whose size is not.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_typed<P: Packet>(&mut self, packet: &P) -> Result<(), SendError> {
        with_body(packet, |body| self.send_packet(P::ID, body))
    }

    /// As [`send_typed`](Self::send_typed), but a full queue only refuses: the session stays.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn try_send_typed<P: Packet>(&mut self, packet: &P) -> Result<(), SendError> {
        with_body(packet, |body| self.try_send_packet(P::ID, body))
    }
}

impl Handle {
    /// Sends a packet to a session, as [`send_packet`](Self::send_packet) does.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_typed<P: Packet>(&self, to: SessionId, packet: &P) -> Result<(), SendError> {
        with_body(packet, |body| self.send_packet(to, P::ID, body))
    }
}

/// Calls `send` with the packet's body, on the stack wherever it is known to fit.
#[inline]
fn with_body<P: Packet>(
    packet: &P,
    send: impl FnOnce(&[u8]) -> Result<(), SendError>,
) -> Result<(), SendError> {
    match const { stack_bytes(P::BODY_BYTES_MIN, P::BODY_BYTES_MAX) } {
        64 => with_body_on_stack::<P, 64>(packet, send),
        8192 => with_body_on_stack::<P, 8192>(packet, send),
        _ => with_body_on_stack::<P, 1024>(packet, send),
    }
}

/// How much stack to try first for bodies of these bounds. What does not fit is allocated.
const fn stack_bytes(min: usize, max: usize) -> usize {
    match max {
        0..=64 => 64,
        1025..=8192 if min > 1024 => 8192,
        _ => 1024,
    }
}

/// A function of its own, so that a small packet does not pay for the stack of a large one.
#[inline(never)]
fn with_body_on_stack<P: Packet, const BYTES: usize>(
    packet: &P,
    send: impl FnOnce(&[u8]) -> Result<(), SendError>,
) -> Result<(), SendError> {
    let mut buffer = [0; BYTES];
    match packet.encode(&mut buffer) {
        Ok(bytes) => send(&buffer[..bytes]),
        Err(OutputTooSmall { bytes }) => {
            let mut body = vec![0; bytes];
            let written = packet.encode(&mut body).map_err(|_| FramingError::OutputTooSmall)?;
            send(&body[..written])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_packets_up_to_8_kib_are_encoded_on_the_stack() {
        for bytes in 0..=8192 {
            let stack = stack_bytes(bytes, bytes);
            assert!(stack >= bytes && [64, 1024, 8192].contains(&stack), "{bytes}");
        }
        for (min, max) in [(1, 985), (0, usize::MAX), (10, 8192), (8193, 8193)] {
            assert_eq!(stack_bytes(min, max), 1024, "{min} to {max}");
        }
    }
}
