//! Whole servers with handlers on the workers and on logic threads, all of it turned by the seed: frames,
//! keyed jobs, offloaded work, holds, logic that falls behind, and a network with every fault.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use wharf::{
    Context, Dispatch, Frame, Handler, Job, Limits, Result, SendError, Server, Stats,
    framing::LengthField,
    testing::{Client, Faults, Simulation, for_seeds},
};

use crate::support::*;

const CLIENTS: usize = 6;
const KEYS: u8 = 3;
/// First byte of a frame: what is to be done with it, and of its answer: where that comes from.
const ECHO: u8 = b'e';
const JOB: u8 = b'j';
const WORK: u8 = b'w';

/// Whether a job of the key runs at present.
#[derive(Clone, Default)]
struct Busy(Arc<[AtomicBool; KEYS as usize]>);

/// Expects each session's frames in order, and answers them by itself, by a job, or by offloaded work.
struct Serving(Busy);

#[derive(Default)]
struct Served {
    next: u16,
    held: bool,
}

impl Handler for Serving {
    type Session = Served;

    fn on_frame(&mut self, cx: &mut Context<'_, Served>, frame: Frame<'_>) -> Result {
        let body = frame.body();
        assert!(!cx.data().held, "a frame came while they were held");
        assert_eq!(number(body), cx.data().next, "in order, each once");
        cx.data().next += 1;
        match body[0] {
            JOB => self.post(cx, body),
            WORK => {
                let answer = body.to_vec();
                let done = |cx: &mut Context<'_, Served>, answer: Vec<u8>| {
                    assert!(std::mem::take(&mut cx.data().held));
                    cx.release();
                    Ok(cx.send(&answer)?)
                };
                cx.hold();
                cx.data().held = true;
                Ok(cx.offload(move || answer, done)?)
            }
            _ => Ok(cx.send(body)?),
        }
    }
}

impl Serving {
    fn post(&self, cx: &mut Context<'_, Served>, body: &[u8]) -> Result {
        let (id, busy, answer) = (cx.id(), self.0.clone(), body.to_vec());
        let key = answer[3] % KEYS;
        let job = move |job: &mut Job<'_>| {
            let busy = &busy.0[usize::from(key)];
            assert!(!busy.swap(true, Ordering::Relaxed), "two jobs of one key");
            let said = job.handle().send(id, &answer);
            assert!(matches!(said, Ok(()) | Err(SendError::Closed)));
            busy.store(false, Ordering::Relaxed);
        };
        Ok(cx.post(key.into(), job)?)
    }
}

fn number(body: &[u8]) -> u16 {
    u16::from_be_bytes([body[1], body[2]])
}

struct Asking {
    client: Client<LengthField>,
    sent: u16,
}

impl Asking {
    fn ask(&mut self, kind: u8, key: u8, pad: usize) {
        let [high, low] = self.sent.to_be_bytes();
        let body = [&[kind, high, low, key][..], &vec![key; pad]].concat();
        self.client.send(&body);
        self.sent += 1;
    }

    /// The session's own answers are in order, and so are those by jobs of each key; none comes twice.
    fn check(&self) -> usize {
        let received = self.client.received();
        let own = |body: &&Vec<u8>| body[0] != JOB;
        let numbers = received.iter().filter(own).map(|body| number(body)).collect::<Vec<_>>();
        assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
        for key in 0..KEYS {
            let of_key = |body: &&Vec<u8>| body[0] == JOB && body[3] % KEYS == key;
            let numbers = received.iter().filter(of_key).map(|body| number(body));
            let numbers = numbers.collect::<Vec<_>>();
            assert!(numbers.windows(2).all(|two| two[0] < two[1]), "key {key}: {numbers:?}");
        }
        received.len()
    }
}

/// What a run comes to.
#[derive(Debug, PartialEq)]
struct Ending {
    trace: u64,
    received: Vec<Vec<Vec<u8>>>,
    stats: Stats,
}

/// One logic thread or several.
fn threads(seed: u64) -> Dispatch {
    Dispatch::Threads(1 + (seed % 3) as usize)
}

fn simulation(seed: u64, dispatch: Dispatch, faults: Faults) -> Simulation {
    let limits = Limits {
        first_frame_timeout: None,
        frame_timeout: None,
        // So that logic is behind now and then, and so is the network.
        logic_queue_bytes_max: 4_000,
        send_queue_bytes_soft: 8_000,
        ..Limits::default()
    };
    let busy = Busy::default();
    let server = Server::builder().workers(1 + (seed % 2) as usize).limits(limits);
    let server = server.dispatch(dispatch).listen(ADDRESS, FRAMING, move || Serving(busy.clone()));
    server.simulate(seed, faults).unwrap()
}

fn run(seed: u64, dispatch: Dispatch, faults: Faults) -> Ending {
    let (lossless, mut sim) = (faults == Faults::none(), simulation(seed, dispatch, faults));
    let connect = |_| Asking { client: sim.connect(ADDRESS, FRAMING), sent: 0 };
    let mut all: Vec<Asking> = (0..CLIENTS).map(connect).collect();
    for _ in 0..150 {
        let who = sim.random(CLIENTS as u64) as usize;
        let kind = [ECHO, ECHO, JOB, WORK][sim.random(4) as usize];
        let (key, pad) = (sim.random(250) as u8, sim.random(1500) as usize);
        all[who].ask(kind, key, pad);
        match sim.random(12) {
            0 => sim.set_logic_running(false),
            1..4 => sim.set_logic_running(true),
            4 => all[who].client.set_reading(false),
            5..8 => all.iter().for_each(|one| one.client.set_reading(true)),
            _ => {}
        }
        (0..sim.random(80)).for_each(|_| _ = sim.step());
    }
    // Whatever went wrong is over: who is still there is answered.
    sim.set_faults(Faults::none());
    sim.set_logic_running(true);
    all.iter().for_each(|one| one.client.set_reading(true));
    sim.run_for(seconds(5));
    let live: Vec<usize> = (0..CLIENTS).filter(|one| !all[*one].client.is_closed()).collect();
    assert!(!lossless || live.len() == CLIENTS, "nobody is lost where nothing goes wrong");
    for one in live {
        assert_eq!(all[one].check(), usize::from(all[one].sent), "all that it asked");
        all[one].ask(WORK, 0, 10);
        all[one].ask(ECHO, 0, 10);
        sim.run_for(seconds(1));
        assert_eq!(all[one].check(), usize::from(all[one].sent), "and what it asks now");
    }
    all.iter().for_each(|one| _ = one.check());
    let received = all.iter().map(|one| one.client.received()).collect();
    let trace = sim.trace_hash();
    Ending { trace, received, stats: sim.finish().stats }
}

#[test]
fn with_logic_threads_everything_is_answered_in_order() {
    for_seeds(0..100, |seed| _ = run(seed, threads(seed), Faults::none()));
}

#[test]
fn with_logic_threads_and_every_fault_who_is_left_is_answered() {
    for_seeds(8000..8100, |seed| _ = run(seed, threads(seed), Faults::rough()));
}

#[test]
fn with_logic_threads_the_same_seed_gives_the_same_run() {
    for_seeds(9000..9010, |seed| {
        let run = |seed| run(seed, threads(seed), Faults::rough());
        let first = run(seed);
        assert_eq!(first, run(seed));
        assert_ne!(first.trace, run(seed + 1000).trace);
    });
}

#[test]
fn on_the_workers_everything_is_answered_in_order() {
    for_seeds(100..200, |seed| _ = run(seed, Dispatch::Inline, Faults::none()));
}

#[test]
fn on_the_workers_and_with_every_fault_who_is_left_is_answered() {
    for_seeds(8100..8200, |seed| _ = run(seed, Dispatch::Inline, Faults::rough()));
}
