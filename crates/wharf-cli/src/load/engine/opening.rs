//! Opens the connections of a load, and finds out why there are none.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::super::scenario::{Group, Kind};
use super::{Interrupted, Run};
use crate::settings::grouped;

/// Connections of one group.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) asked: u64,
    /// Made, and not let in yet, where somebody has to.
    pub(super) taken: u64,
    /// They take part, or did.
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) closed: u64,
}

impl Counts {
    /// Not made yet, or not let in.
    pub(super) fn connecting(self) -> u64 {
        self.asked - self.opened - self.failed
    }

    pub(super) fn open(self) -> u64 {
        self.opened - self.closed
    }
}

/// Why a connection does not take part.
pub(super) struct Failure {
    group: usize,
    pub(super) why: String,
    /// Somebody took it, and did not let it in.
    was_taken: bool,
}

impl Run<'_> {
    /// Opens the connections, a few at a time: more would overrun the server's backlog, and the
    /// system would drop them without a word.
    pub(super) fn open(&mut self) -> Result<()> {
        let mut moved = (0, Instant::now());
        loop {
            self.ask_for_connections()?;
            let is_done = |(group, counts): (&Group, &Counts)| match group.kind {
                Kind::Connect { .. } => counts.opened + counts.failed > 0,
                _ => counts.connecting() == 0,
            };
            if self.was_interrupted || self.scenario.groups.iter().zip(&self.counts).all(is_done) {
                break;
            }
            self.next_event("connecting", None);
            let settled: u64 = self.counts.iter().map(|it| it.opened + it.failed).sum();
            // Making one takes its own time and fails by itself.
            let all_are_taken = self.counts.iter().all(|it| it.connecting() == it.taken);
            if settled != moved.0 || !all_are_taken {
                moved = (settled, Instant::now());
            } else if moved.1.elapsed() > self.scenario.grace.max(GRACE_MIN) {
                return self.nobody_is_let_in();
            }
        }
        if self.counts.iter().any(|counts| counts.opened > 0) {
            return Ok(());
        }
        self.progress.end();
        self.finish()?;
        match &self.first_failure {
            Some(Failure { group, why, was_taken }) => {
                let address = self.scenario.groups[*group].addr;
                if *was_taken {
                    bail!("{address} lets nobody in: {why}");
                }
                bail!("cannot connect to {address}: {why} (is a server running there?)")
            }
            None => bail!(Interrupted),
        }
    }

    /// Connections were made, and whoever is on the other side says nothing to them. Many logins may
    /// take longer than the grace; that none is answered meanwhile is another matter.
    fn nobody_is_let_in(&mut self) -> Result<()> {
        self.progress.end();
        self.finish()?;
        let group = self.counts.iter().position(|counts| counts.taken > 0).unwrap_or_default();
        let waiting: u64 = self.counts.iter().map(|counts| counts.taken).sum();
        bail!(
            "{} does not answer: {} connections wait to be let in, and for {} s none was (--grace; \
             does it speak this protocol?)",
            self.scenario.groups[group].addr,
            grouped(waiting),
            self.scenario.grace.max(GRACE_MIN).as_secs()
        )
    }

    /// Asks for the connections that each group should have by now.
    pub(super) fn ask_for_connections(&mut self) -> Result<()> {
        let elapsed = self.began.elapsed().as_secs_f64();
        for (index, group) in self.scenario.groups.iter().enumerate() {
            let counts = &mut self.counts[index];
            let wanted = u64::from(group.connections);
            loop {
                let has_room = match group.kind {
                    Kind::Connect { rate, .. } => {
                        let due = rate.is_none_or(|rate| (counts.asked as f64) < elapsed * rate);
                        due && counts.asked - counts.failed - counts.closed < wanted
                    }
                    _ => counts.asked < wanted,
                };
                let goes_on = counts.failed < CONNECT_FAILURES_MAX && !self.was_interrupted;
                if !has_room || !goes_on || counts.connecting() >= CONNECTING_MAX {
                    break;
                }
                match self.handle.connect(&index.to_string(), group.addr) {
                    Ok(()) => counts.asked += 1,
                    // The places of connections that are over will be free in a moment.
                    Err(wharf::Error::Send(wharf::SendError::WouldExceed)) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    pub(super) fn failed(&mut self, group: usize, why: String, was_taken: bool) {
        self.first_failure.get_or_insert(Failure { group, why, was_taken });
    }
}

/// Connections that are being made at one time: what a small backlog holds.
const CONNECTING_MAX: u64 = 100;

/// After so many the rest is not even tried.
pub(super) const CONNECT_FAILURES_MAX: u64 = 100;

/// So long a server has at least to let somebody in, however little the load waits at its end.
const GRACE_MIN: Duration = Duration::from_secs(1);
