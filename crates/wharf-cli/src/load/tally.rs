//! What was right and what was wrong: counted by each worker for itself, put together at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use wharf::SessionId;

/// What one worker has counted, or all of them together.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Nanoseconds from when a message was sent, or meant to be sent, to its answer.
    pub(crate) latency: Histogram<u64>,
    /// Right answers that came in the measured time, and the bytes of their bodies.
    pub(crate) answered: u64,
    pub(crate) answered_bytes: u64,
    /// Messages of an open loop that were never sent: too many were under way already.
    pub(crate) unsent: u64,
    /// Nanoseconds by which the load itself sent messages of an open loop too late.
    pub(crate) lateness: Histogram<u64>,
    /// The same by step, if the rate has steps.
    pub(crate) steps: Vec<Step>,
    /// Right answers, also before and after the time that is measured.
    pub(crate) verified: u64,
    pub(crate) errors: BTreeMap<ErrorKind, u64>,
    /// Connections that ended too early, by the reason.
    pub(crate) lost_connections: BTreeMap<&'static str, u64>,
    /// All connections that ended, by the reason as this side saw it.
    pub(crate) closed: BTreeMap<&'static str, u64>,
    pub(crate) first_error: Option<FirstError>,
}

/// What was counted in one step of the rate.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Messages meant for its time.
    pub(crate) asked: u64,
    /// Answers that came in its time.
    pub(crate) answered: u64,
    pub(crate) latency: Histogram<u64>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ErrorKind {
    /// A connection could not be made, or was made and turned away at its first words.
    ConnectFailed,
    /// A connection ended before it was told to.
    ConnectionLost,
    /// A message was never answered.
    Lost,
    /// A message was answered twice.
    Repeated,
    /// A message was answered after a later one.
    Reordered,
    /// An answer has other bytes than its message.
    Altered,
    /// An answer is longer or shorter than its message.
    WrongLength,
    /// An answer has another packet id than its message.
    WrongId,
    /// Bytes came that answer no message.
    Unasked,
    /// A request was answered with an error code.
    Refused,
}

/// The error that came first, told in full.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FirstError {
    #[serde(skip)]
    pub(crate) at: Instant,
    pub(crate) kind: ErrorKind,
    /// What happened, as a sentence goes on after the kind.
    pub(crate) what: String,
    #[serde(serialize_with = "as_text")]
    pub(crate) connection: SessionId,
    /// Which message of the connection, counted from 0.
    pub(crate) sequence: Option<u64>,
    pub(crate) bytes: Option<Difference>,
}

/// Bytes that should have been others.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    /// From the start of the message.
    pub(crate) offset: usize,
    /// What should have come from there on, in hexadecimal.
    pub(crate) expected: String,
    /// What came.
    pub(crate) got: String,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            latency: histogram(),
            answered: 0,
            answered_bytes: 0,
            unsent: 0,
            lateness: histogram(),
            steps: Vec::new(),
            verified: 0,
            errors: BTreeMap::new(),
            lost_connections: BTreeMap::new(),
            closed: BTreeMap::new(),
            first_error: None,
        }
    }

    pub(crate) fn count(&mut self, kind: ErrorKind, errors: u64) {
        if errors > 0 {
            *self.errors.entry(kind).or_default() += errors;
        }
    }

    /// Counts an error and keeps it if it is the first; `describe` is asked only then.
    pub(crate) fn note(&mut self, kind: ErrorKind, describe: impl FnOnce() -> FirstError) {
        self.count(kind, 1);
        if self.first_error.is_none() {
            self.first_error = Some(describe());
        }
    }

    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.lateness.add(&other.lateness).expect("all have the same bounds");
        self.answered += other.answered;
        self.answered_bytes += other.answered_bytes;
        self.unsent += other.unsent;
        for (index, theirs) in other.steps.iter().enumerate() {
            let step = self.step(index);
            step.asked += theirs.asked;
            step.answered += theirs.answered;
            step.latency.add(&theirs.latency).expect("all have the same bounds");
        }
        self.verified += other.verified;
        for (&kind, &errors) in &other.errors {
            self.count(kind, errors);
        }
        for (&reason, &connections) in &other.lost_connections {
            *self.lost_connections.entry(reason).or_default() += connections;
        }
        for (&reason, &connections) in &other.closed {
            *self.closed.entry(reason).or_default() += connections;
        }
        let firsts = [self.first_error.take(), other.first_error.clone()];
        self.first_error = firsts.into_iter().flatten().min_by_key(|error| error.at);
    }

    /// The counts of this step of the rate.
    pub(crate) fn step(&mut self, index: usize) -> &mut Step {
        while self.steps.len() <= index {
            self.steps.push(Step { asked: 0, answered: 0, latency: histogram() });
        }
        &mut self.steps[index]
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl ErrorKind {
    pub(crate) const ALL: [ErrorKind; 10] = [
        ErrorKind::ConnectFailed,
        ErrorKind::ConnectionLost,
        ErrorKind::Lost,
        ErrorKind::Repeated,
        ErrorKind::Reordered,
        ErrorKind::Altered,
        ErrorKind::WrongLength,
        ErrorKind::WrongId,
        ErrorKind::Unasked,
        ErrorKind::Refused,
    ];

    /// The name in the output of `--json`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            ErrorKind::ConnectFailed => "connect_failed",
            ErrorKind::ConnectionLost => "connection_lost",
            ErrorKind::Lost => "lost",
            ErrorKind::Repeated => "repeated",
            ErrorKind::Reordered => "reordered",
            ErrorKind::Altered => "altered",
            ErrorKind::WrongLength => "wrong_length",
            ErrorKind::WrongId => "wrong_id",
            ErrorKind::Unasked => "unasked",
            ErrorKind::Refused => "refused",
        }
    }

    /// What it counts, for people.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            ErrorKind::ConnectFailed => "connections that could not be made, or were turned away",
            ErrorKind::ConnectionLost => "connections that ended too early",
            ErrorKind::Lost => "messages never answered",
            ErrorKind::Repeated => "messages answered twice",
            ErrorKind::Reordered => "messages answered after a later one",
            ErrorKind::Altered => "answers with other bytes",
            ErrorKind::WrongLength => "answers of another length",
            ErrorKind::WrongId => "answers with another packet id",
            ErrorKind::Unasked => "answers to nothing",
            ErrorKind::Refused => "requests that were refused",
        }
    }
}

impl Serialize for ErrorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Difference {
    /// `expected` and `got` from `offset` of the message on; shows the first few bytes of each.
    pub(crate) fn new(offset: usize, expected: &[u8], got: &[u8]) -> Self {
        Self { offset, expected: hexadecimal(expected), got: hexadecimal(got) }
    }
}

impl fmt::Display for FirstError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: connection {}", self.kind.name(), self.connection)?;
        if let Some(sequence) = self.sequence {
            write!(f, ", message {sequence}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(Difference { offset, expected, got }) = &self.bytes {
            write!(
                f,
                "\n    from byte {offset}: expected {expected}\n    {:1$}got      {got}",
                "",
                { "from byte : ".len() + offset.to_string().len() }
            )?;
        }
        Ok(())
    }
}

/// An empty histogram of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)
        .expect("the bounds make sense together")
}

fn hexadecimal(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(EXCERPT_BYTES_MAX).map(|byte| format!("{byte:02x}"));
    let mut text = shown.collect::<Vec<_>>().join(" ");
    if bytes.len() > EXCERPT_BYTES_MAX {
        text.push_str(" ..");
    } else if bytes.is_empty() {
        text.push_str("nothing");
    }
    text
}

fn as_text<S: Serializer>(id: &SessionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Longer ones count as an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// A latency is kept to one part in a thousand.
const LATENCY_DIGITS: u8 = 3;

/// How many bytes of a difference are shown.
const EXCERPT_BYTES_MAX: usize = 16;
