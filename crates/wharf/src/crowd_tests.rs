//! Ten thousand members of one topic of whom none reads, in the simulator, under a limit on the memory
//! for what waits to be sent.

use std::{net::SocketAddr, time::Duration};

use wharf_port::sim::{Faults, PeerState, SimNet, SimPeer};

use crate::{
    Class, CloseReason, Context, Frame, Handle, Handler, Limits, Result, Server, Stats, Topic,
    framing::{LengthField, Packet, append, frames},
    worker::Worker,
};

const FRAMING: LengthField = LengthField::u16_be();
const ROOM: ([u8; 4], u16) = ([10, 0, 0, 1], 9000);
const ECHO: ([u8; 4], u16) = ([10, 0, 0, 1], 9001);
const TOPIC: Topic = Topic(1);
const SLOW: usize = 10_000;
const MEMORY: usize = 4 << 20;
const PUBLISHED: usize = 40;
const BODY_BYTES: usize = 1000;

/// Its sessions are members as soon as they are there.
struct Member;

impl Handler for Member {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
        Ok(cx.subscribe(TOPIC)?)
    }

    fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
        Ok(())
    }
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        Ok(cx.send(frame.body())?)
    }
}

/// The server, the crowd, and two who are to notice nothing: a member that reads, and one in no topic.
struct Crowd {
    net: SimNet,
    workers: Vec<Worker>,
    handle: Handle,
    slow: Vec<SimPeer>,
    reader: Reading,
    other: Reading,
    asked: usize,
}

struct Reading(SimPeer, Vec<u8>);

impl Reading {
    fn frames(&mut self) -> usize {
        self.1.extend(self.0.read_arrived());
        frames(&FRAMING, &self.1).filter(|frame| frame.is_ok()).count()
    }
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let net = SimNet::new(seed, Faults::none());
        // Nobody's system takes more than this for one who does not read.
        net.set_window(2 * BODY_BYTES);
        let silent = Limits { first_frame_timeout: None, ..Limits::default() };
        let builder = Server::builder().workers(2).limits(silent).send_memory_max(MEMORY);
        let builder = builder.listen(SocketAddr::from(ROOM), FRAMING, || Member);
        let builder = builder.listen(SocketAddr::from(ECHO), FRAMING, || Echo);
        let (workers, _, handle) = builder.assemble(&net, seed).unwrap();
        let reader = Reading(net.connect(ROOM.into()), Vec::new());
        let other = Reading(net.connect(ECHO.into()), Vec::new());
        let slow = (0..SLOW).map(|_| net.connect(ROOM.into())).collect();
        let mut crowd = Self { net, workers, handle, slow, reader, other, asked: 0 };
        crowd.settle();
        assert_eq!(crowd.handle.count(), SLOW + 2, "all are there");
        crowd
    }

    /// A turn of each worker; whether anything came of it.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        for worker in &mut self.workers {
            let now = worker.poll().unwrap();
            let due = worker.next_timer().is_some_and(|at| at <= now);
            moved |= due || worker.completed() > 0 || worker.has_orders();
            worker.turn(now);
        }
        self.reader.frames();
        moved
    }

    /// Goes on until only a timer could change anything.
    fn settle(&mut self) {
        loop {
            let steps = (0..1000).take_while(|_| self.net.step()).count();
            if !self.turn() && steps == 0 {
                return;
            }
        }
    }

    /// The one that is in no topic gets its answer.
    fn ask(&mut self) {
        let mut question = Vec::new();
        append(&FRAMING, Packet { id: 0, session: 0, body: b"still there?" }, &mut question)
            .unwrap();
        assert_eq!(self.other.0.write(&question), question.len());
        self.asked += 1;
        self.settle();
        assert_eq!(self.other.frames(), self.asked, "answered as if nobody else were there");
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.workers.iter().for_each(|worker| stats.add(&worker.stats()));
        stats
    }

    /// Lets time pass to the next timer that is due by then; whether there was one.
    fn pass_time(&mut self, until: wharf_port::Time) -> bool {
        let due = self.workers.iter().filter_map(Worker::next_timer).min();
        let Some(at) = due.filter(|at| *at <= until) else { return false };
        self.net.advance_to(at);
        self.settle();
        true
    }
}

/// Memory stays within its limit whatever is published; those who make room end as slow consumers, the
/// rest when a send has made no progress for 30 s, and nobody else notices.
#[test]
fn ten_thousand_slow_readers_cost_no_more_than_the_memory_that_there_is() {
    let mut crowd = Crowd::new(1);
    let start = crowd.net.now();
    // What one call adds: a place in each queue, and the body once on each worker.
    let one_call = SLOW * size_of::<wharf_port::Frame>() + 2 * (BODY_BYTES + 64 * 1024);
    for number in 1..=PUBLISHED {
        crowd.handle.publish(TOPIC, Class::Reliable, 0, &[7; BODY_BYTES]).unwrap();
        crowd.settle();
        let bytes = crowd.stats().send_memory_bytes;
        assert!(bytes <= MEMORY + one_call, "{bytes} after {number}");
        assert_eq!(crowd.reader.frames(), number, "a member that reads has everything");
        crowd.ask();
    }
    let stats = crowd.stats();
    let (slow, idle) = (CloseReason::SlowConsumer, CloseReason::IdleWrite);
    assert_eq!(stats.closed_for(slow), stats.memory_aborts);
    assert!((1000..SLOW as u64).contains(&stats.memory_aborts), "{}", stats.memory_aborts);
    // Each of the others is over when its first send has been there for 30 s.
    let until = crowd.net.now() + Duration::from_secs(31);
    while crowd.pass_time(until) && crowd.stats().sessions > 2 {}
    assert!(crowd.net.now().since(start) < Duration::from_secs(32), "in time");
    let stats = crowd.stats();
    assert_eq!(stats.closed_for(slow) + stats.closed_for(idle), SLOW as u64);
    assert_eq!((stats.sessions, stats.closed.iter().sum::<u64>()), (2, SLOW as u64));
    crowd.settle();
    let states = crowd.slow.iter_mut().map(|peer| {
        peer.read_arrived();
        peer.state()
    });
    let alive = states.filter(|state| !matches!(state, PeerState::Failed(_))).collect::<Vec<_>>();
    assert!(alive.is_empty(), "{} of them: {:?}", alive.len(), alive[0]);
    crowd.ask();
    crowd.handle.publish(TOPIC, Class::Reliable, 0, b"the last").unwrap();
    crowd.settle();
    assert_eq!(crowd.reader.frames(), PUBLISHED + 1);
    crowd.handle.drain(Duration::from_secs(5));
    crowd.settle();
    let until = crowd.net.now() + Duration::from_secs(10);
    while crowd.pass_time(until) {}
    for worker in &mut crowd.workers {
        let leftover = worker.report().leftover;
        assert!(worker.is_finished() && leftover.is_nothing(), "{leftover:?}");
    }
}
