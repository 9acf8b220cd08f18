//! Cancelling, closing, and what a closed socket's name is worth (P7).

use std::{io, panic::AssertUnwindSafe};

use wharf_port::{Close, Config, Outcome, ReceiveEnd, SendError, Socket};

use crate::lab::{Lab, Rig, assert_same, panic_of, pattern};

pub(crate) fn cancel_ends_everything_on_a_socket(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    for turns in [0, 1, 5] {
        let (socket, _peer) = lab.pair();
        let (other, mut other_peer) = lab.pair();
        let untouched = lab.receive(other, 5);
        let receive = lab.receive(socket, 100);
        let bytes = pattern(8 << 20);
        let parts: Vec<_> = bytes.chunks(128 * 1024).collect();
        let send = lab.send(socket, &parts);
        (0..turns).for_each(|_| lab.turn());
        lab.port.cancel(socket);
        let end = lab.collect(receive, &mut Vec::new());
        assert!(matches!(end, ReceiveEnd::Cancelled), "{end:?}");
        let sent = lab.next(send);
        assert!(
            matches!(sent, Outcome::Sent { result: Err(SendError::Cancelled), .. }),
            "{sent:?}"
        );
        lab.close(socket, Close::Reset);
        lab.peer_writes(&mut *other_peer, b"hello");
        let mut bytes = Vec::new();
        let end = lab.collect(untouched, &mut bytes);
        assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
        assert_same(&bytes, b"hello");
    }
    lab.finish();
}

pub(crate) fn closing_with_an_operation_in_flight_panics(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let token = lab.receive(socket, 5);
    panic_of(|| lab.port.close(socket, Close::Graceful));
    lab.settle();
    panic_of(|| lab.port.close(socket, Close::Reset));
    lab.peer_writes(&mut *peer, b"he");
    let listener = lab.listener;
    panic_of(|| lab.port.close(listener, Close::Graceful));
    lab.port.cancel(socket);
    // Cancelled is in flight still, until the final completion.
    panic_of(|| lab.port.close(socket, Close::Graceful));
    lab.collect(token, &mut Vec::new());
    lab.close(socket, Close::Graceful);
    lab.finish();
}

pub(crate) fn a_graceful_close_delivers_everything_that_was_sent(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    let expected = pattern(60_000);
    let parts: Vec<_> = expected.chunks(10_000).collect();
    let token = lab.send(socket, &parts);
    let mut got = lab.peer_reads(&mut *peer, 30_000);
    lab.sent(token);
    lab.close(socket, Close::Graceful);
    let (rest, end) = lab.peer_reads_to_end(&mut *peer);
    end.unwrap();
    got.extend(rest);
    assert_same(&got, &expected);
    lab.finish();
}

/// Closing with unread input would reset the connection and lose what the peer has not read: end
/// the stream, read to the peer's end, then close.
pub(crate) fn closing_with_unread_input_loses_nothing_if_it_lingers(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    lab.peer_writes(&mut *peer, &pattern(10_000)); // unread
    let expected = pattern(50_000);
    let token = lab.send(socket, &[&expected]);
    let mut got = lab.peer_reads(&mut *peer, 10_000);
    lab.sent(token);
    lab.port.shutdown_write(socket);
    let (rest, end) = lab.peer_reads_to_end(&mut *peer);
    end.unwrap();
    got.extend(rest);
    assert_same(&got, &expected);
    peer.shutdown_write();
    let (token, mut bytes) = (lab.receive(socket, 1 << 20), Vec::new());
    let end = lab.collect(token, &mut bytes);
    assert!(matches!(end, ReceiveEnd::EndOfStream), "{end:?}");
    assert_same(&bytes, &pattern(10_000));
    lab.close(socket, Close::Graceful);
    lab.settle();
    assert_eq!(peer.try_read(&mut [0; 8]).unwrap(), 0, "no reset afterwards");
    lab.finish();
}

pub(crate) fn close_can_reset(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let (socket, mut peer) = lab.pair();
    lab.close(socket, Close::Reset);
    let (bytes, end) = lab.peer_reads_to_end(&mut *peer);
    assert_eq!(bytes, b"");
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    lab.finish();
}

pub(crate) fn the_name_of_a_closed_socket_never_reaches_the_next_one(
    rig: &dyn Rig,
    config: Config,
) {
    let mut lab = Lab::open(rig, config);
    let (stale, _peer) = lab.pair();
    lab.close(stale, Close::Graceful);
    // Enough of them that one has the stale one's slot.
    let pairs: Vec<_> = (0..8).map(|_| lab.pair()).collect();
    let receives: Vec<_> = pairs.iter().map(|(socket, _)| lab.receive(*socket, 5)).collect();
    lab.settle();
    panic_of(|| lab.receive(stale, 5));
    panic_of(|| lab.send(stale, &[b"stale"]));
    panic_of(|| lab.port.close(stale, Close::Reset));
    // These may panic or do nothing.
    refused(|| lab.port.pause(stale));
    refused(|| lab.port.cancel(stale));
    refused(|| lab.port.shutdown_write(stale));
    refused(|| assert!(lab.port.local_addr(stale).is_err()));
    lab.settle();
    for ((socket, mut peer), token) in pairs.into_iter().zip(receives) {
        lab.peer_writes(&mut *peer, b"alive");
        let mut bytes = Vec::new();
        let end = lab.collect(token, &mut bytes);
        assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?}");
        assert_same(&bytes, b"alive");
        let token = lab.send(socket, &[b"still"]);
        lab.sent(token);
        assert_same(&lab.peer_reads(&mut *peer, 5), b"still");
    }
    lab.finish();
}

fn refused(run: impl FnOnce()) {
    drop(std::panic::catch_unwind(AssertUnwindSafe(run)));
}

/// Slots and descriptors are used again and again; nothing of an old socket shows up at a new one.
pub(crate) fn sockets_come_and_go(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let mut seen: Vec<Socket> = Vec::new();
    for round in 0..50 {
        let (socket, mut peer) = lab.pair();
        assert!(!seen.contains(&socket), "a name is used once");
        seen.push(socket);
        let token = lab.receive(socket, 1000);
        match round % 4 {
            0 => peer.reset(),
            1 => drop(peer),
            2 => lab.port.cancel(socket),
            _ => {
                lab.peer_writes(&mut *peer, b"hello");
                lab.port.pause(socket);
            }
        }
        lab.collect(token, &mut Vec::new());
        lab.close(socket, if round % 2 == 0 { Close::Graceful } else { Close::Reset });
    }
    assert_eq!(lab.port.counts().sockets, 1, "the listener");
    lab.finish();
}
