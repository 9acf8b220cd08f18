//! Child processes that are always ended: on drop, and by the kernel if this process dies.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sched::sched_setaffinity;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine;

const READY_WITHIN: Duration = Duration::from_secs(10);
const END_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Set by Ctrl+C; everything that waits looks at it.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Fails once Ctrl+C was pressed.
///
/// # Errors
/// Exactly then.
pub fn check_interrupted() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// A running child with what it printed.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    errors: File,
    command: String,
}

impl Running {
    /// Starts a command pinned to one core.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &[String], core: usize) -> anyhow::Result<Running> {
        let set = machine::cpu_set(core)?;
        let mut errors = tempfile::tempfile()?;
        errors.rewind()?;
        let mut starter = Command::new(&command[0]);
        starter
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?);
        // SAFETY: between fork and exec only two plain system calls are made; nothing is
        // allocated and no lock is taken.
        unsafe {
            starter.pre_exec(move || {
                sched_setaffinity(Pid::from_raw(0), &set)?;
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
        let mut child = starter.spawn().with_context(|| format!("cannot start {}", command[0]))?;
        let output = BufReader::new(child.stdout.take().expect("asked for above"));
        let (sender, lines) = mpsc::channel();
        // Reads until the child ends, so that a talkative one never blocks on its output.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Running { child, lines, errors, command: command.join(" ") })
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line that says where the server listens.
    ///
    /// # Errors
    /// When the server ends, or does not say so in time.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<SocketAddr> {
        let line = self.next_line(READY_WITHIN)?;
        ready_address(&line)
            .with_context(|| format!("`{}` printed `{line}` instead of an address", self.command))
    }

    /// Waits for the first line.
    ///
    /// # Errors
    /// When the server ends, or says nothing in time.
    pub fn wait_for_line(&mut self) -> anyhow::Result<String> {
        self.next_line(READY_WITHIN)
    }

    /// Waits for the end, and returns the last line printed.
    ///
    /// # Errors
    /// When it takes too long, or ends without having printed anything.
    pub fn wait_for_result(&mut self, within: Duration) -> anyhow::Result<(String, ExitStatus)> {
        let (output, status) = self.wait_for_output(within)?;
        let last = output.lines().last().unwrap_or_default();
        Ok((last.to_owned(), status))
    }

    /// Waits for the end, and returns all that was printed.
    ///
    /// # Errors
    /// When it takes too long, or ends without having printed anything.
    pub fn wait_for_output(&mut self, within: Duration) -> anyhow::Result<(String, ExitStatus)> {
        let deadline = Instant::now() + within;
        let mut output = String::new();
        let status = loop {
            check_interrupted()?;
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("`{}` did not end in time", self.command);
            }
            thread::sleep(LOOK_EVERY);
        };
        // The reader ends with the pipe, and so does this loop.
        while let Ok(line) = self.lines.recv() {
            output.push_str(&line);
            output.push('\n');
        }
        if output.is_empty() {
            return Err(self.why(&format!("ended with {status}")));
        }
        Ok((output, status))
    }

    /// Asks the child to end, and waits.
    ///
    /// # Errors
    /// When it has to be killed.
    pub fn stop(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.child.id() as i32), signal)?;
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(LOOK_EVERY);
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("`{}` had to be killed", self.command)
    }

    fn next_line(&mut self, within: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + within;
        loop {
            check_interrupted()?;
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    return Err(self.why(&format!("ended with {status}")));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(self.why("is not ready"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What happened, with the last lines of standard error.
    fn why(&mut self, what: &str) -> anyhow::Error {
        let mut text = String::new();
        let _ = self.errors.rewind().and_then(|()| self.errors.read_to_string(&mut text));
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(3)..].join(" | ");
        anyhow!("`{}` {what}: {tail}", self.command)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both say nothing new if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ready ADDR`, or `ready` and pairs of which `echo=` has the address (the first, if several).
fn ready_address(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    if words.next() != Some("ready") {
        return None;
    }
    words.find_map(|word| {
        let value = word.strip_prefix("echo=").unwrap_or(word);
        value.split(',').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ready_lines_are_understood() {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        for line in [
            "ready 127.0.0.1:4711",
            "ready engine=uring echo=127.0.0.1:4711 workers=1 pid=42",
            "ready engine=uring echo=127.0.0.1:4711,127.0.0.1:1 chat=127.0.0.1:2 workers=1 pid=42",
        ] {
            assert_eq!(ready_address(line), Some(address), "{line}");
        }
        for line in ["", "ready", "listening 127.0.0.1:4711", "ready engine=uring workers=1"] {
            assert_eq!(ready_address(line), None, "{line}");
        }
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let command = ["sh", "-c", "echo no such thing >&2; exit 3"].map(str::to_owned);
        let error = Running::start(&command, 0).unwrap().wait_until_ready().unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("exit status: 3") && text.contains("no such thing"), "{text}");
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let command = ["sh", "-c", "echo ready 127.0.0.1:1; exec sleep 60"].map(str::to_owned);
        let mut running = Running::start(&command, 0).unwrap();
        assert!(running.wait_until_ready().is_ok());
        let pid = Pid::from_raw(running.id() as i32);
        assert_eq!(kill(pid, None), Ok(()));
        drop(running);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
