//! A server in the simulator whose frames say what it is to do, and what its sessions ended with.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf::{
    CloseReason, Context, Frame, Handler, Limits, Result,
    framing::{Framing, LengthField},
    port::Time,
    testing::{Client, Faults, Simulation, for_seeds},
};

pub(crate) const ADDRESS: &str = "10.0.0.1:9000";
pub(crate) const FRAMING: LengthField = LengthField::u16_be();

/// A timer is at most this late.
pub(crate) const TICK: Duration = Duration::from_millis(10);

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A body as it goes over the wire.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes()[..], body].concat()
}

/// [`for_seeds`] for a test that takes long and hardly depends on the seed: of those beyond its own, every
/// 25th.
pub(crate) fn for_few_seeds(own: Range<u64>, test: impl Fn(u64)) {
    for_seeds(own.clone(), |seed| {
        if own.contains(&seed) || seed.is_multiple_of(25) {
            test(seed);
        }
    });
}

/// Echoes, except for frames like `pause for 30` or `pause in 10 for 30`, in seconds, `log in`, and
/// `tell me 500`, which is how many bytes of body.
pub(crate) struct Told {
    closed: Closed,
    requires_login: bool,
}

impl Handler for Told {
    /// How long to pause when the first timer is due.
    type Session = Duration;

    fn requires_login(&self) -> bool {
        self.requires_login
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Duration>, frame: Frame<'_>) -> Result {
        let text = String::from_utf8_lossy(frame.body());
        let words: Vec<_> = text.split(' ').collect();
        let number = |word: &str| seconds(word.parse().expect("a number"));
        match words[..] {
            ["pause", "for", time] => {
                cx.pause();
                cx.set_timer(number(time), RESUME);
            }
            ["pause", "in", pause, "for", time] => {
                *cx.data() = number(time);
                cx.set_timer(number(pause), PAUSE);
            }
            ["log", "in"] => {
                assert!(cx.is_stranger());
                cx.authenticated();
                cx.send(b"welcome")?;
            }
            ["tell", "me", bytes] => {
                let bytes = bytes.parse().expect("a number");
                let sent = cx.send(&vec![1; bytes]);
                assert!(sent.is_ok() || cx.send(b"").is_err(), "it is over");
            }
            _ => cx.send(frame.body())?,
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Duration>, key: u64) -> Result {
        match key {
            PAUSE => {
                let time = *cx.data();
                cx.pause();
                cx.set_timer(time, RESUME);
            }
            _ => cx.resume(),
        }
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Context<'_, Duration>, reason: CloseReason) {
        self.closed.0.lock().unwrap().push((reason, cx.now()));
    }
}

const PAUSE: u64 = 1;
const RESUME: u64 = 2;

/// Why sessions were closed, and when.
#[derive(Clone, Default)]
pub(crate) struct Closed(Arc<Mutex<Vec<(CloseReason, Time)>>>);

impl Closed {
    /// Why sessions were closed so far.
    pub(crate) fn reasons(&self) -> Vec<CloseReason> {
        self.0.lock().unwrap().iter().map(|(reason, _)| *reason).collect()
    }

    /// All that were closed, and how long after `start`, rounded down to seconds.
    pub(crate) fn since(&self, start: Time) -> Vec<(CloseReason, Duration)> {
        let all = self.0.lock().unwrap();
        all.iter().map(|(reason, at)| (*reason, seconds(at.since(start).as_secs()))).collect()
    }

    /// Lets time pass until the client's session, the next to be closed, is closed: not before
    /// `start + limit`, and at most a tick after that. Why it was.
    pub(crate) fn when_closed<F: Framing>(
        &self,
        sim: &mut Simulation,
        client: &Client<F>,
        start: Time,
        limit: Duration,
    ) -> CloseReason {
        let before = self.0.lock().unwrap().len();
        let left = (start + limit).since(sim.now());
        sim.run_for(left + 2 * TICK);
        let all = self.0.lock().unwrap();
        let (reason, at) = *all.get(before).expect("it is closed within its time");
        let took = at.since(start);
        // The time on the network, which is less than a tick, comes first.
        assert!(limit <= took + TICK && took <= limit + 2 * TICK, "{reason} after {took:?}");
        drop(all);
        client.set_reading(true);
        sim.run_for(seconds(3));
        assert!(client.is_closed());
        reason
    }
}

pub(crate) struct Server {
    pub(crate) sim: Simulation,
    pub(crate) closed: Closed,
}

pub(crate) fn server(limits: Limits) -> Server {
    server_of(limits, false, 7)
}

pub(crate) fn server_of(limits: Limits, requires_login: bool, seed: u64) -> Server {
    server_with(FRAMING, limits, requires_login, seed)
}

pub(crate) fn server_with(
    framing: LengthField,
    limits: Limits,
    requires_login: bool,
    seed: u64,
) -> Server {
    server_from(wharf::Server::builder().limits(limits), framing, requires_login, seed)
}

pub(crate) fn server_from(
    builder: wharf::Builder,
    framing: LengthField,
    requires_login: bool,
    seed: u64,
) -> Server {
    let closed = Closed::default();
    let told = closed.clone();
    let handler = move || Told { closed: told.clone(), requires_login };
    let builder = builder.workers(2).listen(ADDRESS, framing, handler);
    Server { sim: builder.simulate(seed, Faults::none()).unwrap(), closed }
}

/// A session that must not notice anything of what happens to others.
pub(crate) struct Bystander {
    client: Client<LengthField>,
    sent: usize,
}

impl Bystander {
    pub(crate) fn new(sim: &mut Simulation) -> Self {
        Self::speaking(sim, FRAMING)
    }

    pub(crate) fn speaking(sim: &mut Simulation, framing: LengthField) -> Self {
        let mut bystander = Self { client: sim.connect(ADDRESS, framing), sent: 0 };
        bystander.wait(sim, Duration::ZERO);
        bystander
    }

    /// How many questions it has asked.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Lets time pass, and gets an answer at least every ten seconds.
    pub(crate) fn wait(&mut self, sim: &mut Simulation, time: Duration) {
        let until = sim.now() + time;
        loop {
            self.client.send(b"a question");
            self.sent += 1;
            sim.run();
            assert_eq!(self.client.received().len(), self.sent, "an answer to each");
            assert!(!self.client.is_closed());
            let left = until.since(sim.now());
            if left.is_zero() {
                return;
            }
            sim.run_for(left.min(seconds(10)));
        }
    }
}
