//! The client's side of the control channel: `wharf sessions`, `kick`, `drain` and `reload`.

use std::fmt::Write as _;
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use wharf_chat::StoreError;

use super::{ANSWER_BYTES_MAX, Answer, Request, Session, place, receive, send, transport};
use crate::generate;
use crate::settings::{Bytes, Control, grouped, parse_value};
use crate::user::Task;

/// What is asked of a running server.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Sessions { json: bool },
    Kick { session: String, reason: Option<String> },
    Drain { timeout: Option<Duration> },
    Reload,
}

/// List the sessions of a running server
#[derive(Args, Clone, Debug)]
pub(crate) struct SessionsOptions {
    /// Print them as a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// Close one session of a running server: what is queued for it is sent first
#[derive(Args, Clone, Debug)]
pub(crate) struct KickOptions {
    /// The session, as `wharf sessions` shows it
    #[arg(value_name = "ID")]
    pub(crate) session: String,
    /// Why, for the server's log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Option<String>,
}

/// End a running server as Ctrl+C does, and wait until it has ended
#[derive(Args, Clone, Debug)]
pub(crate) struct DrainOptions {
    /// How long sessions may take before they are cut off, such as `10s` [default: the server's]
    #[arg(long, value_name = "DURATION", value_parser = |text: &str| parse_value::<Duration>(text, "s"))]
    pub(crate) timeout: Option<Duration>,
}

fn reason(text: &str) -> Result<String, String> {
    if text.chars().count() > REASON_CHARACTERS_MAX {
        return Err(format!("at most {REASON_CHARACTERS_MAX} characters"));
    }
    Ok(text.to_owned())
}

/// Asks the server, shows its answer, and fails if the server does.
///
/// # Errors
/// No server answers, or it does not do what it is asked.
pub(crate) fn run(question: &Question, control: &Control) -> Result<ExitCode> {
    let path = place::of_client(control)?;
    match question {
        Question::Sessions { json } => {
            let sessions = sessions(&path)?;
            let text = if *json {
                format!("{}\n", serde_json::to_string_pretty(&sessions)?)
            } else {
                table(&sessions)
            };
            generate::print(&text)
        }
        Question::Kick { session, reason } => {
            let request = Request::Kick { session: session.clone(), reason: reason.clone() };
            ask(&path, &request, |answer| {
                if let Answer::Kicked { session, peer } = answer {
                    println_safely(&format!("{session} ({peer}) is being closed"));
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Question::Drain { timeout } => {
            let timeout_ms =
                timeout.map(|timeout| u64::try_from(timeout.as_millis())).transpose()?;
            ask(&path, &Request::Drain { timeout_ms }, |answer| show_drain(&answer))?;
            if io::stderr().is_terminal() {
                eprintln!();
            }
            Ok(ExitCode::SUCCESS)
        }
        Question::Reload => {
            let (mut changed, mut restart) = (Vec::new(), Vec::new());
            ask(&path, &Request::Reload, |answer| match answer {
                Answer::Changed { setting } => changed.push(setting),
                Answer::Restart { setting } => restart.push(setting),
                _ => {}
            })?;
            println_safely(reloaded(&changed, &restart).trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The store of users that the server at this channel has for itself.
///
/// # Errors
/// No server answers.
pub(crate) fn store_at(path: &Path) -> Result<Option<String>> {
    let mut found = None;
    ask(path, &Request::Store, |answer| {
        if let Answer::Store { store } = answer {
            found = store;
        }
    })?;
    Ok(found)
}

/// Has a server do something with the users of the store that it has for itself; the names that this
/// was to find.
///
/// # Errors
/// What the store says, or that the server does not answer.
pub(crate) fn manage_users(
    path: &Path,
    store: &str,
    task: Task,
) -> Result<Vec<String>, StoreError> {
    let (mut names, mut refused) = (Vec::new(), None);
    let asked =
        ask(path, &Request::Users { store: store.to_owned(), task }, |answer| match answer {
            Answer::User { name } => names.push(name),
            Answer::Refused { message } => refused = Some(message),
            _ => {}
        });
    match (asked, refused) {
        (Ok(()), None) => Ok(names),
        (Ok(()), Some(message)) => Err(StoreError::Refused(message)),
        (Err(error), _) => Err(StoreError::Unavailable(format!("{error:#}"))),
    }
}

fn sessions(path: &Path) -> Result<Vec<Session>> {
    let mut found = Vec::new();
    ask(path, &Request::Sessions, |answer| {
        if let Answer::Session(session) = answer {
            found.push(session);
        }
    })?;
    Ok(found)
}

/// Sends a request and hands over every line of the answer but the last.
fn ask(path: &Path, request: &Request, mut take: impl FnMut(Answer)) -> Result<()> {
    let what = || format!("the server at {}", path.display());
    let mut stream = transport::connect(path)?;
    stream.set_deadline(Instant::now() + LINE_TIMEOUT);
    // A server that is busy answers without having read.
    let sent = send(&mut stream, request);
    let mut stream = BufReader::new(stream);
    let mut has_drained = false;
    loop {
        stream.get_mut().set_deadline(Instant::now() + LINE_TIMEOUT);
        match receive(&mut stream, ANSWER_BYTES_MAX) {
            Ok(Answer::Done) => return Ok(()),
            Ok(Answer::Error { message }) => bail!("{message}"),
            Ok(answer) => {
                has_drained |= matches!(answer, Answer::Draining { .. });
                take(answer);
            }
            // What drains ends, and may do so before it has said it.
            Err(error) if has_drained && is_hang_up(&error) => return Ok(()),
            Err(error) => return sent.and(Err(error)).with_context(what),
        }
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe)
}

fn table(sessions: &[Session]) -> String {
    let head = ["ID", "PEER", "LISTENER", "AGE", "QUEUED", "ROUND TRIP", "STATE"];
    let row = |session: &Session| {
        let dash = || "-".to_owned();
        [
            session.id.clone(),
            session.peer.clone(),
            session.listener.clone().unwrap_or_else(dash),
            age(session.age_ms),
            Bytes(session.queued_bytes).to_string(),
            session
                .round_trip_us
                .map_or_else(dash, |us| format!("{}.{} ms", us / 1000, us % 1000 / 100)),
            if session.closing { "closing" } else { "open" }.to_owned(),
        ]
    };
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(sessions.iter().map(row));
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    let plural = if sessions.len() == 1 { "" } else { "s" };
    let _ = writeln!(text, "{} session{plural}", grouped(sessions.len() as u64));
    text
}

/// The two largest units: `3h 5m`.
fn age(milliseconds: u64) -> String {
    let whole = Duration::from_secs(milliseconds / 1000);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn show_drain(answer: &Answer) {
    let Answer::Draining { sessions, queued_bytes, left_ms } = answer else { return };
    let (queued, seconds) = (Bytes(*queued_bytes), left_ms.div_ceil(1000));
    let line =
        format!("{sessions} sessions left, {queued} queued, {seconds}s until they are cut off");
    let mut output = io::stderr();
    let is_terminal = output.is_terminal();
    let (before, after) = if is_terminal { ("\r\u{1b}[K", "") } else { ("", "\n") };
    let _ = write!(output, "{before}{line}{after}");
}

fn reloaded(changed: &[String], restart: &[String]) -> String {
    let mut text = String::new();
    if changed.is_empty() && restart.is_empty() {
        return "nothing has changed\n".to_owned();
    }
    if !changed.is_empty() {
        text.push_str("changed, for sessions that open from now on:\n");
        changed.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    if !restart.is_empty() {
        text.push_str("not changed, these need a restart:\n");
        restart.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// Nobody reads it: then it is done all the same.
fn println_safely(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// How long a server may take for one line.
const LINE_TIMEOUT: Duration = Duration::from_secs(15);

const REASON_CHARACTERS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_a_table() {
        let session = |id: &str, listener: Option<&str>, age_ms, round_trip_us, closing| Session {
            id: id.to_owned(),
            peer: "127.0.0.1:50000".to_owned(),
            listener: listener.map(str::to_owned),
            age_ms,
            queued_bytes: 2048,
            round_trip_us,
            closing,
        };
        let text = table(&[
            session("0.0.0", Some("127.0.0.1:9000"), 3_723_000, Some(1_234), false),
            session("1.12.3", None, 999, None, true),
        ]);
        let expected = "\
ID      PEER             LISTENER        AGE    QUEUED  ROUND TRIP  STATE
0.0.0   127.0.0.1:50000  127.0.0.1:9000  1h 2m  2 KiB   1.2 ms      open
1.12.3  127.0.0.1:50000  -               0s     2 KiB   -           closing
2 sessions
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_a_reload_did_is_told_apart_from_what_it_could_not_do() {
        let lines =
            |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(reloaded(&[], &[]), "nothing has changed\n");
        assert_eq!(
            reloaded(&lines(&["a"]), &lines(&["b"])),
            "changed, for sessions that open from now on:\n  a\nnot changed, these need a \
             restart:\n  b\n"
        );
    }

    #[test]
    fn a_reason_fits_into_a_request() {
        let longest = "\u{1}".repeat(REASON_CHARACTERS_MAX);
        assert!(reason(&longest).is_ok() && reason(&(longest.clone() + "x")).is_err());
        let mut line = Vec::new();
        let request = Request::Kick { session: "255.1.1".to_owned(), reason: Some(longest) };
        send(&mut line, &request).unwrap();
        assert!((line.len() as u64) < super::super::REQUEST_BYTES_MAX);
    }
}
