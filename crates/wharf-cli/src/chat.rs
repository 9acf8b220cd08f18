//! `wharf chat`: a client of the chat, for people on a terminal's whole screen, and for scripts line by
//! line.
//!
//! One loop takes what was typed and what has arrived, in that order of arrival; a thread reads the
//! terminal or standard input, and one for each connection reads from it. `client` is what follows from
//! each, `packets` what a packet says; `lines` and `screen` show it.

mod client;
mod connection;
mod input;
mod lines;
mod log;
mod packets;
mod screen;

use std::io::{self, BufRead as _, IsTerminal as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use ratatui::crossterm::event as terminal;
use wharf::packet::TextRef;
use wharf_chat::packets::NAME_BYTES;

use crate::settings::to_reach;
use client::{Client, View};
use lines::Lines;
use screen::Screen;

/// Take part in a chat
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
/enter N enters a room, /leave leaves it, /who tells who is there, /quit ends; anything else is said.
On the screen, Page Up and Page Down scroll, and Ctrl+C ends at once.
Where standard input is no terminal, its first line is the password.")]
pub(crate) struct Options {
    /// Where the chat is
    #[arg(long, default_value = "127.0.0.1:11021", value_name = "ADDR", value_parser = to_reach)]
    pub(crate) addr: SocketAddr,
    /// Log in as
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) user: String,
    /// Print each packet as a line of JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Line by line on a terminal, too, as in a pipe
    #[arg(long)]
    pub(crate) lines: bool,
}

impl Options {
    fn is_for_the_screen(&self) -> bool {
        !self.json && !self.lines && io::stdin().is_terminal() && io::stdout().is_terminal()
    }
}

/// What the loop waits for.
enum Event {
    /// A line, where input comes line by line.
    Typed(String),
    /// A key, a paste or another size, where the whole screen is used.
    Terminal(terminal::Event),
    InputEnded,
    /// Something outside asks the program to end.
    Interrupted,
    Connected {
        connection: u32,
        stream: TcpStream,
    },
    Arrived {
        connection: u32,
        id: u32,
        body: Vec<u8>,
    },
    Lost {
        connection: u32,
        error: String,
    },
}

/// Chats until the input ends or `/quit` is typed.
///
/// # Errors
/// There is no chat at the address, or it does not let this user in.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let password = password()?;
    let (events, arriving) = mpsc::channel();
    let stream = connection::connect(options.addr)
        .with_context(|| format!("no chat at {}", options.addr))?;
    let view: Box<dyn View> = if options.is_for_the_screen() {
        let interrupted = events.clone();
        ctrlc::set_handler(move || drop(interrupted.send(Event::Interrupted)))?;
        Box::new(Screen::open()?)
    } else {
        Box::new(Lines { json: options.json })
    };
    let is_screen = options.is_for_the_screen();
    let mut client = Client::new(options, password, events.clone(), view)?;
    client.connected(stream)?;
    let read = move || if is_screen { read_terminal(&events) } else { read_lines(&events) };
    thread::Builder::new().name("input".to_owned()).spawn(read)?;
    client.run(&arriving)
}

/// A name that a login can carry.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a name has at least one character".to_owned());
    }
    TextRef::<NAME_BYTES>::new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn password() -> Result<String> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("Password: ").context("reading the password");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line).context("reading the password")?;
    ensure!(read > 0, "no password: standard input has ended, and its first line is the password");
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_lines(events: &Sender<Event>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if events.send(Event::Typed(line)).is_err() {
            return;
        }
    }
    let _ = events.send(Event::InputEnded);
}

fn read_terminal(events: &Sender<Event>) {
    while let Ok(event) = terminal::read() {
        if events.send(Event::Terminal(event)).is_err() {
            return;
        }
    }
    // The terminal is gone.
    let _ = events.send(Event::Interrupted);
}
