//! Where users and their passwords are kept: one trait, and what a login makes of it.

mod embedded;
mod memory;
mod redis;
mod url;

use std::{error::Error, fmt, path::PathBuf, str::FromStr, sync::Arc};

pub use self::{
    embedded::Embedded,
    memory::{Memory, Open},
    redis::{Format, Redis},
    url::{RedisUrl, hide_password},
};
use crate::{
    packets::{NAME_BYTES, Name},
    password::Passwords,
};

/// A store of users. Its methods may block: they are called where blocking work runs.
pub trait Store: Send + Sync + 'static {
    /// What the store holds for a user, if there is such a user.
    fn secret(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// What a secret is.
    fn scheme(&self) -> Scheme;

    /// Adds a user, or with `replace` gives one that is there a new secret. Whether that was done: not
    /// if there is such a user already, or with `replace` none.
    fn put(&self, name: &str, secret: &str, replace: bool) -> Result<bool, StoreError>;

    /// Removes a user; whether there was one.
    fn remove(&self, name: &str) -> Result<bool, StoreError>;

    /// All users' names, sorted.
    fn names(&self) -> Result<Vec<String>, StoreError>;

    /// Whether there is any user; `None` if that is not known without asking somebody else.
    fn is_empty(&self) -> Option<bool> {
        None
    }
}

/// What a store holds for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A hash of the password.
    Argon2id,
    /// The password itself.
    Plain,
    /// Nothing: any name and any password will do.
    Open,
}

/// What a login comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Rejected,
    Unavailable,
}

/// Asks the store whether this is the user's password. A user that is not there takes the same work,
/// with the same result, as a wrong password.
pub(crate) fn check(
    store: &dyn Store,
    passwords: &Passwords,
    name: &str,
    password: &str,
) -> Verdict {
    let is_name = check_name(name).is_ok();
    let secret = match store.secret(name) {
        Ok(secret) => secret.filter(|_| is_name),
        Err(error) => {
            tracing::warn!(%error, "the login store did not answer");
            return Verdict::Unavailable;
        }
    };
    let accepted = match store.scheme() {
        Scheme::Argon2id => passwords.verify(password, secret.as_deref()),
        Scheme::Plain => equal_in_constant_time(password, secret.as_deref()),
        Scheme::Open => is_name,
    };
    if accepted { Verdict::Accepted } else { Verdict::Rejected }
}

/// Compares as many bytes whether they differ early, late or not at all. A password has at most as
/// many as its field.
fn equal_in_constant_time(password: &str, secret: Option<&str>) -> bool {
    let (password, stored) = (password.as_bytes(), secret.unwrap_or_default().as_bytes());
    let at = |bytes: &[u8], index| bytes.get(index).copied().unwrap_or(0);
    let mut difference = u8::from(password.len() != stored.len());
    for index in 0..NAME_BYTES {
        difference |= at(password, index) ^ at(stored, index);
    }
    let is_equal = std::hint::black_box(difference) == 0;
    is_equal && secret.is_some()
}

/// Whether users may have this name.
///
/// # Errors
/// Says why not.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name has at least one character".to_owned());
    }
    if name.len() > NAME_BYTES {
        return Err(format!("a name has at most {} bytes of UTF-8", NAME_BYTES - 1));
    }
    if name.chars().any(commands_terminal) {
        return Err("a name has no control characters, nor any that turn a line around".to_owned());
    }
    if name.trim() != name {
        return Err("a name does not begin or end with a space".to_owned());
    }
    Ok(())
}

/// Whether a terminal does something with this character instead of showing it: control characters, and
/// those that end a line or turn the direction of text without being one.
#[must_use]
pub fn commands_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A store and the way to hash for it: what manages users.
#[derive(Clone)]
pub struct Accounts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) passwords: Arc<Passwords>,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accounts({:?})", self.store.scheme())
    }
}

impl Accounts {
    /// The accounts of a store.
    pub fn new(store: impl Store) -> Self {
        Self::with(store, Passwords::default())
    }

    /// The accounts of a store whose passwords are hashed in this way.
    pub fn with(store: impl Store, passwords: Passwords) -> Self {
        Self { store: Arc::new(store), passwords: Arc::new(passwords) }
    }

    /// Adds a user. When this returns, the user can log in, also after a crash of the machine.
    ///
    /// # Errors
    /// There is such a user already; the name or the password cannot be sent in a login; the store
    /// failed.
    pub fn add(&self, name: &str, password: &str) -> Result<(), StoreError> {
        self.put(name, password, false)?
            .then_some(())
            .ok_or_else(|| StoreError::refused(format!("there is a user {name:?} already")))
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// There is no such user; the password cannot be sent in a login; the store failed.
    pub fn set_password(&self, name: &str, password: &str) -> Result<(), StoreError> {
        self.put(name, password, true)?
            .then_some(())
            .ok_or_else(|| StoreError::refused(format!("there is no user {name:?}")))
    }

    /// Removes a user. A session that is logged in stays.
    ///
    /// # Errors
    /// There is no such user; the store failed.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.store
            .remove(name)?
            .then_some(())
            .ok_or_else(|| StoreError::refused(format!("there is no user {name:?}")))
    }

    /// All users' names, sorted.
    ///
    /// # Errors
    /// The store failed.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        self.store.names()
    }

    /// Whether there is any user; `None` if that is not known without asking somebody else.
    #[must_use]
    pub fn is_empty(&self) -> Option<bool> {
        self.store.is_empty()
    }

    /// How many password hashes were made so far.
    #[must_use]
    pub fn hashes(&self) -> u64 {
        self.passwords.hashes()
    }

    fn put(&self, name: &str, password: &str, replace: bool) -> Result<bool, StoreError> {
        Name::new(name).map_err(|error| StoreError::refused(format!("the name: {error}")))?;
        check_name(name).map_err(StoreError::refused)?;
        Name::new(password)
            .map_err(|error| StoreError::refused(format!("the password: {error}")))?;
        if password.is_empty() {
            return Err(StoreError::refused("a password has at least one character"));
        }
        let secret = match self.store.scheme() {
            Scheme::Argon2id => self.passwords.hash(password),
            Scheme::Plain => password.to_owned(),
            Scheme::Open => {
                return Err(StoreError::refused("the store `open` knows no users: any may log in"));
            }
        };
        self.store.put(name, &secret, replace)
    }
}

/// Why a store did not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// It was asked for something that cannot be done.
    Refused(String),
    /// Somebody else has the store open, and alone may write to it.
    Held(String),
    /// It cannot be reached, or failed.
    Unavailable(String),
}

impl StoreError {
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::Refused(what.into())
    }

    pub(crate) fn unavailable(what: &str, error: impl fmt::Display) -> Self {
        Self::Unavailable(format!("{what}: {error}"))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(what) | Self::Held(what) | Self::Unavailable(what)) = self;
        f.write_str(what)
    }
}

impl Error for StoreError {}

/// Which store, as it is written: `embedded:PATH`, `redis:URL`, `redis-tutorial:URL` or `open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of this program's own.
    Embedded(PathBuf),
    /// A Redis server that holds hashes under `wharf:user:NAME`.
    Redis(RedisUrl),
    /// A Redis server that holds plain passwords under the bare name, as the tutorial has it.
    RedisTutorial(RedisUrl),
    /// Any name and password.
    Open,
}

impl Location {
    /// The accounts that are kept there. Nothing is opened or connected yet.
    ///
    /// # Errors
    /// The address of a Redis server is none.
    pub fn accounts(&self) -> Result<Accounts, StoreError> {
        Ok(match self {
            Self::Embedded(path) => Accounts::new(Embedded::new(path)),
            Self::Redis(url) => Accounts::new(Redis::new(url, Format::Hashes)?),
            Self::RedisTutorial(url) => Accounts::new(Redis::new(url, Format::Tutorial)?),
            Self::Open => Accounts::new(Open),
        })
    }

    /// What an operator has to know about it.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        match self {
            Self::Embedded(_) | Self::Redis(_) => None,
            Self::RedisTutorial(_) => Some(
                "the login store redis-tutorial holds plain passwords: whoever reads that Redis has \
                 them all; redis: holds hashes",
            ),
            Self::Open => Some("the login store is open: any name and any password will do"),
        }
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, place) = text.split_once(':').unwrap_or((text, ""));
        let url = || place.parse().map_err(|error| format!("{kind}: {error}"));
        match kind {
            "embedded" if place.is_empty() => {
                Err("embedded: takes the path of a file, such as embedded:users.redb".to_owned())
            }
            "embedded" => Ok(Self::Embedded(place.into())),
            "redis" => url().map(Self::Redis),
            "redis-tutorial" => url().map(Self::RedisTutorial),
            "open" if place.is_empty() => Ok(Self::Open),
            // What comes behind it may have a password in it.
            _ => Err(format!(
                "{kind:?} is no kind of store: expected embedded:PATH, redis:URL, \
                 redis-tutorial:URL or open"
            )),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "embedded:{}", path.display()),
            Self::Redis(url) => write!(f, "redis:{url}"),
            Self::RedisTutorial(url) => write!(f, "redis-tutorial:{url}"),
            Self::Open => f.write_str("open"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::password::Cost;

    #[test]
    fn an_unknown_user_and_a_wrong_password_cost_one_hash_each() {
        let accounts = Accounts::with(Memory::new(Scheme::Argon2id), Passwords::new(Cost::LEAST));
        accounts.add("user0", "pw").unwrap();
        accounts.passwords.prepare();
        for (name, password, verdict) in [
            ("user0", "pw", Verdict::Accepted),
            ("user0", "no", Verdict::Rejected),
            ("nobody", "pw", Verdict::Rejected),
            ("", "", Verdict::Rejected),
        ] {
            let before = accounts.hashes();
            let seen = check(&*accounts.store, &accounts.passwords, name, password);
            assert_eq!(seen, verdict, "{name:?}");
            assert_eq!(accounts.hashes() - before, 1, "{name:?}");
        }
    }

    #[test]
    fn plain_passwords_are_compared_whole() {
        for (password, stored, equal) in [
            ("pw", Some("pw"), true),
            ("pw", Some("pw2"), false),
            ("pw2", Some("pw"), false),
            ("", Some(""), true),
            ("", None, false),
            ("비밀", Some("비밀"), true),
        ] {
            assert_eq!(equal_in_constant_time(password, stored), equal, "{password} {stored:?}");
        }
        let long = "p".repeat(NAME_BYTES);
        assert!(!equal_in_constant_time(&long, Some(&format!("{long}q"))));
    }

    #[test]
    fn accounts_say_what_is_wrong() {
        let accounts = Accounts::new(Memory::new(Scheme::Plain));
        accounts.add("김철수", "비밀번호").unwrap();
        let long = "n".repeat(33);
        for (result, expected) in [
            (accounts.add("김철수", "x"), "there is a user \"김철수\" already"),
            (accounts.add(&long, "x"), "the name: text of 33 bytes in a field for 32"),
            (accounts.add("a", &long), "the password: text of 33 bytes in a field for 32"),
            (accounts.add("", "x"), "a name has at least one character"),
            (accounts.add("a", ""), "a password has at least one character"),
            (
                accounts.add("a\nb", "x"),
                "a name has no control characters, nor any that turn a line around",
            ),
            (
                accounts.add("a\u{202e}b", "x"),
                "a name has no control characters, nor any that turn a line around",
            ),
            (accounts.add(" a", "x"), "a name does not begin or end with a space"),
            (accounts.set_password("nobody", "x"), "there is no user \"nobody\""),
            (accounts.remove("nobody"), "there is no user \"nobody\""),
            (Accounts::new(Open).add("a", "x"), "the store `open` knows no users: any may log in"),
        ] {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
        accounts.set_password("김철수", "y").unwrap();
        assert_eq!(accounts.names().unwrap(), ["김철수"]);
        accounts.remove("김철수").unwrap();
        assert_eq!(accounts.is_empty(), Some(true));
    }

    #[test]
    fn a_store_is_written_as_its_kind_and_place() {
        for text in [
            "embedded:users.redb",
            "embedded:C:/users.redb",
            "redis:redis://127.0.0.1:6380/2",
            "open",
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
        let secret: Location = "redis-tutorial:redis://:pw@127.0.0.1".parse().unwrap();
        assert_eq!(secret.to_string(), "redis-tutorial:redis://:***@127.0.0.1");
        assert_eq!(format!("{secret:?}"), "RedisTutorial(redis://:***@127.0.0.1)");
        let short: Location = "redis:127.0.0.1:6379".parse().unwrap();
        assert_eq!(short.to_string(), "redis:redis://127.0.0.1:6379");
        for text in ["", "embedded", "embedded:", "redis", "redis:", "open:x", "mysql:x"] {
            assert!(text.parse::<Location>().is_err(), "{text:?}");
        }
        assert!(Location::Open.warning().is_some());
    }
}
