//! When queued frames leave: at the end of the turn, or at moments that all sessions of a worker share.

use std::time::Duration;

use wharf::{
    Class, Context, FlushPolicy, Frame, Handler, Limits, Result, SendPolicy, Server, Topic,
    framing::LengthField,
    port::Time,
    testing::{Client, Faults, Simulation, for_seeds},
};

use crate::support::*;

const EVERY_MS: u32 = 100;
const MS: Duration = Duration::from_millis(1);
/// More than the network takes for a frame there, or back.
const NETWORK: Duration = Duration::from_millis(9);

/// Echoes, and does what some frames say.
struct Game;

impl Handler for Game {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        cx.send(frame.body())?;
        match frame.body() {
            b"now" => cx.flush_now(),
            b"bye" => cx.close(),
            b"join" => cx.subscribe(Topic(1))?,
            b"much" => (0..5).try_for_each(|_| cx.send(&[1; 16_000]))?,
            b"shout" => (0..20).try_for_each(|n| {
                for len in [2000, 100] {
                    cx.publish(Topic(1), Class::Reliable, 0, &vec![n; len])?;
                    cx.send(&[n; 10])?;
                }
                cx.send(&[n; 10])
            })?,
            _ => {}
        }
        Ok(())
    }
}

fn game(seed: u64, flush: FlushPolicy, policy: SendPolicy) -> Simulation {
    let limits = Limits { linger_timeout: MS, ..Limits::default() };
    let server = Server::builder().workers(1).limits(limits).flush(flush).send_policy(policy);
    let server = server.listen(ADDRESS, FRAMING, || Game);
    server.simulate(seed, Faults::none()).unwrap()
}

fn ticking(seed: u64) -> Simulation {
    game(seed, FlushPolicy::Every(EVERY_MS), SendPolicy::Auto)
}

/// How long ago the last moment was.
fn since_tick(sim: &Simulation) -> Duration {
    let nanos = sim.now().since(Time::ZERO).as_nanos() % (u128::from(EVERY_MS) * 1_000_000);
    Duration::from_nanos(nanos as u64)
}

/// Lets time pass until so long after a moment.
fn run_until_after_tick(sim: &mut Simulation, after: Duration) {
    let tick = Duration::from_millis(EVERY_MS.into());
    let left = (after + tick).saturating_sub(since_tick(sim)).as_nanos() % tick.as_nanos();
    sim.run_for(Duration::from_nanos(left as u64));
}

/// Whenever they were sent, and to whom: they leave together at the next moment, not before.
#[test]
fn frames_wait_for_the_moment_that_all_share() {
    for_seeds(0..30, |seed| {
        let mut sim = ticking(seed);
        let clients: Vec<_> = (0..3).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        run_until_after_tick(&mut sim, 15 * MS);
        for round in 1..=5 {
            for n in 0..16 {
                clients.iter().for_each(|client| client.send(&[n; 20]));
                sim.run_for(4 * MS);
            }
            assert!(since_tick(&sim) > 75 * MS, "all of it between two moments");
            assert!(clients.iter().all(|client| client.received().len() == (round - 1) * 16));
            // The clock of timers has a resolution of 10 ms.
            run_until_after_tick(&mut sim, TICK + NETWORK);
            assert!(clients.iter().all(|client| client.received().len() == round * 16));
        }
        let stats = sim.finish().stats;
        assert_eq!((stats.frames_sent, stats.sends), (3 * 5 * 16, 3 * 5));
    });
}

/// What cannot wait does not: what fills a send, `flush_now`, a close, a drain.
#[test]
fn some_frames_leave_before_the_moment() {
    let mut sim = ticking(1);
    let connect = |sim: &mut Simulation| {
        let client = sim.connect(ADDRESS, FRAMING);
        run_until_after_tick(sim, 20 * MS);
        client
    };
    let (full, now, bye, drained) =
        (connect(&mut sim), connect(&mut sim), connect(&mut sim), connect(&mut sim));
    for (client, last) in [(&full, &b"much"[..]), (&now, b"now"), (&bye, b"bye"), (&drained, b"x")]
    {
        client.send(b"waits");
        sim.run();
        assert!(client.received().is_empty());
        client.send(last);
        sim.run();
    }
    assert!(since_tick(&sim) < 90 * MS);
    // 80 KB: all of it goes, also what is left over after the first 64 KiB.
    assert_eq!(full.received().len(), 7);
    assert_eq!(now.received(), [&b"waits"[..], b"now"]);
    assert_eq!(bye.received(), [&b"waits"[..], b"bye"]);
    assert!(drained.received().is_empty());
    now.send(b"waits again");
    sim.run();
    assert_eq!(now.received().len(), 2);
    sim.handle().drain(seconds(5));
    sim.run();
    assert!(since_tick(&sim) < 90 * MS);
    assert_eq!(now.received().len(), 3);
    assert_eq!(drained.received(), [&b"waits"[..], b"x"]);
    sim.finish();
}

/// What waits for its moment counts: the soft mark is the same as without.
#[test]
fn what_is_held_back_counts() {
    let limits = Limits {
        send_queue_bytes_soft: 10_000,
        receive_credit_bytes: 16 * 1024,
        ..Limits::default()
    };
    let server = Server::builder().workers(1).limits(limits).flush(FlushPolicy::Every(10_000));
    let server = server.listen(ADDRESS, FRAMING, || Game);
    let mut sim = server.simulate(1, Faults::none()).unwrap();
    let client = sim.connect(ADDRESS, FRAMING);
    for _ in 0..28 {
        client.send(&[7; 1000]);
        sim.run();
    }
    assert!(client.received().is_empty());
    sim.run_for(seconds(11));
    assert!((1..28).contains(&client.received().len()), "not received from above the mark");
    sim.run_for(seconds(10));
    assert_eq!(client.received().len(), 28);
    assert_eq!(sim.finish().stats.soft_marks_crossed, 1);
}

#[test]
fn an_interval_out_of_bounds_is_refused() {
    for ms in [0, 10_001, u32::MAX] {
        let server = Server::builder().flush(FlushPolicy::Every(ms));
        let refused = server.listen(ADDRESS, FRAMING, || Game).simulate(1, Faults::none());
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(&ms.to_string()) && error.contains("10000"), "{error}");
    }
}

/// The same bytes in the same order, in as many buffers as the policy makes of them.
#[test]
fn policies_differ_in_buffers_and_nothing_else() {
    let run = |policy| {
        let mut sim = game(1, FlushPolicy::PerTurn, policy);
        let member: Client<LengthField> = sim.connect(ADDRESS, FRAMING);
        member.send(b"join");
        sim.run();
        member.send(b"shout");
        sim.run();
        let received = member.received();
        let stats = sim.finish().stats;
        (received, stats.sends, stats.buffers_sent)
    };
    let auto = run(SendPolicy::Auto);
    let accumulate = run(SendPolicy::Accumulate);
    let queue = run(SendPolicy::Queue);
    assert!(auto.0 == accumulate.0 && auto.0 == queue.0);
    assert_eq!(auto.0.len(), 2 + 20 * 5);
    // Beside the answers to the two orders: 42 KB in blocks of 16 KiB; each frame in a buffer; or all
    // but what is large and shared behind each other.
    assert_eq!((accumulate.1, accumulate.2), (2, 1 + 3));
    assert_eq!((auto.1, auto.2), (2, 1 + 1 + 40));
    assert_eq!((queue.1 > 2, queue.2), (true, 1 + 1 + 100));
}
