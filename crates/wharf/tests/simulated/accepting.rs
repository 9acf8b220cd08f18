//! Who may have a session.

use std::time::Duration;

use wharf::{
    CloseReason, Limits,
    testing::{Faults, for_seeds},
};

use crate::support::*;

/// More connections than the limit, from one address and from many: the others have their places, and
/// one that is given back can be had again.
#[test]
fn an_address_has_so_many_sessions_and_the_others_do_not_notice() {
    let limits = Limits {
        sessions_per_address: Some(5),
        accepts_per_second_per_address: None,
        first_frame_timeout: None,
        ..Limits::default()
    };
    let Server { mut sim, closed } = server(limits);
    let mut other = Bystander::new(&mut sim);
    let greedy: Vec<_> =
        (0..20).map(|_| sim.connect_from("10.9.9.9:0", ADDRESS, FRAMING)).collect();
    let many: Vec<_> =
        (1..=20).map(|n| sim.connect_from(format!("10.1.1.{n}:0"), ADDRESS, FRAMING)).collect();
    other.wait(&mut sim, seconds(1));
    let open = |clients: &[wharf::testing::Client<_>]| {
        clients.iter().filter(|client| !client.is_closed()).count()
    };
    assert_eq!((open(&greedy), open(&many)), (5, 20));
    for client in &greedy {
        client.end();
    }
    sim.run_for(seconds(3));
    assert_eq!(closed.reasons(), [CloseReason::PeerClosed; 5]);
    let again: Vec<_> = (0..6).map(|_| sim.connect_from("10.9.9.9:0", ADDRESS, FRAMING)).collect();
    other.wait(&mut sim, seconds(1));
    assert_eq!(open(&again), 5);
    let stats = sim.finish().stats;
    assert_eq!((stats.refused_sessions_per_address, stats.refused), (16, 0));
}

#[test]
fn an_address_makes_so_many_sessions_per_second_and_loopback_any_number() {
    let Server { mut sim, .. } = server(Limits::default());
    let fast: Vec<_> = (0..50).map(|_| sim.connect_from("10.9.9.9:0", ADDRESS, FRAMING)).collect();
    let local: Vec<_> = (0..100).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
    sim.run();
    let open = |clients: &[wharf::testing::Client<_>]| {
        clients.iter().filter(|client| !client.is_closed()).count()
    };
    // A second's worth at once; the network takes less than the time for one more.
    assert_eq!((open(&fast), open(&local)), (20, 100));
    sim.run_for(seconds(2));
    let later: Vec<_> = (0..50).map(|_| sim.connect_from("10.9.9.9:0", ADDRESS, FRAMING)).collect();
    sim.run();
    assert_eq!(open(&later), 20);
    assert_eq!(sim.finish().stats.refused_accepts_per_address, 60);
}

/// More than the server may have, each from an address of its own: those who are there notice nothing,
/// and a place that is given back can be had again.
#[test]
fn a_server_has_so_many_sessions_wherever_they_come_from() {
    for_seeds(0..5, |seed| {
        let builder = wharf::Server::builder().max_sessions(30).limits(any_number());
        let Server { mut sim, closed } = server_from(builder, FRAMING, false, seed);
        let mut other = Bystander::new(&mut sim);
        let connect = |n| sim.connect_from(format!("10.1.{n}.1:0"), ADDRESS, FRAMING);
        let many: Vec<_> = (0..60).map(connect).collect();
        other.wait(&mut sim, seconds(1));
        let open = || many.iter().filter(|client| !client.is_closed());
        assert_eq!(open().count(), 29);
        open().take(9).for_each(|client| client.end());
        sim.run_for(seconds(3));
        assert_eq!(closed.reasons(), [CloseReason::PeerClosed; 9]);
        let connect = |n| sim.connect_from(format!("10.2.{n}.1:0"), ADDRESS, FRAMING);
        let again: Vec<_> = (0..20).map(connect).collect();
        other.wait(&mut sim, seconds(1));
        assert_eq!(again.iter().filter(|client| !client.is_closed()).count(), 9);
        assert_eq!(open().count(), 20, "who was there is there");
        assert_eq!(sim.finish().stats.refused, 31 + 11);
    });
}

/// Limits under which only descriptors are short.
fn any_number() -> Limits {
    Limits { first_frame_timeout: None, idle_read_timeout: None, ..Limits::default() }
}

/// No descriptor is left, for several workers that share an address: those who come are turned away
/// within the pause of 50 ms, more of them than one turn does; the others notice nothing, and whoever
/// comes later is served.
#[test]
fn without_descriptors_those_who_come_are_turned_away() {
    for_seeds(0..4, |seed| {
        let Server { mut sim, .. } = server_with(FRAMING, any_number(), false, seed);
        let mut other = Bystander::new(&mut sim);
        sim.set_faults(Faults { descriptors_exhausted: 1.0, ..Faults::none() });
        let all: Vec<_> = (0..300).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        sim.run_for(Duration::from_millis(60));
        let open = all.iter().filter(|client| !client.is_closed()).count();
        assert_eq!(open, 0, "left hanging");
        other.wait(&mut sim, seconds(1));
        sim.set_faults(Faults::none());
        let later: Vec<_> = (0..50).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        later.iter().for_each(|client| client.send(b"served?"));
        other.wait(&mut sim, seconds(1));
        assert!(later.iter().all(|client| client.received() == [b"served?"]));
        let stats = sim.finish().stats;
        assert_eq!((stats.refused_descriptors, stats.refused), (300, 0));
    });
}

/// Connections that are reset while they wait delay nobody: the others are accepted before any timer
/// could be due.
#[test]
fn connections_that_are_gone_before_they_are_accepted_delay_nobody() {
    for_seeds(0..20, |seed| {
        let Server { mut sim, .. } = server_with(FRAMING, any_number(), false, seed);
        sim.set_faults(Faults { accept_aborted: 0.5, ..Faults::none() });
        let all: Vec<_> = (0..60).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        all.iter().for_each(|client| client.send(b"served?"));
        sim.run();
        let answered = |client: &&wharf::testing::Client<_>| client.received() == [b"served?"];
        let served = all.iter().filter(answered).count();
        let gone = all.iter().filter(|client| client.is_closed()).count();
        assert_eq!(served + gone, 60);
        let stats = sim.finish().stats;
        assert_eq!((stats.accept_errors as usize, stats.accepted as usize), (gone, served));
    });
}
