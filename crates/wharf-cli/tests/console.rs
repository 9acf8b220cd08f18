//! A server on Windows that is told to end, as its console or a supervisor on it tells it.
#![cfg(windows)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

#[path = "../../wharf-port/tests/support/own_console.rs"]
mod own_console;

/// What waits to be sent is sent, the client sees the end of the stream, the status says "fine".
#[test]
fn ctrl_c_drains() {
    let console = own_console::OwnConsole::take();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(["serve", "--workers", "1", "--chat", "off", "--echo", "lines@127.0.0.1:0"]);
    command.args(["--drain-timeout", "1h"]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.split_whitespace().find_map(|pair| pair.strip_prefix("echo="));
    let mut client = TcpStream::connect(address.expect("a ready line")).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap(); // a drain that never begins
    client.write_all(b"hello\n").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    console.press_ctrl_c();
    assert_eq!(client.read(&mut answer).unwrap(), 0, "the end of the stream");
    drop(client);
    let output = process.wait_with_output().unwrap();
    // Without a handler the system ends the process, which says nothing then.
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("drained"), "{}: {log}", output.status);
}
