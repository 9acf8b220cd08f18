//! Log lines that peers can cause are limited: what they cost is not theirs to say.

use std::time::Duration;

use wharf_port::Time;

/// So many lines per second, of one kind and one worker.
#[derive(Debug)]
pub(crate) struct LogLimit {
    lines_per_second: u32,
    second_ends: Time,
    lines: u32,
    left_out: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::of(LINES_PER_SECOND)
    }
}

impl LogLimit {
    pub(crate) fn of(lines_per_second: u32) -> Self {
        Self { lines_per_second, second_ends: Time::ZERO, lines: 0, left_out: 0 }
    }

    /// Whether one more line may be written; then, how many have been left out before it.
    pub(crate) fn admit(&mut self, now: Time) -> Option<u64> {
        if now >= self.second_ends {
            self.second_ends = now + Duration::from_secs(1);
            self.lines = 0;
        }
        if self.lines == self.lines_per_second {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Enough to see what goes on; the counters have the rest.
const LINES_PER_SECOND: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines_and_the_next_line_says_how_many_there_were() {
        let mut limit = LogLimit::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let admitted = (0..50).filter_map(|n| limit.admit(at(n))).collect::<Vec<_>>();
        assert_eq!(admitted, [0; 20]);
        assert_eq!(limit.admit(at(999)), None);
        assert_eq!(limit.admit(at(1000)), Some(31));
        assert_eq!(limit.admit(at(1001)), Some(0));
    }
}
