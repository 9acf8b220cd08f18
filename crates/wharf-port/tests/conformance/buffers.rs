//! Receive buffers: lent, exhausted, parked for, outliving the port (P2 and "no buffer left").

use wharf_port::{Config, Outcome, ReceiveEnd, RecvBuffer, Socket, Token};

use crate::lab::{Lab, Peer, Rig, assert_same, pattern};

fn two_buffers(mut config: Config) -> Config {
    config.receive_buffers = 2;
    config.receive_buffer_bytes = 1024;
    config
}

#[track_caller]
fn received(outcome: Outcome) -> RecvBuffer {
    match outcome {
        Outcome::Received(buffer) => buffer,
        outcome => panic!("{outcome:?}"),
    }
}

/// A connection with a receive for one message in flight.
struct Client {
    socket: Socket,
    peer: Box<dyn Peer>,
    token: Token,
}

fn client(lab: &mut Lab<'_>, credit_bytes: u32) -> Client {
    let (socket, peer) = lab.pair();
    let token = lab.receive(socket, credit_bytes);
    Client { socket, peer, token }
}

pub(crate) fn an_idle_socket_holds_no_buffer(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, two_buffers(config));
    let mut clients: Vec<_> = (0..8).map(|_| client(&mut lab, 10)).collect();
    lab.settle();
    let counts = lab.port.counts();
    assert_eq!((counts.buffers_lent, counts.receives_parked, counts.buffer_shortages), (0, 0, 0));
    lab.peer_writes(&mut *clients[7].peer, b"hello");
    let buffer = received(lab.next(clients[7].token));
    assert_eq!((&*buffer, lab.port.counts().buffers_lent), (&b"hello"[..], 1));
    drop(buffer);
    assert_eq!(lab.port.counts().buffers_lent, 0);
    lab.finish();
}

pub(crate) fn receives_without_a_buffer_are_served_first_come_first_served(
    rig: &dyn Rig,
    config: Config,
) {
    let mut lab = Lab::open(rig, two_buffers(config));
    let mut clients: Vec<_> = (0..8).map(|_| client(&mut lab, 100)).collect();
    let mut held = Vec::new();
    for (i, client) in clients.iter_mut().enumerate() {
        lab.peer_writes(&mut *client.peer, &[i as u8; 10]);
        if i < 2 {
            held.push(received(lab.next(client.token)));
        } else {
            lab.until("parked", |lab| (lab.port.counts().receives_parked == i - 1).then_some(()));
        }
    }
    lab.settle();
    let counts = lab.port.counts();
    assert_eq!((counts.buffers_lent, counts.receives_parked), (2, 6));
    assert!(counts.buffer_shortages >= 6, "{counts:?}");
    for client in &clients {
        assert!(lab.try_next(client.token).is_none(), "waiting, neither ended nor failed");
    }
    let tokens: Vec<_> = clients.iter().map(|client| client.token).collect();
    for i in 2..8 {
        drop(held.remove(0));
        let done = lab.next_of(&tokens);
        assert_eq!(done.token, tokens[i], "the {i}th in turn");
        let buffer = received(done.outcome);
        assert_same(&buffer, &[i as u8; 10]);
        held.push(buffer);
    }
    drop(held);
    lab.settle();
    assert_eq!(lab.port.counts().receives_parked, 0);
    lab.finish();
}

/// Two buffers, eight sockets that always have more: all get on, none sees an end, no byte is lost.
pub(crate) fn nobody_starves_for_a_buffer(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, two_buffers(config));
    let expected = pattern(40_000);
    let mut clients: Vec<_> = (0..8).map(|_| client(&mut lab, 5_000)).collect();
    let mut unwritten = vec![&expected[..]; clients.len()];
    let mut got = vec![Vec::new(); clients.len()];
    lab.until("all bytes of all", |lab| {
        for (i, client) in clients.iter_mut().enumerate() {
            if let Ok(written) = client.peer.try_write(unwritten[i]) {
                unwritten[i] = &unwritten[i][written..];
            }
            match lab.try_next(client.token) {
                None => {}
                Some(Outcome::Received(bytes)) => got[i].extend_from_slice(&bytes),
                Some(Outcome::ReceiveEnded(ReceiveEnd::CreditSpent)) => {
                    client.token = lab.receive(client.socket, 5_000);
                }
                Some(outcome) => panic!("{outcome:?}"),
            }
        }
        let least = got.iter().map(Vec::len).min().unwrap();
        let most = got.iter().map(Vec::len).max().unwrap();
        assert!(most - least <= 20_000 || least == 40_000, "from {least} to {most} bytes");
        (least == expected.len()).then_some(())
    });
    got.iter().for_each(|got| assert_same(got, &expected));
    lab.finish();
}

pub(crate) fn parked_receives_can_be_paused_and_cancelled(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, two_buffers(config));
    let mut clients: Vec<_> = (0..5).map(|_| client(&mut lab, 100)).collect();
    for client in &mut clients {
        lab.peer_writes(&mut *client.peer, b"hello");
    }
    lab.until("three to be parked", |lab| (lab.port.counts().receives_parked == 3).then_some(()));
    let mut tokens: Vec<_> = clients.iter().map(|client| client.token).collect();
    let mut held = Vec::new();
    for _ in 0..2 {
        let done = lab.next_of(&tokens);
        tokens.retain(|token| *token != done.token);
        held.push(received(done.outcome));
    }
    // Those two stay connected: an end of stream is noticed only with a buffer at hand.
    let (clients, _served): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|client| tokens.contains(&client.token));
    lab.port.pause(clients[0].socket);
    lab.port.cancel(clients[1].socket);
    let ends: Vec<_> =
        clients[..2].iter().map(|client| lab.collect(client.token, &mut Vec::new())).collect();
    assert!(matches!(ends[..], [ReceiveEnd::Paused, ReceiveEnd::Cancelled]), "{ends:?}");
    assert_eq!(lab.port.counts().receives_parked, 1);
    // What they did not receive is still there, behind the one that has waited longer.
    let again = [0, 1].map(|i| lab.receive(clients[i].socket, 5));
    lab.settle();
    drop(held.pop());
    assert_same(&received(lab.next(clients[2].token)), b"hello");
    for token in again {
        assert_same(&received(lab.next(token)), b"hello");
    }
    drop(held);
    lab.finish();
}

/// Bytes and a reset are there before a receive that lets others, who wait for a buffer, go first.
pub(crate) fn a_reset_behind_bytes_is_noticed_behind_others(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, two_buffers(config));
    let mut clients: Vec<_> = (0..3).map(|_| client(&mut lab, 100)).collect();
    let (socket, mut peer) = lab.pair();
    let mut held = Vec::new();
    for client in &mut clients[..2] {
        lab.peer_writes(&mut *client.peer, b"hello");
        held.push(received(lab.next(client.token)));
    }
    lab.peer_writes(&mut *clients[2].peer, b"hello");
    lab.until("one to be parked", |lab| (lab.port.counts().receives_parked == 1).then_some(()));
    lab.peer_writes(&mut *peer, b"last words");
    lab.settle();
    peer.reset();
    lab.settle();
    drop(held);
    let (token, mut bytes) = (lab.receive(socket, 10_000), Vec::new());
    match lab.collect(token, &mut bytes) {
        ReceiveEnd::Failed(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        end => panic!("{end:?}"),
    }
    assert_same(&bytes, b"last words");
    lab.finish();
}

pub(crate) fn lent_buffers_outlive_the_port(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let mut client = client(&mut lab, 100);
    lab.peer_writes(&mut *client.peer, b"remember me");
    let buffer = received(lab.next(client.token));
    drop(lab);
    assert_same(&buffer, b"remember me");
}
