//! A named pipe that only its user may open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use interprocess::os::windows::named_pipe::{
    DuplexPipeStream, PipeListener, PipeListenerOptions, pipe_mode::Bytes,
};
use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use widestring::u16cstr;

/// `\\.\pipe\wharf-USER-PORT`.
pub(crate) fn default_place(port: u16) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("{PIPES}{}{port}", prefix())))
}

/// Every pipe with such a name.
pub(crate) fn live_places() -> Result<Vec<PathBuf>> {
    // A pipe goes with its server, so that each that is there is live.
    let Ok(entries) = fs::read_dir(PIPES) else {
        bail!("the pipes of this system cannot be listed: name the server's with --control PATH")
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let own = names.filter(|name| name.starts_with(&prefix()));
    Ok(own.map(|name| PathBuf::from(format!("{PIPES}{name}"))).collect())
}

const PIPES: &str = r"\\.\pipe\";

fn prefix() -> String {
    let user = std::env::var("USERNAME").unwrap_or_default();
    format!("wharf-{}-", user.to_lowercase().replace('\\', "_"))
}

/// A pipe that takes connections.
#[derive(Debug)]
pub(crate) struct Listener(PipeListener<Bytes, Bytes>);

impl Listener {
    /// Takes the name.
    ///
    /// # Errors
    /// A server has it, it is no pipe's name, or the system refuses it.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = path.to_str().with_context(|| format!("{shown} is not Unicode"))?;
        if !text.to_lowercase().starts_with(PIPES) {
            bail!(r"{shown} is no pipe's name: those begin with {PIPES}, as in {PIPES}wharf");
        }
        // All rights for the owner and the system, none for anybody else.
        let owner_alone = u16cstr!("D:P(A;;GA;;;OW)(A;;GA;;;SY)");
        let security = SecurityDescriptor::deserialize(owner_alone)
            .context("cannot describe who may open the control pipe")?;
        let created = PipeListenerOptions::new()
            .path(path)
            .nonblocking(true)
            .security_descriptor(Some(security))
            .create_duplex::<Bytes>();
        match created {
            Ok(listener) => Ok(Self(listener)),
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::AddrInUse) =>
            {
                bail!(
                    "a running server has the control pipe {shown}: end that one (`wharf drain \
                     --control {shown}`), name another one with --control PATH, or none with \
                     --control off"
                )
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot make the control pipe {shown}"))
            }
        }
    }

    /// Nothing to do: a pipe goes with its process.
    pub(crate) fn give_up(&self) {}

    /// Waits for a client.
    pub(crate) fn accept(&self) -> io::Result<Stream> {
        loop {
            match self.0.accept() {
                Ok(pipe) => return Ok(Stream { pipe: Pipe::Server(pipe), deadline: None }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(ACCEPT_INTERVAL)
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reaches the server whose channel this is.
pub(crate) fn connect(path: &Path) -> Result<Stream> {
    let shown = path.display();
    let give_up = Instant::now() + BUSY_MAX;
    loop {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => return Ok(Stream { pipe: Pipe::Client(file), deadline: None }),
            // The server makes the next instance when it has taken this one.
            Err(error)
                if error.raw_os_error() == Some(ERROR_PIPE_BUSY) && Instant::now() < give_up =>
            {
                thread::sleep(INTERVAL);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("no server answers at {shown}: it has ended, or has another place")
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!("{shown} belongs to another user: only that one controls the server")
            }
            Err(error) => return Err(error).with_context(|| shown.to_string()),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pipe: Pipe,
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum Pipe {
    /// Does not block: a pipe has no time-outs, so that whether something has come is looked at again
    /// and again.
    Server(DuplexPipeStream<Bytes>),
    /// Blocks; whoever waits for it can end this program.
    Client(File),
}

impl Stream {
    /// When reads and writes begin to fail.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Tries until it is done, fails, or the deadline has passed.
    fn until_deadline(
        &mut self,
        mut attempt: impl FnMut(&mut DuplexPipeStream<Bytes>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Pipe::Server(pipe) = &mut self.pipe else {
            unreachable!("only the server's is polled")
        };
        loop {
            match attempt(pipe) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(ErrorKind::TimedOut.into());
            }
            thread::sleep(INTERVAL);
        }
    }
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.pipe {
            Pipe::Client(file) => file.read(room),
            Pipe::Server(_) => self.until_deadline(|pipe| pipe.read(room)),
        };
        // A pipe's end is an error there.
        match read {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
            read => read,
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.pipe {
            Pipe::Client(file) => file.write(bytes),
            // A full pipe that does not block takes nothing.
            Pipe::Server(_) => self.until_deadline(|pipe| match pipe.write(bytes) {
                Ok(0) => Err(ErrorKind::WouldBlock.into()),
                written => written,
            }),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How often a pipe is looked at.
const INTERVAL: Duration = Duration::from_millis(5);

/// How often it is looked at whether somebody has opened it.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(50);

/// How long a client waits for its turn.
const BUSY_MAX: Duration = Duration::from_secs(5);

const ERROR_PIPE_BUSY: i32 = 231;
