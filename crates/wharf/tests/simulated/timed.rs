//! Jobs that wait for their time, wherever handlers run.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    Dispatch, Job, SendError, Server, Timer,
    framing::Lines,
    port::Time,
    testing::{Faults, Simulation, for_seeds},
};

use crate::support::{TICK, seconds};

const MS: Duration = Duration::from_millis(1);

struct Nobody;

impl wharf::Handler for Nobody {
    type Session = ();

    fn on_frame(&mut self, _: &mut wharf::Context<'_, ()>, _: wharf::Frame<'_>) -> wharf::Result {
        unreachable!("nobody connects")
    }
}

fn builder(seed: u64) -> wharf::Builder {
    let dispatch = match seed % 3 {
        0 => Dispatch::Inline,
        threads => Dispatch::Threads(threads as usize),
    };
    Server::builder().workers(2).dispatch(dispatch).listen("10.0.0.1:9000", Lines, || Nobody)
}

fn simulate(seed: u64) -> Simulation {
    builder(seed).simulate(seed, Faults::none()).unwrap()
}

/// When jobs ran, by number.
#[derive(Clone, Default)]
struct Ran(Arc<Mutex<Vec<(u32, Time)>>>);

impl Ran {
    fn note(&self, number: u32) -> impl FnMut(&mut Job<'_>) + Send + use<> {
        let ran = self.clone();
        move |job| ran.0.lock().unwrap().push((number, job.now()))
    }

    fn take(&self) -> Vec<(u32, Time)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn numbers(&self) -> Vec<u32> {
        self.take().into_iter().map(|(number, _)| number).collect()
    }
}

fn assert_in_time(at: Time, due: Time) {
    assert!(due <= at && at <= due + TICK, "{at:?} is not {due:?}");
}

#[test]
fn a_job_comes_after_its_delay_and_at_most_a_tick_late() {
    for_seeds(0..30, |seed| {
        let (mut sim, ran) = (simulate(seed), Ran::default());
        let before = Duration::from_micros(sim.random(100_000));
        sim.run_for(before);
        let start = sim.now();
        let delays: Vec<_> = (0..40)
            .map(|n| {
                [Duration::ZERO, MS / 1000, 10 * MS, seconds(sim.random(90)), MS * n]
                    [n as usize % 5]
            })
            .collect();
        for (number, delay) in delays.iter().enumerate() {
            let (number, key) = (number as u32, sim.random(6));
            sim.handle().post_after(*delay, key, ran.note(number)).unwrap();
        }
        sim.run_for(seconds(91));
        let mut ran = ran.take();
        ran.sort_unstable();
        assert!(ran.iter().map(|(number, _)| *number).eq(0..40), "each once: {ran:?}");
        for ((_, at), delay) in ran.into_iter().zip(delays) {
            assert_in_time(at, start + delay);
        }
        sim.finish();
    });
}

#[test]
fn a_repeated_job_does_not_drift() {
    for_seeds(100..130, |seed| {
        let ran = Ran::default();
        let builder = builder(seed).every(50 * MS, 1, ran.note(50)).every(33 * MS, 2, ran.note(33));
        let mut sim = builder.simulate(seed, Faults::none()).unwrap();
        let start = sim.now();
        // Below a tick: with each.
        sim.handle().post_every(MS, 3, ran.note(0)).unwrap();
        sim.run_for(seconds(20) + TICK);
        let ran = ran.take();
        for period in [50, 33, 0] {
            let times: Vec<_> = ran.iter().filter(|(number, _)| *number == period).collect();
            let every = if period == 0 { TICK } else { period * MS };
            let fit = (seconds(20) + TICK).as_nanos() / every.as_nanos();
            assert!([fit, fit - 1].contains(&(times.len() as u128)), "{period}: {}", times.len());
            for ((_, at), nth) in times.into_iter().zip(1..) {
                assert_in_time(*at, start + nth * every);
            }
        }
        sim.finish();
    });
}

/// One run for all that have become due meanwhile, and then as if nothing had been.
#[test]
fn what_a_repeated_job_has_missed_is_left_out() {
    let (mut sim, ran) = (simulate(1), Ran::default());
    let start = sim.now();
    sim.handle().post_every(50 * MS, 7, ran.note(0)).unwrap();
    sim.run_for(120 * MS);
    sim.set_logic_running(false);
    sim.run_for(1000 * MS);
    sim.set_logic_running(true);
    sim.run_for(100 * MS);
    let times = ran.take().into_iter().map(|(_, at)| at.since(start).as_millis());
    assert_eq!(times.collect::<Vec<_>>(), [50, 100, 1120, 1150, 1200]);
    sim.finish();
}

#[test]
fn a_job_that_was_taken_back_does_not_run_and_holds_nothing() {
    for_seeds(200..230, |seed| {
        let (mut sim, ran) = (simulate(seed), Ran::default());
        let handle = sim.handle().clone();
        let held = Arc::new(());
        let holds = |held: &Arc<()>| {
            let (held, mut note) = (Arc::clone(held), ran.note(1));
            move |job: &mut Job<'_>| {
                let _ = &held;
                note(job);
            }
        };
        let timers = [
            handle.post_after(seconds(3600), 4, holds(&held)).unwrap(),
            handle.post_every(50 * MS, 5, holds(&held)).unwrap(),
        ];
        // By a job of the same key that is due in the same tick, one before it and one behind.
        let victim: Arc<Mutex<Option<Timer>>> = Arc::default();
        let (theirs, mut note) = (Arc::clone(&victim), ran.note(2));
        handle
            .post_after(30 * MS, 9, move |job| {
                note(job);
                theirs.lock().unwrap().take().unwrap().cancel();
            })
            .unwrap();
        *victim.lock().unwrap() = Some(handle.post_after(30 * MS, 9, holds(&held)).unwrap());
        if seed % 2 == 0 {
            sim.run();
        }
        timers.iter().chain(&timers).for_each(Timer::cancel);
        sim.run_for(35 * MS);
        assert_eq!(Arc::strong_count(&held), 1, "nothing waits for an hour to be dropped");
        sim.run_for(seconds(2));
        assert_eq!(ran.numbers(), [2]);
        sim.finish();
    });
}

#[test]
fn a_repeated_job_ends_itself_and_with_a_panic() {
    for_seeds(300..330, |seed| {
        let (mut sim, ran) = (simulate(seed), Ran::default());
        for (number, key) in [(0, 1), (1, 1), (2, 2)] {
            let (mut note, mut runs) = (ran.note(number), 0);
            let tick = move |job: &mut Job<'_>| {
                note(job);
                runs += 1;
                match number {
                    0 if runs == 3 => job.stop(),
                    1 if runs == 2 => panic!("this is what the test wants"),
                    _ => {}
                }
            };
            sim.handle().post_every(100 * MS, key, tick).unwrap();
        }
        sim.run_for(550 * MS);
        let mut numbers = ran.numbers();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(sim.stats().job_panics, 1);
        sim.finish();
    });
}

/// Jobs that wait are bounded for the whole server; one that is over makes room for another. What waits
/// is dropped when the server ends.
#[test]
fn so_many_jobs_may_wait() {
    const MAX: usize = 64 * 1024;
    for seed in 0..2 {
        let (mut sim, held) = (simulate(seed), Arc::new(()));
        let handle = sim.handle().clone();
        let post = |key: usize| {
            let held = Arc::clone(&held);
            handle.post_after(seconds(60), key as u64, move |_| drop(held))
        };
        let mut timers = Vec::new();
        for key in 0..MAX {
            timers.push(post(key).unwrap());
            if key % 1000 == 0 {
                sim.run();
            }
        }
        assert_eq!(post(1).unwrap_err(), SendError::WouldExceed);
        timers[17].cancel();
        assert_eq!(post(1).unwrap_err(), SendError::WouldExceed, "it is still there");
        sim.run();
        post(1).unwrap();
        assert_eq!(post(1).unwrap_err(), SendError::WouldExceed);
        assert_eq!(Arc::strong_count(&held), 1 + MAX);
        if seed == 0 {
            sim.run_for(seconds(61));
            assert_eq!(Arc::strong_count(&held), 1);
            post(1).unwrap();
        }
        sim.finish();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
