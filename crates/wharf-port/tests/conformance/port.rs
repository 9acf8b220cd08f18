//! The port as a whole: connecting, waking, fairness, several ports, the end (P6, P8, P10).

use std::{io, time::Duration};

use wharf_port::{Close, Config, Op, Outcome, inbox};

use crate::{
    lab::{Lab, Rig, assert_same, pattern},
    port_echo::Echo,
};

pub(crate) fn a_port_connects_to_itself(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let address = lab.address;
    let near = lab.stream(address);
    let token = lab.submit(Op::Connect { socket: near, address });
    match lab.next(token) {
        Outcome::Connected(Ok(())) => {}
        outcome => panic!("{outcome:?}"),
    }
    let accepted = lab.accepted();
    assert_eq!(accepted.peer_addr().unwrap(), lab.port.local_addr(near).unwrap());
    let far = lab.adopt(accepted);
    for (from, to) in [(near, far), (far, near)] {
        let token = lab.send(from, &[b"hel", b"lo"]);
        assert_same(&lab.receive_exactly(to, 5), b"hello");
        lab.sent(token);
    }
    lab.finish();
}

pub(crate) fn a_refused_connect_fails(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let address = rig.refusing_address();
    let socket = lab.stream(address);
    let token = lab.submit(Op::Connect { socket, address });
    match lab.next(token) {
        Outcome::Connected(Err(error)) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        outcome => panic!("{outcome:?}"),
    }
    lab.close(socket, Close::Graceful);
    lab.finish();
}

pub(crate) fn a_connect_cancelled_at_once_completes_once(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let address = lab.address;
    for how in [Close::Graceful, Close::Reset] {
        let socket = lab.stream(address);
        let token = lab.submit(Op::Connect { socket, address });
        lab.port.cancel(socket);
        let outcome = lab.next(token);
        assert!(matches!(outcome, Outcome::Connected(_)), "{outcome:?}");
        lab.close(socket, how);
    }
    lab.finish();
}

pub(crate) fn values_from_other_threads_come_in_order(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (post, mut inbox) = inbox(lab.port.waker(), 1000);
    let poster = std::thread::spawn(move || (0..1000).for_each(|i| post.post(i).unwrap()));
    let mut values = Vec::new();
    lab.until("1000 values", |_| {
        inbox.drain(&mut values);
        (values.len() == 1000).then_some(())
    });
    poster.join().unwrap();
    assert!(values.iter().copied().eq(0..1000));
    lab.finish();
}

pub(crate) fn time_never_goes_back(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let mut last = lab.port.now();
    for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(2)] {
        let time = lab.port.wait(Some(timeout), &mut Vec::new()).unwrap();
        assert!(last <= time && time <= lab.port.now());
        last = time;
    }
    lab.finish();
}

/// Some peers always have more, and their receives are submitted again at once; another's message
/// is received after a bounded number of completions all the same.
pub(crate) fn a_flood_does_not_hold_up_others(rig: &dyn Rig, mut config: Config) {
    config.receive_buffers = 64;
    let mut lab = Lab::open(rig, config);
    let bytes = pattern(256 * 1024);
    let mut floods: Vec<_> = (0..6)
        .map(|_| {
            let (socket, peer) = lab.pair();
            (socket, peer, lab.receive(socket, CREDIT_BYTES))
        })
        .collect();
    let (quiet, mut peer) = lab.pair();
    let messages = lab.receive(quiet, 1000);
    for _ in 0..20 {
        peer.try_write(b"ping").unwrap();
        let mut completions = 0;
        let message = lab.until("the message", |lab| {
            for (socket, flood, token) in &mut floods {
                while flood.try_write(&bytes).is_ok() {}
                while let Some(outcome) = lab.try_next(*token) {
                    completions += 1;
                    if matches!(outcome, Outcome::ReceiveEnded(_)) {
                        *token = lab.receive(*socket, CREDIT_BYTES);
                    }
                }
            }
            assert!(completions <= 256, "{completions} completions of the flood first");
            lab.try_next(messages)
        });
        let Outcome::Received(message) = message else { panic!("{message:?}") };
        assert_same(&message, b"ping");
    }
    lab.finish();
}

pub(crate) fn an_accepted_socket_can_be_adopted_by_another_port(rig: &dyn Rig, config: Config) {
    let mut here = Lab::open(rig, config.clone());
    let mut there = Lab::open(rig, config);
    for through_a_thread in [false, true] {
        let mut peer = rig.connect(here.address);
        let mut accepted = here.accepted();
        if through_a_thread {
            accepted = std::thread::spawn(move || accepted).join().unwrap();
        }
        let socket = there.adopt(accepted);
        there.peer_writes(&mut *peer, b"hello");
        assert_same(&there.receive_exactly(socket, 5), b"hello");
        let token = there.send(socket, &[b"good", b"bye"]);
        there.sent(token);
        assert_same(&there.peer_reads(&mut *peer, 7), b"goodbye");
        // It can also wait there for what comes later.
        let token = there.receive(socket, 5);
        there.settle();
        there.peer_writes(&mut *peer, b"later");
        let mut bytes = Vec::new();
        there.collect(token, &mut bytes);
        assert_same(&bytes, b"later");
    }
    here.finish();
    there.finish();
}

pub(crate) fn a_port_can_be_dropped_with_everything_in_flight(rig: &dyn Rig, config: Config) {
    for turns in [0, 5] {
        let mut lab = Lab::open(rig, config.clone());
        let buffers = lab.port.buffers().clone();
        let (receiving, mut first) = lab.pair();
        let (sending, mut second) = lab.pair();
        let address = lab.address;
        let connecting = lab.stream(address);
        let (paused, mut third) = lab.pair();
        let (waiting, mut fourth) = lab.pair();
        lab.receive_once(waiting, 1000);
        lab.receive(receiving, 1000);
        lab.receive(sending, 1000);
        let bytes = pattern(8 << 20);
        let parts: Vec<_> = bytes.chunks(128 * 1024).collect();
        lab.send(sending, &parts);
        lab.receive(paused, 1000);
        (0..turns).for_each(|_| lab.turn());
        lab.submit(Op::Connect { socket: connecting, address });
        lab.port.pause(paused);
        let mut witness = Lab::open(rig, config.clone());
        drop(lab);
        assert_eq!(buffers.blocks_in_use(), 0, "everything came back");
        for peer in [&mut first, &mut second, &mut third, &mut fourth] {
            let (_bytes, _end) = witness.peer_reads_to_end(&mut **peer);
        }
        witness.finish();
    }
}

/// `examples/port_echo.rs` on this backend: many clients, more than it receives at once, half-closes,
/// resets.
pub(crate) fn the_echo_example_echoes(rig: &dyn Rig, config: Config) {
    let listener = rig.listen();
    let address = listener.local_addr();
    let mut echo = Echo::new(rig.port(config), listener).unwrap();
    let expected = pattern(100_000);
    let mut clients: Vec<_> =
        (0..4).map(|_| (rig.connect(address), &expected[..], Vec::new())).collect();
    rig.connect(address).reset();
    let mut piece = vec![0; 10_000];
    for _ in 0..20_000 {
        echo.turn(Some(Duration::from_millis(1))).unwrap();
        let mut open = 0;
        for (peer, unwritten, got) in &mut clients {
            if let Ok(written) = peer.try_write(&unwritten[..unwritten.len().min(30_000)]) {
                *unwritten = &unwritten[written..];
                if unwritten.is_empty() && written > 0 {
                    peer.shutdown_write();
                }
            }
            match peer.try_read(&mut piece) {
                Ok(0) => continue,
                Ok(read) => got.extend_from_slice(&piece[..read]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            open += 1;
        }
        if open == 0 {
            break;
        }
    }
    clients.iter().for_each(|(_, _, got)| assert_same(got, &expected));
    let counts = echo.port.counts();
    assert_eq!((counts.operations_in_flight, counts.sockets), (1, 1), "listener and accept");
    assert_eq!((counts.buffers_lent, counts.blocks_in_use, counts.receives_parked), (0, 0, 0));
}

const CREDIT_BYTES: u32 = 16 * 1024;
