//! How many packets a session may send: a bucket that fills with time. Pure code.

use std::time::Duration;

/// So many packets a second, and so many at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Packets that are added each second.
    pub per_second: u32,
    /// Packets that a full bucket has.
    pub burst: u32,
}

/// A session's bucket; full at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When it is full again, in nanoseconds on the session's clock.
    full_at_ns: u64,
    /// Packets refused since it was full.
    refused: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is handled.
    Allowed,
    /// It is refused with a result code.
    Refused,
    /// As many as a full bucket were refused, without one pause to fill it: that goes on for too long.
    Close,
}

impl Bucket {
    /// Takes a packet out, at `now_ns`.
    pub(crate) fn take(&mut self, now_ns: u64, rate: Rate) -> Verdict {
        let each_ns = NANOS_PER_SECOND / u64::from(rate.per_second.max(1));
        if self.full_at_ns <= now_ns {
            *self = Self { full_at_ns: now_ns, refused: 0 };
        }
        let full_at_ns = self.full_at_ns + each_ns;
        if full_at_ns - now_ns <= each_ns * u64::from(rate.burst) {
            self.full_at_ns = full_at_ns;
            return Verdict::Allowed;
        }
        self.refused += 1;
        if self.refused > rate.burst { Verdict::Close } else { Verdict::Refused }
    }
}

const NANOS_PER_SECOND: u64 = Duration::from_secs(1).as_nanos() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 150, burst: 300 };

    fn take(bucket: &mut Bucket, now_ms: u64, packets: usize) -> [usize; 3] {
        let mut seen = [0; 3];
        for _ in 0..packets {
            seen[bucket.take(now_ms * 1_000_000, RATE) as usize] += 1;
        }
        seen
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::default();
        assert_eq!(take(&mut bucket, 5_000, 310), [300, 10, 0]);
        assert_eq!(take(&mut bucket, 6_000, 160), [150, 10, 0]);
        assert_eq!(take(&mut bucket, 6_500, 80), [75, 5, 0]);
        // Two seconds fill it, and forgive.
        assert_eq!(take(&mut bucket, 9_000, 600), [300, 300, 0]);
    }

    #[test]
    fn whoever_goes_on_is_closed() {
        let mut bucket = Bucket::default();
        assert_eq!(take(&mut bucket, 0, 601), [300, 300, 1]);
        // Slower than before, and still more than allowed, without a pause.
        let mut bucket = Bucket::default();
        let mut seen = [0; 3];
        for second in 0..10 {
            let more = take(&mut bucket, second * 1_000, 200);
            seen = [seen[0] + more[0], seen[1] + more[1], seen[2] + more[2]];
        }
        assert_eq!(seen, [300 + 9 * 150, 300, 50]);
    }

    #[test]
    fn the_rate_itself_is_never_refused() {
        let mut bucket = Bucket::default();
        for packet in 0..10_000_u64 {
            let now_ns = packet * NANOS_PER_SECOND / 150;
            assert_eq!(bucket.take(now_ns, RATE), Verdict::Allowed, "{packet}");
        }
    }
}
