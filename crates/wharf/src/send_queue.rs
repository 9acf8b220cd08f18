//! 1-Send: one send in flight per session, everything queued meanwhile leaves in the next.
//!
//! Hot path: [`SendQueue::append`] writes a frame behind the others, [`SendQueue::fill`] makes the
//! gather for the next send. Small frames are copied together into one pooled block, so that sixteen
//! answers cost one buffer and one system call.

use std::collections::VecDeque;

use wharf_port::{BufferPool, Frame, FrameBuf, Gather};

/// What waits to be sent on one session, in order.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// Blocks that are full.
    full: VecDeque<Frame>,
    /// The block being written, behind all the full ones.
    tail: Option<FrameBuf>,
    /// Bytes in `full` and `tail`.
    waiting_bytes: usize,
    /// Bytes that the port has.
    in_flight_bytes: usize,
}

impl SendQueue {
    /// Everything that has not been handed to the system: waiting and in flight.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting_bytes + self.in_flight_bytes
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting_bytes == 0
    }

    /// Appends one frame behind the others: `write` gets room for `len` bytes, in which may be what
    /// is left over from other sessions, and says how many it has written. `hint` says how many
    /// bytes are likely to follow in all; it saves copies and never costs correctness.
    ///
    /// # Errors
    /// What `write` answers; nothing is appended then.
    #[inline]
    pub(crate) fn append<E>(
        &mut self,
        pool: &BufferPool,
        len: usize,
        hint: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let fits = self.tail.as_mut().is_some_and(|tail| tail.spare_mut().len() >= len);
        if !fits {
            self.make_room(pool, len, hint);
        }
        let tail = self.tail.as_mut().expect("made above");
        let written = write(&mut tail.spare_mut()[..len]);
        match written {
            Ok(bytes) if bytes > 0 => {
                tail.advance(bytes);
                self.waiting_bytes += bytes;
            }
            _ if self.is_empty() => self.release(),
            _ => {}
        }
        written
    }

    /// Continues in a larger block while that is small enough to copy into, in another one beyond.
    #[cold]
    fn make_room(&mut self, pool: &BufferPool, len: usize, hint: usize) {
        let old = self.tail.take();
        let wanted = len.max(hint.min(ACCUMULATE_BYTES_MAX));
        let mut tail = match old {
            None => pool.take(wanted),
            Some(old) if old.len() + len <= ACCUMULATE_BYTES_MAX => {
                let mut larger = pool.take((old.len() + wanted).min(ACCUMULATE_BYTES_MAX));
                larger.append(&old);
                larger
            }
            Some(old) => {
                if !old.is_empty() {
                    self.full.push_back(old.freeze());
                }
                pool.take(wanted)
            }
        };
        debug_assert!(tail.spare_mut().len() >= len);
        self.tail = Some(tail);
    }

    /// Moves what comes next into an empty `gather`: in order, at most 64 frames, and 64 KiB unless
    /// the first frame alone is larger.
    pub(crate) fn fill(&mut self, gather: &mut Gather) {
        debug_assert!(gather.is_empty() && self.in_flight_bytes == 0);
        while !gather.is_full() {
            if self.full.is_empty() {
                match self.tail.take() {
                    Some(tail) if !tail.is_empty() => self.full.push_back(tail.freeze()),
                    _ => break,
                }
            }
            let fits = |frame: &Frame| {
                gather.is_empty() || gather.bytes() + frame.len() <= GATHER_BYTES_MAX
            };
            if !self.full.front().is_some_and(fits) {
                break;
            }
            gather.push(self.full.pop_front().expect("looked at above"));
        }
        self.waiting_bytes -= gather.bytes();
        self.in_flight_bytes = gather.bytes();
    }

    /// The send is over: everything that was in flight has been handed to the system.
    #[inline]
    pub(crate) fn on_sent(&mut self) {
        self.in_flight_bytes = 0;
    }

    /// Throws away what waits; returns how many bytes that was.
    pub(crate) fn clear(&mut self) -> usize {
        let lost = self.waiting_bytes;
        *self = Self { in_flight_bytes: self.in_flight_bytes, ..Self::default() };
        lost
    }

    /// Gives up the room that the queue keeps; call it when nothing waits, so that an idle session
    /// holds none.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.tail = None;
        if self.full.capacity() > KEPT_FRAMES_MAX {
            self.full = VecDeque::new();
        }
    }
}

/// Frames are copied together into blocks of at most this size; beyond it another block is cheaper
/// than copying on.
const ACCUMULATE_BYTES_MAX: usize = 16 * 1024;

/// What leaves in one send, in bytes.
const GATHER_BYTES_MAX: usize = 64 * 1024;

/// Room for frames that a drained queue keeps.
const KEPT_FRAMES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn append(queue: &mut SendQueue, pool: &BufferPool, bytes: &[u8], hint: usize) {
        let write = |room: &mut [u8]| {
            room[..bytes.len()].copy_from_slice(bytes);
            Ok::<_, ()>(bytes.len())
        };
        queue.append(pool, bytes.len() + 2, hint, write).unwrap();
    }

    proptest! {
        /// Whatever is appended, and whenever a send takes and finishes: the same bytes leave in the
        /// same order, no gather is too long, and nothing is left over.
        #[test]
        fn bytes_leave_in_order(steps in proptest::collection::vec((0..5000_usize, 0..9000_usize, any::<bool>()), 1..80)) {
            let pool = BufferPool::new(false);
            let (mut queue, mut gather) = (SendQueue::default(), Gather::new());
            let (mut expected, mut sent, mut next) = (Vec::new(), Vec::new(), 0_u8);
            let mut send = |queue: &mut SendQueue, sent: &mut Vec<u8>| {
                queue.fill(&mut gather);
                prop_assert!(gather.frames().len() <= Gather::FRAMES_MAX);
                prop_assert!(gather.bytes() <= GATHER_BYTES_MAX);
                gather.frames().iter().for_each(|frame| sent.extend_from_slice(frame));
                gather.clear();
                queue.on_sent();
                Ok(())
            };
            for (len, hint, flush) in steps {
                let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                append(&mut queue, &pool, &bytes, hint);
                expected.extend_from_slice(&bytes);
                prop_assert_eq!(queue.bytes(), expected.len() - sent.len());
                if flush { send(&mut queue, &mut sent)?; }
            }
            while !queue.is_empty() { send(&mut queue, &mut sent)?; }
            queue.release();
            prop_assert!(sent == expected);
            prop_assert_eq!(pool.blocks_in_use(), 0);
        }
    }

    #[test]
    fn small_frames_leave_as_one_buffer_and_large_ones_are_not_copied_together() {
        let pool = BufferPool::new(false);
        let (mut queue, mut gather) = (SendQueue::default(), Gather::new());
        (0..100).for_each(|_| append(&mut queue, &pool, &[1; 100], 0));
        queue.fill(&mut gather);
        assert_eq!((gather.frames().len(), gather.bytes()), (1, 10_000));
        queue.on_sent();
        gather.clear();
        (0..6).for_each(|_| append(&mut queue, &pool, &[1; 14_000], 0));
        queue.fill(&mut gather);
        assert_eq!((gather.frames().len(), queue.bytes()), (4, 6 * 14_000));
        assert_eq!(queue.clear(), 2 * 14_000);
        assert_eq!(queue.bytes(), 4 * 14_000, "what is in flight is still counted");
    }

    #[test]
    fn a_frame_larger_than_a_gather_leaves_alone() {
        let pool = BufferPool::new(false);
        let (mut queue, mut gather) = (SendQueue::default(), Gather::new());
        append(&mut queue, &pool, &[7; 200_000], 0);
        append(&mut queue, &pool, &[8; 10], 0);
        queue.fill(&mut gather);
        assert_eq!(gather.bytes(), 200_000);
    }
}
