//! `wharf::testing`: a server and its clients in the simulator, from outside.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    Builder, CloseReason, Context, Frame, Handler, Limits, Result, Server, SessionId,
    framing::{LengthField, Lines},
    testing::{Faults, for_seeds},
};

const FRAMING: LengthField = LengthField::u16_be();
const ADDRESS: &str = "10.0.0.1:9000";

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        if frame.body() == b"panic" {
            panic!("this is what the test wants");
        }
        cx.send(frame.body())?;
        Ok(())
    }
}

fn echo() -> Builder {
    Server::builder().workers(2).listen(ADDRESS, FRAMING, || Echo)
}

fn fails(test: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(test)).is_err()
}

#[test]
fn clients_get_their_answers_whatever_the_cuts() {
    for_seeds(0..50, |seed| {
        let mut sim = echo().simulate(seed, Faults::none()).unwrap();
        let sent: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 1 + 700 * usize::from(n)]).collect();
        let clients: Vec<_> = (0..5).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        for body in &sent {
            clients.iter().for_each(|client| client.send(body));
        }
        sim.run();
        assert!(clients.iter().all(|client| client.received() == sent && !client.is_closed()));
        clients[0].end();
        clients[1].reset();
        sim.run();
        assert!(clients[0].is_closed() && clients[1].is_closed() && !clients[2].is_closed());
        let stats = sim.finish().stats;
        assert_eq!(stats.frames_received, 25);
        assert_eq!(stats.closed_for(CloseReason::PeerClosed), 1);
        assert_eq!(stats.closed_for(CloseReason::Reset), 1);
        assert_eq!(stats.closed_for(CloseReason::Drain), 3);
        assert!(clients.iter().all(|client| client.is_closed()));
    });
}

#[test]
fn faults_lose_sessions_but_never_order() {
    for_seeds(100..200, |seed| {
        let mut sim = echo().simulate(seed, Faults::rough()).unwrap();
        let clients: Vec<_> = (0..8).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        let sent: Vec<Vec<u8>> = (0..9).map(|n| vec![n; 500]).collect();
        for client in &clients {
            sent.iter().for_each(|body| client.send(body));
            client.end();
        }
        sim.run_for(Duration::from_secs(60));
        for client in &clients {
            assert!(sent.starts_with(&client.received()), "a prefix, in order");
        }
        sim.finish();
    });
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let run = |seed| {
        let mut sim = echo().simulate(seed, Faults::rough()).unwrap();
        let clients: Vec<_> = (0..4).map(|_| sim.connect(ADDRESS, FRAMING)).collect();
        clients.iter().for_each(|client| client.send(&[1; 5000]));
        let chosen = sim.random(1000);
        sim.run_for(Duration::from_secs(20));
        let received: Vec<_> = clients.iter().map(|client| client.received()).collect();
        (sim.trace_hash(), chosen, received, sim.finish())
    };
    for_seeds(0..20, |seed| {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).0, run(seed + 1).0);
    });
}

#[test]
fn time_passes_only_when_asked_to() {
    let limits = Limits { first_frame_timeout: Some(Duration::from_secs(10)), ..Limits::default() };
    let server = Server::builder().workers(1).limits(limits).listen(ADDRESS, FRAMING, || Echo);
    let mut sim = server.simulate(3, Faults::none()).unwrap();
    let client = sim.connect(ADDRESS, FRAMING);
    sim.run();
    sim.run_for(Duration::from_secs(9));
    assert!(!client.is_closed());
    sim.run_for(Duration::from_secs(2));
    assert!(client.is_closed());
    assert_eq!(sim.finish().stats.closed_for(CloseReason::FirstFrameTimeout), 1);
}

/// Answers after a millisecond, and says when.
struct Late;

impl Handler for Late {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
        cx.set_timer(Duration::from_millis(1), cx.now().as_nanos());
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Context<'_, ()>, set_ns: u64) -> Result {
        let late_ns = cx.now().as_nanos() - set_ns - 1_000_000;
        cx.send(&late_ns.to_le_bytes())?;
        Ok(())
    }
}

#[test]
fn a_timer_is_late_by_one_tick_at_most() {
    let late = |builder: Builder| {
        let builder = builder.workers(1).listen(ADDRESS, FRAMING, || Late);
        let mut sim = builder.simulate(5, Faults::none()).unwrap();
        let client = sim.connect(ADDRESS, FRAMING);
        for _ in 0..20 {
            client.send(b"go");
            sim.run_for(Duration::from_micros(20_777));
        }
        let received = client.received();
        assert_eq!(received.len(), 20);
        let late = received.iter().map(|body| u64::from_le_bytes(body[..].try_into().unwrap()));
        let worst = late.max().unwrap();
        sim.finish();
        Duration::from_nanos(worst)
    };
    let usual = late(Server::builder());
    assert!((Duration::from_millis(1)..=Duration::from_millis(10)).contains(&usual), "{usual:?}");
    let exact = late(Server::builder().timer_tick(Duration::from_micros(10)));
    assert!(exact <= Duration::from_micros(10), "{exact:?}");
    for tick in [Duration::ZERO, Duration::from_nanos(9_999), Duration::from_secs(2)] {
        let refused = echo().timer_tick(tick).simulate(1, Faults::none());
        assert!(refused.is_err_and(|error| error.to_string().contains("timer_tick")), "{tick:?}");
    }
}

#[test]
fn a_panic_of_a_handler_fails_the_run_unless_it_is_expected() {
    let run = |expected| {
        let mut sim = echo().simulate(1, Faults::none()).unwrap();
        if expected {
            sim.expect_panics();
        }
        let client = sim.connect(ADDRESS, FRAMING);
        client.send(b"panic");
        sim.run();
        assert!(client.is_closed());
        sim.finish();
    };
    assert!(fails(|| run(false)));
    run(true);
}

#[test]
fn what_breaks_the_framing_can_be_sent_and_a_deaf_client_holds_its_answers_back() {
    let mut sim = echo().simulate(5, Faults::none()).unwrap();
    let (broken, deaf) = (sim.connect(ADDRESS, FRAMING), sim.connect(ADDRESS, FRAMING));
    broken.send_bytes(&[0xff, 0xff, 0]);
    deaf.set_reading(false);
    deaf.send(b"hello");
    sim.run();
    assert!(broken.is_closed());
    assert!(deaf.received().is_empty());
    deaf.set_reading(true);
    sim.run();
    assert_eq!(deaf.received(), [b"hello"]);
    assert_eq!(sim.finish().stats.closed_for(CloseReason::Protocol), 1);
}

/// What waits for workers would wait for ever where one thread does everything.
#[test]
fn waiting_for_a_worker_is_an_error_and_sending_is_not() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    struct Opens(Arc<Mutex<Vec<SessionId>>>);
    impl Handler for Opens {
        type Session = ();
        fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
            self.0.lock().unwrap().push(cx.id());
            Ok(())
        }
        fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
            Ok(())
        }
    }
    let seen = Arc::clone(&opened);
    let server = Server::builder().workers(2).listen(ADDRESS, Lines, move || Opens(seen.clone()));
    let mut sim = server.simulate(9, Faults::none()).unwrap();
    let client = sim.connect(ADDRESS, Lines);
    sim.run();
    assert!(matches!(sim.handle().sessions(), Err(wharf::Error::OnWorker)));
    sim.handle().send(opened.lock().unwrap()[0], b"from outside").unwrap();
    sim.run();
    assert_eq!(client.received(), [b"from outside"]);
    sim.finish();
}

/// As on a real system.
#[test]
fn a_server_that_cannot_be_made_is_an_error() {
    let twice = echo().listen(ADDRESS, Lines, || Echo);
    let error = twice.simulate(0, Faults::none()).unwrap_err().to_string();
    assert!(error.contains(ADDRESS), "{error}");
}
