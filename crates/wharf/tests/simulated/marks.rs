//! The soft mark of a send queue: who is told, when, and what becomes of one that stays above.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    Class, CloseReason, Context, Frame, Handler, Limits, Result, Server, SessionId, Topic,
    port::Time,
    testing::{Faults, Simulation, for_seeds},
};

use crate::support::*;

const SOFT: usize = 64 * 1024;
const ROOM: Topic = Topic(1);
const PIECE: usize = 4000;
/// A producer sends so many in one call.
const AT_ONCE: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// With so many bytes queued.
    Backpressure(SessionId, usize),
    Writable(SessionId, usize),
    Close(SessionId, CloseReason, Time),
}

/// Produces what a frame asks for, and stops while it is told to.
struct Producer {
    told: Arc<Mutex<Vec<Told>>>,
    inside: bool,
}

#[derive(Default)]
struct Production {
    left: usize,
    stopped: bool,
}

impl Producer {
    /// No call comes during another one (I6).
    fn call(&mut self, call: impl FnOnce(&mut Self) -> Result) -> Result {
        assert!(!std::mem::replace(&mut self.inside, true), "a call during a call");
        let result = call(self);
        self.inside = false;
        result
    }

    fn tell(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }

    fn produce(cx: &mut Context<'_, Production>) -> Result {
        for _ in 0..AT_ONCE {
            let Some(left) = cx.data().left.checked_sub(1) else { return Ok(()) };
            cx.data().left = left;
            cx.send(&[left as u8; PIECE])?;
        }
        cx.set_timer(Duration::ZERO, 0);
        Ok(())
    }
}

impl Handler for Producer {
    type Session = Production;

    fn on_frame(&mut self, cx: &mut Context<'_, Production>, frame: Frame<'_>) -> Result {
        self.call(|_| {
            let text = String::from_utf8_lossy(frame.body());
            match text.split_once(' ').expect("two words") {
                ("produce", count) => {
                    cx.data().left = count.parse().unwrap();
                    Self::produce(cx)
                }
                ("fill", count) => {
                    let count: usize = count.parse().unwrap();
                    (0..count).try_for_each(|_| cx.send(&[0; PIECE]))?;
                    Ok(())
                }
                ("publish", count) => {
                    let count: usize = count.parse().unwrap();
                    (0..count)
                        .try_for_each(|_| cx.publish(ROOM, Class::Reliable, 0, &[0; PIECE]))?;
                    Ok(())
                }
                ("subscribe", _) => Ok(cx.subscribe(ROOM)?),
                _ => panic!("{text}"),
            }
        })
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Production>, _: u64) -> Result {
        self.call(|_| if cx.data().stopped { Ok(()) } else { Self::produce(cx) })
    }

    fn on_backpressure(&mut self, cx: &mut Context<'_, Production>) -> Result {
        self.call(|handler| {
            handler.tell(Told::Backpressure(cx.id(), cx.queued_bytes()));
            assert!(!std::mem::replace(&mut cx.data().stopped, true), "told twice");
            Ok(())
        })
    }

    fn on_writable(&mut self, cx: &mut Context<'_, Production>) -> Result {
        self.call(|handler| {
            handler.tell(Told::Writable(cx.id(), cx.queued_bytes()));
            assert!(std::mem::replace(&mut cx.data().stopped, false), "told twice");
            Self::produce(cx)
        })
    }

    fn on_close(&mut self, cx: &mut Context<'_, Production>, reason: CloseReason) {
        let told = Told::Close(cx.id(), reason, cx.now());
        let told = |handler: &mut Self| {
            handler.tell(told);
            Ok(())
        };
        self.call(told).unwrap();
    }
}

struct Factory {
    sim: Simulation,
    told: Arc<Mutex<Vec<Told>>>,
}

fn factory(seed: u64) -> Factory {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let limits =
        Limits { send_queue_bytes_soft: SOFT, idle_write_timeout: None, ..Limits::default() };
    let server = Server::builder().workers(2).limits(limits);
    let server = server
        .listen(ADDRESS, FRAMING, move || Producer { told: Arc::clone(&tell), inside: false });
    Factory { sim: server.simulate(seed, Faults::none()).unwrap(), told }
}

impl Factory {
    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

/// One who stops when told to and goes on when told to produces everything, and never has much more
/// queued than the mark. A reader that pauses at random sees nothing of it.
#[test]
fn a_producer_that_listens_is_never_cut_off() {
    for_seeds(0..60, |seed| {
        let mut factory = factory(seed);
        let client = factory.sim.connect(ADDRESS, FRAMING);
        client.send(b"produce 300");
        for _ in 0..40 {
            let reads = factory.sim.random(2) == 0;
            client.set_reading(reads);
            factory.sim.run_for(Duration::from_millis(200));
        }
        client.set_reading(true);
        factory.sim.run_for(seconds(2));
        let expected: Vec<_> = (0..300_usize).rev().map(|n| vec![n as u8; PIECE]).collect();
        assert!(client.received() == expected, "all of it, in order");
        let most = SOFT + AT_ONCE * (PIECE + 2);
        let told = factory.told();
        for pair in told.chunks(2) {
            let [Told::Backpressure(_, above), Told::Writable(_, below)] = pair else {
                panic!("one after the other: {told:?}")
            };
            assert!((SOFT..=most).contains(above) && *below <= SOFT / 2, "{above}, {below}");
        }
        assert!(told.len() > 2, "it was held back");
        let stats = factory.sim.finish().stats;
        assert_eq!(stats.soft_marks_crossed, told.len() as u64 / 2);
        assert_eq!((stats.hard_marks_reached, stats.bytes_lost), (0, 0));
    });
}

/// Ten seconds above the mark without a break, to the tick; and for nobody else.
#[test]
fn one_that_stays_above_its_soft_mark_is_aborted() {
    let mut factory = factory(3);
    let (deaf, slow) =
        (factory.sim.connect(ADDRESS, FRAMING), factory.sim.connect(ADDRESS, FRAMING));
    for client in [&deaf, &slow] {
        client.set_reading(false);
        client.send(b"fill 40");
    }
    factory.sim.run();
    let start = factory.sim.now();
    factory.sim.run_for(seconds(9));
    assert!(!deaf.is_closed() && !slow.is_closed());
    // Reads as much as brings it below the mark; then it is sent more, and its time begins again.
    slow.set_reading(true);
    factory.sim.run();
    slow.set_reading(false);
    slow.send(b"fill 40");
    factory.sim.run();
    let again = factory.sim.now();
    factory.sim.run_for(seconds(10));
    let closes = |factory: &Factory| {
        let told = factory.told();
        let close = |told: &Told| match told {
            Told::Close(_, reason, at) => Some((*reason, *at)),
            _ => None,
        };
        told.iter().filter_map(close).collect::<Vec<_>>()
    };
    let check = |closes: Vec<(CloseReason, Time)>, start: Time| {
        let [(CloseReason::SlowConsumer, at)] = closes[..] else { panic!("{closes:?}") };
        let took = at.since(start);
        assert!(seconds(10) <= took + TICK && took <= seconds(10) + 2 * TICK, "{took:?}");
    };
    let all = closes(&factory);
    check(all[..1].to_vec(), start);
    factory.sim.run_for(seconds(1));
    check([&all[1..], &closes(&factory)[..]].concat(), again);
    deaf.set_reading(true);
    slow.set_reading(true);
    assert!(factory.sim.finish().stats.bytes_lost > 0);
}

/// What is published counts for each member: it is the members who are told, not the publisher.
#[test]
fn members_are_told_of_what_is_published() {
    let mut factory = factory(5);
    let members: Vec<_> = (0..3).map(|_| factory.sim.connect(ADDRESS, FRAMING)).collect();
    for member in &members {
        member.send(b"subscribe now");
    }
    members[1].set_reading(false);
    let publisher = factory.sim.connect(ADDRESS, FRAMING);
    factory.sim.run();
    for _ in 0..4 {
        publisher.send(b"publish 10");
        factory.sim.run();
    }
    let told = factory.told();
    let [Told::Backpressure(member, _)] = told[..] else { panic!("{told:?}") };
    members[1].set_reading(true);
    factory.sim.run();
    assert!(matches!(factory.told()[..], [Told::Writable(other, _)] if other == member));
    assert!(members.iter().all(|member| member.received().len() == 40));
    // All in one turn: those who read are told as well, and get it all.
    publisher.send(b"publish 60");
    factory.sim.run();
    assert_eq!(factory.told().len(), 6);
    assert!(members.iter().all(|member| member.received().len() == 100));
    factory.sim.finish();
}

/// Below the mark and above it again, without having been at half of it: told once, counted twice.
#[test]
fn nobody_is_told_twice() {
    let mut factory = factory(7);
    let member = factory.sim.connect(ADDRESS, FRAMING);
    member.send(b"subscribe now");
    let publisher = factory.sim.connect(ADDRESS, FRAMING);
    factory.sim.run();
    member.set_reading(false);
    // The network takes a gather of 64 KiB; what is left is between half of the mark and the mark.
    for count in [25, 12] {
        publisher.send(format!("publish {count}").as_bytes());
        factory.sim.run();
    }
    assert!(matches!(factory.told()[..], [Told::Backpressure(..)]));
    member.set_reading(true);
    factory.sim.run();
    assert!(matches!(factory.told()[..], [Told::Writable(..)]));
    assert_eq!(factory.sim.finish().stats.soft_marks_crossed, 2);
}
