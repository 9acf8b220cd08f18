//! Runs README.md as a reader would: every command, and the program that it shows. The markers
//! above its code blocks are described in CONTRIBUTING.md.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    markdown::{self, Block},
    process::{Cmd, Running},
};

/// Covers a release build from nothing on two cores.
const READY_LIMIT: Duration = Duration::from_mins(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const END_LIMIT: Duration = Duration::from_secs(30);

/// # Errors
/// A command or the program does not do what README.md says, or has no marker.
pub(crate) fn run(root: &Path) -> Result<()> {
    let document = markdown::parse(&fs::read_to_string(root.join("README.md"))?);
    let mut session = Session::new(root)?;
    let mut echo_programs = 0;
    for block in &document.blocks {
        let here = || format!("README.md line {}", block.line);
        match plan(block).with_context(here)? {
            Plan::Nothing => {}
            Plan::Run { expect } => session.run(&block.text, expect).with_context(here)?,
            Plan::RunBy(file) => session.run_by(&block.text, file).with_context(here)?,
            Plan::Serve => session.serve(&block.text).with_context(here)?,
            Plan::EchoProgram => {
                session.stop().with_context(here)?;
                echo_program(root, &block.text).with_context(here)?;
                echo_programs += 1;
            }
        }
    }
    session.stop()?;
    ensure!(echo_programs == 1, "README.md shows {echo_programs} echo programs, not one");
    Ok(())
}

/// What a block's marker asks for.
#[derive(Debug, PartialEq, Eq)]
enum Plan<'a> {
    Nothing,
    Run { expect: &'a str },
    RunBy(&'a str),
    Serve,
    EchoProgram,
}

fn plan(block: &Block) -> Result<Plan<'_>> {
    let Some(marker) = &block.marker else {
        ensure!(block.language != "sh", "a command block without a marker: see CONTRIBUTING.md");
        return Ok(Plan::Nothing);
    };
    let argument = marker.argument.as_str();
    Ok(match (marker.name.as_str(), block.language.as_str()) {
        ("run", "sh") if argument.is_empty() => Plan::Run { expect: "" },
        ("run", "sh") => {
            let expect = argument.strip_prefix("expect:").context("run takes `expect: TEXT`")?;
            Plan::Run { expect: expect.trim() }
        }
        ("run-by", "sh") if !argument.is_empty() => Plan::RunBy(argument),
        ("serve", "sh") if argument.is_empty() => Plan::Serve,
        // Compared with the file by tidy.
        ("excerpt", "rust") if !argument.is_empty() => Plan::Nothing,
        ("echo-program", "rust") if argument.is_empty() => Plan::EchoProgram,
        (name, language) => bail!("no marker `{name} {argument}` for a {language} block"),
    })
}

/// One reader's shell: where `cargo install` puts programs, and the server left running.
struct Session<'a> {
    root: &'a Path,
    install_root: tempfile::TempDir,
    server: Option<Server>,
}

struct Server {
    running: Running,
    pid: u32,
}

impl<'a> Session<'a> {
    fn new(root: &'a Path) -> Result<Session<'a>> {
        Ok(Session { root, install_root: tempfile::tempdir()?, server: None })
    }

    fn shell(&self, script: &str) -> Cmd {
        let bin = self.install_root.path().join("bin");
        let path = env::var("PATH").unwrap_or_default();
        Cmd::new(self.root, "bash")
            .args(["-euo", "pipefail", "-c", script])
            .env("CARGO_INSTALL_ROOT", self.install_root.path().display().to_string())
            .env("PATH", format!("{}:{path}", bin.display()))
    }

    fn run(&self, script: &str, expect: &str) -> Result<()> {
        println!("$ {}", script.trim_end().replace('\n', "\n$ "));
        let output = self.shell(script).limit_minutes(15).output()?;
        print!("{output}");
        ensure!(output.contains(expect), "the output has no `{expect}`");
        Ok(())
    }

    /// The commands run elsewhere in CI: `file` must hold each of them at the end of a line.
    fn run_by(&self, script: &str, file: &str) -> Result<()> {
        let text = fs::read_to_string(self.root.join(file)).with_context(|| file.to_owned())?;
        for command in script.lines() {
            let is_run = |line: &str| {
                let before = line.strip_suffix(command);
                before.is_some_and(|before| before.is_empty() || before.ends_with(' '))
            };
            ensure!(text.lines().any(is_run), "{file} does not run `{command}`");
        }
        Ok(())
    }

    /// Starts a server and waits for its ready line; the one before is stopped first.
    fn serve(&mut self, script: &str) -> Result<()> {
        self.stop()?;
        println!("$ {script}");
        let mut running = self.shell(&format!("exec {script}")).start()?;
        let first = running.first_line(READY_LIMIT).context("no ready line")?;
        println!("{first}");
        let pid =
            ready_pid(&first).with_context(|| format!("not a ready line with a pid: `{first}`"))?;
        self.server = Some(Server { running, pid });
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        let status = server.running.terminate(server.pid, END_LIMIT)?;
        ensure!(status.success(), "the server ended with {status} after SIGTERM");
        Ok(())
    }
}

fn ready_pid(line: &str) -> Option<u32> {
    let mut pairs = line.strip_prefix("ready ")?.split(' ');
    pairs.find_map(|pair| pair.strip_prefix("pid="))?.parse().ok()
}

/// Builds the program in a project of its own outside the workspace, and talks to it.
fn echo_program(root: &Path, program: &str) -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::create_dir(project.path().join("src"))?;
    fs::write(project.path().join("src/main.rs"), program)?;
    let wharf = root.join("crates/wharf");
    let manifest = format!(
        "[package]\nname = \"echo\"\nedition = \"2024\"\n\n[dependencies]\nwharf = {{ path = {:?} }}\n",
        wharf.display().to_string()
    );
    fs::write(project.path().join("Cargo.toml"), manifest)?;
    let target = root.join("target/readme");
    Cmd::line(project.path(), "cargo build --target-dir")
        .arg(target.display().to_string())
        .run()?;

    let address = listen_address(program).context("no `.listen(\"ADDRESS\"` in the program")?;
    if TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok() {
        bail!("something else listens on {address}");
    }
    let running =
        Cmd::new(project.path(), target.join("debug/echo").display().to_string()).start()?;
    let pid = running.child.id();
    echo_frames(address)?;
    let status = running.terminate(pid, END_LIMIT)?;
    ensure!(status.success(), "the echo program ended with {status} after SIGTERM");
    println!("the echo program returned what it was sent");
    Ok(())
}

fn listen_address(program: &str) -> Option<SocketAddr> {
    let (_, rest) = program.split_once(".listen(\"")?;
    rest.split('"').next()?.parse().ok()
}

/// Two frames, length first as u16 big-endian, cut where no frame ends: both must come back.
fn echo_frames(address: SocketAddr) -> Result<()> {
    let mut stream = connect(address)?;
    let deadline = Some(CONNECT_LIMIT);
    stream.set_read_timeout(deadline)?;
    let mut frames = Vec::new();
    for body in [&b"hello, wharf"[..], &[0xA5; 1000]] {
        frames.extend(u16::try_from(body.len())?.to_be_bytes());
        frames.extend(body);
    }
    let (first, second) = frames.split_at(15);
    stream.write_all(first)?;
    stream.write_all(second)?;
    let mut echoed = vec![0; frames.len()];
    stream.read_exact(&mut echoed).context("the echo")?;
    ensure!(echoed == frames, "the echo differs from what was sent");
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error).context("connect"),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_plan(text: &str, expected: Option<Plan<'_>>) {
        let document = markdown::parse(text);
        assert_eq!(plan(&document.blocks[0]).ok(), expected, "{text}");
    }

    #[test]
    fn markers_say_how_a_block_is_run() {
        check_plan("```sh\nls\n```\n", None);
        check_plan("```text\nls\n```\n", Some(Plan::Nothing));
        check_plan("<!-- ci:run -->\n```sh\nls\n```\n", Some(Plan::Run { expect: "" }));
        check_plan(
            "<!-- ci:run expect: a b -->\n```sh\nls\n```\n",
            Some(Plan::Run { expect: "a b" }),
        );
        check_plan("<!-- ci:run hello -->\n```sh\nls\n```\n", None);
        check_plan("<!-- ci:run-by .ci/run -->\n```sh\nls\n```\n", Some(Plan::RunBy(".ci/run")));
        check_plan("<!-- ci:serve -->\n```sh\nls\n```\n", Some(Plan::Serve));
        check_plan("<!-- ci:rnu -->\n```sh\nls\n```\n", None);
        check_plan("<!-- ci:echo-program -->\n```sh\nls\n```\n", None);
        check_plan("<!-- ci:echo-program -->\n```rust\nfn f() {}\n```\n", Some(Plan::EchoProgram));
    }

    #[test]
    fn a_session_runs_commands_and_ends_its_server() {
        let mut session = Session::new(Path::new("/")).unwrap();
        session.run("echo one\necho two", "two").unwrap();
        assert!(session.run("echo one", "two").is_err());
        assert!(session.run("false\necho two", "two").is_err());
        // A server under a parent that waits for it, as under `cargo run`.
        let server = "trap 'exit 0' TERM; echo ready engine=x pid=$$; while :; do sleep 0.05; done";
        session
            .serve(&format!("bash -c 'bash -c \"$0\"; exit $?' \"{}\"", server.replace('$', "\\$")))
            .unwrap();
        let pid = session.server.as_ref().unwrap().pid;
        assert_ne!(pid, session.server.as_ref().unwrap().running.child.id());
        session.stop().unwrap();
        assert!(session.server.is_none());
        let error = session.serve("echo hello").unwrap_err().to_string();
        assert!(error.contains("not a ready line"), "{error}");
    }

    #[test]
    fn commands_run_elsewhere_are_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run"), "timeout 9m cargo test\ncargo build --all\n").unwrap();
        let session = Session::new(folder.path()).unwrap();
        session.run_by("cargo test\n", "run").unwrap();
        assert!(session.run_by("cargo build\n", "run").is_err());
        assert!(session.run_by("cargo test\nargo test\n", "run").is_err());
    }

    #[test]
    fn an_echo_is_compared() {
        let check = |answer: fn(&mut [u8]), is_right: bool| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                let mut bytes = vec![0; 12 + 1000 + 4];
                stream.read_exact(&mut bytes).unwrap();
                answer(&mut bytes);
                stream.write_all(&bytes).unwrap();
            });
            assert_eq!(echo_frames(address).is_ok(), is_right);
            server.join().unwrap();
        };
        check(|_| {}, true);
        check(|bytes| bytes[1015] ^= 1, false);
    }

    #[test]
    fn addresses_and_pids_are_found() {
        let program = "Server::builder().listen(\"127.0.0.1:9000\", F, || E)";
        assert_eq!(listen_address(program), Some(([127, 0, 0, 1], 9000).into()));
        assert_eq!(ready_pid("ready engine=uring workers=2 pid=42"), Some(42));
        assert_eq!(ready_pid("listening pid=42"), None);
    }
}
