//! Running commands: each in a process group of its own, under a time limit, so that a hung test
//! fails (and leaves nothing behind) instead of hanging everything above it.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use std::{os::unix::process::CommandExt as _, sync::Arc};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a process group has between the request to stop and the end.
const TERMINATE_GRACE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Ctrl+C reaches only this program, since its children have groups of their own: noted here,
/// passed on by whoever waits for a child.
pub(crate) fn watch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("signal handler")?;
    }
    Ok(())
}

fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Where cargo puts what it builds here: `target`, unless a variable or a file of settings says otherwise.
///
/// # Errors
/// Cargo does not tell.
pub(crate) fn target_folder(root: &Path) -> Result<PathBuf> {
    let said = Cmd::line(root, "cargo metadata --locked --no-deps --format-version 1").output()?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let folder = said["target_directory"].as_str();
    Ok(folder.context("cargo metadata names no target_directory")?.into())
}

/// One command, printed the way that a reader can paste it.
#[derive(Clone, Debug)]
pub(crate) struct Cmd {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    env_removed: Vec<&'static str>,
    dir: PathBuf,
    limit: Duration,
}

impl Cmd {
    pub(crate) fn new(dir: &Path, program: impl Into<String>) -> Cmd {
        Cmd {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            env_removed: Vec::new(),
            dir: dir.to_path_buf(),
            limit: Duration::from_mins(10),
        }
    }

    /// A command line without quoting, split at white space.
    pub(crate) fn line(dir: &Path, line: &str) -> Cmd {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        Cmd::new(dir, program).args(words)
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Cmd {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl Into<String>) -> Cmd {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn env_remove(mut self, key: &'static str) -> Cmd {
        self.env_removed.push(key);
        self
    }

    pub(crate) fn limit_minutes(mut self, minutes: u64) -> Cmd {
        self.limit = Duration::from_mins(minutes);
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        for key in &self.env_removed {
            command.env_remove(key);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs to the end with this program's own output streams.
    ///
    /// # Errors
    /// Names the command, if it cannot start, fails, or exceeds its limit.
    pub(crate) fn run(&self) -> Result<()> {
        let running = Running::spawn(&mut self.command()).with_context(|| self.to_string())?;
        let status = running.wait(self.limit).with_context(|| self.to_string())?;
        if !status.success() {
            bail!("{self}\n  failed: {status}");
        }
        Ok(())
    }

    /// Runs to the end; what it wrote to standard output.
    ///
    /// # Errors
    /// As [`Cmd::run`], with what was written until then.
    pub(crate) fn output(&self) -> Result<String> {
        let mut command = self.command();
        let mut running =
            Running::spawn(command.stdout(Stdio::piped())).with_context(|| self.to_string())?;
        let mut stdout = running.child.stdout.take().context("standard output")?;
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let status = running.wait(self.limit).with_context(|| self.to_string())?;
        let bytes = reader.join().expect("the reader does not panic")?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !status.success() {
            bail!("{self}\n  failed: {status}\n{text}");
        }
        Ok(text)
    }

    /// Starts it and leaves it running, standard output piped.
    pub(crate) fn start(&self) -> Result<Running> {
        Running::spawn(self.command().stdout(Stdio::piped())).with_context(|| self.to_string())
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cd {}; ", quoted(&self.dir.display().to_string()))?;
        if !self.env_removed.is_empty() {
            let unset: Vec<_> = self.env_removed.iter().map(|key| format!("-u {key}")).collect();
            write!(f, "env {} ", unset.join(" "))?;
        }
        for (key, value) in &self.env {
            write!(f, "{key}={} ", quoted(value))?;
        }
        write!(f, "{}", quoted(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A started process group; ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    ended: bool,
}

impl Running {
    fn spawn(command: &mut Command) -> Result<Running> {
        Ok(Running { child: command.spawn().context("cannot start")?, ended: false })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The limit has passed, or this program was told to stop; the group is ended first.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<ExitStatus> {
        self.wait_mut(limit)
    }

    fn wait_mut(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                // What the command left running in its group would hold ports and pipes.
                self.signal_group(Signal::KILL);
                return Ok(status);
            }
            if interrupted() {
                bail!("interrupted");
            }
            if Instant::now() >= deadline {
                bail!("not done after {} s: ended", limit.as_secs());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The first line that it writes to standard output, without its end; what follows is read and
    /// thrown away, since a full pipe would stop it.
    ///
    /// # Errors
    /// None comes within `limit`.
    pub(crate) fn first_line(&mut self, limit: Duration) -> Result<String> {
        let stdout = self.child.stdout.take().context("standard output")?;
        let (send_line, lines) = mpsc::channel();
        thread::spawn(move || {
            // Reads to the end even after nobody listens.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send_line.send(line);
            }
        });
        lines.recv_timeout(limit).context("no line")
    }

    /// SIGTERM to one process (not to the group), then waits for the group's leader.
    ///
    /// # Errors
    /// No such process, or it does not end within `limit`.
    pub(crate) fn terminate(mut self, pid: u32, limit: Duration) -> Result<ExitStatus> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(pid, Signal::TERM).context("SIGTERM")?;
        self.wait_mut(limit)
    }

    fn signal_group(&self, signal: Signal) {
        let leader = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // An error says that the group is empty, which is what is wanted.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.signal_group(Signal::TERM);
        let deadline = Instant::now() + TERMINATE_GRACE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(POLL_INTERVAL);
        }
        self.signal_group(Signal::KILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Cmd {
        Cmd::new(Path::new("/"), "sh").args(["-c", script])
    }

    #[test]
    fn output_and_status_are_reported() {
        assert_eq!(shell("echo one; echo two").output().unwrap(), "one\ntwo\n");
        let error = shell("echo seen; exit 3").output().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("seen"), "{error}");
    }

    #[test]
    fn a_hung_command_ends_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let mut cmd = shell(&script);
        cmd.limit = Duration::from_millis(500);
        let error = format!("{:#}", cmd.run().unwrap_err());
        assert!(error.contains("not done after"), "{error}");
        let grandchild: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
        let gone = stat.map_or(true, |stat| stat.contains(") Z "));
        assert!(gone, "the grandchild is still there");
    }

    #[test]
    fn a_command_is_printed_so_that_it_can_be_pasted() {
        let cmd = shell("a 'b'").env("RUSTFLAGS", "-D warnings");
        assert_eq!(cmd.to_string(), r"cd /; RUSTFLAGS='-D warnings' sh -c 'a '\''b'\'''");
    }
}
