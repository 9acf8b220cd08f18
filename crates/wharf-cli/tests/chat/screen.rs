//! `wharf chat` on a terminal's whole screen: in tmux, which is a terminal that tells what it shows.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Client, Server, wharf};

/// A terminal in which `wharf chat` runs, ended with the value.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// `None` where there is no tmux, which is said.
    fn start(test: &str, server: &Server, user: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run.sh"), RUN).unwrap();
        let terminal = Self { folder };
        let program = wharf(terminal.folder.path()).get_program().to_owned();
        let mut command = terminal.tmux();
        command.args(["new-session", "-d", "-x", "80", "-y", "24", "sh", "run.sh"]).arg(program);
        command.args(["chat", "--addr", &server.address.to_string(), "--user", user]);
        match command.output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{test} is left out: no tmux here ({error})");
                return None;
            }
        }
        terminal.until("asked for the password", |screen| screen.contains("Password:"));
        terminal.until_it_hides_what_is_typed();
        terminal.types("pw");
        Some(terminal)
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").arg("-u");
        command.arg("-S").arg(self.folder.path().join("socket"));
        command.args(["-f", "/dev/null"]).current_dir(self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output: Output = self.tmux().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.run(&["send-keys", "Enter"]);
    }

    fn asks(&self, format: &str) -> String {
        self.run(&["display-message", "-p", format])
    }

    /// Waits until the screen is so.
    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut screen = String::new();
        for _ in 0..600 {
            screen = self.run(&["capture-pane", "-p"]);
            if is_so(&screen) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("not {what}:\n{screen}");
    }

    /// What is typed between the question and this is thrown away.
    fn until_it_hides_what_is_typed(&self) {
        let tty = self.asks("#{pane_tty}");
        for _ in 0..600 {
            let tty = File::open(&tty).unwrap();
            let output = Command::new("stty").arg("-a").stdin(tty).output().unwrap();
            if String::from_utf8(output.stdout).unwrap().contains("-echo ") {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("what is typed is shown");
    }

    /// Waits until the program has ended, with this exit status and a screen as it was before.
    fn ended(&self, status: i32) {
        self.until("ended", |screen| screen.contains("exit status "));
        let screen = self.run(&["capture-pane", "-p"]);
        assert!(screen.ends_with(&format!("exit status {status}")), "{screen}");
        assert!(screen.contains("Password:"), "{screen}");
        assert_eq!(self.asks("#{alternate_on}"), "0", "the screen is given back");
    }
}

/// Runs a program and says what became of it. (tmux 3.3 does not always learn of the end of a process.)
const RUN: &str = r#"
sh -c 'echo $$ > pid; exec "$@"' sh "$@"
echo "exit status $?"
exec cat
"#;

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
    }
}

#[test]
fn people_talk_on_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--demo"]);
    let test = "people_talk_on_a_terminal";
    let Some(terminal) = Terminal::start(test, &server, "user0") else { return };
    terminal.until("logged in", |screen| screen.contains("in no room: /enter N"));
    assert_eq!(terminal.asks("#{alternate_on}"), "1");
    terminal.types("/enter 3");
    terminal.until("in the room", |screen| screen.contains("room 3, 1 here"));
    let mut other = member(folder.path(), &server);
    terminal.until("two", |screen| {
        screen.contains("* user1 has come")
            && screen.contains("│user0\n")
            && screen.contains("│user1\n")
    });
    other.say("안녕하세요 👋🏽");
    terminal.until("said", |screen| screen.contains("user1: 안녕하세요 👋🏽"));
    // Syllable by syllable, one of them wrong, and a syllable in its parts.
    for text in ["한글", "을"] {
        terminal.run(&["send-keys", "-l", text]);
    }
    terminal.until("typed", |screen| screen.contains("\n> 한글을"));
    assert_eq!(terminal.asks("#{cursor_x},#{cursor_y}"), "8,23");
    terminal.run(&["send-keys", "BSpace"]);
    terminal.types(" 👋 \u{1112}\u{1161}\u{11ab}");
    other.hears(222);
    other.hears(223);
    assert_eq!(other.hears(223)["text"], "한글 👋 \u{1112}\u{1161}\u{11ab}");
    terminal.until("shown", |screen| screen.contains("user0: 한글 👋"));

    terminal.run(&["resize-window", "-x", "40", "-y", "10"]);
    terminal.until("drawn again", |screen| {
        screen.lines().count() == 10 && !screen.contains('│') && screen.contains("user0: 한글 👋")
    });
    for number in 0..30 {
        other.say(&format!("line {number}"));
    }
    terminal.until("full", |screen| screen.contains("user1: line 29"));
    terminal.run(&["send-keys", "PPage"]);
    terminal.until("scrolled", |screen| {
        !screen.contains("line 29") && screen.contains("user1: line 20")
    });
    terminal.run(&["send-keys", "Escape"]);
    terminal.until("back", |screen| screen.contains("user1: line 29"));
    terminal.types("/quit");
    terminal.ended(0);
}

#[test]
fn a_terminal_is_given_back_however_it_ends_and_a_connection_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--demo"]);
    let test = "a_terminal_is_given_back_however_it_ends_and_a_connection_comes_back";
    for end in ["C-c", "TERM", "wrong password"] {
        let Some(terminal) = Terminal::start(test, &server, "user0") else { return };
        terminal.until("logged in", |screen| screen.contains("in no room"));
        terminal.types("/enter 0");
        terminal.until("in the room", |screen| screen.contains("room 0, 1 here"));
        let address = server.address;
        drop(server);
        terminal.until("lost", |screen| screen.contains("not connected, trying again"));
        let demo =
            if end == "wrong password" { &["--store", "embedded:none"][..] } else { &["--demo"] };
        server = Server::start_at(address, folder.path(), demo);
        if end != "wrong password" {
            terminal.until("back in its room", |screen| {
                screen.contains("* connected again") && screen.contains("room 0, 1 here")
            });
        }
        match end {
            "TERM" => {
                let pid = std::fs::read_to_string(terminal.folder.path().join("pid")).unwrap();
                let status = Command::new("kill").arg(pid.trim()).status();
                assert!(status.unwrap().success());
            }
            "C-c" => drop(terminal.run(&["send-keys", "C-c"])),
            _ => {}
        }
        terminal.ended(i32::from(end == "wrong password"));
    }
}

/// A piped client in room 3.
fn member(folder: &Path, server: &Server) -> Client {
    let mut other = Client::start(folder, server, "user1", "pw");
    other.hears(202);
    other.say("/enter 3");
    other.hears(207);
    other.hears(209);
    other
}
