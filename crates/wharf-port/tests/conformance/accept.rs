//! Accepting: streaming, ending it, and what becomes of accepted sockets (P1, P7, P9, P10).

use wharf_port::{AcceptEnd, Config, Op, Outcome};

use crate::lab::{Lab, Rig, assert_same, panic_of};

pub(crate) fn accept_streams(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let peers: Vec<_> = (0..5).map(|_| rig.connect(lab.address)).collect();
    let mut addresses: Vec<_> = (0..5).map(|_| lab.accepted().peer_addr().unwrap()).collect();
    addresses.sort();
    let mut expected: Vec<_> = peers.iter().map(|peer| peer.local_addr()).collect();
    expected.sort();
    assert_eq!(addresses, expected);
    assert_eq!(lab.port.counts().operations_in_flight, 1, "the accept goes on");
    assert_eq!(lab.port.local_addr(lab.listener).unwrap(), lab.address);
    lab.finish();
}

pub(crate) fn accept_ends_when_cancelled_and_can_be_submitted_again(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    lab.settle();
    lab.port.cancel(lab.listener);
    lab.port.cancel(lab.listener);
    let end = lab.next(lab.accept_token());
    assert!(matches!(end, Outcome::AcceptEnded(AcceptEnd::Cancelled)), "{end:?}");
    lab.accept_again();
    let _connection = lab.pair();
    lab.finish();
}

pub(crate) fn a_paused_accept_loses_no_connection(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    lab.settle();
    lab.port.pause(lab.listener);
    let end = lab.next(lab.accept_token());
    assert!(matches!(end, Outcome::AcceptEnded(AcceptEnd::Paused)), "{end:?}");
    let mut peer = rig.connect(lab.address);
    lab.settle();
    lab.accept_again();
    let accepted = lab.accepted();
    let socket = lab.adopt(accepted);
    lab.peer_writes(&mut *peer, b"still here");
    assert_same(&lab.receive_exactly(socket, 10), b"still here");
    lab.finish();
}

pub(crate) fn connections_that_race_with_a_pause_are_all_accepted(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    lab.settle();
    let mut accepted = 0;
    let peers: Vec<_> = (0..8)
        .map(|_| {
            let peer = rig.connect(lab.address);
            lab.port.pause(lab.listener);
            loop {
                match lab.next(lab.accept_token()) {
                    Outcome::Accepted(_) => accepted += 1,
                    Outcome::AcceptEnded(end) => {
                        assert!(matches!(end, AcceptEnd::Paused), "{end:?}");
                        break;
                    }
                    outcome => panic!("{outcome:?}"),
                }
            }
            lab.accept_again();
            peer
        })
        .collect();
    while accepted < peers.len() {
        drop(lab.accepted());
        accepted += 1;
    }
    lab.finish();
}

pub(crate) fn an_accepted_socket_that_is_dropped_is_closed(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let mut peer = rig.connect(lab.address);
    drop(lab.accepted());
    let (bytes, _end) = lab.peer_reads_to_end(&mut *peer);
    assert_eq!(bytes, b"");
    lab.finish();
}

pub(crate) fn an_accepted_socket_that_nobody_took_is_closed_with_the_port(
    rig: &dyn Rig,
    config: Config,
) {
    let mut lab = Lab::open(rig, config.clone());
    let mut peer = rig.connect(lab.address);
    lab.until("the connection", |lab| lab.try_next(lab.accept_token()));
    let mut other = Lab::open(rig, config);
    drop(lab);
    let (bytes, _end) = other.peer_reads_to_end(&mut *peer);
    assert_eq!(bytes, b"");
    other.finish();
}

pub(crate) fn a_second_accept_panics_and_harms_nothing(rig: &dyn Rig, config: Config) {
    let mut lab = Lab::open(rig, config);
    let listener = lab.listener;
    panic_of(|| lab.submit(Op::Accept { listener }));
    let _connection = lab.pair();
    lab.finish();
}
