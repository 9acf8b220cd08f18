//! What peers send that is of no use to anybody: each ends with its reason, within its time, and
//! nobody else notices.

use std::time::Duration;

use wharf::{
    CloseReason as Reason, Limits,
    framing::{Endian, LengthField},
};

use crate::support::*;

/// A length of the whole frame, with room for every wrong one.
fn framing() -> LengthField {
    let layout = LengthField::builder(4, Endian::Big).length(0, 4).length_counts_header();
    layout.build().expect("a layout that can be")
}

const HEADER_BYTES: u32 = 4;

/// The longest body that is allowed.
const BODY_BYTES_MAX: u32 = 500;

fn whole(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + HEADER_BYTES).to_be_bytes()[..], body].concat()
}

/// What a peer does when it has sent its bytes.
#[derive(Clone, Copy, Debug)]
enum Then {
    Stays,
    Ends,
    Resets,
}

/// One peer, and what becomes of it.
#[derive(Debug)]
struct Case {
    sends: Vec<u8>,
    then: Then,
    /// Sends byte by byte, and time passes between them.
    trickles: bool,
    reads: bool,
    /// Whole frames that reach the handler.
    frames: u64,
    /// Why it is closed, and how long after it came. `None`: it stays.
    ends: Option<(Reason, Duration)>,
}

fn case(sends: Vec<u8>, then: Then, frames: u64, ends: Option<(Reason, Duration)>) -> Case {
    Case { sends, then, trickles: false, reads: true, frames, ends }
}

fn cases() -> Vec<Case> {
    let late = Some((Reason::FirstFrameTimeout, seconds(10)));
    let at_once = |reason| Some((reason, Duration::ZERO));
    let mut cases = vec![
        case(vec![], Then::Stays, 0, late),
        case(whole(b"x")[..2].to_vec(), Then::Stays, 0, late),
        case(whole(b"half of it")[..9].to_vec(), Then::Stays, 0, late),
        case([whole(b"x"), whole(b"y")[..4].to_vec()].concat(), Then::Stays, 1, {
            Some((Reason::FrameTimeout, seconds(15)))
        }),
        case(whole(b""), Then::Stays, 1, None),
        case(whole(&[7; BODY_BYTES_MAX as usize]), Then::Stays, 1, None),
        case(whole(b"x").repeat(1000), Then::Stays, 1000, None),
        Case { trickles: true, ..case(whole(b"abc").repeat(5), Then::Stays, 5, None) },
        // More than its window holds and less than the soft mark: a send makes no progress.
        Case {
            reads: false,
            ..case(whole(&[7; 500]).repeat(400), Then::Stays, 400, {
                Some((Reason::IdleWrite, seconds(30)))
            })
        },
    ];
    // Lengths that cannot be, or are too long, at the start and behind a frame.
    let too_long = HEADER_BYTES + BODY_BYTES_MAX + 1;
    for length in (0..HEADER_BYTES).chain([too_long, 1 << 31, u32::MAX - 1, u32::MAX]) {
        let header = length.to_be_bytes();
        for before in [0, 1, 3] {
            let sends = [&whole(b"fine").repeat(before)[..], &header].concat();
            cases.push(case(sends, Then::Stays, before as u64, at_once(Reason::Protocol)));
        }
    }
    // It leaves at every point of two frames.
    let two = whole(b"two of them").repeat(2);
    for sent in 0..=two.len() {
        let frames = (sent * 2 / two.len()) as u64;
        for (then, reason) in [(Then::Ends, Reason::PeerClosed), (Then::Resets, Reason::Reset)] {
            cases.push(case(two[..sent].to_vec(), then, frames, at_once(reason)));
        }
    }
    cases
}

fn limits() -> Limits {
    Limits {
        frame_bytes_max: BODY_BYTES_MAX as usize,
        idle_read_timeout: None,
        ..Limits::default()
    }
}

#[test]
fn each_ends_with_its_reason_in_its_time_and_nobody_else_notices() {
    for_few_seeds(0..3, |seed| {
        for case in cases() {
            check(&case, seed);
        }
    });
}

fn check(case: &Case, seed: u64) {
    let Server { mut sim, closed } = server_with(framing(), limits(), false, seed);
    let mut other = Bystander::speaking(&mut sim, framing());
    let peer = sim.connect(ADDRESS, framing());
    peer.set_reading(case.reads);
    sim.run();
    let start = sim.now();
    let pieces = if case.trickles { 1 } else { case.sends.len().max(1) };
    for piece in case.sends.chunks(pieces) {
        peer.send_bytes(piece);
        if case.trickles {
            other.wait(&mut sim, TICK);
        }
    }
    match case.then {
        Then::Stays => {}
        Then::Ends => peer.end(),
        Then::Resets => peer.reset(),
    }
    sim.run();
    if let Some((expected, limit)) = case.ends {
        if limit > seconds(2) {
            other.wait(&mut sim, limit - seconds(1));
            assert_eq!(closed.reasons(), [], "too early: {case:?}");
            other.wait(&mut sim, seconds(1));
        }
        sim.run_for(2 * TICK);
        let all = closed.since(start);
        assert_eq!(all.len(), 1, "within its time: {case:?}");
        assert_eq!(all[0], (expected, limit), "{case:?}");
    } else {
        other.wait(&mut sim, seconds(200));
        assert_eq!(closed.reasons(), [], "{case:?}");
        let answers = peer.received().len() as u64;
        assert_eq!((answers, peer.is_closed()), (case.frames, false), "{case:?}");
    }
    other.wait(&mut sim, seconds(1));
    let heard = other.sent() as u64;
    let stats = sim.finish().stats;
    let handled = stats.frames_received - heard;
    // A reset destroys what is on its way.
    let lost = matches!(case.then, Then::Resets) && handled < case.frames;
    assert!(lost || handled == case.frames, "{handled} {case:?}");
    let reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Drain);
    let counted: u64 = reasons.map(|reason| stats.closed_for(reason)).sum();
    assert_eq!(counted, u64::from(case.ends.is_some()), "one reason for each close: {case:?}");
}
