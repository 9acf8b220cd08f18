//! Calls of handlers that take their time: found, and measured.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use wharf::{
    Context, Frame, HandlerTimes, Limits, Result, Router, TurnTimes,
    framing::{self, LengthField, Packet},
    port::Engine,
};

use crate::support::*;

const FRAMING: LengthField = LengthField::TUTORIAL;
const MS: Duration = Duration::from_millis(1);

/// What the handlers of a test share: whoever has a frame with the id `STUCK` waits for a word.
type Shared = Arc<Mutex<Receiver<()>>>;

const QUICK: u32 = 6;
const SLOW: u32 = 7;
const STUCK: u32 = 8;
const UNKNOWN: u32 = 4000;

fn answer(_: &mut Shared, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
    cx.send_packet(frame.id(), frame.body())?;
    Ok(())
}

fn slow(shared: &mut Shared, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
    block_for(MS);
    answer(shared, cx, frame)
}

fn stuck(shared: &mut Shared, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
    shared.lock().unwrap().recv_timeout(PATIENCE).expect("the test says when");
    answer(shared, cx, frame)
}

fn server(engine: Engine, limit: Option<Duration>, shared: Shared) -> wharf::Handle {
    let router = Router::builder().on_raw(QUICK, answer).on_raw(SLOW, slow).on_raw(STUCK, stuck);
    let router = router.unknown(wharf::router::Action::Answer(answer)).build();
    builder(engine)
        .workers(1)
        .slow_handler(limit)
        .limits(Limits { send_queue_bytes_max: 1 << 30, ..calm() })
        .listen(ANY_PORT, FRAMING, move || router.handler(Arc::clone(&shared)))
        .start()
        .unwrap()
}

fn frames(ids: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in ids {
        let packet = Packet { id, session: 0, body: b"body" };
        framing::append(&FRAMING, packet, &mut bytes).unwrap();
    }
    bytes
}

/// Its worker can answer nobody; the handle says so all the same. A call that takes as long is none
/// where any time is allowed.
#[test]
fn a_call_that_does_not_return_is_found_while_it_runs() {
    on_every_engine(|engine| {
        for limit in [Some(20 * MS), None] {
            let (go, wait) = channel();
            let handle = server(engine, limit, Arc::new(Mutex::new(wait)));
            let mut client = Client::connect(handle.local_addrs()[0]);
            let bytes = frames([STUCK].into_iter());
            client.write(&bytes);
            if limit.is_some() {
                wait_until(|| handle.slow_calls() > 0);
            } else {
                block_for(100 * MS);
            }
            go.send(()).unwrap();
            assert_eq!(client.read(bytes.len()), bytes);
            client.end_stream();
            assert_eq!(client.end(), End::OfStream);
            handle.drain(NEVER);
            let report = handle.join().unwrap();
            assert_eq!(report.stats.slow_calls > 0, limit.is_some());
            assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
        }
    });
}

/// A job that goes on when the last worker has ended is watched to its end.
#[test]
fn a_slow_job_is_found_after_the_last_worker_has_ended() {
    on_every_engine_inline(|engine| {
        let handle = builder(engine)
            .dispatch(wharf::Dispatch::Threads(1))
            .slow_handler(Some(20 * MS))
            .listen(ANY_PORT, FRAMING, || {
                Router::<(), ()>::builder().on_raw(QUICK, |_, _, _| Ok(())).build().handler(())
            })
            .start()
            .unwrap();
        let (go, wait) = channel();
        let wait = Shared::new(Mutex::new(wait));
        for _ in 0..2 {
            let wait = Arc::clone(&wait);
            let job = move |_: &mut wharf::Job<'_>| {
                wait.lock().unwrap().recv_timeout(PATIENCE).expect("the test says when");
            };
            handle.post(0, job).unwrap();
        }
        wait_until(|| handle.slow_calls() == 1);
        handle.drain(Duration::ZERO);
        let ended = Err(wharf::SendError::Closed);
        wait_until(|| handle.broadcast(0, b"anybody?", |_| true) == ended);
        // The second one begins when no worker is left.
        go.send(()).unwrap();
        wait_until(|| handle.slow_calls() == 2);
        go.send(()).unwrap();
        let report = handle.join().unwrap();
        assert_eq!(report.stats.slow_calls, 2);
        assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
    });
}

fn count(times: &TurnTimes) -> u64 {
    times.counts.iter().sum()
}

/// Of 61 frames one is measured, whatever their pattern. What nobody registers has no times of its own,
/// however many ids a peer makes up.
#[test]
fn calls_are_measured_by_registered_packet_id() {
    on_every_engine(|engine| {
        let handle = server(engine, None, Arc::new(Mutex::new(channel().1)));
        let mut client = Client::connect(handle.local_addrs()[0]);
        let ids = (0..61 * 40).map(|n| match n % 4 {
            0 => QUICK,
            1 => SLOW,
            _ => UNKNOWN + n,
        });
        let bytes = frames(ids);
        client.write(&bytes);
        assert_eq!(client.read(bytes.len()), bytes);
        let HandlerTimes { listener, packets, other, .. } = handle.handler_times().remove(0);
        assert_eq!(listener, Some(handle.local_addrs()[0]));
        let measured: Vec<_> = packets.iter().map(|p| (p.id, count(&p.times))).collect();
        assert_eq!((measured, count(&other)), (vec![(QUICK, 10), (SLOW, 10), (STUCK, 0)], 20));
        let slow = &packets[1].times;
        assert!(slow.total_ns >= 10 * MS.as_nanos() as u64, "each takes at least that: {slow:?}");
        assert_eq!(slow.counts[..5], [0; 5], "{:?}", TurnTimes::BOUNDS);
        drop(client);
        handle.drain(Duration::ZERO);
        handle.join().unwrap();
    });
}
