//! The start of a frame whose rest has not arrived.
//!
//! Few sessions have one at a time, so that it lies in a box. A frame that is split over two receive
//! buffers is nothing rare on a busy connection: the worker keeps the boxes for the next ones.

use wharf_port::{FrameBuf, Time};

use super::{Session, Shared};
use crate::framing::Need;

/// A frame in the making.
#[derive(Debug)]
pub(crate) struct Unread {
    /// `None` in a box that no session uses.
    bytes: Option<FrameBuf>,
    pub(crate) need: Need,
    /// When its first byte was there, on the session's clock of receiving.
    pub(crate) since: Time,
}

impl Unread {
    pub(crate) fn len(&self) -> usize {
        self.bytes.as_ref().map_or(0, FrameBuf::len)
    }
}

impl Session {
    /// Keeps `bytes` of an unfinished frame. Room grows with what has arrived: what the peer has
    /// announced gets its room at once only up to four times that.
    pub(crate) fn keep_unread(&mut self, shared: &mut Shared, bytes: &[u8], need: Need) {
        if let Some(unread) = &mut self.unread {
            unread.need = need;
            return unread.bytes.as_mut().expect("a session's").extend_from_slice(bytes);
        }
        let announced = need.frame_bytes_min(bytes.len());
        let mut buffer = shared.pool.take(announced.min(4 * bytes.len()).max(bytes.len()));
        buffer.append(bytes);
        self.put_unread(shared, buffer, need, self.receiving.last);
    }

    /// What has arrived of an unfinished frame, of which nothing is kept so far.
    pub(crate) fn put_unread(
        &mut self,
        shared: &mut Shared,
        bytes: FrameBuf,
        need: Need,
        since: Time,
    ) {
        let unread = Unread { bytes: Some(bytes), need, since };
        self.unread = Some(match shared.unreads.pop() {
            Some(mut kept) => {
                *kept = unread;
                kept
            }
            None => Box::new(unread),
        });
    }

    /// Takes what has arrived of an unfinished frame, and since when it was there.
    pub(crate) fn take_unread(&mut self, shared: &mut Shared) -> Option<(FrameBuf, Time)> {
        let mut unread = self.unread.take()?;
        let (bytes, since) = (unread.bytes.take(), unread.since);
        if shared.unreads.len() < UNREADS_KEPT_MAX {
            shared.unreads.push(unread);
        }
        Some((bytes.expect("a session's"), since))
    }
}

/// Boxes that a worker keeps, of 48 bytes.
const UNREADS_KEPT_MAX: usize = 1024;
