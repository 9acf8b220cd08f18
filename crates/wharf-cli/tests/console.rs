//! A server on Windows that is told to end, as its console or a supervisor on it tells it.
#![cfg(windows)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT,
};

#[path = "../../wharf-port/tests/support/own_console.rs"]
mod own_console;

/// What waits to be sent is sent, the client sees the end of the stream, the status says "fine".
fn drains(event: &str, happens: impl FnOnce(&Child)) {
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
    happens(&process);
    assert_eq!(client.read(&mut answer).unwrap(), 0, "{event}: the end of the stream");
    drop(client);
    let output = process.wait_with_output().unwrap();
    // Without a handler the system ends the process, which says nothing then.
    let log = String::from_utf8_lossy(&output.stderr);
    let has_drained = output.status.success() && log.contains("drained");
    assert!(has_drained, "{event}: {}: {log}", output.status);
}

/// One after the other: a console belongs to the whole process, and what is pressed is for everybody on it.
#[test]
fn every_event_of_a_console_drains() {
    let console = own_console::OwnConsole::take();
    drains("Ctrl+C", |_| console.press_ctrl_c());
    for (name, event) in [
        ("Ctrl+Break", CTRL_BREAK_EVENT),
        ("the console is closed", CTRL_CLOSE_EVENT),
        ("the user logs off", CTRL_LOGOFF_EVENT),
        ("the machine shuts down", CTRL_SHUTDOWN_EVENT),
    ] {
        drains(name, |process| own_console::deliver(event, process));
    }
}
