//! What honest users felt, and what became of the attackers.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::attacker::AttackTally;
use crate::load::{ErrorKind, Outcome, Percentiles, duration_text};
use crate::settings::grouped;

/// The result of an attack.
pub(crate) struct Verdict {
    pub(crate) harm: String,
    pub(crate) addr: SocketAddr,
    pub(crate) p99_max: Duration,
    /// Before, during, after.
    pub(crate) phases: [Phase; 3],
    pub(crate) attackers: AttackTally,
}

/// What honest users felt in one part of the time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Phase {
    name: &'static str,
    /// They were not served at all.
    failed: Option<String>,
    /// Of those who were connected.
    users: Percentiles,
    /// From asking for a connection to the first answer.
    newcomers: Percentiles,
    answers: u64,
    errors: u64,
    /// The errors by kind, and the first of them.
    told: Vec<String>,
    /// A good part of the waiting is that of the program which plays the honest users.
    sent_late: bool,
    server_processors: Option<f64>,
    server_resident_bytes: Option<u64>,
}

impl Phase {
    pub(crate) fn new(name: &'static str, outcome: Result<&Outcome, &anyhow::Error>) -> Self {
        let Ok(outcome) = outcome else {
            return Self {
                name,
                failed: outcome.err().map(|error| format!("{error:#}")),
                users: Percentiles::default(),
                newcomers: Percentiles::default(),
                answers: 0,
                errors: 0,
                told: Vec::new(),
                server_processors: None,
                server_resident_bytes: None,
                sent_late: false,
            };
        };
        let total = outcome.total();
        let kinds = ErrorKind::ALL.into_iter().filter_map(|kind| {
            let count = *total.errors.get(&kind)?;
            Some(format!("{} {}", grouped(count), kind.meaning()))
        });
        let server = outcome.server_figures();
        Self {
            name,
            failed: None,
            users: Percentiles::new(&outcome.tallies[0].latency),
            newcomers: Percentiles::new(&outcome.tallies[1].latency),
            answers: total.verified,
            errors: total.errors(),
            told: kinds
                .chain(total.first_error.map(|first| first.to_string()))
                .chain(outcome.connect_error.clone())
                .collect(),
            sent_late: outcome.is_client_late(),
            server_processors: server.map(|server| server.processors),
            server_resident_bytes: server.map(|server| server.resident_bytes),
        }
    }

    /// Whether everybody was served, and in time.
    fn is_served(&self, p99_max: Duration) -> bool {
        self.is_right() && self.is_in_time(p99_max)
    }

    fn is_right(&self) -> bool {
        self.failed.is_none() && self.errors == 0
    }

    fn is_in_time(&self, p99_max: Duration) -> bool {
        let in_time = |latency: &Percentiles| {
            latency.p99.is_some_and(|ns| Duration::from_nanos(ns) <= p99_max)
        };
        in_time(&self.users) && in_time(&self.newcomers)
    }
}

impl Verdict {
    /// Whether honest users were served during the attack and after it.
    pub(crate) fn is_served(&self) -> bool {
        self.phases[1..].iter().all(|phase| phase.is_served(self.p99_max))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("wharf attack {}   {}\n\n", self.harm, self.addr);
        text.push_str("  honest users        users p50        p99   newcomers p50        p99   errors   server\n");
        for phase in &self.phases {
            let cell = |ns: Option<u64>| ns.map_or("-".to_owned(), duration_text);
            let server = phase.server_processors.zip(phase.server_resident_bytes);
            let _ = writeln!(
                text,
                "    {:<14}  {:>12} {:>10}  {:>14} {:>10} {:>8}   {}",
                phase.name,
                cell(phase.users.p50),
                cell(phase.users.p99),
                cell(phase.newcomers.p50),
                cell(phase.newcomers.p99),
                grouped(phase.errors),
                server
                    .map(|(share, bytes)| {
                        format!("{:.0} % CPU, {:.1} MB", share * 100.0, bytes as f64 / 1e6)
                    })
                    .unwrap_or_default(),
            );
            for told in phase.told.iter().chain(&phase.failed) {
                let _ = writeln!(text, "      {told}");
            }
        }
        self.write_attackers(&mut text);
        text.push_str(&self.sentence());
        text
    }

    fn write_attackers(&self, text: &mut String) {
        let tally = &self.attackers;
        let _ = writeln!(
            text,
            "\n  attackers\n    {} connections begun: {} refused, {} closed and {} reset by the server, \
             {} left by themselves, {} still there at the end",
            grouped(tally.begun),
            grouped(tally.refused),
            grouped(tally.closed_by_server),
            grouped(tally.reset_by_server),
            grouped(tally.left),
            grouped(tally.held)
        );
        if let Some(lived) = tally.lived_s {
            let _ = writeln!(
                text,
                "    those that the server ended lived {lived:.2} s (the middle one)"
            );
        }
        let _ = writeln!(
            text,
            "    {:.1} MB sent, {:.1} MB received",
            tally.bytes_sent as f64 / 1e6,
            tally.bytes_received as f64 / 1e6
        );
        for (error, count) in &tally.other_errors {
            let _ = writeln!(text, "    {} times: {error}", grouped(*count));
        }
    }

    fn sentence(&self) -> String {
        let [before, during, after] = &self.phases;
        let limit = duration_text(self.p99_max.as_nanos() as u64);
        if self.is_served() {
            return format!(
                "\nHonest users were served: every answer was right, and 99 of 100 came within {limit}.\n"
            );
        }
        let when = if during.is_served(self.p99_max) { after } else { during };
        let waited = format!("they waited longer than {limit} for more than 1 of 100 answers");
        let what = match &when.failed {
            Some(_) => "nobody was served".to_owned(),
            None if when.errors > 0 => {
                format!("{} answers or connections were lost or wrong", grouped(when.errors))
            }
            // What is no better without an attack is no proof of its harm.
            None if !before.is_in_time(self.p99_max) => {
                return format!(
                    "\nNothing is told of the attack: {waited} {} it, and before it, too. The machine \
                     has other work, or --p99-max is too short for it.\n",
                    when.name
                );
            }
            None => waited,
        };
        let own = if when.is_right() && when.sent_late {
            " A good part of that is their own program's, which sent late: the machine is too small for \
             both sides."
        } else {
            ""
        };
        format!("\nHonest users were harmed {} the attack: {what}.{own}\n", when.name)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "attack": self.harm,
            "addr": self.addr.to_string(),
            "p99_max_s": self.p99_max.as_secs_f64(),
            "honest": self.phases,
            "attackers": self.attackers,
            "served": self.is_served(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &'static str, p99_ms: u64, errors: u64) -> Phase {
        let waited = Percentiles { p99: Some(p99_ms * 1_000_000), ..Percentiles::default() };
        Phase {
            name,
            failed: None,
            users: waited,
            newcomers: waited,
            answers: 100,
            errors,
            told: Vec::new(),
            sent_late: false,
            server_processors: None,
            server_resident_bytes: None,
        }
    }

    /// p99 in milliseconds before, during and after; errors during; whether the load itself was late.
    fn verdict(p99_ms: [u64; 3], errors: u64, sent_late: bool) -> Verdict {
        let [before, during, after] = p99_ms;
        let during = Phase { sent_late, ..phase("during", during, errors) };
        Verdict {
            harm: "churn".to_owned(),
            addr: ([127, 0, 0, 1], 9000).into(),
            p99_max: Duration::from_millis(100),
            phases: [phase("before", before, 0), during, phase("after", after, 0)],
            attackers: AttackTally::default(),
        }
    }

    #[test]
    fn the_attack_is_blamed_for_what_was_not_there_before() {
        for (p99_ms, errors, sent_late, expected) in [
            ([1, 99, 1], 0, false, "were served"),
            ([1, 101, 1], 0, false, "harmed during the attack: they waited longer than 100 ms"),
            ([1, 99, 101], 0, false, "harmed after the attack"),
            ([1, 101, 1], 0, true, "their own program's, which sent late"),
            ([101, 101, 1], 0, false, "Nothing is told of the attack: they waited longer"),
            ([101, 99, 1], 0, false, "were served"),
            // A wrong answer is one, however busy the machine is.
            (
                [101, 101, 1],
                3,
                true,
                "harmed during the attack: 3 answers or connections were lost",
            ),
        ] {
            let verdict = verdict(p99_ms, errors, sent_late);
            let sentence = verdict.sentence();
            assert!(sentence.contains(expected), "{p99_ms:?}: {sentence}");
            assert_eq!(verdict.is_served(), expected == "were served", "{p99_ms:?}");
            let blames_itself = sentence.contains("own program");
            assert_eq!(blames_itself, sent_late && errors == 0, "{p99_ms:?}: {sentence}");
        }
    }
}
