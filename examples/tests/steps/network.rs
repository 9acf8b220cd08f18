//! Steps 1 to 3 on the simulator: one operation per client at a time, and the callbacks' order.

use std::{collections::BTreeMap, sync::Arc};

use wharf_port::{
    Config, Counts, inbox,
    sim::{Faults, PeerState},
};

use crate::{
    lab::{Net, TURN, TURNS},
    step01, step02,
    step03::{
        application::Application,
        network::{Newcomer, Worker},
    },
};

#[test]
fn a_client_of_step_1_gets_its_bytes_back_and_its_seat_is_free_again() {
    let mut net = Net::new(1);
    let port = net.net.open(&Config::default());
    let (post, newcomers) = inbox(port.waker(), 4);
    let mut worker = step01::Worker::new(port, newcomers);
    let (mut peer, socket) = net.connect();
    let seats = Arc::new(());
    post.post(step01::Newcomer { socket, seat: Arc::clone(&seats) }).ok().unwrap();
    let message = vec![7; 50_000];
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..TURNS {
        sent += peer.write(&message[sent..]);
        if sent == message.len() {
            peer.shutdown_write();
        }
        worker.turn(TURN).unwrap();
        got.extend(peer.read_arrived());
        if peer.state() == PeerState::Ended {
            break;
        }
    }
    assert_eq!(got, message);
    assert_eq!(Arc::strong_count(&seats), 1);
    assert_eq!(worker.port.counts(), Counts::default());
}

/// Networks on which half of the connections break: a client is closed once, whatever happened to
/// it, and nothing is in flight for it then. Closing twice, or too early, panics in the port.
#[test]
fn a_client_of_step_2_is_closed_once_however_it_ends() {
    for seed in 0..50 {
        let mut net = Net::new(seed);
        let port = net.net.open(&Config::default());
        let (post, newcomers) = inbox(port.waker(), 8);
        let mut worker = step02::Worker::new(port, newcomers);
        let seats = Arc::new(());
        let mut peers = Vec::new();
        for number in 0..8 {
            let (peer, socket) = net.connect();
            peers.push(peer);
            let newcomer = step02::Newcomer { number, socket, seat: Arc::clone(&seats) };
            post.post(newcomer).ok().unwrap();
        }
        net.net.set_faults(Faults { silent_until_cancel: 0.0, ..Faults::rough() });
        for turn in 0..TURNS {
            for peer in &mut peers {
                peer.write(b"something to send");
                peer.read_arrived();
                if turn > 100 {
                    peer.shutdown_write();
                }
            }
            worker.turn(TURN).unwrap();
            if Arc::strong_count(&seats) == 1 {
                break;
            }
        }
        assert_eq!(Arc::strong_count(&seats), 1, "seed {seed}: a client was never closed");
        assert_eq!(worker.port.counts().operations_in_flight, 0);
    }
}

/// Writes down what it is told, and answers with what came.
#[derive(Default)]
struct Diary(BTreeMap<u64, Vec<&'static str>>);

impl Application for Diary {
    fn connected(&mut self, client: u64) {
        self.0.entry(client).or_default().push("connected");
    }

    fn received(&mut self, client: u64, bytes: &[u8], answer: &mut Vec<u8>) {
        self.0.entry(client).or_default().push("received");
        answer.extend_from_slice(bytes);
    }

    fn closed(&mut self, client: u64) {
        self.0.entry(client).or_default().push("closed");
    }
}

#[test]
fn step_3_tells_connected_first_and_closed_last_and_each_once() {
    let (mut received, mut clients) = (0, 0);
    for seed in 0..50 {
        let mut net = Net::new(seed);
        let port = net.net.open(&Config::default());
        let (post, newcomers) = inbox(port.waker(), 8);
        let mut worker = Worker::new(port, newcomers, Diary::default());
        let seats = Arc::new(());
        let mut peers = Vec::new();
        for number in 0..8 {
            let (peer, socket) = net.connect();
            peers.push(peer);
            post.post(Newcomer { number, socket, seat: Arc::clone(&seats) }).ok().unwrap();
        }
        net.net.set_faults(Faults { silent_until_cancel: 0.0, ..Faults::rough() });
        for turn in 0..TURNS {
            for peer in &mut peers {
                peer.write(b"hello");
                peer.read_arrived();
                if turn > 100 {
                    peer.shutdown_write();
                }
            }
            worker.turn(TURN).unwrap();
            if Arc::strong_count(&seats) == 1 {
                break;
            }
        }
        for (client, entries) in &worker.application.0 {
            let inner = &entries[1..entries.len() - 1];
            assert_eq!(entries[0], "connected", "seed {seed}, client {client}");
            assert_eq!(entries[entries.len() - 1], "closed", "seed {seed}, client {client}");
            assert!(inner.iter().all(|entry| *entry == "received"), "seed {seed}: {entries:?}");
            received += inner.len();
            clients += 1;
        }
    }
    assert_eq!(clients, 50 * 8);
    assert!(received > 1000, "only {received} pieces: that proves little");
}
