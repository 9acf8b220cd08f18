//! Byte credit, and receives that find no buffer.

use std::{io::Write, thread};

use wharf_port::{Outcome, ReceiveEnd, Token};

use crate::rig::{Rig, config, pattern};

#[test]
fn a_receive_ends_at_its_credit_by_itself_where_the_kernel_can() {
    let buffer_bytes = 4096;
    let config = wharf_port::Config { receive_buffer_bytes: buffer_bytes as u32, ..config() };
    let mut rig = Rig::new(&config);
    if !rig.port.engine().detail.contains("receive cap on") {
        let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next(), numbers.next());
        let loses_resets = rig.port.engine().detail.contains("CVE-2026-23473");
        assert!(version < (Some(6), Some(17)) || loses_resets, "Linux {version:?} has the cap");
        return;
    }
    let (socket, mut peer) = rig.connection();
    let sent = pattern(200_000, 0);
    let writer = thread::spawn({
        let sent = sent.clone();
        move || peer.write_all(&sent).map(|()| peer)
    });
    let mut got = Vec::new();
    for credit in [1, 4095, 4096, 4097, 10_000, 100_000].into_iter().cycle() {
        let left = sent.len() - got.len();
        if left < credit {
            break;
        }
        let (bytes, end) = rig.receive_once(socket, credit as u32);
        assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
        let most = credit + credit.min(buffer_bytes) - 1;
        assert!((credit..=most).contains(&bytes.len()), "{} for {credit}", bytes.len());
        got.extend(bytes);
    }
    drop(writer.join().unwrap().unwrap());
    let (bytes, end) = rig.receive_once(socket, u32::MAX);
    assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
    got.extend(bytes);
    assert!(got == sent, "every byte once and in order");
    rig.finish([socket]);
}

#[test]
fn without_the_cap_a_receive_is_cancelled_at_its_credit_and_nothing_is_lost() {
    let mut config = config();
    config.uring.receive_cap = false;
    let mut rig = Rig::new(&config);
    assert!(rig.port.engine().detail.contains("receive cap off"));
    let (socket, mut peer) = rig.connection();
    let sent = pattern(2_000_000, 3);
    let writer = thread::spawn({
        let sent = sent.clone();
        move || peer.write_all(&sent)
    });
    let (mut got, mut spent) = (Vec::new(), 0);
    loop {
        let (bytes, end) = rig.receive_once(socket, 10_000);
        match end {
            ReceiveEnd::CreditSpent => {
                assert!(bytes.len() >= 10_000);
                spent += 1;
            }
            ReceiveEnd::EndOfStream => assert!(bytes.len() < sent.len()),
            other => panic!("{other:?}"),
        }
        got.extend(bytes);
        if matches!(end, ReceiveEnd::EndOfStream) {
            break;
        }
    }
    writer.join().unwrap().unwrap();
    assert!(got == sent, "every byte once and in order");
    assert!(spent > 1, "the credit ended receives");
    rig.finish([socket]);
}

#[test]
fn sockets_that_find_no_buffer_wait_in_line_and_none_of_them_sees_an_end() {
    const SOCKETS: usize = 20;
    const BYTES: usize = 20_000;
    let mut rig =
        Rig::new(&wharf_port::Config { receive_buffers: 2, receive_buffer_bytes: 512, ..config() });
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..SOCKETS).map(|_| rig.connection()).unzip();
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&pattern(BYTES, index)).unwrap();
        rig.receive(sockets[index], u32::MAX, index as u64);
    }
    // Two get a buffer and keep it; all others wait.
    while rig.port.counts().receives_parked < SOCKETS {
        rig.turn(std::time::Duration::from_millis(100));
    }
    let counts = rig.port.counts();
    assert_eq!(counts.buffers_lent, 2);
    assert_eq!(rig.done.len(), 2, "nothing ends for want of a buffer: {:?}", rig.done);
    // A turn with nothing given back changes nothing: no receive is armed in vain.
    rig.settle();
    assert_eq!(rig.port.counts().buffer_shortages, counts.buffer_shortages);
    let mut got = vec![Vec::new(); SOCKETS];
    let mut order = Vec::new();
    while got.iter().any(|bytes| bytes.len() < BYTES) {
        let done = rig.next();
        let index = done.token.0 as usize;
        let Outcome::Received(buffer) = done.outcome else { panic!("{:?}", done.outcome) };
        if got[index].is_empty() {
            order.push(index);
        }
        got[index].extend_from_slice(&buffer);
    }
    for (index, bytes) in got.iter().enumerate() {
        assert!(*bytes == pattern(BYTES, index), "every byte once and in order");
    }
    // First come, first served: nobody gets a second round before everybody had a first.
    assert_eq!(order.len(), SOCKETS);
    drop(peers);
    for _ in 0..SOCKETS {
        let end = rig.next().outcome;
        assert!(matches!(end, Outcome::ReceiveEnded(ReceiveEnd::EndOfStream)), "{end:?}");
    }
    let counts = rig.finish(sockets);
    assert!(counts.buffer_shortages >= SOCKETS as u64);
}

/// More receives at once than the ring holds at first: nobody waits for a buffer, as there are enough, and
/// those that found none have one in the next turn, however many they are.
#[test]
fn buffers_that_lie_aside_come_into_the_ring_before_anybody_waits() {
    const SOCKETS: usize = 250;
    let mut rig = Rig::new(&config());
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..SOCKETS).map(|_| rig.connection()).unzip();
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&[index as u8; 10]).unwrap();
        rig.receive(sockets[index], 10, index as u64);
    }
    let (mut held, mut ended) = (Vec::new(), 0);
    let mut take_in = |done: wharf_port::Done| match done.outcome {
        Outcome::Received(buffer) => {
            assert_eq!(*buffer, [done.token.0 as u8; 10]);
            held.push(buffer); // none is given back before all have one
        }
        Outcome::ReceiveEnded(ReceiveEnd::CreditSpent) => ended += 1,
        other => panic!("{other:?}"),
    };
    rig.turn(std::time::Duration::ZERO);
    let first = rig.done.len();
    rig.turn(std::time::Duration::ZERO);
    rig.done.drain(..).for_each(&mut take_in);
    assert!(first > 0 && first < SOCKETS, "the ring was too short at first: {first} completions");
    assert_eq!(held.len(), SOCKETS, "after two turns");
    while ended < SOCKETS {
        let Outcome::ReceiveEnded(ReceiveEnd::CreditSpent) = rig.next().outcome else {
            panic!("{:?}", rig.done)
        };
        ended += 1;
    }
    drop(held);
    assert_eq!(rig.finish(sockets).buffer_shortages, 0);
}

#[test]
fn a_parked_receive_can_be_paused_and_cancelled_and_submitted_again() {
    let mut rig = Rig::new(&wharf_port::Config { receive_buffers: 1, ..config() });
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..4).map(|_| rig.connection()).unzip();
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(b"hello").unwrap();
        rig.receive(sockets[index], 5, index as u64);
    }
    while rig.port.counts().receives_parked < 3 {
        rig.turn(std::time::Duration::from_millis(100));
    }
    let mut held = std::mem::take(&mut rig.done);
    assert_eq!(held.len(), 2, "one receive found the buffer and spent its credit: {held:?}");
    let first = held[0].token.0 as usize;
    let mut parked = (0..4).filter(|index| *index != first);
    let (a, b, c) = (parked.next().unwrap(), parked.next().unwrap(), parked.next().unwrap());
    rig.port.pause(sockets[a]);
    rig.port.cancel(sockets[b]);
    assert_eq!(rig.port.counts().operations_in_flight, 3, "not over before a wait says so (P4)");
    // Nothing will ever wake a wait that sleeps on them.
    let mut done = Vec::new();
    rig.port.wait(None, &mut done).unwrap();
    rig.done.extend(done);
    let mut ends = [rig.next(), rig.next()].map(|done| (done.token, done.outcome));
    ends.sort_by_key(|(token, _)| token.0);
    let [(x, Outcome::ReceiveEnded(paused)), (y, Outcome::ReceiveEnded(cancelled))] = ends else {
        panic!("{ends:?}")
    };
    assert_eq!((x, y), (Token(a as u64), Token(b as u64)));
    assert!(matches!(paused, ReceiveEnd::Paused), "{paused:?}");
    assert!(matches!(cancelled, ReceiveEnd::Cancelled), "{cancelled:?}");
    // The old places in line are void: c is next, then the two that came again.
    rig.receive(sockets[a], 5, a as u64);
    rig.receive(sockets[b], 5, b as u64);
    while rig.port.counts().receives_parked < 3 {
        rig.turn(std::time::Duration::from_millis(100));
    }
    held.clear();
    let mut order = Vec::new();
    while order.len() < 3 {
        let done = rig.next();
        match done.outcome {
            Outcome::Received(bytes) => assert_eq!(&*bytes, b"hello"),
            Outcome::ReceiveEnded(ReceiveEnd::CreditSpent) => order.push(done.token.0 as usize),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [c, a, b]);
    rig.finish(sockets);
}

#[test]
fn a_flood_takes_no_buffer_from_those_that_have_waited() {
    const BYTES: usize = 512;
    const MODEST: usize = 20 * BYTES;
    let mut rig = Rig::new(&wharf_port::Config {
        receive_buffers: 2,
        receive_buffer_bytes: BYTES as u32,
        ..config()
    });
    let (flooded, mut flood) = rig.connection();
    let (modest, mut peer) = rig.connection();
    let flooder = thread::spawn(move || {
        let piece = pattern(1 << 16, 0);
        while flood.write_all(&piece).is_ok() {}
    });
    peer.write_all(&pattern(MODEST, 1)).unwrap();
    // A credit of two buffers is all that there are.
    rig.receive(flooded, 2 * BYTES as u32, 0);
    rig.receive(modest, u32::MAX, 1);
    let (mut got, mut others) = (Vec::new(), 0);
    while got.len() < MODEST {
        let done = rig.next();
        match (done.token, done.outcome) {
            (Token(1), Outcome::Received(bytes)) => got.extend_from_slice(&bytes),
            (Token(0), Outcome::Received(_)) => others += 1,
            (Token(0), Outcome::ReceiveEnded(ReceiveEnd::CreditSpent)) => {
                rig.receive(flooded, 2 * BYTES as u32, 0);
            }
            other => panic!("{other:?}"),
        }
        assert!(others < 1000, "starved with {} bytes of {MODEST}", got.len());
    }
    assert!(got == pattern(MODEST, 1), "every byte once and in order");
    for socket in [flooded, modest] {
        rig.port.cancel(socket);
    }
    let mut ended = 0;
    while ended < 2 {
        ended += usize::from(matches!(rig.next().outcome, Outcome::ReceiveEnded(_)));
    }
    rig.port.close(flooded, wharf_port::Close::Reset);
    flooder.join().unwrap();
    rig.finish([modest]);
}

/// Where it may not stream, a receive is armed anew for each buffer, so that it looks at the socket anew.
#[test]
fn a_receive_that_may_not_stream_is_for_one_buffer() {
    for streaming_receive in [true, false] {
        let mut config = config();
        config.receive_buffer_bytes = 4096;
        config.uring.streaming_receive = streaming_receive;
        let mut rig = Rig::new(&config);
        let (socket, mut peer) = rig.connection();
        peer.write_all(&pattern(3 * 4096, 1)).unwrap();
        rig.settle();
        rig.receive(socket, 1 << 16, 0);
        rig.turn(std::time::Duration::ZERO);
        let may_stream = rig.port.engine().detail.contains("receive cap");
        assert!(streaming_receive || !may_stream);
        assert_eq!(rig.done.len() > 1, may_stream, "{:?}", rig.done);
        let mut got = Vec::new();
        while got.len() < 3 * 4096 {
            let Outcome::Received(bytes) = rig.next().outcome else { panic!("{:?}", rig.done) };
            got.extend_from_slice(&bytes);
        }
        assert!(got == pattern(3 * 4096, 1), "every byte once and in order");
        rig.port.cancel(socket);
        let end = rig.next().outcome;
        assert!(matches!(end, Outcome::ReceiveEnded(ReceiveEnd::Cancelled)), "{end:?}");
        rig.finish([socket]);
    }
}

/// Bytes for more buffers than the kernel fills in a row, and a reset behind them, are there before
/// the receive, which is for all of them and more.
#[test]
fn a_reset_behind_many_buffers_is_noticed() {
    for (streaming_receive, receive_cap) in [(true, true), (true, false), (false, false)] {
        let mut config = config();
        config.receive_buffer_bytes = 256;
        config.uring.streaming_receive = streaming_receive;
        config.uring.receive_cap = receive_cap;
        let mut rig = Rig::new(&config);
        let (socket, mut peer) = rig.connection();
        let sent = pattern(20_100, 5);
        peer.write_all(&sent).unwrap();
        rig.settle();
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        rig.settle();
        let (bytes, end) = rig.receive_once(socket, 1 << 20);
        assert!(matches!(end, ReceiveEnd::Failed(_)), "{end:?}");
        assert!(bytes == sent, "every byte before the reset");
        rig.finish([socket]);
    }
}
