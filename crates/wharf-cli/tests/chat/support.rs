//! The program, serving a chat and taking part in one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use serde_json::Value;

pub(crate) fn wharf(directory: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wharf"));
    command.current_dir(directory);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("WHARF_") && name != "WHARF_ENGINE" {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// `wharf serve` with a chat, ended with the value.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(directory: &Path, options: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), directory, options)
    }

    pub(crate) fn start_at(address: SocketAddr, directory: &Path, options: &[&str]) -> Self {
        let mut command = wharf(directory);
        let address = address.to_string();
        command.args(["serve", "--echo", "127.0.0.1:0", "--chat", &address]).args(options);
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split(' ').find_map(|word| word.strip_prefix("chat="));
        let address = address.unwrap_or_else(|| panic!("no chat= in {line:?}")).parse().unwrap();
        Self { process, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `wharf chat` in a pipe.
pub(crate) struct Client {
    pub(crate) process: Child,
    pub(crate) input: ChildStdin,
    pub(crate) output: BufReader<std::process::ChildStdout>,
}

impl Client {
    pub(crate) fn start(directory: &Path, server: &Server, user: &str, password: &str) -> Self {
        let mut process = wharf(directory)
            .args(["chat", "--json", "--addr", &server.address.to_string(), "--user", user])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let output = BufReader::new(process.stdout.take().unwrap());
        let input = process.stdin.take().unwrap();
        let mut client = Self { process, input, output };
        client.say(password);
        client
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn hears(&mut self, id: u64) -> Value {
        let value = self.next();
        assert_eq!(value["id"], id, "{value}");
        value
    }

    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    pub(crate) fn finish(self) -> Output {
        drop(self.input);
        drop(self.output);
        self.process.wait_with_output().unwrap()
    }
}

pub(crate) fn user(directory: &Path, arguments: &[&str], password: &str) -> (i32, String, String) {
    let mut process = wharf(directory)
        .arg("user")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // What asks for no password may have ended by now.
    let _ = writeln!(process.stdin.take().unwrap(), "{password}");
    let output = process.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
