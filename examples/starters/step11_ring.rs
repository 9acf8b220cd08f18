//! Bytes in a circle: what has been received and is not a whole packet yet.

/// Counts what is in it, and so knows full from empty; takes no more than there is room for.
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into(), start: 0, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts in as much as there is room for, and says how much that is.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let capacity = self.bytes.len();
        // --- your turn: how much is there room for, and where does it go?
        let (taken, _) = (0, (bytes, capacity));
        // --- until here
        self.len += taken;
        taken
    }

    /// Copies the first bytes into `out`, and leaves them where they are.
    ///
    /// # Panics
    /// There are fewer than `out` is long.
    pub(crate) fn peek(&self, out: &mut [u8]) {
        assert!(out.len() <= self.len, "{} of {}", out.len(), self.len);
        let (first, rest) = out.split_at_mut(out.len().min(self.bytes.len() - self.start));
        first.copy_from_slice(&self.bytes[self.start..self.start + first.len()]);
        rest.copy_from_slice(&self.bytes[..rest.len()]);
    }

    /// Makes room of the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count) % self.bytes.len();
        self.len -= count;
    }
}
