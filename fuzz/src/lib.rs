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
