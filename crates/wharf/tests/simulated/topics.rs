//! Topics in the simulator, with every order that a seed finds: who subscribed gets what is published,
//! once, and each publisher's frames in the order in which it made them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use wharf::{
    Class, Context, Frame, Handle, Handler, Limits, Result, Server, SessionId, Topic,
    framing::{LengthField, Lines},
    testing::{Client, Faults, Simulation, for_seeds},
};

use crate::support::*;

/// What a client asks for, three bytes each, any number of them in one frame.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Subscribe(u8),
    Unsubscribe(u8),
    Publish(u8),
    /// To itself alone.
    Send,
}

/// Numbers what each client makes, over all topics and its own frames.
struct Hall;

#[derive(Default)]
struct Guest {
    name: u8,
    made: u16,
}

impl Guest {
    /// Who made it, the topic (255 if it was for one alone), the number; text, for framings of lines.
    fn next(&mut self, topic: u8) -> String {
        self.made += 1;
        format!("{} {topic} {} {}", self.name, self.made, "x".repeat(usize::from(self.made % 90)))
    }
}

impl Handler for Hall {
    type Session = Guest;

    fn on_frame(&mut self, cx: &mut Context<'_, Guest>, frame: Frame<'_>) -> Result {
        let (name, asks) = frame.body().split_first().expect("a name");
        cx.data().name = *name;
        for ask in asks.chunks_exact(2) {
            let topic = Topic(ask[1].into());
            match ask[0] {
                b's' => cx.subscribe(topic)?,
                b'u' => cx.unsubscribe(topic),
                b'p' => {
                    let body = cx.data().next(ask[1]);
                    cx.publish(topic, Class::Reliable, 0, body.as_bytes())?;
                }
                _ => {
                    let body = cx.data().next(255);
                    cx.send(body.as_bytes())?;
                }
            }
        }
        Ok(())
    }
}

const LINES: &str = "10.0.0.1:9001";
const TOPICS: u64 = 3;

/// One who asks, in one of two framings.
struct Asking {
    name: u8,
    wire: Wire,
    made: u16,
    /// What it subscribes to at present, and what of its own it must get.
    subscribed: Vec<u8>,
    expected: Vec<(u8, u16)>,
}

enum Wire {
    Length(Client<LengthField>),
    Lines(Client<Lines>),
}

impl Asking {
    fn new(sim: &mut Simulation, name: u8) -> Self {
        let wire = match name % 3 {
            0 => Wire::Lines(sim.connect(LINES, Lines)),
            _ => Wire::Length(sim.connect(ADDRESS, FRAMING)),
        };
        Self { name, wire, made: 0, subscribed: Vec::new(), expected: Vec::new() }
    }

    fn ask(&mut self, asks: &[Ask]) {
        let mut body = vec![self.name];
        for ask in asks {
            let (op, topic) = match *ask {
                Ask::Subscribe(topic) => (b's', topic),
                Ask::Unsubscribe(topic) => (b'u', topic),
                Ask::Publish(topic) => (b'p', topic),
                Ask::Send => (b'd', 255),
            };
            body.extend([op, topic]);
            match *ask {
                Ask::Subscribe(topic) if !self.subscribed.contains(&topic) => {
                    self.subscribed.push(topic);
                }
                Ask::Subscribe(_) => {}
                Ask::Unsubscribe(topic) => self.subscribed.retain(|one| *one != topic),
                Ask::Publish(_) | Ask::Send => {
                    self.made += 1;
                    if topic == 255 || self.subscribed.contains(&topic) {
                        self.expected.push((topic, self.made));
                    }
                }
            }
        }
        match &self.wire {
            Wire::Length(client) => client.send(&body),
            Wire::Lines(client) => client.send(&body),
        }
    }

    fn received(&self) -> Vec<(u8, u8, u16)> {
        let bodies = match &self.wire {
            Wire::Length(client) => client.received(),
            Wire::Lines(client) => client.received(),
        };
        let parse = |body: Vec<u8>| {
            let text = String::from_utf8(body).expect("text");
            let words: Vec<u16> =
                text.split(' ').take(3).map(|word| word.parse().unwrap()).collect();
            assert_eq!(text.split(' ').nth(3).unwrap().len(), usize::from(words[2] % 90), "whole");
            (words[0] as u8, words[1] as u8, words[2])
        };
        bodies.into_iter().map(parse).collect()
    }

    fn is_closed(&self) -> bool {
        match &self.wire {
            Wire::Length(client) => client.is_closed(),
            Wire::Lines(client) => client.is_closed(),
        }
    }

    fn reset(&self) {
        match &self.wire {
            Wire::Length(client) => client.reset(),
            Wire::Lines(client) => client.reset(),
        }
    }

    /// Of its own it has exactly what it must have; of others, in the order in which they made it.
    fn check(&self) {
        let mut last = BTreeMap::new();
        let mut mine = Vec::new();
        for (who, topic, number) in self.received() {
            let before = last.insert(who, number).unwrap_or(0);
            assert!(number > before, "{}: {number} of {who} after {before}", self.name);
            if who == self.name {
                mine.push((topic, number));
            }
        }
        assert_eq!(mine, self.expected, "{} has its own in order", self.name);
    }
}

fn hall(seed: u64, faults: Faults) -> Simulation {
    let limits = Limits { first_frame_timeout: None, ..Limits::default() };
    let server = Server::builder().workers(1 + (seed % 3) as usize).limits(limits);
    let server = server.listen(ADDRESS, FRAMING, || Hall).listen(LINES, Lines, || Hall);
    server.simulate(seed, faults).unwrap()
}

/// Every topic is anybody's; everybody comes and goes. What one client made reaches it complete, and
/// reaches others in order and once.
#[test]
fn each_publishers_order_is_everybodys() {
    for_seeds(0..150, |seed| {
        let mut sim = hall(seed, Faults::none());
        let mut guests: Vec<_> = (0..8).map(|name| Asking::new(&mut sim, name)).collect();
        for _ in 0..120 {
            let guest = sim.random(8) as usize;
            let asks: Vec<_> = (0..1 + sim.random(6))
                .map(|_| {
                    let topic = sim.random(TOPICS) as u8;
                    match sim.random(10) {
                        0..3 => Ask::Subscribe(topic),
                        3 => Ask::Unsubscribe(topic),
                        4..8 => Ask::Publish(topic),
                        _ => Ask::Send,
                    }
                })
                .collect();
            guests[guest].ask(&asks);
            (0..sim.random(60)).for_each(|_| _ = sim.step());
        }
        sim.run();
        guests.iter().for_each(Asking::check);
        sim.finish();
    });
}

/// Once all have subscribed, everybody gets everything.
#[test]
fn nothing_that_is_published_is_missing() {
    for_seeds(0..100, |seed| {
        let mut sim = hall(seed, Faults::none());
        let mut guests: Vec<_> = (0..6).map(|name| Asking::new(&mut sim, name)).collect();
        for guest in &mut guests {
            // Some of one topic alone, whose blocks are not cut, and some of several.
            let topics = 1 + sim.random(TOPICS) as u8;
            (0..topics).for_each(|topic| guest.ask(&[Ask::Subscribe(topic)]));
        }
        sim.run();
        for _ in 0..100 {
            let guest = sim.random(6) as usize;
            let topic = sim.random(TOPICS) as u8;
            guests[guest].ask(&[Ask::Publish(topic), Ask::Publish(topic)]);
            (0..sim.random(40)).for_each(|_| _ = sim.step());
        }
        sim.run();
        // What those in all topics have of each is what was made.
        let everything: usize = guests.iter().map(|guest| usize::from(guest.made)).sum();
        for guest in &guests {
            guest.check();
            if guest.subscribed.len() == TOPICS as usize {
                assert_eq!(guest.received().len(), everything);
            }
        }
        let first: Vec<_> = guests
            .iter()
            .map(|g| g.received().iter().filter(|(_, t, _)| *t == 0).count())
            .collect();
        assert!(first.iter().all(|count| *count == first[0]), "all are in topic 0: {first:?}");
        sim.finish();
    });
}

/// Guests who subscribe, publish and leave while the network does everything that it can.
fn guests_with_faults(seed: u64) -> (Simulation, Vec<Asking>) {
    let mut sim = hall(seed, Faults::rough());
    let mut guests: Vec<_> = (0..8).map(|name| Asking::new(&mut sim, name)).collect();
    for round in 0..80 {
        let guest = sim.random(8) as usize;
        let topic = sim.random(TOPICS) as u8;
        guests[guest].ask(&[Ask::Subscribe(topic), Ask::Publish(topic), Ask::Send]);
        if round == 40 {
            guests[0].reset();
            guests[0] = Asking::new(&mut sim, 9);
        }
        (0..sim.random(60)).for_each(|_| _ = sim.step());
    }
    sim.run();
    (sim, guests)
}

/// Whatever the network does: nothing is out of order or twice, and nothing is left over.
#[test]
fn with_faults_order_is_kept() {
    for_seeds(500..560, |seed| {
        let (sim, guests) = guests_with_faults(seed);
        for guest in &guests {
            let mut last = BTreeMap::new();
            for (who, _, number) in guest.received() {
                let before = last.insert(who, number).unwrap_or(0);
                assert!(number > before, "{number} of {who} after {before}");
            }
        }
        sim.finish();
    });
}

/// When whatever went wrong is over, who is left has had an answer to all that it asked, and hears all
/// that anybody publishes, on whichever worker.
#[test]
fn after_every_fault_who_is_left_hears_everybody() {
    for_seeds(600..660, |seed| {
        let (mut sim, mut guests) = guests_with_faults(seed);
        sim.set_faults(Faults::none());
        sim.run_for(seconds(5));
        guests.retain(|guest| !guest.is_closed());
        guests.iter().for_each(Asking::check);
        for guest in &mut guests {
            (0..TOPICS as u8).for_each(|topic| guest.ask(&[Ask::Subscribe(topic)]));
        }
        sim.run();
        let mut said = Vec::new();
        for guest in &mut guests {
            for topic in 0..TOPICS as u8 {
                guest.ask(&[Ask::Publish(topic)]);
                said.push((guest.name, topic, guest.made));
            }
        }
        sim.run();
        for guest in &guests {
            guest.check();
            let received = guest.received();
            let missing: Vec<_> = said.iter().filter(|one| !received.contains(one)).collect();
            assert!(missing.is_empty(), "{} has not heard {missing:?}", guest.name);
        }
        sim.finish();
    });
}

/// Tells which sessions there are.
#[derive(Clone, Default)]
struct Opened(Arc<Mutex<Vec<SessionId>>>);

impl Handler for Opened {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.0.lock().unwrap().push(cx.id());
        Ok(())
    }

    fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
        Ok(())
    }
}

/// A broadcast is for whom the filter says, of every framing, behind what was sent before; a filter
/// that panics costs nobody else anything.
#[test]
fn a_broadcast_reaches_whom_the_filter_wants() {
    for_seeds(0..20, |seed| {
        let opened = Opened::default();
        let (told, too) = (opened.clone(), opened.clone());
        let server = Server::builder().workers(1 + (seed % 3) as usize);
        let server = server.listen(ADDRESS, FRAMING, move || told.clone());
        let server = server.listen(LINES, Lines, move || too.clone());
        let mut sim = server.simulate(seed, Faults::none()).unwrap();
        let counted = [sim.connect(ADDRESS, FRAMING), sim.connect(ADDRESS, FRAMING)];
        let line = sim.connect(LINES, Lines);
        sim.run();
        let handle = sim.handle().clone();
        let ids = opened.0.lock().unwrap().clone();
        ids.iter().for_each(|id| handle.send(*id, b"before").unwrap());
        handle.broadcast(0, b"all", |_| true).unwrap();
        handle.broadcast(0, b"none", |_| panic!("a filter that panics")).unwrap();
        let first = ids[0];
        handle.broadcast(0, b"one", move |info| info.id == first).unwrap();
        handle.broadcast(0, b"two\nlines", |_| true).unwrap();
        sim.run();
        assert_eq!(line.received()[..2], [&b"before"[..], b"all"]);
        assert!(!line.received().contains(&b"two\nlines".to_vec()), "it cannot be said in lines");
        let mut ones = line.received().len() - 2;
        for client in &counted {
            let received = client.received();
            assert_eq!(received[..2], [&b"before"[..], b"all"]);
            assert_eq!(received.last().unwrap(), b"two\nlines");
            ones += received.len() - 3;
        }
        assert_eq!(ones, 1, "for one alone");
        sim.finish();
    });
}

/// What a thread does through a handle reaches a session in that order, on whichever worker it is.
#[test]
fn subscribe_publish_and_send_of_a_thread_come_in_that_order() {
    for_seeds(0..100, |seed| {
        let opened = Opened::default();
        let told = opened.clone();
        let server = Server::builder().workers(1 + (seed % 3) as usize);
        let server = server.listen(ADDRESS, FRAMING, move || told.clone());
        let mut sim = server.simulate(seed, Faults::none()).unwrap();
        let clients: Vec<_> = (0..5).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        sim.run();
        let handle: Handle = sim.handle().clone();
        let ids = opened.0.lock().unwrap().clone();
        let mut number = 0_u16;
        let mut expected = vec![Vec::new(); 5];
        let mut subscribed = [false; 5];
        for _ in 0..60 {
            let who = sim.random(5) as usize;
            number += 1;
            let body = number.to_be_bytes();
            match sim.random(4) {
                0 => {
                    handle.subscribe(ids[who], Topic(7)).unwrap();
                    subscribed[who] = true;
                }
                1 => {
                    handle.unsubscribe(ids[who], Topic(7)).unwrap();
                    subscribed[who] = false;
                }
                2 => {
                    handle.publish(Topic(7), Class::Reliable, 0, &body).unwrap();
                    for (one, expected) in expected.iter_mut().enumerate() {
                        if subscribed[one] {
                            expected.push(body.to_vec());
                        }
                    }
                }
                _ => {
                    handle.send(ids[who], &body).unwrap();
                    expected[who].push(body.to_vec());
                }
            }
            (0..sim.random(20)).for_each(|_| _ = sim.step());
        }
        sim.run();
        // Which client is which session, the last frame tells.
        for (id, name) in ids.iter().zip(0_u8..) {
            handle.send(*id, &[name]).unwrap();
        }
        sim.run();
        for client in &clients {
            let mut received = client.received();
            let name = received.pop().expect("its name")[0];
            assert_eq!(received, expected[usize::from(name)], "session {name}");
        }
        sim.finish();
    });
}
