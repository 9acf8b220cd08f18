//! What waits to be sent stays within what the process may use for it, and within each session's share
//! of an inbox.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    Builder, Class, CloseReason, Context, Frame, Handler, Limits, Result, SendError, Server,
    SessionId, Topic,
    testing::{Faults, Simulation, for_seeds},
};

use crate::support::*;

const MEMORY: usize = 3 << 20;
const PIECE: usize = 4000;
const ROOM: Topic = Topic(5);

#[derive(Clone, Default)]
struct Log {
    opened: Arc<Mutex<Vec<SessionId>>>,
    closed: Arc<Mutex<Vec<(SessionId, CloseReason)>>>,
}

/// Fills the queue of the session that says so, or of all in the room.
struct Filling(Log);

impl Handler for Filling {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.0.opened.lock().unwrap().push(cx.id());
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        match frame.body() {
            b"join" => cx.subscribe(ROOM)?,
            b"fill" => (0..60).try_for_each(|_| cx.send(&[1; PIECE]))?,
            b"publish" => {
                (0..60).try_for_each(|_| cx.publish(ROOM, Class::Reliable, 0, &[2; PIECE]))?;
            }
            other => cx.send(other)?,
        }
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Context<'_, ()>, reason: CloseReason) {
        self.0.closed.lock().unwrap().push((cx.id(), reason));
    }
}

fn filling(seed: u64, builder: Builder, limits: Limits) -> (Simulation, Log) {
    let log = Log::default();
    let told = log.clone();
    let server = builder.limits(Limits { idle_write_timeout: None, ..limits });
    let server = server.listen(ADDRESS, FRAMING, move || Filling(told.clone()));
    (server.simulate(seed, Faults::none()).unwrap(), log)
}

/// More is sent to peers that do not read than there is memory for: those end that have been above
/// their soft mark for longest, and nobody else.
#[test]
fn the_longest_above_their_mark_make_room() {
    for_seeds(0..10, |seed| {
        let limits = Limits { send_queue_bytes_soft: 64 * 1024, ..Limits::default() };
        let builder = Server::builder().workers(1).send_memory_max(MEMORY);
        let (mut sim, log) = filling(seed, builder, limits);
        let reader = sim.connect(ADDRESS, FRAMING);
        sim.run();
        let mut deaf = Vec::new();
        for _ in 0..30 {
            let client = sim.connect(ADDRESS, FRAMING);
            client.set_reading(false);
            sim.run();
            client.send(b"fill");
            deaf.push(client);
            let before = log.closed.lock().unwrap().len();
            // To the next tick of the clock: each is above its mark from another time on.
            sim.run_for(Duration::from_millis(20));
            let ended = log.closed.lock().unwrap().len() - before;
            assert!(ended <= 1, "each makes as much room as another one takes: {ended}");
            // One call may go beyond it, and what is in flight for the aborted ends a little later.
            let bytes = sim.stats().send_memory_bytes;
            assert!(bytes <= MEMORY + 70 * PIECE, "{bytes}");
            reader.send(b"not affected");
        }
        sim.run();
        assert_eq!(reader.received().len(), 30);
        let aborted = log.closed.lock().unwrap().clone();
        assert!((10..25).contains(&aborted.len()), "{aborted:?}");
        let first: Vec<_> = log.opened.lock().unwrap()[1..=aborted.len()]
            .iter()
            .map(|id| (*id, CloseReason::SlowConsumer))
            .collect();
        assert_eq!(aborted, first, "those who came first, and not the reader");
        assert_eq!(sim.stats().memory_aborts, aborted.len() as u64);
        deaf.iter().for_each(|client| client.set_reading(true));
        sim.run();
        let whole = deaf.iter().filter(|client| client.received().len() == 60).count();
        assert_eq!(whole, 30 - aborted.len(), "the others get everything");
        assert!(sim.stats().send_memory_bytes < 64 * 1024, "and give it back");
        sim.finish();
    });
}

/// What many share is counted once, however far beyond the memory their queues are.
#[test]
fn a_frame_of_many_counts_once() {
    let limits = Limits {
        send_queue_bytes_soft: 1 << 20,
        send_queue_bytes_max: 1 << 20,
        ..Limits::default()
    };
    let (mut sim, _) = filling(1, Server::builder().workers(1).send_memory_max(MEMORY), limits);
    let members: Vec<_> = (0..40).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
    for member in &members {
        member.set_reading(false);
        member.send(b"join");
    }
    let publisher = sim.connect(ADDRESS, FRAMING);
    sim.run();
    for _ in 0..4 {
        publisher.send(b"publish");
        sim.run();
    }
    // 960 KB for each of 40.
    let bytes = sim.stats().send_memory_bytes;
    assert!((900_000..1_500_000).contains(&bytes), "{bytes}");
    members.iter().for_each(|member| member.set_reading(true));
    sim.run();
    assert!(members.iter().all(|member| member.received().len() == 240));
    assert_eq!(sim.finish().stats.memory_aborts, 0);
}

/// Workers lease from each other's rest: what one has given back, another can have.
#[test]
fn workers_share_the_memory() {
    let limits = Limits { send_queue_bytes_soft: 1 << 20, ..Limits::default() };
    for seed in 0..5 {
        let builder = Server::builder().workers(3).send_memory_max(6 << 20);
        let (mut sim, _) = filling(seed, builder, limits.clone());
        for _ in 0..3 {
            let clients: Vec<_> = (0..12).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
            clients.iter().for_each(|client| client.set_reading(false));
            clients.iter().for_each(|client| client.send(b"fill"));
            sim.run();
            clients.iter().for_each(|client| client.set_reading(true));
            sim.run();
            assert!(clients.iter().all(|client| client.received().len() == 60));
        }
        assert_eq!(sim.finish().stats.memory_aborts, 0);
    }
}

#[test]
fn less_than_a_piece_for_each_worker_is_refused() {
    let builder = Server::builder().workers(2).send_memory_max((2 << 20) - 1);
    let refused = builder.listen(ADDRESS, FRAMING, || Filling(Log::default()));
    let error = refused.simulate(1, Faults::none()).unwrap_err().to_string();
    assert!(error.contains("send_memory_max"), "{error}");
}

/// Other threads hear at once that a session has as much on its way as it may have: its worker need
/// not be asked, and others still have room in the inbox.
#[test]
fn what_waits_in_an_inbox_for_one_session_is_bounded() {
    let limits = Limits {
        send_queue_bytes_soft: 64 * 1024,
        send_queue_bytes_max: 64 * 1024,
        ..Limits::default()
    };
    let (mut sim, log) = filling(1, Server::builder().workers(1), limits);
    let clients = [sim.connect(ADDRESS, FRAMING), sim.connect(ADDRESS, FRAMING)];
    sim.run();
    let ids = log.opened.lock().unwrap().clone();
    for _ in 0..3 {
        let handle = sim.handle().clone();
        let accepted = (0..200).take_while(|_| handle.send(ids[0], &[7; 1000]).is_ok()).count();
        assert_eq!(accepted, 65, "64 KiB");
        assert_eq!(handle.send(ids[0], &[7; 1000]), Err(SendError::WouldExceed));
        handle.send(ids[0], &[7; 300]).unwrap();
        handle.send(ids[1], &[8; 1000]).unwrap();
        sim.run();
    }
    let received: Vec<_> = clients.iter().map(|client| client.received().len()).collect();
    assert_eq!(received.iter().max(), Some(&(3 * 66)));
    assert_eq!(received.iter().min(), Some(&3));
    assert!(log.closed.lock().unwrap().is_empty());
    // Of one that is over nothing is counted any more.
    sim.handle().send(ids[0], &[7; 1000]).unwrap();
    sim.handle().close(ids[0]).unwrap();
    sim.run();
    assert_eq!(sim.handle().send(ids[0], b"late"), Err(SendError::Closed));
    sim.finish();
}
