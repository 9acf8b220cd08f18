//! Deadlines, with the virtual time of the simulator: to the tick, and for nobody else.

use std::time::Duration;

use wharf::{CloseReason, Limits};

use crate::support::*;

/// Half a frame, as it goes over the wire.
const HALF: &[u8] = &[0, 9, 1, 2];

/// Bytes that trickle in renew no deadline: it is counted from the accept, or from the frame's first
/// byte. The first frame lifts its own, which would pass before that of the next.
#[test]
fn a_frame_that_trickles_in_is_late_to_the_tick() {
    for (before, limit, reason) in [
        (vec![], seconds(10), CloseReason::FirstFrameTimeout),
        (frame(b"first"), seconds(15), CloseReason::FrameTimeout),
    ] {
        let Server { mut sim, closed } = server(Limits::default());
        let mut other = Bystander::new(&mut sim);
        let client = sim.connect(ADDRESS, FRAMING);
        client.send_bytes(&before);
        sim.run();
        let start = sim.now();
        client.send_bytes(&[1, 0]); // a body of 256 bytes
        while sim.now() < start + (limit - Duration::from_secs(1)) {
            client.send_bytes(&[7]);
            other.wait(&mut sim, seconds(1));
            assert!(!client.is_closed(), "{reason}");
        }
        assert_eq!(closed.when_closed(&mut sim, &client, start, limit), reason);
        other.wait(&mut sim, seconds(1));
        sim.finish();
    }
}

/// Where the first frame has no deadline, it still has to be finished once begun.
#[test]
fn the_first_frame_has_both_deadlines() {
    let limits = Limits { first_frame_timeout: None, ..Limits::default() };
    let Server { mut sim, closed } = server(limits);
    let client = sim.connect(ADDRESS, FRAMING);
    sim.run_for(seconds(50));
    client.send_bytes(HALF);
    let start = sim.now();
    assert_eq!(
        closed.when_closed(&mut sim, &client, start, seconds(15)),
        CloseReason::FrameTimeout
    );
    sim.finish();
}

#[test]
fn a_silent_peer_is_closed_and_one_that_speaks_is_not() {
    let Server { mut sim, closed } = server(Limits::default());
    let (silent, speaking) = (sim.connect(ADDRESS, FRAMING), sim.connect(ADDRESS, FRAMING));
    silent.send(b"hello");
    sim.run();
    let start = sim.now();
    for _ in 0..10 {
        speaking.send(b"still here");
        sim.run_for(seconds(119));
    }
    let expected = vec![(CloseReason::IdleRead, seconds(120))];
    assert_eq!(closed.since(start), expected);
    assert!(silent.is_closed() && !speaking.is_closed());
    assert_eq!(speaking.received().len(), 10);
    sim.finish();
}

/// The system takes nothing of a send that is in flight: the peer does not read.
#[test]
fn a_send_that_makes_no_progress_ends_its_session() {
    let Server { mut sim, closed } = server(Limits::default());
    let mut other = Bystander::new(&mut sim);
    let deaf = sim.connect(ADDRESS, FRAMING);
    deaf.set_reading(false);
    // More than the window takes, less than the soft mark.
    (0..20).for_each(|_| deaf.send(&[7; 8000]));
    sim.run();
    let start = sim.now();
    other.wait(&mut sim, seconds(29));
    assert_eq!(closed.when_closed(&mut sim, &deaf, start, seconds(30)), CloseReason::IdleWrite);
    other.wait(&mut sim, seconds(1));
    assert!(sim.finish().stats.bytes_lost > 0);
}

/// What the peer sends is not read because of us: it is not late, and has what was left of its time
/// afterwards.
#[test]
fn nobody_is_late_whom_the_server_does_not_listen_to() {
    let Server { mut sim, closed } = server(Limits::default());
    let mut other = Bystander::new(&mut sim);
    let client = sim.connect(ADDRESS, FRAMING);
    client.send(b"pause for 1000");
    sim.run();
    client.send(b"not yet"); // a first byte, but not for the server
    client.send_bytes(HALF);
    other.wait(&mut sim, seconds(999));
    assert!(client.received().is_empty() && !client.is_closed(), "{:?}", client.received());
    sim.run_for(seconds(2));
    assert_eq!(client.received(), [b"not yet"]);
    let start = sim.now();
    let left = closed.when_closed(&mut sim, &client, start, seconds(14));
    assert_eq!(left, CloseReason::FrameTimeout);
    sim.finish();
}

/// A pause in the middle of a frame: what was left of its time is left afterwards.
#[test]
fn a_pause_stops_the_time_that_a_frame_has() {
    let Server { mut sim, closed } = server(Limits::default());
    let client = sim.connect(ADDRESS, FRAMING);
    client.send(b"pause in 13 for 500");
    client.send_bytes(HALF);
    sim.run();
    let start = sim.now();
    let reason = closed.when_closed(&mut sim, &client, start, seconds(515));
    assert_eq!(reason, CloseReason::FrameTimeout);
    sim.finish();
}

/// Above the soft mark nothing is received: half a frame waits as long as the peer does not read.
#[test]
fn the_soft_mark_stops_the_time_that_a_frame_has() {
    let limits = Limits {
        idle_write_timeout: None,
        send_queue_bytes_soft: 32 * 1024,
        send_queue_soft_timeout: None,
        ..Limits::default()
    };
    let Server { mut sim, closed } = server(limits);
    let client = sim.connect(ADDRESS, FRAMING);
    client.set_reading(false);
    let sent: Vec<_> = (0..60_u8).map(|n| vec![n; 8000]).collect();
    sent.iter().for_each(|body| client.send(body));
    sim.run_for(seconds(1000));
    assert!(!client.is_closed(), "{:?}", closed.since(wharf::port::Time::ZERO));
    client.set_reading(true);
    sim.run();
    assert!(client.received() == sent, "all of it, in order");
    sim.finish();
}

#[test]
fn a_paused_session_is_not_received_from_and_goes_on_where_it_was() {
    wharf::testing::for_seeds(0..50, |seed| {
        let limits = Limits { receive_credit_bytes: 1024, ..Limits::default() };
        let Server { mut sim, .. } = server_of(limits, false, seed);
        let client = sim.connect(ADDRESS, FRAMING);
        client.send(b"pause for 30");
        sim.run();
        let sent: Vec<_> = (0..40_u8).map(|n| vec![n; 1000]).collect();
        sent.iter().for_each(|body| client.send(body));
        sim.run_for(seconds(29));
        assert!(client.received().is_empty());
        sim.run_for(seconds(2));
        assert!(client.received() == sent, "all of it, in order");
        sim.finish();
    });
}

/// A timer that a handler has set for later goes with its session: nothing is left over.
#[test]
fn a_handlers_timers_end_with_their_session() {
    let Server { mut sim, closed } = server(Limits::default());
    let client = sim.connect(ADDRESS, FRAMING);
    client.send(b"pause for 1000");
    sim.run();
    sim.finish();
    assert_eq!(closed.reasons(), [CloseReason::Drain]);
}
