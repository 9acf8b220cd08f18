//! What happened when: answers by interval, and looks at both processes in between.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::process::Usage;
use super::tally::histogram;

/// Everything over time.
pub(crate) struct Series {
    interval_ns: u64,
    /// Intervals that workers may still add to.
    pending: BTreeMap<u64, Histogram<u64>>,
    points: Vec<Point>,
    samples: Vec<Sample>,
    /// The whole histogram of each interval, if somebody wants it: values and counts.
    log: Option<Vec<Interval>>,
}

/// One interval's answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Point {
    /// Where it ends, in seconds since the load began.
    pub(crate) at_s: f64,
    pub(crate) messages_per_second: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

/// A look at the processes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) at_s: f64,
    pub(crate) connections: u64,
    /// Processor time per time since the sample before: 1 is one processor.
    pub(crate) load_processors: Option<f64>,
    pub(crate) server_processors: Option<f64>,
    pub(crate) server_resident_bytes: Option<u64>,
    #[serde(skip)]
    load_time: Option<Duration>,
    #[serde(skip)]
    server: Option<Usage>,
}

/// One interval with all its values, for a histogram log.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    pub(crate) starts: Duration,
    pub(crate) lasts: Duration,
    pub(crate) counts: Vec<(u64, u64)>,
}

impl Series {
    pub(crate) fn new(interval: Duration, keeps_log: bool) -> Self {
        Self {
            interval_ns: interval.as_nanos() as u64,
            pending: BTreeMap::new(),
            points: Vec::new(),
            samples: Vec::new(),
            log: keeps_log.then(Vec::new),
        }
    }

    /// Takes in what one worker counted in one interval.
    pub(crate) fn add(&mut self, interval: u64, answers: &Histogram<u64>) {
        let pending = self.pending.entry(interval).or_insert_with(histogram);
        pending.add(answers).expect("all have the same bounds");
    }

    /// Closes the intervals that are over for every worker by now.
    pub(crate) fn close(&mut self, now_ns: u64) {
        // A worker hands an interval in with its first answer after it.
        let over = (now_ns / self.interval_ns).saturating_sub(INTERVALS_OPEN);
        let open = self.pending.split_off(&over);
        for (interval, answers) in std::mem::replace(&mut self.pending, open) {
            self.finish(interval, &answers);
        }
    }

    /// Closes all intervals. Those that were not over when the load stopped are no points of a
    /// curve: they would look like a sudden fall.
    pub(crate) fn close_all(&mut self, stopped_ns: u64) {
        for (interval, answers) in std::mem::take(&mut self.pending) {
            self.finish(interval, &answers);
        }
        let stopped_s = stopped_ns as f64 / 1e9;
        while self.points.pop_if(|point| point.at_s > stopped_s).is_some() {}
    }

    fn finish(&mut self, interval: u64, answers: &Histogram<u64>) {
        let seconds = self.interval_ns as f64 / 1e9;
        self.points.push(Point {
            at_s: (interval + 1) as f64 * seconds,
            messages_per_second: answers.len() as f64 / seconds,
            p50_ns: answers.value_at_quantile(0.5),
            p99_ns: answers.value_at_quantile(0.99),
            max_ns: answers.max(),
        });
        if let Some(log) = &mut self.log {
            let values = answers.iter_recorded();
            log.push(Interval {
                starts: Duration::from_nanos(interval * self.interval_ns),
                lasts: Duration::from_nanos(self.interval_ns),
                counts: values
                    .map(|value| (value.value_iterated_to(), value.count_at_value()))
                    .collect(),
            });
        }
    }

    /// Takes in a look at the processes.
    pub(crate) fn sample(
        &mut self,
        at: Duration,
        connections: u64,
        load_time: Option<Duration>,
        server: Option<Usage>,
    ) {
        let before = self.samples.last().copied();
        let share = |now: Option<Duration>, then: Option<Duration>| {
            let elapsed = at.as_secs_f64() - before?.at_s;
            (elapsed > 0.0).then(|| Some((now? - then?.min(now?)).as_secs_f64() / elapsed))?
        };
        self.samples.push(Sample {
            at_s: at.as_secs_f64(),
            connections,
            load_processors: share(load_time, before.and_then(|before| before.load_time)),
            server_processors: share(
                server.map(|server| server.processor_time),
                before.and_then(|before| before.server).map(|server| server.processor_time),
            ),
            server_resident_bytes: server.map(|server| server.resident_bytes),
            load_time,
            server,
        });
    }

    pub(crate) fn last(&self) -> Option<&Point> {
        self.points.last()
    }

    pub(crate) fn into_parts(self) -> (Vec<Point>, Vec<Sample>, Vec<Interval>) {
        (self.points, self.samples, self.log.unwrap_or_default())
    }
}

/// How many intervals a worker may be behind.
const INTERVALS_OPEN: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_several_workers_become_one_point() {
        let mut series = Series::new(Duration::from_millis(100), true);
        let mut answers = histogram();
        answers.record_n(1_000, 99).unwrap();
        answers.record(5_000).unwrap();
        series.add(3, &answers);
        series.add(3, &answers);
        series.add(4, &answers);
        series.close(599_000_000);
        assert!(series.last().is_none(), "a worker may still add to it");
        series.close(600_000_000);
        let point = *series.last().unwrap();
        assert_eq!((point.messages_per_second, point.p50_ns), (2000.0, 1_000));
        assert!((point.at_s - 0.4).abs() < 1e-9 && point.max_ns >= 5_000);
        series.close_all(500_000_000);
        let (points, _, log) = series.into_parts();
        assert_eq!((points.len(), log.len()), (2, 2));
        assert_eq!(log[0].counts.iter().map(|(_, count)| count).sum::<u64>(), 200);
    }

    #[test]
    fn samples_tell_processors_in_use() {
        let mut series = Series::new(Duration::from_secs(1), false);
        let used = |millis| Some(Duration::from_millis(millis));
        series.sample(Duration::from_secs(1), 5, used(100), None);
        series.sample(Duration::from_secs(3), 5, used(1100), None);
        let (_, samples, _) = series.into_parts();
        assert_eq!(samples[0].load_processors, None);
        assert_eq!(samples[1].load_processors, Some(0.5));
        assert_eq!(samples[1].server_processors, None);
    }
}
