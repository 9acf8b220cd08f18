//! What the programs of the course share and no lesson is about: counters, and the line that they
//! print each second.
//!
//! Whoever links this has every allocation of the process counted, so that a program can say what a
//! message costs.

use std::{
    alloc::System,
    env,
    io::{self, Write},
    net::{AddrParseError, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts from any thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// At zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Counts so many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Pieces that were received from clients.
pub static RECEIVED: Counter = Counter::new();
/// Sends that completed without an error.
pub static SENT: Counter = Counter::new();
/// Answers that never left, because a send was in flight already (step 4).
pub static LOST: Counter = Counter::new();

/// Allocations of the whole process so far.
#[must_use]
pub fn allocations() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

/// Where to listen: the program's first argument, or port 9000 of this machine.
///
/// # Errors
/// The argument is no address with a port number.
pub fn address() -> Result<SocketAddr, AddrParseError> {
    env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9000").parse()
}

/// Prints a line for each second in which something was received; ends when nobody can read it.
///
/// # Errors
/// Standard output is closed.
pub fn report_each_second() -> io::Result<()> {
    let read = || [RECEIVED.total(), SENT.total(), LOST.total(), allocations()];
    let mut before = read();
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = read();
        let [received, sent, lost, allocations] = std::array::from_fn(|i| now[i] - before[i]);
        if received > 0 {
            let each = allocations as f64 / received as f64;
            let lost = if now[2] > 0 { format_args!("{lost} lost  ") } else { format_args!("") };
            writeln!(
                io::stdout(),
                "{received} received  {sent} sent  {lost}{allocations} allocations: {each:.2} each"
            )?;
        }
        before = now;
    }
}
