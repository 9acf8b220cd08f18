//! A Unix socket of mode 0600.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// `PORT.sock` in this user's own folder, which is made if it is not there.
pub(crate) fn default_place(port: u16) -> Result<PathBuf> {
    let folder = folder();
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", folder.display()));
        }
        _ => check_folder(&folder)?,
    }
    Ok(folder.join(format!("{port}.sock")))
}

/// Every socket in the default folder behind which somebody answers.
pub(crate) fn live_places() -> Result<Vec<PathBuf>> {
    let folder = folder();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    check_folder(&folder)?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|it| it == "sock");
    Ok(paths.filter(is_socket).filter(|path| UnixStream::connect(path).is_ok()).collect())
}

/// `$XDG_RUNTIME_DIR/wharf`, or a folder of this user in the one for temporary files.
fn folder() -> PathBuf {
    // The specification of that variable says to ignore a relative path.
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|path| path.is_absolute()) {
        Some(runtime) => runtime.join("wharf"),
        None => std::env::temp_dir().join(format!("wharf-{}", user())),
    }
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// In a folder for all, somebody else may have been first with the name.
fn check_folder(folder: &Path) -> Result<()> {
    let found = fs::symlink_metadata(folder).with_context(|| folder.display().to_string())?;
    if !found.is_dir() || found.uid() != user() || found.mode() & 0o077 != 0 {
        bail!(
            "{} is not a folder that belongs to this user alone (mode 0700): remove it, or name \
             another place with --control PATH, or none with --control off",
            folder.display()
        );
    }
    Ok(())
}

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Takes the place; a socket that a server has left behind is replaced.
    ///
    /// # Errors
    /// A server has it, it is no socket, or the system refuses it.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        check_free(path)?;
        let cannot = || format!("cannot make the control socket {}", path.display());
        if SocketAddr::from_pathname(path).is_err() {
            // No client could name it.
            bail!(
                "{}: the system takes paths of sockets up to about 100 bytes, and this one has {}: name a \
                 shorter one with --control PATH, or none with --control off",
                cannot(),
                path.as_os_str().len()
            );
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            bail!("{}: there is no folder {}", cannot(), parent.display());
        }
        // Bound in a folder that nobody else can enter, then moved: there is no moment in which
        // others could connect, and what was there before is replaced in one step.
        let nursery = tempfile::Builder::new()
            .prefix(".wharf-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent.unwrap_or(Path::new(".")))
            .with_context(cannot)?;
        let new = nursery.path().join("s");
        let socket = UnixListener::bind(&new).with_context(cannot)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).with_context(cannot)?;
        fs::rename(&new, path).with_context(cannot)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Removes the file: nobody finds the socket any more.
    pub(crate) fn give_up(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Waits for a client.
    pub(crate) fn accept(&self) -> io::Result<Stream> {
        let (socket, _) = self.socket.accept()?;
        Ok(Stream { socket, deadline: None })
    }
}

/// Whether nobody serves there: nothing is there, or a socket that its server has left behind.
fn check_free(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| shown.to_string()),
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{shown} is there and is no socket: name another place with --control PATH")
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).with_context(|| format!("the control socket {shown}")),
        Ok(_) => bail!(
            "a running server has the control socket {shown}: end that one (`wharf drain --control \
             {shown}`), name another place with --control PATH, or none with --control off"
        ),
    }
}

/// Reaches whoever answers there.
pub(super) fn connect(path: &Path) -> Result<Stream> {
    let socket = UnixStream::connect(path).map_err(|error| {
        let shown = path.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                anyhow::anyhow!("no server answers at {shown}: it has ended, or has another place")
            }
            ErrorKind::PermissionDenied => {
                anyhow::anyhow!(
                    "{shown} belongs to another user: only that one controls the server"
                )
            }
            _ => anyhow::Error::from(error).context(shown.to_string()),
        }
    })?;
    Ok(Stream { socket, deadline: None })
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: UnixStream,
    deadline: Option<Instant>,
}

impl Stream {
    /// When reads and writes begin to fail.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// The user whose server is on the other side.
    pub(super) fn user(&self) -> io::Result<String> {
        wharf::port::peer::user_of(&self.socket)
    }

    /// What is left until the deadline.
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(room).map_err(timed_out)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A time-out of the system is told as "would block".
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_socket_is_this_users_alone_and_goes_with_the_server() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        listener.give_up();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        drop(UnixListener::bind(&path).unwrap()); // the file stays
        let listener = Listener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("a running server") && error.contains("--control"), "{error}");
        connect(&path).unwrap();
        drop(listener);
        let error = connect(&path).unwrap_err().to_string();
        assert!(error.contains("no server answers"), "{error}");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&path).unwrap_err().to_string().contains("is no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        for (nowhere, why) in
            [("no/c.sock", "there is no folder"), (&"long".repeat(30), "name a shorter one")]
        {
            let error = Listener::bind(&folder.path().join(nowhere)).unwrap_err().to_string();
            assert!(error.contains("cannot make the control socket"), "{error}");
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = folder();
        let own = folder.path().join("own");
        DirBuilder::new().mode(0o700).create(&own).unwrap();
        check_folder(&own).unwrap();
        std::os::unix::fs::symlink(&own, folder.path().join("link")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for wrong in ["link", "file", "none"] {
            check_folder(&folder.path().join(wrong)).unwrap_err();
        }
        fs::set_permissions(&own, Permissions::from_mode(0o710)).unwrap();
        let error = check_folder(&own).unwrap_err().to_string();
        assert!(error.contains("mode 0700") && error.contains("--control"), "{error}");
    }

    #[test]
    fn a_deadline_ends_a_read_that_nothing_comes_for() {
        let folder = folder();
        let path = folder.path().join("c.sock");
        let _listener = Listener::bind(&path).unwrap();
        let mut stream = connect(&path).unwrap();
        stream.set_deadline(Instant::now() + Duration::from_millis(10));
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(stream.write(b"late").unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
