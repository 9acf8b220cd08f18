//! A server that is told to end, as a terminal or a supervisor tells it.
#![cfg(unix)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// A server that waits for its clients as long as it takes, and one client.
struct Serving {
    process: Child,
    client: TcpStream,
}

impl Serving {
    fn start(errors: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["serve", "--workers", "1", "--chat", "off", "--echo", "lines@127.0.0.1:0"]);
        command.args(["--drain-timeout", "1h", "--limits-linger-timeout", "1h"]);
        command.args(["--log-level", "debug"]);
        let mut process = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let address = ready.split_whitespace().find_map(|pair| pair.strip_prefix("echo="));
        let client = TcpStream::connect(address.expect("a ready line")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap(); // a drain that never begins
        let mut serving = Self { process, client };
        serving.echo();
        serving
    }

    fn echo(&mut self) {
        self.client.write_all(b"hello\n").unwrap();
        let mut answer = [0; 6];
        self.client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello\n");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Reads to the end of the stream, which a drain brings, and ends the client's own.
    fn leave(&mut self) {
        let mut rest = Vec::new();
        self.client.read_to_end(&mut rest).unwrap();
        self.client.shutdown(std::net::Shutdown::Both).unwrap();
    }

    fn status(&mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Some supervisors signal a process and then its group: both within 50 ms are one. Two different
/// ones, because the system may make one of two equal ones; more than one try, because it may also
/// take longer than that to deliver them.
#[test]
fn two_signals_at_one_time_are_one() {
    let mut statuses = (0..5).map(|_| {
        let mut serving = Serving::start(Stdio::null());
        serving.signal(Signal::TERM);
        serving.signal(Signal::INT);
        thread::sleep(Duration::from_millis(200)); // the second one has been taken as well
        if let Some(status) = serving.process.try_wait().unwrap() {
            return status.code();
        }
        serving.leave();
        serving.status()
    });
    assert!(statuses.any(|status| status == Some(0)));
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut serving = Serving::start(Stdio::null());
    serving.signal(Signal::TERM);
    let mut rest = Vec::new();
    serving.client.read_to_end(&mut rest).unwrap(); // it drains, and waits for the client
    while serving.process.try_wait().unwrap().is_none() {
        serving.signal(Signal::TERM);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(serving.status(), Some(1));
}

/// What reads its log is gone: everything else goes on, also the thread that takes the signals.
#[test]
fn a_broken_standard_error_costs_nothing_but_the_log() {
    let mut serving = Serving::start(Stdio::piped());
    drop(serving.process.stderr.take());
    serving.echo();
    serving.signal(Signal::TERM);
    serving.leave();
    assert_eq!(serving.status(), Some(0));
}
