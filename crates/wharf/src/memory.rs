//! The memory that frames waiting to be sent may take, over all workers.
//!
//! It is leased to workers in pieces, so that they share a counter only when they need another piece
//! or give one back, and not with each frame.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What a worker leases at a time, in bytes.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;

/// The pieces that there are, and how many of them are leased.
#[derive(Debug)]
pub(crate) struct MemoryCap {
    pieces_max: usize,
    leased: AtomicUsize,
}

impl MemoryCap {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { pieces_max: bytes_max / PIECE_BYTES, leased: AtomicUsize::new(0) }
    }

    /// Leases as many of `pieces` as are left; says how many.
    pub(crate) fn lease(&self, pieces: usize) -> usize {
        let mut leased = 0;
        let take = |before: usize| {
            leased = pieces.min(self.pieces_max.saturating_sub(before));
            Some(before + leased)
        };
        let taken = self.leased.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        debug_assert!(taken.is_ok(), "always takes something, if only nothing");
        leased
    }

    pub(crate) fn give_back(&self, pieces: usize) {
        self.leased.fetch_sub(pieces, Ordering::AcqRel);
    }

    /// Whether no more is leased than there is.
    #[cfg(any(unix, windows))]
    pub(crate) fn is_kept(&self) -> bool {
        self.leased.load(Ordering::Acquire) <= self.pieces_max
    }
}

#[cfg(test)]
impl MemoryCap {
    pub(crate) fn leased(&self) -> usize {
        self.leased.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_leased_than_there_is() {
        let cap = MemoryCap::new(10 * PIECE_BYTES + 7);
        assert_eq!([cap.lease(4), cap.lease(9), cap.lease(1)], [4, 6, 0]);
        cap.give_back(3);
        assert_eq!([cap.lease(2), cap.lease(2)], [2, 1]);
    }
}
