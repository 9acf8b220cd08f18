//! Other threads, and what a turn costs.

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use wharf_port::{Config, Gather, Op, Outcome, Token};

use crate::rig::{Rig, config, pattern};

#[test]
fn another_thread_wakes_a_sleeping_port_and_one_that_is_about_to_sleep() {
    for spin in [Duration::ZERO, Duration::from_micros(200)] {
        let mut rig = Rig::new(&Config { spin, ..config() });
        let (post, mut inbox) = wharf_port::inbox(rig.port.waker(), 1024);
        let (mut done, mut values) = (Vec::new(), Vec::new());
        // Awake: asked for before the wait, which must not sleep.
        post.post(0).unwrap();
        rig.port.wait(None, &mut done).unwrap();
        inbox.drain(&mut values);
        assert_eq!(values, [0]);
        // Asleep or not, as it happens: without a limit on the wait, a lost wake-up hangs.
        let poster = thread::spawn(move || {
            for value in 1..1000_u64 {
                post.post(value).unwrap();
                if value % 8 == 0 {
                    thread::sleep(Duration::from_micros(value % 5 * 100));
                }
            }
        });
        while values.len() < 1000 {
            rig.port.wait(None, &mut done).unwrap();
            inbox.drain(&mut values);
        }
        poster.join().unwrap();
        assert_eq!(values, (0..1000).collect::<Vec<_>>());
        assert!(done.is_empty());
        rig.finish([]);
    }
}

#[test]
fn a_turn_is_one_system_call_however_much_it_does() {
    const SOCKETS: usize = 40;
    let mut rig = Rig::new(&config());
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..SOCKETS).map(|_| rig.connection()).unzip();
    for (index, socket) in sockets.iter().enumerate() {
        rig.receive(*socket, 1 << 20, index as u64);
    }
    rig.settle();
    let start = rig.port.counts().system_calls;
    let mut turns = 0;
    for round in 0..10 {
        let message = pattern(100, round);
        peers.iter_mut().for_each(|peer| peer.write_all(&message).unwrap());
        let (mut received, mut sent) = (0, 0);
        let mut done = Vec::new();
        while sent < SOCKETS {
            rig.port.wait(None, &mut done).unwrap();
            turns += 1;
            for done in done.drain(..) {
                match done.outcome {
                    Outcome::Received(bytes) => {
                        received += bytes.len();
                        let gather = Gather::from(rig.frame(&bytes));
                        rig.send(sockets[done.token.0 as usize], gather, done.token.0);
                    }
                    Outcome::Sent { result: Ok(()), .. } => sent += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(received, SOCKETS * message.len());
        for peer in &mut peers {
            let mut echo = vec![0; message.len()];
            peer.read_exact(&mut echo).unwrap();
            assert_eq!(echo, message);
        }
    }
    assert_eq!(rig.port.counts().system_calls - start, turns, "one a turn");
    assert!(turns <= 10 * 2 * SOCKETS as u64, "never a turn with nothing to do: {turns}");
    sockets.iter().for_each(|socket| rig.port.cancel(*socket));
    for _ in 0..SOCKETS {
        let end = rig.next().outcome;
        assert!(matches!(end, Outcome::ReceiveEnded(wharf_port::ReceiveEnd::Cancelled)), "{end:?}");
    }
    rig.finish(sockets);
}

/// What is there at once is taken in batches, and what it is answered with leaves in the turn's one system
/// call: a hand-written loop on the raw ring needs no fewer. (Linux runs 20 pieces of deferred work when
/// entries are submitted and 20 more before it would wait; before 6.13, all that there are.)
#[test]
fn a_burst_is_handled_in_as_few_turns_as_the_kernel_lets() {
    const SOCKETS: usize = 200;
    let mut rig = Rig::new(&config());
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..SOCKETS).map(|_| rig.connection()).unzip();
    for (index, socket) in sockets.iter().enumerate() {
        rig.receive(*socket, 1 << 16, index as u64);
    }
    rig.settle();
    for round in 0..3 {
        let message = pattern(32, round);
        peers.iter_mut().for_each(|peer| peer.write_all(&message).unwrap());
        let start = rig.port.counts().system_calls;
        let (mut done, mut sent) = (Vec::new(), 0);
        while sent < SOCKETS {
            rig.port.wait(None, &mut done).unwrap();
            for done in done.drain(..) {
                match done.outcome {
                    Outcome::Received(bytes) => {
                        let gather = Gather::from(rig.frame(&bytes));
                        rig.send(sockets[done.token.0 as usize], gather, done.token.0);
                    }
                    Outcome::Sent { result: Ok(()), .. } => sent += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        let calls = rig.port.counts().system_calls - start;
        assert!(calls <= SOCKETS as u64 / 20 + 3, "{calls} system calls for {SOCKETS} messages");
        for peer in &mut peers {
            let mut echo = vec![0; message.len()];
            peer.read_exact(&mut echo).unwrap();
            assert_eq!(echo, message);
        }
    }
    sockets.iter().for_each(|socket| rig.port.cancel(*socket));
    for _ in 0..SOCKETS {
        let end = rig.next().outcome;
        assert!(matches!(end, Outcome::ReceiveEnded(wharf_port::ReceiveEnd::Cancelled)), "{end:?}");
    }
    rig.finish(sockets);
}

#[test]
fn more_submits_in_a_turn_than_the_queue_holds_all_complete() {
    const ROUNDS: u64 = 5;
    let mut rig = Rig::new(&config());
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..400).map(|_| rig.connection()).unzip();
    for round in 0..ROUNDS {
        for (index, socket) in sockets.iter().enumerate() {
            let frame = rig.frame(&pattern(32, index + round as usize));
            rig.send(*socket, frame.into(), index as u64);
            rig.port.submit(Op::Receive { socket: *socket, credit_bytes: 10 }, Token(1000));
            rig.port.pause(*socket);
        }
        let mut left = 2 * sockets.len();
        while left > 0 {
            match rig.next().outcome {
                Outcome::Sent { result: Ok(()), .. } | Outcome::ReceiveEnded(_) => left -= 1,
                other => panic!("{other:?}"),
            }
        }
        for (index, peer) in peers.iter_mut().enumerate() {
            let mut bytes = [0; 32];
            peer.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes[..], pattern(32, index + round as usize));
        }
    }
    rig.finish(sockets);
}
