//! Users in a file of this program's own: an embedded database that survives crashes.
//!
//! A process that has the file open has it alone, so it is opened as late as possible: by a server at
//! the first login after there is a file, by a command when it has something to write.

use std::{
    fs::{File, OpenOptions},
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, TableError, backends::FileBackend,
};

use super::{Scheme, Store, StoreError};

/// Names and password hashes.
const USERS: TableDefinition<'_, &str, &str> = TableDefinition::new("users");

/// The file, open or not.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    wait: Duration,
    database: Mutex<Option<Database>>,
}

impl Embedded {
    /// The store in this file, which need not be there yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), wait: HELD_TIMEOUT, database: Mutex::default() }
    }

    /// How long to wait for another process that has the file open (2 s).
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// What the table of users says, or `otherwise` where there is none yet.
    fn read<R>(
        &self,
        otherwise: R,
        read: impl FnOnce(redb::ReadOnlyTable<&str, &str>) -> Result<R, redb::Error>,
    ) -> Result<R, StoreError> {
        self.unless_damaged(|| {
            let mut database = self.lock();
            let Some(database) = self.open(&mut database, false)? else { return Ok(otherwise) };
            let read = || match database.begin_read()?.open_table(USERS) {
                Ok(table) => read(table),
                Err(TableError::TableDoesNotExist(_)) => Ok(otherwise),
                Err(error) => Err(error.into()),
            };
            read().map_err(|error| self.failed("read", error))
        })
    }

    /// Changes the table of users. What it says has been done is on the disk when this returns.
    fn write<R>(
        &self,
        write: impl FnOnce(&mut redb::Table<'_, &str, &str>) -> Result<R, redb::Error>,
    ) -> Result<R, StoreError> {
        self.unless_damaged(|| {
            let mut database = self.lock();
            let database = self.open(&mut database, true)?.expect("created if it was not there");
            let write = || {
                let transaction = database.begin_write()?;
                let done = write(&mut transaction.open_table(USERS)?)?;
                transaction.commit()?;
                Ok(done)
            };
            write().map_err(|error: redb::Error| self.failed("write", error))
        })
    }

    /// What `run` returns. Of a file that is cut short or overwritten redb finds some faults by assertion
    /// alone: that is the file's fault and no other's, and whoever asked gets an answer.
    fn unless_damaged<R>(
        &self,
        run: impl FnOnce() -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let ran = panic::catch_unwind(AssertUnwindSafe(run));
        ran.unwrap_or_else(|_| Err(self.damaged("what it says does not fit together")))
    }

    /// The open database; `None` if there is no file and none is to be made.
    fn open<'a>(
        &self,
        database: &'a mut Option<Database>,
        create: bool,
    ) -> Result<Option<&'a Database>, StoreError> {
        if database.is_none() {
            let mut waited = Duration::ZERO;
            let opened = loop {
                match open_file(&self.path, create) {
                    Ok(None) => return Ok(None),
                    Ok(Some(opened)) => break opened,
                    Err(DatabaseError::DatabaseAlreadyOpen) if waited < self.wait => {
                        sleep(HELD_RETRY);
                        waited += HELD_RETRY;
                    }
                    Err(DatabaseError::DatabaseAlreadyOpen) => {
                        let path = self.path.display();
                        let what = format!("the login store {path} is held by another process");
                        return Err(StoreError::Held(what));
                    }
                    Err(error) => return Err(self.failed("open", error)),
                }
            };
            *database = Some(opened);
        }
        Ok(database.as_ref())
    }

    fn failed(&self, what: &str, error: impl Into<redb::Error>) -> StoreError {
        let path = self.path.display();
        match error.into() {
            redb::Error::Corrupted(how) => self.damaged(&how),
            redb::Error::Io(error) if is_of_content(error.kind()) => {
                self.damaged("not such a file")
            }
            error => {
                StoreError::unavailable(&format!("cannot {what} the login store {path}"), error)
            }
        }
    }

    fn damaged(&self, how: &str) -> StoreError {
        let path = self.path.display();
        StoreError::unavailable(
            &format!("the login store {path} is damaged, or a file of another kind"),
            format_args!("{how}; put a copy in its place, or name another with embedded:PATH"),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long another process may have the file open: long enough for a command to add a user.
const HELD_TIMEOUT: Duration = Duration::from_secs(2);
const HELD_RETRY: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "stores are called where blocking work runs")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Whether reading failed for what is in the file, and not for the system.
fn is_of_content(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn open_file(path: &Path, create: bool) -> Result<Option<Database>, DatabaseError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // Hashes are for nobody else to guess at.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let (file, is_new) = match options.open(path) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            (options.create(true).open(path)?, true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let database = Database::builder().create_with_backend(Whole(FileBackend::new(file)?))?;
    if is_new {
        sync_folder_of(path)?;
    }
    Ok(Some(database))
}

/// A file of which nothing behind its end can be read: on Windows redb's own backend waits for ever for bytes
/// that a file which was cut short does not have.
#[derive(Debug)]
struct Whole(FileBackend);

impl StorageBackend for Whole {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > self.0.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read(offset, out)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// A new file is there after a crash of the machine once its folder is on the disk.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

impl Store for Embedded {
    fn secret(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read(None, |users| Ok(users.get(name)?.map(|secret| secret.value().to_owned())))
    }

    fn scheme(&self) -> Scheme {
        Scheme::Argon2id
    }

    fn put(&self, name: &str, secret: &str, replace: bool) -> Result<bool, StoreError> {
        self.write(|users| {
            let is_due = users.get(name)?.is_some() == replace;
            if is_due {
                users.insert(name, secret)?;
            }
            Ok(is_due)
        })
    }

    fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.write(|users| Ok(users.remove(name)?.is_some()))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        self.read(Vec::new(), |users| {
            users.iter()?.map(|user| Ok(user?.0.value().to_owned())).collect()
        })
    }

    fn is_empty(&self) -> Option<bool> {
        // A look at the file, not into it: it may be another process's for now.
        Some(!self.path.exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.redb");
        let store = Embedded::new(&path);
        assert_eq!((store.secret("a"), store.names()), (Ok(None), Ok(vec![])));
        assert!(!path.exists(), "asking makes no file");
        assert_eq!(store.put("b", "1", false), Ok(true));
        assert_eq!(store.put("가", "2", false), Ok(true));
        assert_eq!(store.put("b", "3", false), Ok(false), "there already");
        assert_eq!(store.put("c", "3", true), Ok(false), "not there");
        assert_eq!(store.put("b", "4", true), Ok(true));
        drop(store);
        let store = Embedded::new(&path);
        assert_eq!(store.secret("b"), Ok(Some("4".to_owned())));
        assert_eq!(store.names(), Ok(vec!["b".to_owned(), "가".to_owned()]));
        assert_eq!((store.remove("b"), store.remove("b")), (Ok(true), Ok(false)));
        assert_eq!(store.secret("b"), Ok(None));
    }

    #[test]
    fn one_process_has_it_at_a_time_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.redb");
        let first = Embedded::new(&path);
        first.put("a", "1", false).unwrap();
        let second = Embedded::new(&path).wait(Duration::ZERO);
        let error = second.secret("a").unwrap_err();
        assert!(matches!(error, StoreError::Held(_)), "{error}");
        drop(first);
        assert_eq!(second.secret("a"), Ok(Some("1".to_owned())));
    }

    #[test]
    fn what_is_no_database_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a database").unwrap();
        let error = Embedded::new(&path).put("a", "1", false).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("is damaged, or a file of another kind"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a database");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.redb");
        Embedded::new(&path).put("a", "1", false).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // Cut short at each of its parts; overwritten behind its header.
        let mut damaged: Vec<Vec<u8>> =
            [1, 100, 511, 4096, whole.len() / 2].map(|length| whole[..length].to_vec()).into();
        damaged.push([&whole[..512], &vec![0x5a; whole.len() - 512]].concat());
        for bytes in damaged {
            std::fs::write(&path, &bytes).unwrap();
            let store = Embedded::new(&path);
            for error in [store.secret("a").unwrap_err(), store.put("b", "1", false).unwrap_err()] {
                let is_told = error.to_string().contains("is damaged, or a file of another kind");
                assert!(is_told, "{} bytes: {error}", bytes.len());
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.redb");
        Embedded::new(&path).put("a", "1", false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
