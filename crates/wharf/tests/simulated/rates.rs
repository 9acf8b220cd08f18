//! How fast a peer may send.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    CloseReason, Context, Frame, Handler, Limits, OverRate, Result,
    port::Time,
    testing::{Faults, Simulation, for_seeds},
};

use crate::support::*;

/// When frames came, and how many bytes each took.
type Arrivals = Arc<Mutex<Vec<(Time, usize)>>>;

struct Noting(Arrivals);

impl Handler for Noting {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        let bytes = frame.body().len() + 2;
        self.0.lock().unwrap().push((cx.now(), bytes));
        Ok(())
    }
}

fn noting(limits: Limits, seed: u64) -> (Simulation, Arrivals) {
    let arrivals = Arrivals::default();
    let noted = Arc::clone(&arrivals);
    let builder = wharf::Server::builder().workers(1).limits(limits);
    let builder = builder.listen(ADDRESS, FRAMING, move || Noting(Arc::clone(&noted)));
    (builder.simulate(seed, Faults::none()).unwrap(), arrivals)
}

/// The most that has come by then: a second's worth at once, what its rate gives, and what was
/// received together with the frame that went over it.
fn most(rate: f64, since: Duration, together: f64) -> f64 {
    rate * (1.0 + since.as_secs_f64()) + together
}

/// Everything arrives, none of it before its time, and the peer is not thought silent meanwhile.
#[test]
fn a_peer_that_sends_too_fast_is_slowed_down_to_its_rate() {
    const CREDIT_BYTES: u32 = 1024;
    for_seeds(0..20, |seed| {
        for (bytes_per_second, frames_per_second) in [(Some(2000), None), (None, Some(20))] {
            let limits = Limits {
                bytes_per_second,
                frames_per_second,
                receive_credit_bytes: CREDIT_BYTES,
                ..Limits::default()
            };
            let (mut sim, arrivals) = noting(limits, seed);
            let client = sim.connect(ADDRESS, FRAMING);
            (0..500).for_each(|_| client.send(&[1; 98]));
            let start = sim.now();
            sim.run_for(seconds(40));
            let arrivals = arrivals.lock().unwrap().clone();
            assert_eq!(arrivals.len(), 500);
            let (mut frames, mut bytes) = (0.0, 0.0);
            for (at, len) in &arrivals {
                frames += 1.0;
                bytes += *len as f64;
                let since = at.since(start);
                if let Some(rate) = bytes_per_second {
                    assert!(bytes <= most(rate as f64, since, 1.0), "{bytes} after {since:?}");
                }
                if let Some(rate) = frames_per_second {
                    let together = f64::from(CREDIT_BYTES) / 100.0 + 1.0;
                    assert!(
                        frames <= most(rate.into(), since, together),
                        "{frames} after {since:?}"
                    );
                }
            }
            let took = arrivals.last().unwrap().0.since(start);
            assert!(took < seconds(26), "no slower than it may be: {took:?}");
            assert!(!client.is_closed() && sim.finish().stats.rate_delays > 0);
        }
    });
}

/// What is saved up is a second's worth, however long the silence.
#[test]
fn one_who_keeps_to_the_rate_is_not_held_back() {
    for over_rate in [OverRate::Delay, OverRate::Close] {
        let limits = Limits { frames_per_second: Some(10), over_rate, ..Limits::default() };
        let (mut sim, arrivals) = noting(limits, 3);
        let client = sim.connect(ADDRESS, FRAMING);
        for _ in 0..20 {
            (0..9).for_each(|_| client.send(b"in one go"));
            sim.run_for(seconds(1));
        }
        assert_eq!(arrivals.lock().unwrap().len(), 180);
        assert!(!client.is_closed());
        assert_eq!(sim.finish().stats.rate_delays, 0);
    }
}

#[test]
fn a_peer_that_sends_too_fast_can_be_closed_instead() {
    let limits =
        Limits { frames_per_second: Some(10), over_rate: OverRate::Close, ..Limits::default() };
    let (mut sim, arrivals) = noting(limits, 3);
    let client = sim.connect(ADDRESS, FRAMING);
    sim.run_for(seconds(5));
    (0..10).for_each(|_| client.send(b"ten"));
    sim.run();
    assert_eq!((arrivals.lock().unwrap().len(), client.is_closed()), (10, false));
    client.send(b"and one more");
    sim.run_for(seconds(3));
    assert!(client.is_closed());
    assert_eq!(sim.finish().stats.closed_for(CloseReason::RateLimit), 1);
}

/// A rate holds back one session.
#[test]
fn nobody_else_is_slowed_down() {
    let limits = Limits { bytes_per_second: Some(1000), ..Limits::default() };
    let Server { mut sim, closed } = server(limits);
    let mut other = Bystander::new(&mut sim);
    let fast = sim.connect(ADDRESS, FRAMING);
    (0..60).for_each(|_| fast.send(&[1; 998]));
    for _ in 0..50 {
        other.wait(&mut sim, seconds(1));
    }
    sim.run_for(seconds(15));
    assert_eq!((fast.received().len(), closed.reasons()), (60, vec![]));
    sim.finish();
}
