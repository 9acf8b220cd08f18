//! Heartbeats, with the virtual time of the simulator: when a peer is asked, what its answer took, and
//! who is cut off. With handlers on the workers and on logic threads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    CloseReason, ConnectorOptions, Context, Dispatch, FlushPolicy, Frame, Handler, Limits,
    Reconnect, Result, Server, SessionId,
    framing::LengthField,
    port::Time,
    testing::{Client, Faults, Simulation},
};

use crate::support::{ADDRESS, FRAMING, TICK, for_few_seeds, seconds};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Opened,
    Asked,
    Answered,
    RoundTrip(Option<Duration>),
    Closed(CloseReason),
}

/// What happened to sessions, and when.
#[derive(Clone, Default)]
struct Noted(Arc<Mutex<Vec<(SessionId, Seen, Time)>>>);

impl Noted {
    fn note<S>(&self, cx: &Context<'_, S>, seen: Seen) {
        self.0.lock().unwrap().push((cx.id(), seen, cx.now()));
    }

    fn all(&self) -> Vec<(SessionId, Seen, Time)> {
        self.0.lock().unwrap().clone()
    }

    /// When this was seen.
    fn times(&self, seen: Seen) -> Vec<Time> {
        self.all().into_iter().filter(|(_, other, _)| *other == seen).map(|(.., at)| at).collect()
    }

    /// The earliest time from which an interval of somebody runs: an answer that nobody asked for begins
    /// none.
    fn earliest(&self) -> Time {
        let mut last = BTreeMap::new();
        for (id, seen, at) in self.all() {
            match (seen, last.get(&id)) {
                (Seen::Opened | Seen::Asked, _) | (Seen::Answered, Some((Seen::Asked, _))) => {
                    last.insert(id, (seen, at));
                }
                _ => {}
            }
        }
        last.into_values().map(|(_, at)| at).min().expect("somebody is there")
    }

    fn last(&self, seen: Seen) -> Time {
        *self.times(seen).last().unwrap_or_else(|| panic!("{seen:?} was not seen"))
    }
}

/// Asks with `ping`. Does as its peers tell it: `pong` is an answer, `how long` asks what was measured,
/// `do not ask` makes it silent, `pause for 30`, `hold for 30` and `tell me 500` are what they say.
struct Asks(Noted);

#[derive(Default)]
struct Peer {
    silent: bool,
    held: bool,
}

impl Handler for Asks {
    type Session = Peer;

    fn on_open(&mut self, cx: &mut Context<'_, Peer>) -> Result {
        self.0.note(cx, Seen::Opened);
        // Nobody has asked, so that this is no answer.
        cx.heartbeat_answered();
        Ok(())
    }

    fn on_heartbeat(&mut self, cx: &mut Context<'_, Peer>) -> Result<bool> {
        self.0.note(cx, Seen::Asked);
        if cx.data().silent {
            return Ok(false);
        }
        cx.send(b"ping")?;
        Ok(true)
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Peer>, frame: Frame<'_>) -> Result {
        let text = String::from_utf8_lossy(frame.body());
        let words: Vec<_> = text.split(' ').collect();
        let number = |word: &str| word.parse().expect("a number");
        match words[..] {
            ["pong"] => {
                self.0.note(cx, Seen::Answered);
                cx.heartbeat_answered();
            }
            ["how", "long"] => self.0.note(cx, Seen::RoundTrip(cx.round_trip())),
            ["do", "not", "ask"] => cx.data().silent = true,
            ["pause", "for", time] => {
                cx.pause();
                cx.set_timer(seconds(number(time)), 0);
            }
            ["hold", "for", time] => {
                cx.hold();
                cx.data().held = true;
                cx.set_timer(seconds(number(time)), 0);
            }
            ["tell", "me", bytes] => {
                let mut left = number(bytes) as usize;
                while left > 0 {
                    let piece = left.min(8000);
                    cx.send(&vec![1; piece])?;
                    left -= piece;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Peer>, _: u64) -> Result {
        if std::mem::take(&mut cx.data().held) {
            cx.release();
        } else {
            cx.resume();
        }
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Context<'_, Peer>, reason: CloseReason) {
        self.0.note(cx, Seen::Closed(reason));
    }
}

fn limits() -> Limits {
    Limits {
        heartbeat_interval: Some(INTERVAL),
        heartbeat_timeout: Some(TIMEOUT),
        first_frame_timeout: None,
        idle_read_timeout: None,
        idle_write_timeout: None,
        send_queue_bytes_soft: 32 * 1024,
        send_queue_soft_timeout: None,
        ..Limits::default()
    }
}

struct Run {
    sim: Simulation,
    noted: Noted,
    dispatch: Dispatch,
}

impl Run {
    fn of(limits: Limits, dispatch: Dispatch, flush: FlushPolicy, seed: u64) -> Self {
        let noted = Noted::default();
        let theirs = noted.clone();
        let server = Server::builder().workers(2).dispatch(dispatch).limits(limits).flush(flush);
        let server = server.listen(ADDRESS, FRAMING, move || Asks(theirs.clone()));
        Self { sim: server.simulate(seed, Faults::none()).unwrap(), noted, dispatch }
    }

    fn connect(&mut self) -> Client<LengthField> {
        let client = self.sim.connect(ADDRESS, FRAMING);
        self.sim.run();
        client
    }

    /// Lets time pass until the peers have been asked so often, one interval and a little more at most.
    fn until_asked(&mut self, times: usize) -> Time {
        let until = self.sim.now() + INTERVAL + 10 * TICK;
        // In one go up to where somebody can be due; who is asked earlier is noted with that time.
        let due = self.noted.earliest() + (INTERVAL - TICK);
        self.sim.run_for(due.since(self.sim.now()));
        while self.noted.times(Seen::Asked).len() < times {
            assert!(self.sim.now() < until, "{:?}", self.noted.all());
            self.sim.run_for(TICK);
        }
        self.noted.last(Seen::Asked)
    }

    fn say(&mut self, client: &Client<LengthField>, what: &str) {
        client.send(what.as_bytes());
        self.sim.run();
    }

    /// What was measured last.
    fn round_trip(&mut self, client: &Client<LengthField>) -> Option<Duration> {
        self.say(client, "how long");
        match self.noted.all().last() {
            Some((_, Seen::RoundTrip(measured), _)) => *measured,
            other => panic!("{other:?}"),
        }
    }

    fn finish(self) {
        self.sim.finish();
    }
}

/// A test by seed, for each place of handlers.
fn everywhere(limits: Limits, test: impl Fn(Run)) {
    for dispatch in [Dispatch::Inline, Dispatch::Threads(2)] {
        let run = |seed| test(Run::of(limits.clone(), dispatch, FlushPolicy::PerTurn, seed));
        for_few_seeds(0..10, run);
    }
}

fn assert_within(took: Duration, from: Duration, slack: Duration) {
    assert!(from <= took && took <= from + slack, "{took:?}, not {from:?}");
}

/// The peer is asked an interval after it opened or has answered, and what is measured is what lies
/// between the two calls.
#[test]
fn a_round_trip_is_what_the_answer_took() {
    everywhere(limits(), |mut run| {
        let client = run.connect();
        assert_eq!(run.round_trip(&client), None);
        let mut since = run.noted.last(Seen::Opened);
        for (round, thought_ms) in [0, 70, 1_234, 9_000].into_iter().enumerate() {
            let asked = run.until_asked(round + 1);
            assert_within(asked.since(since), INTERVAL, 2 * TICK);
            run.sim.run_for(Duration::from_millis(thought_ms));
            assert_eq!(client.received().len(), round + 1);
            run.say(&client, "pong");
            since = run.noted.last(Seen::Answered);
            let measured = run.round_trip(&client).unwrap();
            if run.dispatch == Dispatch::Inline {
                assert_eq!(measured, since.since(asked));
            }
            assert_within(measured, Duration::from_millis(thought_ms), 2 * TICK);
        }
        assert_eq!(run.noted.times(Seen::Asked).len(), 4);
        run.finish();
    });
}

/// Whatever else it says: a peer that does not answer is cut off when its time is over, and nobody else.
#[test]
fn who_does_not_answer_in_time_is_cut_off_alone() {
    everywhere(limits(), |mut run| {
        let (other, silent) = (run.connect(), run.connect());
        let theirs = run.noted.all().last().unwrap().0;
        run.until_asked(2);
        let asked = |(id, seen, _): &(SessionId, Seen, Time)| *id == theirs && *seen == Seen::Asked;
        let asked = run.noted.all().into_iter().find(asked).unwrap().2;
        run.say(&other, "pong");
        for _ in 1..10 {
            run.say(&silent, "something else");
            run.sim.run_for(seconds(1));
        }
        let left = (asked + (TIMEOUT - 2 * TICK)).since(run.sim.now());
        run.sim.run_for(left);
        assert!(!silent.is_closed());
        run.sim.run_for(4 * TICK);
        let closed = run.noted.last(Seen::Closed(CloseReason::HeartbeatTimeout));
        assert_within(closed.since(asked), TIMEOUT, 2 * TICK);
        assert!(silent.is_closed() && !other.is_closed());
        assert_eq!(run.sim.stats().closed_for(CloseReason::HeartbeatTimeout), 1);
        run.until_asked(3);
        run.say(&other, "pong");
        run.sim.run_for(TIMEOUT * 2);
        assert!(!other.is_closed());
        run.finish();
    });
}

/// Nobody is late whom the server does not listen to, nor is anybody asked meanwhile. An answer that
/// waited for the server counts, and measures nothing.
#[test]
fn who_is_not_received_from_is_not_late() {
    let rated = Limits { frames_per_second: Some(1), ..limits() };
    for (limits, why) in [
        (limits(), "pause for 1000"),
        (limits(), "hold for 1000"),
        (limits(), "tell me 400000"), // and does not read
        (rated, "the rate"),
    ] {
        everywhere(limits, |mut run| {
            let client = run.connect();
            run.until_asked(1);
            client.set_reading(false);
            match why {
                "the rate" => (0..200).for_each(|_| client.send(b"too much")),
                _ => client.send(why.as_bytes()),
            }
            run.sim.run();
            // The receive that is under way above the soft mark goes on to the end of its credit.
            (0..5).for_each(|_| client.send(&[b'x'; 8000]));
            run.say(&client, "pong");
            run.sim.run_for(seconds(150));
            assert!(!client.is_closed(), "{why}: {:?}", run.noted.all());
            assert_eq!(run.noted.times(Seen::Asked).len(), 1, "{why}");
            assert_eq!(run.noted.times(Seen::Answered), [], "{why}");
            client.set_reading(true);
            let until = run.sim.now() + seconds(1000);
            while run.noted.times(Seen::Answered).is_empty() {
                assert!(run.sim.now() < until && !client.is_closed(), "{why}");
                run.sim.run_for(seconds(10));
            }
            // The rate has room for a question again when all that came with the answer is made up for.
            run.sim.run_for(seconds(10));
            assert_eq!(run.round_trip(&client), None, "{why}");
            run.until_asked(2);
            run.say(&client, "pong");
            run.sim.run_for(seconds(2));
            assert_within(run.round_trip(&client).unwrap(), Duration::ZERO, 2 * TICK);
            run.finish();
        });
    }
}

#[test]
fn an_answer_counts_once_and_only_if_somebody_asked() {
    everywhere(limits(), |mut run| {
        let client = run.connect();
        run.sim.run_for(seconds(20));
        run.say(&client, "pong");
        assert_eq!(run.round_trip(&client), None);
        let asked = run.until_asked(1);
        assert_within(asked.since(run.noted.last(Seen::Opened)), INTERVAL, 2 * TICK);
        run.sim.run_for(seconds(1));
        run.say(&client, "pong");
        let (answered, measured) = (run.noted.last(Seen::Answered), run.round_trip(&client));
        assert_within(measured.unwrap(), seconds(1), 2 * TICK);
        for _ in 0..3 {
            run.sim.run_for(seconds(2));
            run.say(&client, "pong");
        }
        assert_eq!(run.round_trip(&client), measured);
        assert_within(run.until_asked(2).since(answered), INTERVAL, 2 * TICK);
        run.finish();
    });
}

/// A handler that does not ask waits for nothing, and is called again after an interval.
#[test]
fn a_handler_may_decide_not_to_ask() {
    everywhere(limits(), |mut run| {
        let client = run.connect();
        run.say(&client, "do not ask");
        for times in 1..4 {
            run.until_asked(times);
        }
        assert_eq!((client.received().len(), client.is_closed()), (0, false));
        run.finish();
    });
}

/// Without a time to answer in, one that does not answer is not asked again, and stays.
#[test]
fn without_a_deadline_nobody_is_cut_off() {
    everywhere(Limits { heartbeat_timeout: None, ..limits() }, |mut run| {
        let client = run.connect();
        run.until_asked(1);
        run.sim.run_for(seconds(5000));
        assert_eq!((client.received().len(), client.is_closed()), (1, false));
        run.say(&client, "pong");
        assert_within(run.round_trip(&client).unwrap(), seconds(5000), seconds(1));
        run.until_asked(2);
        run.finish();
    });
}

/// The peer's time does not begin before the question leaves.
#[test]
fn a_question_does_not_wait_for_the_moment_of_a_flush() {
    for dispatch in [Dispatch::Inline, Dispatch::Threads(1)] {
        let mut run = Run::of(limits(), dispatch, FlushPolicy::Every(9_999), 7);
        let client = run.connect();
        run.until_asked(1);
        run.sim.run_for(TICK);
        assert_eq!(client.received(), [b"ping"]);
        run.finish();
    }
}

#[test]
fn a_drain_ends_sessions_that_have_been_asked() {
    everywhere(limits(), |mut run| {
        let client = run.connect();
        run.until_asked(1);
        let noted = run.noted.clone();
        let report = run.sim.finish();
        assert_eq!(noted.times(Seen::Closed(CloseReason::Drain)).len(), 1);
        assert_eq!(report.stats.closed_for(CloseReason::HeartbeatTimeout), 0);
        drop(client);
    });
}

fn on_logic_threads(test: impl Fn(Run)) {
    let run = |seed| test(Run::of(limits(), Dispatch::Threads(1), FlushPolicy::PerTurn, seed));
    for_few_seeds(0..10, run);
}

/// What the logic thread has still to do is not the peer's lateness: neither the question nor the
/// answer.
#[test]
fn a_logic_thread_that_is_busy_makes_nobody_late() {
    on_logic_threads(|mut run| {
        let client = run.connect();
        run.sim.set_logic_running(false);
        run.sim.run_for(seconds(100));
        assert!(!client.is_closed() && client.received().is_empty());
        run.sim.set_logic_running(true);
        run.sim.run();
        assert_eq!(client.received(), [b"ping"]);
        run.sim.set_logic_running(false);
        run.say(&client, "pong");
        run.sim.run_for(seconds(100));
        run.sim.set_logic_running(true);
        run.sim.run_for(seconds(1));
        assert_eq!((run.noted.times(Seen::Answered).len(), client.is_closed()), (1, false));
        run.until_asked(2);
        run.finish();
    });
}

/// One that has said something else, or nothing, is late all the same.
#[test]
fn a_logic_thread_that_is_busy_saves_nobody() {
    on_logic_threads(|mut run| {
        let (silent, talks) = (run.connect(), run.connect());
        run.until_asked(2);
        run.sim.set_logic_running(false);
        run.say(&talks, "something else");
        run.sim.run_for(TIMEOUT + seconds(3));
        assert!(!talks.is_closed());
        run.sim.set_logic_running(true);
        run.sim.run_for(2 * TICK);
        assert!(silent.is_closed() && talks.is_closed());
        let closed = run.noted.times(Seen::Closed(CloseReason::HeartbeatTimeout));
        assert_eq!(closed.len(), 2);
        run.finish();
    });
}

/// Takes what comes and says nothing.
struct Deaf;

impl Handler for Deaf {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
        Ok(())
    }
}

/// An outgoing session asks as any other does, and is made again when it was cut off.
#[test]
fn a_connection_whose_other_end_hangs_is_made_again() {
    for dispatch in [Dispatch::Inline, Dispatch::Threads(1)] {
        let noted = Noted::default();
        let theirs = noted.clone();
        let reconnect = Reconnect::Backoff { first: seconds(1), max: seconds(1) };
        let options = ConnectorOptions { reconnect, ..ConnectorOptions::default() };
        let server = Server::builder().workers(1).dispatch(dispatch).limits(limits());
        let server = server.listen(ADDRESS, FRAMING, || Deaf);
        let server = server.connector("out", options, FRAMING, move || Asks(theirs.clone()));
        let mut sim = server.simulate(7, Faults::none()).unwrap();
        sim.handle().connect("out", ADDRESS.parse().unwrap()).unwrap();
        sim.run_for(INTERVAL + TIMEOUT + seconds(3));
        assert_eq!(noted.times(Seen::Closed(CloseReason::HeartbeatTimeout)).len(), 1);
        assert_eq!(noted.times(Seen::Opened).len(), 2);
        sim.finish();
    }
}
