//! Steps 4 to 7 on the simulator: the same lab for each, with the logic run by hand.

use std::sync::Arc;

use wharf_examples::LOST;
use wharf_port::sim::{Fault, Faults, SimPeer};

use crate::{
    lab::{lab, lines},
    step07::accept::Acceptor,
};

lab!(lab04, step04);
lab!(lab05, step05);
lab!(lab06, step06);
lab!(lab07, step07);

/// The only test that looks at the counter, which is the process's.
#[test]
fn step_4_loses_what_is_sent_while_a_send_is_in_flight_and_counts_it() {
    let before = LOST.total();
    let got = lab04::Lab::new(4).echo(&lines(10));
    let came = got.split_inclusive(|byte| *byte == b'\n').count();
    assert!((1..10).contains(&came), "{came} of 10 came back");
    assert_eq!(LOST.total() - before, 10 - came as u64, "each lost answer is counted");
}

macro_rules! loses_nothing {
    ($test:ident, $lab:ident) => {
        #[test]
        fn $test() {
            // Far more than the buffer of 4,096, in every cut that a rough network makes.
            let bytes = lines(20_000);
            for seed in 0..10 {
                let mut lab = $lab::Lab::new(seed);
                lab.net.net.set_window(1000);
                let none = Faults::none();
                let cuts = Faults { short_send: 0.5, short_receive: 0.5, reorder: 0.5, ..none };
                lab.net.net.set_faults(cuts);
                let got = lab.echo(&bytes);
                assert!(got == bytes, "seed {seed}: {} of {}", got.len(), bytes.len());
                assert!(lab.net.net.applied(Fault::ShortSend) > 0);
            }
        }
    };
}

loses_nothing!(step_5_loses_nothing_when_its_buffer_is_full, lab05);
loses_nothing!(step_6_loses_nothing_when_its_queue_is_long, lab06);
loses_nothing!(step_7_loses_nothing, lab07);

macro_rules! is_never_mute {
    ($test:ident, $lab:ident) => {
        #[test]
        fn $test() {
            let mut lab = $lab::Lab::new(6);
            lab.net.net.set_window(1000);
            let mut peer = lab.connect();
            // Does not read: a send stays in flight, more waits behind it.
            for _ in 0..200 {
                peer.write(&lines(50));
                lab.turn();
            }
            assert!(lab.worker.port.counts().operations_in_flight > 0, "a send is in flight");
            peer.reset();
            // The lab's own is the last.
            let seats = Arc::downgrade(&lab.seats);
            lab.turn_until("the seat is free", || seats.strong_count() == 1);
            assert_eq!(lab.worker.port.counts().operations_in_flight, 0);
            assert_eq!(lab.worker.port.counts().blocks_in_use, 0, "what waited is let go");
            // Whoever comes next is served.
            assert_eq!(lab.echo(&lines(3)), lines(3));
        }
    };
}

is_never_mute!(step_5_closes_a_client_whose_send_fails_and_serves_the_next, lab05);
is_never_mute!(step_6_closes_a_client_whose_send_fails_and_serves_the_next, lab06);

macro_rules! stops_receiving {
    ($test:ident, $lab:ident) => {
        #[test]
        fn $test() {
            let mut lab = $lab::Lab::new(5);
            lab.net.net.set_window(1000);
            let mut peer = lab.connect();
            let mut written = 0;
            for _ in 0..2000 {
                written += peer.write(&[b'x'; 100]);
                lab.turn();
            }
            // Two windows, the mark, a packet, and what a send has taken.
            assert!(written < 40_000, "{written} bytes were taken from a peer that reads nothing");
            assert!(written > 4096, "{written}");
        }
    };
}

stops_receiving!(step_5_does_not_receive_from_who_does_not_read, lab05);
stops_receiving!(step_6_does_not_receive_from_who_does_not_read, lab06);

#[test]
fn step_7_goes_on_accepting_after_every_failure() {
    for fault in [Fault::AcceptAborted, Fault::DescriptorsExhausted] {
        let mut lab = lab07::Lab::new(7);
        let address = "10.0.0.2:9000".parse().unwrap();
        let listener = lab.net.net.listen(address).unwrap();
        let workers = vec![lab.newcomers.clone()];
        let acceptor = Acceptor::start(&mut *lab.worker.port, listener, workers).unwrap();
        lab.worker.acceptor = Some(acceptor);
        let mut failing = Faults::none();
        match fault {
            Fault::AcceptAborted => failing.accept_aborted = 0.9,
            _ => failing.descriptors_exhausted = 0.9,
        }
        lab.net.net.set_faults(failing);
        let mut peers: Vec<_> = (0..20).map(|_| lab.net.net.connect(address)).collect();
        // Some give up before they are accepted.
        peers.iter_mut().step_by(2).for_each(SimPeer::reset);
        peers.iter_mut().for_each(|peer| assert!(peer.write(b"hello\n") <= 6));
        (0..300).for_each(|_| lab.turn());
        assert!(lab.net.net.applied(fault) > 0, "{fault:?} never happened");
        lab.net.net.stop_faults();
        let mut late = lab.net.net.connect(address);
        late.write(b"hello\n");
        let mut got = Vec::new();
        lab.turn_until("a late client is served", || {
            got.extend(late.read_arrived());
            got == b"hello\n"
        });
    }
}
