//! How a server ends: what it waits for is shown, and what it does not wait for is told.

use std::io::Write as _;

use crate::support::*;

/// A peer that does not read holds the drain up, and no longer than the drain's time.
#[test]
fn what_a_drain_waits_for_is_shown_and_what_is_cut_off_is_told() {
    let arguments = ["--drain-timeout", "1s", "--limits-close-flush-timeout", "1h"];
    let mut serving = Serving::start(&arguments);
    let mut deaf = serving.connect();
    deaf.0.set_nonblocking(true).unwrap();
    let line = [&[b'x'; 4_000][..], b"\n"].concat();
    let mut seen = Vec::new();
    let has_queue = || {
        // Until the system takes no more, in either direction, and stays at that.
        while deaf.0.write(&line).is_ok() {}
        seen.push(serving.sessions()[0]["queued_bytes"].as_u64().unwrap());
        seen.ends_with(&[*seen.last().unwrap(); 5]) && seen.last() > Some(&100_000)
    };
    wait_until(has_queue, || "nothing is ever queued".to_owned());
    let (status, _, errors) = serving.ask(&["drain"]);
    assert_eq!(status, Some(0), "{errors}");
    check_contains(&errors, &["1 sessions left", "until they are cut off"]);
    assert_eq!(serving.status(), Some(0));
    let log = serving.log();
    check_contains(
        &log,
        &["  draining  1 session left, ", "cut off at the deadline of the drain", "drained"],
    );
    let lost = log.lines().last().and_then(|line| line.split("bytes_lost=").nth(1));
    assert!(lost.is_some_and(|lost| lost.trim() != "0"), "{log}");
}

/// A drain can be hurried, not prolonged.
#[test]
fn a_second_drain_brings_the_end_nearer() {
    let arguments = ["--drain-timeout", "1h", "--limits-linger-timeout", "1h"];
    let mut serving = Serving::start(&arguments);
    let client = serving.connect(); // stays, so that the drain waits for it
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| serving.ask(&["drain"]));
        serving.wait_for_log("draining by=");
        let (status, _, errors) = serving.ask(&["drain", "--timeout", "0s"]);
        assert_eq!(status, Some(0), "{errors}");
        let (status, _, errors) = waiting.join().unwrap();
        assert_eq!(status, Some(0), "{errors}");
    });
    drop(client);
    assert_eq!(serving.status(), Some(0));
}
