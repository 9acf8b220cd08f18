//! The program, serving in a folder of its own, and what can be asked of it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long anything that must happen may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// `wharf` in `directory`, with nothing of the caller's settings but the engine.
pub(crate) fn wharf(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.current_dir(directory).env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("WHARF_") && name != "WHARF_ENGINE" {
            command.env_remove(name);
        }
    }
    command.env("WHARF_CHAT", "off"); // its port is for one server at a time
    command
}

/// Servers are found by default in what is set here: Unix, Windows.
pub(crate) fn lives_in<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    command.env("XDG_RUNTIME_DIR", folder).env("LOCALAPPDATA", folder)
}

/// Exit status, standard output, standard error.
pub(crate) fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A server of one worker that echoes lines.
pub(crate) struct Serving {
    pub(crate) directory: TempDir,
    pub(crate) process: Child,
    pub(crate) ready: String,
    pub(crate) control: PathBuf,
}

impl Serving {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), arguments)
    }

    pub(crate) fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        let control = channel(&directory);
        let mut command = wharf(directory.path());
        command.args(["serve", "--workers", "1", "--echo", "lines@127.0.0.1:0"]);
        command.env("WHARF_LIMITS_LINGER_TIMEOUT", "100ms").arg("--control").arg(&control);
        let log = File::create(directory.path().join("log")).unwrap();
        command.args(arguments).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let serving = Self { directory, process, ready, control };
        assert!(serving.ready.starts_with("ready "), "{}", serving.log());
        serving
    }

    /// The value of a pair of the ready line.
    pub(crate) fn told(&self, key: &str) -> &str {
        let pairs = self.ready.split_whitespace().filter_map(|pair| pair.split_once('='));
        let found = pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next();
        found.unwrap_or_else(|| panic!("no {key} in {}", self.ready))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.told("echo").parse().unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        let mut client = Client::to(self.address());
        client.echo("hello");
        client
    }

    /// Asks through the control channel; exit status, standard output, standard error.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = wharf(self.directory.path());
        command.args(arguments).arg("--control").arg(&self.control);
        said(&command.output().unwrap())
    }

    pub(crate) fn sessions(&self) -> Vec<serde_json::Value> {
        let (status, output, errors) = self.ask(&["sessions", "--json"]);
        assert_eq!(status, Some(0), "{errors}");
        serde_json::from_str(&output).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(|| self.log().contains(text), || format!("no {text:?} in\n{}", self.log()));
    }

    /// Waits for the server's own end.
    pub(crate) fn status(&mut self) -> Option<i32> {
        let mut status = None;
        let ended = || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        };
        wait_until(ended, || "it does not end".to_owned());
        status.unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A place for a control channel that no other server has.
pub(crate) fn channel(directory: &TempDir) -> PathBuf {
    if cfg!(windows) {
        let name = directory.path().file_name().unwrap().to_string_lossy().into_owned();
        PathBuf::from(format!(r"\\.\pipe\wharf-test-{name}"))
    } else {
        directory.path().join("control.sock")
    }
}

/// A peer of the server.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn echo(&mut self, line: &str) {
        let sent = format!("{line}\n");
        self.0.write_all(sent.as_bytes()).unwrap();
        let mut answer = vec![0; sent.len()];
        self.0.read_exact(&mut answer).unwrap();
        assert!(answer == sent.as_bytes());
    }

    /// Waits for the end of what the server sends.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end, too; that nothing ends is none.
        if let Err(error) = self.0.read_to_end(&mut rest) {
            let kind = error.kind();
            assert!(
                kind != ErrorKind::WouldBlock && kind != ErrorKind::TimedOut,
                "it does not end"
            );
        }
        rest
    }
}

/// Asks again and again until it is so.
pub(crate) fn wait_until(mut so: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    let give_up = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < give_up, "{}", otherwise());
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn check_contains(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}");
    }
}
