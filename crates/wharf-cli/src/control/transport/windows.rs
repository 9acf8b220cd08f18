//! A named pipe that only its user may open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use interprocess::os::windows::named_pipe::{
    DuplexPipeStream, PipeListener, PipeListenerOptions, pipe_mode::Bytes,
};
use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use wharf::port::peer;
use widestring::U16CString;

/// `\\.\pipe\wharf-USER-PORT`, where the user is a number (SID).
pub(crate) fn default_place(port: u16) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("{PIPES}{}{port}", prefix()?)))
}

/// Every pipe with such a name that this user's servers have entered.
pub(crate) fn live_places() -> Result<Vec<PathBuf>> {
    let names = entered(&folder()?)?;
    Ok(names.into_iter().map(|name| PathBuf::from(format!("{PIPES}{name}"))).collect())
}

const PIPES: &str = r"\\.\pipe\";

fn prefix() -> Result<String> {
    let user = peer::this_user().context("cannot tell which user this is")?;
    Ok(format!("wharf-{user}-"))
}

/// Where servers enter the names of their pipes: everybody sees all pipes of a system, and nobody which
/// of them are whose.
fn folder() -> Result<PathBuf> {
    let data = std::env::var_os("LOCALAPPDATA").map(PathBuf::from);
    match data.filter(|path| path.is_absolute()) {
        Some(data) => Ok(data.join("wharf")),
        None => {
            bail!("LOCALAPPDATA names no folder in which servers are found: use --control PATH")
        }
    }
}

/// A file that is named as a pipe of this user, and goes with the process.
#[derive(Debug)]
struct Entry(#[expect(dead_code, reason = "the file is there for as long as it is open")] File);

impl Entry {
    /// # Errors
    /// The file cannot be made.
    fn make(folder: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.{EXTENSION}"));
        let give_up = Instant::now() + BUSY_MAX;
        loop {
            let made = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .access_mode(GENERIC_WRITE | DELETE)
                .share_mode(0)
                .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
                .open(&path);
            match made {
                Ok(file) => return Ok(Self(file)),
                // Somebody is just removing the one that was left behind, or its removal is not over.
                Err(error)
                    if (is_open(&error) || error.kind() == ErrorKind::PermissionDenied)
                        && Instant::now() < give_up =>
                {
                    thread::sleep(INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The names of the pipes whose servers live. What others have left behind, as when the machine lost its
/// power, is removed: a file that is open cannot be.
fn entered(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let entered = paths.filter(|path| path.extension().is_some_and(|it| it == EXTENSION));
    let live = entered.filter(|path| fs::remove_file(path).is_err_and(|error| is_open(&error)));
    Ok(live.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect())
}

fn is_open(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_SHARING_VIOLATION)
}

/// A pipe that takes connections.
#[derive(Debug)]
pub(crate) struct Listener {
    pipe: PipeListener<Bytes, Bytes>,
    _entry: Option<Entry>,
}

impl Listener {
    /// Takes the name.
    ///
    /// # Errors
    /// A server has it, it is no pipe's name, or the system refuses it.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = path.to_str().with_context(|| format!("{shown} is not Unicode"))?;
        let is_pipe = text.get(..PIPES.len()).is_some_and(|it| it.eq_ignore_ascii_case(PIPES));
        if !is_pipe {
            bail!(r"{shown} is no pipe's name: those begin with {PIPES}, as in {PIPES}wharf");
        }
        let pipe = Self::create(path)?;
        let name = &text[PIPES.len()..];
        let entry = if name.starts_with(&prefix()?) {
            let folder = folder()?;
            let made = Entry::make(&folder, name);
            Some(made.with_context(|| format!("cannot enter {shown} in {}", folder.display()))?)
        } else {
            None
        };
        Ok(Self { pipe, _entry: entry })
    }

    fn create(path: &Path) -> Result<PipeListener<Bytes, Bytes>> {
        let shown = path.display();
        // All rights for the owner and the system, none for anybody else. The owner is told, since an
        // administrator's would be the group of all of them, and a client asks whose it is.
        let user = peer::this_user().context("cannot tell which user this is")?;
        let owner_alone = U16CString::from_str(format!("O:{user}D:P(A;;GA;;;OW)(A;;GA;;;SY)"))?;
        let security = SecurityDescriptor::deserialize(&owner_alone)
            .context("cannot describe who may open the control pipe")?;
        let created = PipeListenerOptions::new()
            .path(path)
            .nonblocking(true)
            .security_descriptor(Some(security))
            .create_duplex::<Bytes>();
        match created {
            Ok(listener) => Ok(listener),
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

    /// Nothing to do: a pipe and its entry go with their process.
    pub(crate) fn give_up(&self) {}

    /// Waits for a client.
    pub(crate) fn accept(&self) -> io::Result<Stream> {
        loop {
            match self.pipe.accept() {
                Ok(pipe) => return Ok(Stream { pipe: Pipe::Server(pipe), deadline: None }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(ACCEPT_INTERVAL)
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reaches whoever answers there.
pub(super) fn connect(path: &Path) -> Result<Stream> {
    let shown = path.display();
    let give_up = Instant::now() + BUSY_MAX;
    loop {
        // Whoever it is may ask who calls, and must not be able to act as the caller.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .security_qos_flags(SECURITY_IDENTIFICATION)
            .open(path);
        match opened {
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

    /// The user whose server is on the other side.
    pub(super) fn user(&self) -> io::Result<String> {
        match &self.pipe {
            Pipe::Client(file) => peer::user_of(file),
            Pipe::Server(_) => peer::this_user(),
        }
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

/// What the names of entries end with: others may have files in that folder, too.
const EXTENSION: &str = "pipe";

const ERROR_SHARING_VIOLATION: i32 = 32;
const ERROR_PIPE_BUSY: i32 = 231;
const DELETE: u32 = 0x0001_0000;
const GENERIC_WRITE: u32 = 0x4000_0000;
const FILE_FLAG_DELETE_ON_CLOSE: u32 = 0x0400_0000;
const SECURITY_IDENTIFICATION: u32 = 0x0001_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_for_as_long_as_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wharf");
        assert_eq!(entered(&path).unwrap(), Vec::<String>::new());
        let entry = Entry::make(&path, "wharf-S-1-9000").unwrap();
        for _ in 0..2 {
            assert_eq!(entered(&path).unwrap(), ["wharf-S-1-9000"]);
        }
        drop(entry);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "it goes with the server");
    }

    #[test]
    fn what_was_left_behind_is_removed_and_what_is_no_entry_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["wharf-S-1-9000.pipe", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(entered(folder.path()).unwrap(), Vec::<String>::new());
        assert!(folder.path().join("notes.txt").exists());
        assert!(!folder.path().join("wharf-S-1-9000.pipe").exists());
        fs::write(folder.path().join("wharf-S-1-9000.pipe"), "").unwrap();
        let _entry = Entry::make(folder.path(), "wharf-S-1-9000").unwrap();
        assert_eq!(entered(folder.path()).unwrap(), ["wharf-S-1-9000"]);
    }
}
