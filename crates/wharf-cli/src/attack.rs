//! `wharf attack`: clients that do harm, and beside them honest ones whose experience is the verdict.
//!
//! The attackers (`attacker`, `wire`) are plain sockets on one thread, not the library, so that the
//! library's own good manners cannot hide a fault of a server built on it. The honest users are a
//! load of `wharf bench`: before the attack, during it, and after.

mod attacker;
mod verdict;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::load::{
    self, Arrival, Group, Interrupted, Interrupts, Kind, Outcome, Rate, Scenario, Sizes, Traffic,
};
use crate::settings::{Engine, Framing, parse_value, to_reach};
use attacker::Attack;
use verdict::{Phase, Verdict};

/// What the attackers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Harm {
    /// Ask without end and never read an answer
    SlowReader,
    /// Send a message one byte a second
    Slowloris,
    /// Connect and say nothing
    HalfOpen,
    /// Connect, ask, and reset before the answer
    ResetStorm,
    /// Send random bytes
    Garbage,
    /// Declare the longest message there is, and send it on and on
    Oversize,
    /// Send empty messages without end
    ZeroLength,
    /// Send good messages one byte at a time
    Fragments,
    /// Leave at a random moment of the login (tutorial framing)
    LoginCut,
    /// Connect, have one answer, leave; and again
    Churn,
    /// Connect as fast as allowed and hold every connection
    ConnectFlood,
}

/// Whom to attack, how, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// What the attackers do
    #[arg(value_enum)]
    pub(crate) harm: Harm,
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000", value_parser = to_reach)]
    pub(crate) addr: SocketAddr,
    /// How the server cuts bytes into frames [default: study; tutorial for login-cut]
    #[arg(long, value_enum)]
    pub(crate) framing: Option<Framing>,
    /// How long to attack, 10 minutes at most
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Attackers at the same time
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// New connections of attackers per second, at most
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) rate: u32,
    /// Addresses from 127.0.0.2 on that attackers come from (honest users have 127.0.0.1)
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) sources: u16,
    /// What honest users may wait for 99 of 100 answers while the attack goes on
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = milliseconds)]
    pub(crate) p99_max: Duration,
    /// Attack a server that is not on this machine: only one that is yours
    #[arg(long)]
    pub(crate) i_own_this_server: bool,
    /// Print the verdict as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    fn framing(&self) -> Framing {
        let usual = if self.harm == Harm::LoginCut { Framing::Tutorial } else { Framing::Study };
        self.framing.unwrap_or(usual)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if !self.addr.ip().is_loopback() && !self.i_own_this_server {
            return Err(format!(
                "{} is not this machine: an attack on a server of somebody else is a crime in most \
                 places. --i-own-this-server says that it is yours",
                self.addr
            ));
        }
        wire::Wire::new(self.harm, self.framing()).map(drop)
    }

    /// Honest users: some who are there, and some who come.
    fn honest(&self, measured: Duration) -> Scenario {
        let group = |name: &str, connections, kind| Group {
            name: name.to_owned(),
            addr: self.addr,
            framing: self.framing(),
            connections,
            kind,
        };
        let sizes = Sizes { shortest: 64, longest: 64 };
        let traffic = Traffic {
            sizes,
            depth: 1024,
            rate: Some(Rate::Constant(HONEST_PER_SECOND)),
            arrival: Arrival::Even,
        };
        let newcomers =
            Kind::Connect { messages: 1, sizes, rate: Some(HONEST_NEWCOMERS_PER_SECOND) };
        Scenario {
            name: "attack",
            groups: vec![
                group("users", HONEST_USERS, Kind::Echo(traffic)),
                group("newcomers", HONEST_USERS, newcomers),
            ],
            duration: measured,
            warmup: Duration::from_millis(100),
            grace: HONEST_PATIENCE,
            repeats: 1,
            workers: Some(1),
            engine: Engine::Auto,
            sources: None,
            pid: None,
        }
    }
}

/// Attacks, and tells what honest users felt: 0 if they were served, 1 if not, 2 for wrong usage.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Err(mistake) = options.check() {
        eprintln!("error: {mistake}");
        return Ok(ExitCode::from(2));
    }
    let verdict = match judge(options) {
        Ok(verdict) => verdict,
        Err(error) => {
            // A program that reads the verdict is told what the person is told on standard error.
            if options.json {
                let failure = json!({ "served": false, "error": format!("{error:#}") });
                crate::bench::print(&format!("{failure:#}\n"))?;
            }
            return Err(error);
        }
    };
    let text = if options.json { format!("{:#}\n", verdict.json()) } else { verdict.text() };
    crate::bench::print(&text)?;
    Ok(if verdict.is_served() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// # Errors
/// Nobody is served even without an attack, or the attack cannot begin.
fn judge(options: &Options) -> Result<Verdict> {
    let harm = options.harm.to_possible_value().map(|value| value.get_name().to_owned());
    let harm = harm.unwrap_or_default();
    let interrupts = Interrupts::handle()?;
    let honest = |name: &str, measured| {
        load::run_part(&options.honest(measured), &format!("{name}: "), &interrupts)
    };
    let quiet_time = options.duration.min(QUIET_TIME_MAX);
    let before = honest("before the attack", quiet_time)
        .context("honest users are not served even without an attack")?;
    ensure!(!before.was_interrupted, "interrupted before the attack");
    ensure!(
        before.errors() == 0,
        "honest users get wrong answers even without an attack: does {} echo in {} framing?",
        options.addr,
        options.framing()
    );
    let is_over = AtomicBool::new(false);
    let attack = Attack::new(options)?;
    let (during, attackers) = thread::scope(|scope| {
        let attackers = scope.spawn(|| attack.run(&is_over));
        let during = honest(&format!("during {harm}"), options.duration);
        is_over.store(true, Ordering::Relaxed);
        (during, attackers.join().expect("attackers do not panic"))
    });
    ensure!(has_seen_something(&during), "interrupted before anybody was served: no verdict");
    let after = honest("after the attack", quiet_time);
    ensure!(has_seen_something(&after), "interrupted right after the attack: no verdict");
    Ok(Verdict {
        harm,
        addr: options.addr,
        p99_max: options.p99_max,
        phases: [
            Phase::new("before", Ok(&before)),
            Phase::new("during", during.as_ref()),
            Phase::new("after", after.as_ref()),
        ],
        attackers,
    })
}

/// Whether a phase that was interrupted lasted long enough to judge by.
fn has_seen_something(phase: &Result<Outcome>) -> bool {
    match phase {
        Ok(seen) => {
            !seen.was_interrupted || seen.tallies.iter().all(|tally| !tally.latency.is_empty())
        }
        Err(error) => !error.is::<Interrupted>(),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: Duration = parse_value(text, "s")?;
    let is_bounded = !duration.is_zero() && duration <= DURATION_MAX;
    is_bounded.then_some(duration).ok_or("expected a time above 0, 10 minutes at most".to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let time: Duration = parse_value(text, "ms")?;
    (time <= PATIENCE_MAX).then_some(time).ok_or("expected 1 hour at most".to_owned())
}

/// Nobody forgets an attack that goes on for a day.
const DURATION_MAX: Duration = Duration::from_secs(600);

/// As long as latencies are told apart.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// Honest users: enough to see, few enough to be no load.
const HONEST_USERS: u32 = 10;
const HONEST_PER_SECOND: f64 = 200.0;
const HONEST_NEWCOMERS_PER_SECOND: f64 = 20.0;

/// How long honest users wait for an answer before it counts as lost.
const HONEST_PATIENCE: Duration = Duration::from_secs(5);

/// How long is looked before and after the attack: as long as it, or this.
const QUIET_TIME_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_was_interrupted_at_once_is_no_verdict() {
        let interrupted = anyhow::Error::new(Interrupted).context("the load");
        assert!(!has_seen_something(&Err(interrupted)));
        assert!(has_seen_something(&Err(anyhow!("it lets nobody in"))));
    }
}
