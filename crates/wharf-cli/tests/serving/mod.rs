//! The program, and a server of it, for the tests that load one.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

/// `wharf` with nothing of the caller's settings in its environment but the engine.
pub(crate) fn wharf() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wharf"));
    command.current_dir(std::env::temp_dir());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("WHARF_") && name != "WHARF_ENGINE" {
            command.env_remove(name.as_ref());
        }
    }
    // Its port is one for all servers that do not say otherwise.
    command.env("WHARF_CHAT", "off");
    command
}

/// `wharf serve` as a process of its own, ended with the value.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    pub(crate) fn start(framing: &str, settings: &[&str]) -> Self {
        let mut command = wharf();
        command.args(["serve", "--echo", &format!("{framing}@127.0.0.1:0")]);
        command.args(settings).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the program runs");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a ready line");
        let echo = line.split_whitespace().find_map(|pair| pair.strip_prefix("echo="));
        let addr = echo.and_then(|addr| addr.parse().ok());
        Self { process, addr: addr.unwrap_or_else(|| panic!("no address in {line:?}")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
