//! Timers of sessions, seen from a handler.

use std::time::Duration;

use wharf::{CloseReason, Limits, framing::LengthField};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

/// Runs `script` on a session's first frame and on its timers until timer 99, and gives the timers.
fn timers(
    workers: usize,
    script: impl Fn(&mut wharf::Context<'_, ()>, On<'_>) -> wharf::Result
    + Send
    + Sync
    + Clone
    + 'static,
    expected: &[u64],
) {
    on_every_engine(|engine| {
        let (framing, script) = (LengthField::u16_be(), script.clone());
        let builder = builder(engine).workers(workers).limits(calm());
        let mut server =
            Events::new().with(|e| builder.listen(ANY_PORT, framing, e.script(script)));
        let mut client = server.connect();
        client.write(&wire(&framing, &[b"go"]));
        server.wait_for(|event| matches!(event, Event::Timer(_, 99)).then_some(()));
        client.end_stream();
        assert_eq!(client.end(), End::OfStream);
        server.handle.drain(NEVER);
        let (_, events) = server.join();
        let fired = events.iter().filter_map(|event| match event {
            Event::Timer(_, key) => Some(*key),
            _ => None,
        });
        assert_eq!(fired.collect::<Vec<_>>(), expected);
    });
}

#[test]
fn in_the_order_of_their_delays_and_once() {
    let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
        if let On::Frame(_) = on {
            cx.set_timer(200 * MS, 99);
            cx.set_timer(100 * MS, 3);
            cx.set_timer(Duration::ZERO, 1);
            cx.set_timer(50 * MS, 2);
            // These never come: one is taken back, one is moved to the end of time.
            cx.set_timer(10 * MS, 4);
            cx.cancel_timer(4);
            cx.set_timer(10 * MS, 5);
            cx.set_timer(Duration::MAX, 5);
            cx.cancel_timer(6);
        }
        Ok(())
    };
    timers(2, script, &[1, 2, 3, 99]);
}

#[test]
fn setting_a_key_again_moves_its_timer() {
    let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
        match on {
            On::Frame(_) => {
                cx.set_timer(Duration::ZERO, 1);
                cx.set_timer(20 * MS, 2);
                cx.set_timer(NEVER, 1);
            }
            // From within its own call, and then nearer again.
            On::Timer(2) => cx.set_timer(Duration::ZERO, 3),
            On::Timer(3) => cx.set_timer(Duration::ZERO, 1),
            On::Timer(1) => cx.set_timer(Duration::ZERO, 99),
            _ => {}
        }
        Ok(())
    };
    timers(2, script, &[2, 3, 1, 99]);
}

/// Two timers are due in one turn; the first one's call moves or cancels the others, which must not
/// fire any more.
#[test]
fn a_timer_moved_in_the_turn_in_which_it_is_due_does_not_fire() {
    let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
        match on {
            On::Frame(_) => (1..=4).for_each(|key| cx.set_timer(20 * MS, key)),
            On::Timer(1) => {
                cx.set_timer(NEVER, 2);
                cx.cancel_timer(3);
                cx.cancel_timer(4);
                cx.set_timer(40 * MS, 4);
                cx.set_timer(100 * MS, 99);
            }
            _ => {}
        }
        Ok(())
    };
    timers(2, script, &[1, 4, 99]);
}

/// A handler closes its session in the very turn in which the deadline of the first frame is due:
/// what it has queued is flushed all the same.
#[test]
fn a_deadline_that_was_replaced_in_the_turn_in_which_it_is_due_does_not_pass() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let limits = Limits { first_frame_timeout: Some(100 * MS), ..calm() };
        let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            match on {
                On::Open => cx.set_timer(50 * MS, 1),
                // The worker is held up until both are due.
                On::Frame(_) => block_for(300 * MS),
                On::Timer(_) => {
                    cx.send(&[1; 60_000])?;
                    cx.close();
                }
                On::Close(_) | On::Drain | On::Backpressure | On::Writable => {}
            }
            Ok(())
        };
        let builder = builder(engine).workers(1).limits(limits);
        let mut server =
            Events::new().with(|e| builder.listen(ANY_PORT, framing, e.script(script)));
        let mut blocking = server.connect();
        server.opened();
        let mut client = server.connect();
        let id = server.opened();
        blocking.write(&wire(&framing, &[b"block"]));
        let reason = server.wait_for(|event| match event {
            Event::Close(closed, reason) if *closed == id => Some(*reason),
            _ => None,
        });
        assert_eq!(reason, CloseReason::Handler);
        assert_eq!((client.read(60_002).len(), client.end()), (60_002, End::OfStream));
        server.finish();
    });
}

#[test]
fn timers_of_a_closed_session_never_fire() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(body) = on {
                (0..20).for_each(|key| cx.set_timer(50 * MS, key));
                match body {
                    b"close" => cx.close(),
                    b"abort" => cx.abort(),
                    _ => cx.set_timer(150 * MS, 99),
                }
            }
            Ok(())
        });
        for wish in [&b"close"[..], b"abort", b"stay"] {
            let mut client = server.connect();
            client.write(&wire(&framing, &[wish]));
            if wish == b"stay" {
                let last = |event: &Event| matches!(event, Event::Timer(_, 99)).then_some(());
                server.wait_for(last);
            } else {
                client.end();
            }
        }
        server.handle.drain(NEVER);
        let (_, events) = server.join();
        let fired = events.iter().filter(|event| matches!(event, Event::Timer(..))).count();
        assert_eq!(fired, 21, "all of the one that stayed: {events:?}");
    });
}
