//! What the fuzz targets share: the bound on memory that every one of them asserts.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Runs `work` and checks that it never held more memory than twice its input and `constant_bytes`.
///
/// # Panics
/// It did.
pub fn within_memory<R>(input_bytes: usize, constant_bytes: usize, work: impl FnOnce() -> R) -> R {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = work();
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(
        held <= 2 * input_bytes + constant_bytes,
        "{held} bytes of memory for {input_bytes} bytes of input"
    );
    result
}

/// What is looked at up to a limit, so that the memory for it is bounded whatever comes: up to there a
/// parser may take some times as much for each byte, and what is longer is refused.
#[derive(Clone, Copy)]
pub struct Limited {
    pub bytes_max: usize,
    /// An element of a list is larger in memory than in a text.
    pub memory_bytes_per_byte: usize,
    /// Beside what is for each byte.
    pub memory_bytes: usize,
    /// To refuse what is too long, however long it is.
    pub refusal_memory_bytes: usize,
}

impl Limited {
    /// Runs `work` on so many bytes.
    ///
    /// # Panics
    /// It took more memory than that, which is never more than a constant beside twice the input.
    pub fn check<R>(self, input_bytes: usize, work: impl FnOnce() -> R) -> R {
        let looked_at_bytes = input_bytes.min(self.bytes_max);
        let constant_bytes = self.memory_bytes + self.memory_bytes_per_byte * looked_at_bytes;
        within_memory(input_bytes, constant_bytes, work)
    }

    /// Runs `work` on the input again and again until it is several times too long.
    ///
    /// # Panics
    /// It was not refused, or took memory as if it had been looked at.
    pub fn check_refusal<T, E>(self, input: &[u8], work: impl FnOnce(&[u8]) -> Result<T, E>) {
        if input.is_empty() {
            return;
        }
        let long = input.repeat(1 + 4 * self.bytes_max / input.len());
        let result = within_memory(0, self.refusal_memory_bytes, || work(&long));
        assert!(result.is_err(), "{} bytes are not refused", long.len());
    }
}
