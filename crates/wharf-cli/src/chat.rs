//! `wharf chat`: a client of the chat, for people and, in a pipe or with `--json`, for scripts.
//!
//! One loop takes what was typed and what has arrived, in that order of arrival; a thread reads
//! standard input, and one for each connection reads from it. `view` is what a packet says.

mod view;

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use wharf::framing::{self, LengthField};
use wharf::packet::{Packet, TextRef};
use wharf_chat::packets::{ChatRequest, EnterRequest, LeaveRequest, LoginRequest, Outcome};

use view::Seen;

/// Take part in a chat
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
/enter N enters a room, /leave leaves it, /who tells who is there, /quit ends; anything else is said.
Where standard input is no terminal, its first line is the password.")]
pub(crate) struct Options {
    /// Where the chat is
    #[arg(long, default_value = "127.0.0.1:11021", value_name = "ADDR")]
    pub(crate) addr: SocketAddr,
    /// Log in as
    #[arg(long, value_name = "NAME")]
    pub(crate) user: String,
    /// Print each packet as a line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the loop waits for.
enum Event {
    Typed(String),
    InputEnded,
    Arrived { connection: u32, id: u32, body: Vec<u8> },
    Lost { connection: u32, error: String },
}

/// Chats until the input ends or `/quit` is typed.
///
/// # Errors
/// There is no chat at the address, or it does not let this user in.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let password = password()?;
    let (events, arriving) = mpsc::channel();
    let mut client = Client::new(options, password, events.clone());
    client.connect()?;
    thread::Builder::new().name("input".to_owned()).spawn(move || read_input(&events))?;
    client.run(&arriving)
}

fn password() -> Result<String> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("Password: ").context("reading the password");
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("reading the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_input(events: &Sender<Event>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if events.send(Event::Typed(line)).is_err() {
            return;
        }
    }
    let _ = events.send(Event::InputEnded);
}

struct Client<'a> {
    options: &'a Options,
    password: String,
    events: Sender<Event>,
    stream: Option<TcpStream>,
    /// Counts connections: what an earlier one still says is not listened to.
    connection: u32,
    retry: Option<(Instant, Duration)>,
    logged_in: bool,
    room: Option<i32>,
    /// The room that was asked for last.
    asked_for: Option<i32>,
    present: BTreeMap<i64, String>,
    /// Answers, and one's own words, that are still to come.
    owed: usize,
    ending: bool,
}

impl<'a> Client<'a> {
    fn new(options: &'a Options, password: String, events: Sender<Event>) -> Self {
        Self {
            options,
            password,
            events,
            stream: None,
            connection: 0,
            retry: None,
            logged_in: false,
            room: None,
            asked_for: None,
            present: BTreeMap::new(),
            owed: 0,
            ending: false,
        }
    }

    /// Connects and asks to be logged in.
    fn connect(&mut self) -> Result<()> {
        let address = self.options.addr;
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .with_context(|| format!("no chat at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        self.connection += 1;
        let (connection, reader, events) =
            (self.connection, stream.try_clone()?, self.events.clone());
        thread::Builder::new()
            .name("connection".to_owned())
            .spawn(move || read_packets(reader, connection, &events))?;
        self.stream = Some(stream);
        self.retry = None;
        (self.logged_in, self.owed) = (false, 0);
        let id = TextRef::new(&self.options.user).context("--user")?;
        let password = self.password.clone();
        let password = TextRef::new(&password).context("the password")?;
        self.request(&LoginRequest { id, password });
        Ok(())
    }

    fn run(mut self, arriving: &Receiver<Event>) -> Result<ExitCode> {
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
            let wake_at = ends_at.into_iter().chain(self.retry.map(|(at, _)| at)).min();
            let event = match wake_at {
                Some(at) => arriving.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => arriving.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Typed(line)) => self.typed(&line),
                Ok(Event::InputEnded) => self.ending = true,
                Ok(Event::Arrived { connection, id, body }) if connection == self.connection => {
                    self.arrived(id, &body)?;
                }
                Ok(Event::Lost { connection, error }) if connection == self.connection => {
                    self.lost(&error);
                }
                Ok(Event::Arrived { .. } | Event::Lost { .. }) => {}
                Err(_) if ends_at.is_some_and(|at| at <= Instant::now()) => {
                    bail!("{} answers did not come within {ANSWER_TIMEOUT:?}", self.owed);
                }
                Err(_) => self.reconnect(),
            }
        }
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
                Err(_) => self.note("error", "/enter takes the number of a room, such as /enter 3"),
            },
            command if command.starts_with('/') => {
                self.note("error", "there are /enter N, /leave, /who and /quit");
            }
            _ => match TextRef::new(line) {
                Ok(text) => self.request(&ChatRequest { text }),
                Err(error) => self.note("error", &format!("not said: {error}")),
            },
        }
    }

    fn request<P: Packet>(&mut self, packet: &P) {
        let Some(stream) = &mut self.stream else {
            return self.note("error", "not connected");
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
        self.show(&seen);
        match seen {
            Seen::Login { result } => {
                self.answered();
                if result != Outcome::Ok.code() && !self.logged_in {
                    let why = Outcome::from_code(result).map_or("refused", Outcome::text);
                    bail!("not logged in as {}: {why} ({result})", self.options.user);
                }
                self.logged_in = true;
                if let Some(room) = self.room.take() {
                    self.asked_for = Some(room);
                    self.request(&EnterRequest { room });
                }
            }
            Seen::Enter { result } => {
                self.answered();
                if result == 0 {
                    self.room = self.asked_for;
                    self.present.clear();
                }
            }
            Seen::Leave { result } => {
                self.answered();
                if result == 0 {
                    self.room = None;
                    self.present.clear();
                }
            }
            // What was said comes back, to whoever said it too.
            Seen::Chat { result: 0 } => {}
            Seen::Chat { .. } => self.answered(),
            Seen::Said { ref user, .. } => {
                if *user == self.options.user {
                    self.answered();
                }
            }
            Seen::List { users } => self.present.extend(users),
            Seen::Entered { unique_id, user } => drop(self.present.insert(unique_id, user)),
            Seen::Left { unique_id } => drop(self.present.remove(&unique_id)),
            Seen::Unknown { .. } => {}
        }
        Ok(())
    }

    fn answered(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    fn lost(&mut self, error: &str) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.present.clear();
        self.note("lost", &format!("the connection is lost: {error}; trying again"));
        self.retry_after(RETRY_MIN);
    }

    fn retry_after(&mut self, delay: Duration) {
        // Not all clients of a server that comes back at the same moment.
        let spread = delay.mul_f64(0.5 + f64::from(std::process::id() % 64) / 128.0);
        self.retry = Some((Instant::now() + spread, delay));
    }

    fn reconnect(&mut self) {
        let Some((_, delay)) = self.retry else { return };
        match self.connect() {
            Ok(()) => self.note("connected", "connected again"),
            Err(_) => self.retry_after((delay * 2).min(RETRY_MAX)),
        }
    }

    fn tell_who(&self) {
        let names: Vec<&str> = self.present.values().map(String::as_str).collect();
        self.note("who", &names.join(", "));
    }

    fn show(&self, seen: &Seen) {
        let line = if self.options.json {
            Some(seen.json().to_string())
        } else {
            seen.text(&self.present)
        };
        if let Some(line) = line {
            print(&line);
        }
    }

    /// What this program itself says.
    fn note(&self, kind: &str, text: &str) {
        if self.options.json {
            print(&serde_json::json!({ "note": kind, "text": text }).to_string());
        } else {
            print(&format!("* {}", view::printable(text)));
        }
    }
}

fn print(line: &str) {
    let mut output = io::stdout().lock();
    // Where nobody reads it, the chat goes on.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn read_packets(mut stream: TcpStream, connection: u32, events: &Sender<Event>) {
    let mut unread = Vec::new();
    let mut buffer = [0; 8192];
    let error = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break "the server has ended it".to_owned(),
            Ok(count) => unread.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break error.to_string(),
        }
        let mut used = 0;
        while let Some(header) = unread[used..].first_chunk::<5>() {
            let total = usize::from(u16::from_le_bytes([header[0], header[1]]));
            let id = u32::from(u16::from_le_bytes([header[2], header[3]]));
            if total < header.len() {
                let error = "what came is no packet of a chat".to_owned();
                let _ = events.send(Event::Lost { connection, error });
                return;
            }
            let Some(packet) = unread.get(used..used + total) else { break };
            let body = packet[5..].to_vec();
            used += total;
            if events.send(Event::Arrived { connection, id, body }).is_err() {
                return;
            }
        }
        unread.drain(..used);
    };
    let _ = events.send(Event::Lost { connection, error });
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers may take once the input has ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
