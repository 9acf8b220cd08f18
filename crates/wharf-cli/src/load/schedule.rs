//! When messages are meant to be sent, whatever the server does: the rate over time, and arrivals
//! that are even or random.
//!
//! An arrival process is followed by the amount that is still to be waited for (1 message, or a
//! random amount with the mean of 1) instead of by a time, so that a rate which changes meanwhile is
//! followed exactly: the next arrival is where the rate's integral reaches that amount.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use super::pattern::mix;

/// Messages per second over the measured time, as `--rate` says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rate {
    /// The same all the time: `5000`.
    Constant(f64),
    /// From one to the other, steadily: `1000..20000`.
    Ramp(f64, f64),
    /// One after the other, for equally long: `1000,2000,4000`.
    Steps(Vec<f64>),
}

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrival {
    /// At random (exponential gaps), as independent people arrive
    #[default]
    Poisson,
    /// In equal gaps
    Even,
}

/// A rate laid out in time, for one of several equal connections.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pieces: Vec<Piece>,
    arrival: Arrival,
    is_steps: bool,
}

/// A part of the measured time; the rate changes evenly in it. Times and rates are in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Piece {
    ends_ns: f64,
    first: f64,
    last: f64,
}

/// One connection's place in a schedule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrivals {
    /// Up to here it has been followed.
    at_ns: u64,
    /// What is left until the next arrival.
    left: f64,
    random: u64,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate = |text: &str| {
            let rate: f64 = text.trim().replace('_', "").parse().ok()?;
            (rate > 0.0 && rate <= RATE_MAX).then_some(rate)
        };
        let refusal = || {
            format!(
                "expected messages per second from above 0 to {RATE_MAX}, such as `5000`, a ramp \
                 such as `1000..20000`, or steps such as `1000,2000,4000`"
            )
        };
        if let Some((from, to)) = text.split_once("..") {
            return rate(from)
                .zip(rate(to))
                .map(|(from, to)| Rate::Ramp(from, to))
                .ok_or_else(refusal);
        }
        let rates: Option<Vec<f64>> = text.split(',').map(rate).collect();
        match rates.as_deref() {
            Some([one]) => Ok(Rate::Constant(*one)),
            Some(_) => Ok(Rate::Steps(rates.unwrap_or_default())),
            None => Err(refusal()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Constant(rate) => write!(f, "{rate}"),
            Rate::Ramp(from, to) => write!(f, "{from}..{to}"),
            Rate::Steps(rates) => {
                let rates: Vec<_> = rates.iter().map(f64::to_string).collect();
                f.write_str(&rates.join(","))
            }
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arrival::Poisson => "poisson",
            Arrival::Even => "even",
        })
    }
}

impl Rate {
    /// How long the gap of one connection is at the slowest, of so many.
    pub(crate) fn gap_max(&self, connections: u32) -> Duration {
        let slowest = match self {
            Rate::Constant(rate) => *rate,
            Rate::Ramp(from, to) => from.min(*to),
            Rate::Steps(rates) => rates.iter().copied().fold(f64::INFINITY, f64::min),
        };
        Duration::try_from_secs_f64(f64::from(connections) / slowest).unwrap_or(Duration::MAX)
    }
}

impl Schedule {
    /// Lays `rate` out over `measured`; each of `connections` takes an equal share.
    pub(crate) fn new(rate: &Rate, arrival: Arrival, measured: Duration, connections: u32) -> Self {
        let share = 1e-9 / f64::from(connections);
        let whole_ns = measured.as_nanos() as f64;
        let piece = |ends_ns: f64, first: f64, last: f64| Piece {
            ends_ns,
            first: first * share,
            last: last * share,
        };
        let pieces = match rate {
            Rate::Constant(rate) => vec![piece(whole_ns, *rate, *rate)],
            Rate::Ramp(from, to) => vec![piece(whole_ns, *from, *to)],
            Rate::Steps(rates) => {
                let each_ns = whole_ns / rates.len() as f64;
                let ends = (1..).map(|step| f64::from(step) * each_ns);
                rates.iter().zip(ends).map(|(rate, ends_ns)| piece(ends_ns, *rate, *rate)).collect()
            }
        };
        Self { pieces, arrival, is_steps: matches!(rate, Rate::Steps(_)) }
    }

    /// The first arrival of a connection that begins at `now_ns`; `seed` makes it its own.
    pub(crate) fn begin(&self, now_ns: u64, seed: u64) -> Arrivals {
        let mut arrivals = Arrivals { at_ns: now_ns, left: 0.0, random: mix(seed) };
        // Even arrivals of many connections begin at different places of the gap.
        arrivals.left = match self.arrival {
            Arrival::Poisson => self.amount(&mut arrivals),
            Arrival::Even => arrivals.uniform(),
        };
        arrivals
    }

    /// When the next message is meant to be sent. `from_ns` is when measuring began; before that, and
    /// without it, the first rate counts.
    pub(crate) fn next_ns(&self, arrivals: &Arrivals, from_ns: Option<u64>) -> u64 {
        let mut left = arrivals.left;
        let mut at = arrivals.at_ns;
        loop {
            let (rate, slope, ends_ns) = self.rate_at(at, from_ns);
            let room_ns = ends_ns.map_or(f64::INFINITY, |ends| ends.saturating_sub(at) as f64);
            let room = (rate + slope * room_ns / 2.0) * room_ns;
            if left < room || !room.is_finite() {
                let after_ns = if slope == 0.0 {
                    left / rate
                } else {
                    ((rate * rate + 2.0 * slope * left).max(0.0).sqrt() - rate) / slope
                };
                return at.saturating_add(after_ns as u64);
            }
            left -= room;
            at = ends_ns.unwrap_or(u64::MAX);
        }
    }

    /// The message meant for `at_ns` (from [`next_ns`](Self::next_ns)) is dealt with.
    pub(crate) fn advance(&self, arrivals: &mut Arrivals, at_ns: u64) {
        arrivals.at_ns = at_ns;
        arrivals.left = self.amount(arrivals);
    }

    /// As many [`advance`](Self::advance)s as there are messages from the one meant for `at_ns` up to
    /// `ends_ns`, as if those behind it came in equal gaps. How many; one at least.
    pub(crate) fn pass(
        &self,
        arrivals: &mut Arrivals,
        at_ns: u64,
        ends_ns: u64,
        from_ns: Option<u64>,
    ) -> u64 {
        let (mut at, mut amount) = (at_ns, 0.0);
        while at < ends_ns {
            let (rate, slope, piece_ends_ns) = self.rate_at(at, from_ns);
            let to = piece_ends_ns.unwrap_or(u64::MAX).min(ends_ns).max(at + 1);
            let time = (to - at) as f64;
            amount += (rate + slope * time / 2.0) * time;
            at = to;
        }
        arrivals.at_ns = at;
        arrivals.left = amount.floor() + 1.0 - amount;
        1 + amount as u64
    }

    /// How long the result of [`next_ns`](Self::next_ns) may be relied on: a rate that changes is
    /// looked at again, because a connection does not know beforehand when measuring will begin.
    pub(crate) fn look_again_ns(&self) -> u64 {
        let [only] = self.pieces[..] else { return LOOK_AGAIN_NS };
        if only.first == only.last { u64::MAX } else { LOOK_AGAIN_NS }
    }

    /// Which step a message meant for that time after the start belongs to.
    pub(crate) fn step(&self, after_start_ns: u64) -> Option<usize> {
        let at = after_start_ns as f64;
        let step = self.pieces.iter().position(|piece| at < piece.ends_ns);
        self.is_steps.then(|| step.unwrap_or(self.pieces.len() - 1))
    }

    /// The rate then and its change, and where that ends.
    fn rate_at(&self, at_ns: u64, from_ns: Option<u64>) -> (f64, f64, Option<u64>) {
        let first = self.pieces[0].first;
        let Some(from_ns) = from_ns else { return (first, 0.0, None) };
        if at_ns < from_ns {
            return (first, 0.0, Some(from_ns));
        }
        let after = (at_ns - from_ns) as f64;
        let mut began = 0.0;
        for piece in &self.pieces {
            if after < piece.ends_ns {
                let slope = (piece.last - piece.first) / (piece.ends_ns - began);
                let ends_ns = from_ns.saturating_add(piece.ends_ns.ceil() as u64);
                return (piece.first + slope * (after - began), slope, Some(ends_ns));
            }
            began = piece.ends_ns;
        }
        (self.pieces[self.pieces.len() - 1].last, 0.0, None)
    }

    fn amount(&self, arrivals: &mut Arrivals) -> f64 {
        match self.arrival {
            Arrival::Even => 1.0,
            // Not 0, of which there is no logarithm.
            Arrival::Poisson => -(1.0 - arrivals.uniform()).ln(),
        }
    }
}

impl Arrivals {
    /// Whether it has not begun.
    pub(crate) fn is_new(&self) -> bool {
        self.at_ns == 0
    }

    /// From 0 to below 1.
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.random) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A rate that changes is looked at again after so long.
const LOOK_AGAIN_NS: u64 = 250_000_000;

/// More than any machine sends, and far enough apart that nanoseconds tell messages from each other.
const RATE_MAX: f64 = 1e8;

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// The arrivals of one connection from 1 s before measuring to the end of `seconds`.
    fn arrivals(rate: &str, arrival: Arrival, connections: u32, seconds: u64) -> Vec<u64> {
        let measured = Duration::from_secs(seconds);
        let schedule = Schedule::new(&rate.parse().unwrap(), arrival, measured, connections);
        let mut arrivals = schedule.begin(S, 7);
        let mut found = Vec::new();
        loop {
            let at = schedule.next_ns(&arrivals, Some(2 * S));
            if at >= (2 + seconds) * S {
                return found;
            }
            found.push(at);
            schedule.advance(&mut arrivals, at);
        }
    }

    fn between(found: &[u64], from: u64, to: u64) -> usize {
        found.iter().filter(|at| (from..to).contains(*at)).count()
    }

    #[test]
    fn rates_are_read_and_written_alike() {
        for text in ["5000", "0.5", "1000..20000", "1000,2000,4000"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for wrong in ["", "0", "-1", "1..", "0..5", "1,,2", "1,0", "fast", "NaN", "inf", "1e9"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn even_arrivals_are_equally_far_apart() {
        let found = arrivals("100", Arrival::Even, 1, 4);
        assert!((499..=501).contains(&found.len()), "{}", found.len());
        assert!(found.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(S / 100) <= 1));
        // One of many takes its share.
        let share = arrivals("100", Arrival::Even, 10, 4);
        assert!((49..=51).contains(&share.len()), "{}", share.len());
    }

    #[test]
    fn random_arrivals_have_the_mean_and_the_spread_of_a_poisson_process() {
        let found = arrivals("1000", Arrival::Poisson, 1, 60);
        let gaps: Vec<f64> =
            found.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.98..1.02).contains(&mean), "{mean}");
        assert!((0.95..1.05).contains(&variance.sqrt()), "{variance}");
        let longer = gaps.iter().filter(|gap| **gap > mean).count() as f64 / gaps.len() as f64;
        assert!((0.35..0.39).contains(&longer), "1/e of them, not {longer}");
    }

    #[test]
    fn passing_many_counts_what_one_by_one_would() {
        for rate in ["1000", "500..1500", "0.001..2000", "200,600,2200"] {
            for slice in [1, 1_000, S / 100, 3 * S, 20 * S] {
                let measured = Duration::from_secs(10);
                let schedule = Schedule::new(&rate.parse().unwrap(), Arrival::Even, measured, 1);
                let mut arrivals = schedule.begin(2 * S, 7);
                let (mut count, mut passes) = (0, 0);
                loop {
                    let at = schedule.next_ns(&arrivals, Some(2 * S));
                    if at >= 12 * S {
                        break;
                    }
                    let ends = (at + slice).min(12 * S);
                    count += schedule.pass(&mut arrivals, at, ends, Some(2 * S));
                    passes += 1;
                }
                assert!((9_999..=10_001).contains(&count), "{rate}, {slice}: {count}");
                assert!(passes <= 1 + 10 * S / slice, "{rate}, {slice}: {passes}");
            }
        }
    }

    #[test]
    fn steps_and_ramps_have_the_rate_of_their_time() {
        let found = arrivals("100,200,400", Arrival::Even, 1, 9);
        for (from, to, expected) in [(1, 2, 100), (2, 5, 300), (5, 8, 600), (8, 11, 1200)] {
            let count = between(&found, from * S, to * S);
            assert!(count.abs_diff(expected) <= 1, "{from}..{to}: {count}");
        }
        for (rate, thirds) in [("0.001..600", [300, 900, 1500]), ("600..0.001", [1500, 900, 300])] {
            let found = arrivals(rate, Arrival::Even, 1, 9);
            for (third, expected) in thirds.into_iter().enumerate() {
                let from = 2 + 3 * third as u64;
                let count = between(&found, from * S, (from + 3) * S);
                assert!(count.abs_diff(expected) <= 2, "{rate}, third {third}: {count}");
            }
        }
    }

    #[test]
    fn every_time_belongs_to_one_step() {
        let schedule = |rate: &str| {
            let rate = rate.parse().unwrap();
            Schedule::new(&rate, Arrival::Even, Duration::from_secs(4), 1)
        };
        let steps = [0, S, 2 * S, 3 * S, 5 * S].map(|at| schedule("1,2").step(at));
        assert_eq!(steps, [Some(0), Some(0), Some(1), Some(1), Some(1)]);
        assert_eq!(schedule("5").step(0), None);
        assert_eq!(schedule("5").look_again_ns(), u64::MAX);
        assert_eq!(schedule("1,2").look_again_ns(), LOOK_AGAIN_NS);
        assert_eq!(schedule("1..2").look_again_ns(), LOOK_AGAIN_NS);
    }
}
