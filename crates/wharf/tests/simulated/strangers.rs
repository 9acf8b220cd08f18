//! What a peer may do before it has logged in.

use wharf::{CloseReason, Limits, Router, framing::LengthField, testing::Faults};

use crate::support::*;

fn limits() -> Limits {
    Limits {
        unauthenticated_receive_bytes_max: 1000,
        unauthenticated_send_bytes_max: 500,
        // What is under test ends it first.
        first_frame_timeout: None,
        ..Limits::default()
    }
}

#[test]
fn a_stranger_has_so_many_bytes_in_each_direction() {
    for (said, ends) in [
        (vec![frame(&[1; 300])], false),
        (vec![frame(&[1; 498])], false),
        (vec![frame(&[1; 499])], true),       // its echo is too long
        (vec![frame(b"tell me 498")], false), // as long as may be
        (vec![frame(b"tell me 499")], true),
        (vec![frame(b"tell me 200"); 3], true), // one after the other
        // A frame that is not whole yet, and answered by nothing.
        (vec![frame(&[1; 2000])[..1000].to_vec()], false),
        (vec![frame(&[1; 2000])[..1001].to_vec()], true),
    ] {
        let Server { mut sim, closed } = server_of(limits(), true, 7);
        let client = sim.connect(ADDRESS, FRAMING);
        for bytes in &said {
            client.send_bytes(bytes);
            sim.run_for(seconds(2));
        }
        let expected: &[_] = if ends { &[CloseReason::Unauthenticated] } else { &[] };
        assert_eq!(closed.reasons(), expected, "{} bytes", said.concat().len());
        assert_eq!(client.is_closed(), ends);
        sim.finish();
    }
}

/// Bytes that trickle in, and frames, buy no time; a login lifts all of it.
#[test]
fn a_stranger_has_so_much_time_and_a_login_lifts_the_budget() {
    let Server { mut sim, closed } = server_of(limits(), true, 7);
    let (stranger, member) = (sim.connect(ADDRESS, FRAMING), sim.connect(ADDRESS, FRAMING));
    member.send(b"log in");
    let start = sim.now();
    for _ in 0..9 {
        stranger.send(b"hello");
        member.send(&[7; 400]);
        sim.run_for(seconds(1));
    }
    let reason = closed.when_closed(&mut sim, &stranger, start, seconds(10));
    assert_eq!(reason, CloseReason::Unauthenticated);
    assert_eq!(stranger.received().len(), 9);
    for _ in 0..100 {
        member.send(&[7; 400]);
        sim.run_for(seconds(1));
    }
    assert_eq!(member.received().len(), 110);
    sim.finish();
}

/// Where nobody has to log in, nobody is a stranger.
#[test]
fn without_a_login_there_is_no_budget() {
    let Server { mut sim, closed } = server_of(limits(), false, 7);
    let client = sim.connect(ADDRESS, FRAMING);
    for _ in 0..30 {
        client.send(&[7; 2000]);
        sim.run_for(seconds(1));
    }
    assert_eq!((client.received().len(), closed.reasons()), (30, vec![]));
    sim.finish();
}

/// A router says it for its handler, and its hook of the drain is called.
#[test]
fn a_router_can_require_a_login_and_say_farewell() {
    const STUDY: LengthField = LengthField::STUDY;
    let router = Router::<(), ()>::builder()
        .requires_login()
        .on_raw(1, |_, cx, _| {
            cx.authenticated();
            Ok(())
        })
        .on_drain(|_, cx| Ok(cx.send(b"good bye")?))
        .build();
    let builder = wharf::Server::builder().workers(1).limits(limits());
    let builder = builder.listen(ADDRESS, STUDY, move || router.handler(()));
    let mut sim = builder.simulate(7, Faults::none()).unwrap();
    let (stranger, member) = (sim.connect(ADDRESS, STUDY), sim.connect(ADDRESS, STUDY));
    member.send_packet(1, b"");
    sim.run_for(seconds(12));
    assert_eq!((stranger.is_closed(), member.is_closed()), (true, false));
    let stats = sim.finish().stats;
    assert_eq!(stats.closed_for(CloseReason::Unauthenticated), 1);
    assert_eq!((member.received(), stranger.received()), (vec![b"good bye".to_vec()], vec![]));
}
