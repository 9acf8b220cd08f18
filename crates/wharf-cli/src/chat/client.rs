//! What a client knows, and what follows from what is typed and what arrives.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ratatui::crossterm::event as terminal;
use wharf::Reconnect;
use wharf::framing::{self, LengthField};
use wharf::packet::{Packet, TextRef};
use wharf_chat::packets::{
    ChatRequest, EnterRequest, LeaveRequest, LoginRequest, NAME_BYTES, Outcome,
};

use super::packets::Seen;
use super::{Event, Options, connection};

/// Where a client's user sees what happens.
pub(super) trait View {
    /// A packet has come.
    fn seen(&mut self, seen: &Seen, status: &Status);

    /// Something that this program itself says.
    fn note(&mut self, kind: &str, text: &str);

    /// What a person does at the terminal, if that asks for anything.
    fn typed(&mut self, _: &terminal::Event) -> Option<Typed> {
        None
    }

    /// Brings the screen up to date.
    ///
    /// # Errors
    /// The terminal is gone.
    fn draw(&mut self, _: &Status) -> Result<()> {
        Ok(())
    }
}

/// What a person asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Typed {
    Line(String),
    /// To end at once.
    Quit,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    LoggingIn,
    Online,
    /// Lost; it is tried again.
    Lost,
}

/// What there is to be known of the chat at this moment.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) user: String,
    pub(super) address: SocketAddr,
    pub(super) link: Link,
    /// The room that the user is in, or was in when the connection was lost.
    pub(super) room: Option<i32>,
    pub(super) present: BTreeMap<i64, String>,
}

pub(super) struct Client {
    view: Box<dyn View>,
    status: Status,
    password: String,
    events: Sender<Event>,
    stream: Option<TcpStream>,
    /// Counts connections: what an earlier one still says is not listened to.
    connection: u32,
    /// Connections in a row that did not come as far as a login.
    failures: u32,
    retry_at: Option<Instant>,
    has_been_online: bool,
    /// The room that was asked for last.
    asked_for: Option<i32>,
    /// Answers, and one's own words, that are still to come.
    owed: usize,
    ending: bool,
}

impl Client {
    /// # Errors
    /// Name or password do not fit into a login.
    pub(super) fn new(
        options: &Options,
        password: String,
        events: Sender<Event>,
        view: Box<dyn View>,
    ) -> Result<Self> {
        TextRef::<NAME_BYTES>::new(&options.user).context("--user")?;
        TextRef::<NAME_BYTES>::new(&password).context("the password")?;
        let status = Status {
            user: options.user.clone(),
            address: options.addr,
            link: Link::LoggingIn,
            room: None,
            present: BTreeMap::new(),
        };
        Ok(Self {
            view,
            status,
            password,
            events,
            stream: None,
            connection: 0,
            failures: 0,
            retry_at: None,
            has_been_online: false,
            asked_for: None,
            owed: 0,
            ending: false,
        })
    }

    /// Takes a connection and asks to be logged in.
    pub(super) fn connected(&mut self, stream: TcpStream) -> Result<()> {
        connection::read(stream.try_clone()?, self.connection, self.events.clone())?;
        self.stream = Some(stream);
        self.status.link = Link::LoggingIn;
        self.owed = 0;
        let (user, password) = (self.status.user.clone(), self.password.clone());
        let id = TextRef::new(&user).context("--user")?;
        let password = TextRef::new(&password).context("the password")?;
        self.request(&LoginRequest { id, password });
        Ok(())
    }

    /// # Errors
    /// The user is not let in, or the terminal is gone.
    pub(super) fn run(mut self, arriving: &Receiver<Event>) -> Result<ExitCode> {
        let mut ends_at = None;
        loop {
            if self.ending && self.owed == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            if self.ending && self.stream.is_none() {
                bail!("the connection was lost before everything was answered");
            }
            if self.ending {
                ends_at.get_or_insert_with(|| Instant::now() + ANSWER_TIMEOUT);
            }
            self.view.draw(&self.status)?;
            let wake_at = ends_at.into_iter().chain(self.retry_at).min();
            let event = match wake_at {
                Some(at) => arriving.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => arriving.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(event) => {
                    // What has come meanwhile is shown together.
                    let more = arriving.try_iter().take(EVENTS_PER_DRAWING);
                    for event in std::iter::once(event).chain(more) {
                        self.take(event)?;
                    }
                }
                Err(_) if ends_at.is_some_and(|at| at <= Instant::now()) => {
                    bail!("{} answers did not come within {ANSWER_TIMEOUT:?}", self.owed);
                }
                Err(_) => self.reconnect()?,
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Typed(line) => self.typed(&line),
            Event::Terminal(event) => match self.view.typed(&event) {
                Some(Typed::Line(line)) => self.typed(&line),
                Some(Typed::Quit) => self.quit(),
                None => {}
            },
            Event::InputEnded => self.ending = true,
            Event::Interrupted => self.quit(),
            Event::Connected { connection, stream } if connection == self.connection => {
                self.connected(stream)?;
                self.view.note("connected", "connected again");
            }
            Event::Arrived { connection, id, body } if connection == self.connection => {
                self.arrived(id, &body)?;
            }
            Event::Lost { connection, error } if connection == self.connection => {
                // Who was never let in has nothing to come back to.
                ensure!(
                    self.has_been_online,
                    "no chat at {}: it ended before the login was answered: {error}",
                    self.status.address
                );
                self.lost(&error);
            }
            Event::Connected { .. } | Event::Arrived { .. } | Event::Lost { .. } => {}
        }
        Ok(())
    }

    /// Ends, whatever is still to be answered.
    fn quit(&mut self) {
        (self.ending, self.owed) = (true, 0);
    }

    fn typed(&mut self, line: &str) {
        let line = line.trim_end();
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "" => {}
            "/quit" => self.ending = true,
            "/who" => self.tell_who(),
            "/leave" => self.request(&LeaveRequest {}),
            "/enter" => match argument.trim().parse() {
                Ok(room) => {
                    self.asked_for = Some(room);
                    self.request(&EnterRequest { room });
                }
                Err(_) => {
                    let what = "/enter takes the number of a room, such as /enter 3";
                    self.view.note("error", what);
                }
            },
            command if command.starts_with('/') => {
                self.view.note("error", "there are /enter N, /leave, /who and /quit");
            }
            _ => match TextRef::new(line) {
                Ok(text) => self.request(&ChatRequest { text }),
                Err(error) => self.view.note("error", &format!("not said: {error}")),
            },
        }
    }

    fn request<P: Packet>(&mut self, packet: &P) {
        let Some(stream) = &mut self.stream else {
            return self.view.note("error", "not connected");
        };
        let mut bytes = Vec::new();
        let body = packet.to_vec();
        let packet = framing::Packet { id: P::ID, session: 0, body: &body };
        framing::append(&LengthField::TUTORIAL, packet, &mut bytes).expect("no body is too long");
        self.owed += 1;
        // One that fails is noticed by whoever reads, too.
        let _ = stream.write_all(&bytes);
    }

    fn arrived(&mut self, id: u32, body: &[u8]) -> Result<()> {
        let seen = Seen::of(id, body).unwrap_or(Seen::Unknown { id });
        self.view.seen(&seen, &self.status);
        match seen {
            Seen::Login { result } => {
                self.answered();
                self.login_answered(result)?;
            }
            Seen::Enter { result } => {
                self.answered();
                if result == 0 {
                    self.status.room = self.asked_for;
                    self.status.present.clear();
                }
            }
            Seen::Leave { result } => {
                self.answered();
                if result == 0 {
                    self.status.room = None;
                    self.status.present.clear();
                }
            }
            // What was said comes back, to whoever said it too.
            Seen::Chat { result: 0 } => {}
            Seen::Chat { .. } => self.answered(),
            Seen::Said { ref user, .. } => {
                if *user == self.status.user {
                    self.answered();
                }
            }
            Seen::List { users } => self.status.present.extend(users),
            Seen::Entered { unique_id, user } => {
                self.status.present.insert(unique_id, user);
            }
            Seen::Left { unique_id } => drop(self.status.present.remove(&unique_id)),
            Seen::Unknown { .. } => {}
        }
        Ok(())
    }

    fn answered(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    fn login_answered(&mut self, result: u16) -> Result<()> {
        let outcome = Outcome::from_code(result);
        match outcome {
            Some(Outcome::Ok) => {}
            // Coming back would end that session in turn, and so on.
            Some(Outcome::AlreadyLoggedIn) if self.status.link == Link::Online => {
                bail!("{} has logged in elsewhere, which ends it here", self.status.user);
            }
            _ if self.status.link == Link::Online => return Ok(()),
            // The server may still see the lost connection as open, or have too much to do.
            Some(Outcome::AlreadyLoggedIn | Outcome::ServerFull | Outcome::TooMany)
                if self.has_been_online =>
            {
                self.lost("not let in yet");
                return Ok(());
            }
            _ => {
                let why = outcome.map_or("refused", |outcome| outcome.text(LoginRequest::ID));
                bail!("not logged in as {}: {why} ({result})", self.status.user);
            }
        }
        (self.status.link, self.has_been_online, self.failures) = (Link::Online, true, 0);
        if let Some(room) = self.status.room.take() {
            self.asked_for = Some(room);
            self.request(&EnterRequest { room });
        }
        Ok(())
    }

    fn lost(&mut self, error: &str) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
            self.view.note("lost", &format!("the connection is lost: {error}; trying again"));
        }
        self.status.present.clear();
        self.status.link = Link::Lost;
        self.connection += 1;
        self.failures = self.failures.saturating_add(1);
        let pause = RECONNECT.pause(self.failures, fastrand::u64(..)).unwrap_or_default();
        self.retry_at = Some(Instant::now() + pause);
    }

    fn reconnect(&mut self) -> Result<()> {
        self.retry_at = None;
        connection::try_connect(self.status.address, self.connection, self.events.clone())?;
        Ok(())
    }

    fn tell_who(&mut self) {
        if self.status.present.is_empty() {
            // In no room yet, or in one so large that its members are not told of each other.
            return self.view.note("error", "nobody is known to be here; /enter N enters a room");
        }
        let names: Vec<&str> = self.status.present.values().map(String::as_str).collect();
        self.view.note("who", &names.join(", "));
    }
}

/// Half of them to all of them: not all clients of a server come back at the same moment.
const RECONNECT: Reconnect =
    Reconnect::Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };
/// How long answers may take once the input has ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// So many events at most are taken before the screen shows them.
const EVENTS_PER_DRAWING: usize = 1_000;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    struct Quiet;

    impl View for Quiet {
        fn seen(&mut self, _: &Seen, _: &Status) {}
        fn note(&mut self, _: &str, _: &str) {}
    }

    /// A client that is connected to a server which says nothing.
    fn connected(listener: &TcpListener) -> (Client, Receiver<Event>) {
        let (events, arriving) = mpsc::channel();
        let addr = listener.local_addr().unwrap();
        let options = Options { addr, user: "user0".to_owned(), json: false, lines: true };
        let mut client = Client::new(&options, "pw".to_owned(), events, Box::new(Quiet)).unwrap();
        client.connected(connection::connect(addr).unwrap()).unwrap();
        (client, arriving)
    }

    #[test]
    fn pauses_grow_until_a_login_has_worked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut client, arriving) = connected(&listener);
        client.arrived(202, &[0, 0]).unwrap();
        // It accepts and ends, again and again.
        for failures in 1..=3 {
            client.lost("ended");
            assert_eq!((client.failures, client.retry_at.is_some()), (failures, true));
            client.reconnect().unwrap();
            let connected = std::iter::from_fn(|| arriving.recv().ok())
                .find(|event| matches!(event, Event::Connected { .. }));
            client.take(connected.expect("the listener accepts")).unwrap();
            assert_eq!(client.status.link, Link::LoggingIn);
        }
        client.arrived(202, &[0, 0]).unwrap();
        assert_eq!((client.failures, client.status.link), (0, Link::Online));
    }

    #[test]
    fn who_was_in_is_let_in_later_and_who_was_not_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for code in [31, 32, 63] {
            let (mut client, _arriving) = connected(&listener);
            assert!(client.arrived(202, &[code, 0]).is_err(), "{code}");
            let (mut client, _arriving) = connected(&listener);
            client.arrived(202, &[0, 0]).unwrap();
            let is_kicked = client.arrived(202, &[code, 0]).is_err();
            assert_eq!((client.status.link, is_kicked), (Link::Online, code == 31));
            client.lost("ended");
            client.connected(connection::connect(client.status.address).unwrap()).unwrap();
            client.arrived(202, &[code, 0]).unwrap();
            assert_eq!((client.status.link, client.retry_at.is_some()), (Link::Lost, true));
            client.connected(connection::connect(client.status.address).unwrap()).unwrap();
            assert!(client.arrived(202, &[33, 0]).is_err(), "the password is another by now");
        }
    }
}
