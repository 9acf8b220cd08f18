//! The server's side of the control channel: a thread that accepts, and one for each connection.

use std::io::{self, BufReader};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use wharf::{Handle, SendError, SessionId, SessionInfo};
use wharf_chat::{Accounts, StoreError};

use super::transport::{Listener, Stream};
use super::{Answer, REQUEST_BYTES_MAX, Request, Session, receive, send};
use crate::drain::{Drain, Left};
use crate::reload::Reload;

/// What a client can do to the server.
pub(crate) struct Controls {
    pub(crate) handle: Handle,
    pub(crate) drain: Arc<Drain>,
    pub(crate) reload: Mutex<Reload>,
    /// The users in a store that only this process can use, and its name. Held while something is done
    /// with them: one password is hashed at a time, however many ask.
    pub(crate) users: Option<(String, Mutex<Accounts>)>,
}

/// An open channel; its place in the file system is given up when this is dropped.
pub(crate) struct Channel {
    listener: Arc<Listener>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The thread that accepts has it as well, until the process ends.
        self.listener.give_up();
    }
}

/// Opens the channel at `path` and answers on threads of its own.
///
/// # Errors
/// The place is taken or refused, or no thread can be started.
pub(crate) fn serve(path: &Path, controls: Controls) -> Result<Channel> {
    let listener = Arc::new(Listener::bind(path)?);
    let (accepting, controls) = (Arc::clone(&listener), Arc::new(controls));
    thread::Builder::new()
        .name("wharf-control".to_owned())
        .spawn(move || accept(&accepting, &controls))
        .context("cannot start the thread of the control channel")?;
    Ok(Channel { listener })
}

fn accept(listener: &Listener, controls: &Arc<Controls>) {
    let permits = Arc::new(());
    loop {
        let mut stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control channel cannot accept for now");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        stream.set_deadline(Instant::now() + REQUEST_TIMEOUT);
        // One is this thread's own.
        if Arc::strong_count(&permits) > CONNECTIONS_MAX {
            let message = format!("{CONNECTIONS_MAX} others are being answered: try again");
            let _ = send(&mut stream, Answer::Error { message });
            continue;
        }
        let (permit, controls) = (Arc::clone(&permits), Arc::clone(controls));
        let answer = move || {
            if let Err(error) = answer(stream, &controls) {
                tracing::debug!(%error, "a control connection ended early");
            }
            drop(permit);
        };
        let thread = thread::Builder::new().name("wharf-answer".to_owned());
        if let Err(error) = thread.spawn(answer) {
            tracing::warn!(%error, "a control connection cannot be answered");
        }
    }
}

/// Reads one request and answers it.
fn answer(stream: Stream, controls: &Controls) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = receive(&mut stream, REQUEST_BYTES_MAX);
    let mut stream = stream.into_inner();
    stream.set_deadline(Instant::now() + ANSWER_TIMEOUT);
    let outcome = match request {
        Ok(request) => fulfil(request, controls, &mut stream)?,
        // A connection that is only opened and closed is how others see whether somebody is there.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return send(&mut stream, Answer::to_no_request(&error)),
    };
    let last = match outcome {
        Ok(()) => Answer::Done,
        Err(error) => Answer::error(&format!("{error:#}")),
    };
    send(&mut stream, last)
}

/// Does what is asked and writes all of the answer but its last line.
///
/// # Errors
/// The outer one: the client cannot be written to. The inner one: what the client is told.
fn fulfil(
    request: Request,
    controls: &Controls,
    stream: &mut Stream,
) -> io::Result<anyhow::Result<()>> {
    match request {
        Request::Sessions => match controls.handle.sessions() {
            Ok(sessions) => sessions.iter().try_for_each(|session| {
                stream.set_deadline(Instant::now() + ANSWER_TIMEOUT);
                send(stream, Answer::Session(described(session)))
            })?,
            Err(error) => return Ok(Err(error.into())),
        },
        Request::Kick { session, reason } => match kick(&controls.handle, &session, reason) {
            Ok(kicked) => send(stream, kicked)?,
            Err(error) => return Ok(Err(error)),
        },
        Request::Drain { timeout_ms } => {
            let timeout = timeout_ms.map(Duration::from_millis);
            // Said before it begins: the process may end before it can say anything else.
            send(stream, draining(&controls.drain.outlook(timeout)))?;
            controls.drain.begin(timeout, "the control channel");
            while let Some(left) = controls.drain.left() {
                stream.set_deadline(Instant::now() + ANSWER_TIMEOUT);
                send(stream, draining(&left))?;
                controls.drain.wait(DRAIN_INTERVAL);
            }
        }
        Request::Store => {
            let store = controls.users.as_ref().map(|(store, _)| store.clone());
            send(stream, Answer::Store { store })?;
        }
        Request::Users { store, task } => {
            let accounts = match &controls.users {
                Some((ours, accounts)) if *ours == store => accounts,
                _ => return Ok(Err(anyhow::anyhow!("this server does not have {store}"))),
            };
            let done = task.run(&accounts.lock().unwrap_or_else(PoisonError::into_inner));
            match done {
                Ok(names) => names.into_iter().try_for_each(|name| {
                    stream.set_deadline(Instant::now() + ANSWER_TIMEOUT);
                    send(stream, Answer::User { name })
                })?,
                Err(StoreError::Refused(message)) => send(stream, Answer::refused(&message))?,
                Err(error) => return Ok(Err(error.into())),
            }
        }
        Request::Reload => {
            let mut reload = controls.reload.lock().unwrap_or_else(PoisonError::into_inner);
            match reload.run(&controls.handle, &controls.drain) {
                Ok(done) => {
                    let changed = done.changed.iter().map(|setting| Answer::changed(setting));
                    let restart = done.restart.iter().map(|setting| Answer::restart(setting));
                    changed.chain(restart).try_for_each(|answer| {
                        stream.set_deadline(Instant::now() + ANSWER_TIMEOUT);
                        send(stream, answer)
                    })?;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }
    Ok(Ok(()))
}

fn kick(handle: &Handle, session: &str, reason: Option<String>) -> Result<Answer> {
    let id: SessionId =
        session.parse().with_context(|| format!("`{}`", session.escape_default()))?;
    let gone = || anyhow::anyhow!("there is no session {id}: it is over, or never was");
    let found = handle.session(id)?.ok_or_else(gone)?;
    handle.close(id).map_err(|error| match error {
        SendError::Closed => gone(),
        other => other.into(),
    })?;
    let (peer, reason) = (found.peer, reason.as_deref().unwrap_or("none given"));
    tracing::info!(session = %id, %peer, reason, "session closed through the control channel");
    Ok(Answer::Kicked { session: id.to_string(), peer: peer.to_string() })
}

fn draining(left: &Left) -> Answer {
    let left_ms = u64::try_from(left.time.as_millis()).unwrap_or(u64::MAX);
    Answer::Draining { sessions: left.sessions, queued_bytes: left.queued_bytes, left_ms }
}

fn described(session: &SessionInfo) -> Session {
    Session {
        id: session.id.to_string(),
        peer: session.peer.to_string(),
        listener: session.listener.map(|address| address.to_string()),
        age_ms: u64::try_from(session.age.as_millis()).unwrap_or(u64::MAX),
        queued_bytes: session.queued_bytes as u64,
        round_trip_us: session.round_trip.map(|took| took.as_micros() as u64),
        closing: session.closing,
    }
}

/// Connections that are answered at one time.
const CONNECTIONS_MAX: usize = 8;

/// How long a request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to read one line of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a client that drains is told how far it is.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Accepting fails when descriptors run out, and would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
