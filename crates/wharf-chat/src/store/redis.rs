//! Users in a Redis server. A server that does not answer costs one login its time-out; those after it
//! are answered at once, until it is time to try again.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Client, Commands as _, Connection, ErrorKind, RedisError, RedisResult};

use wharf::Reconnect;

use super::{RedisUrl, Scheme, Store, StoreError};

/// How users are kept there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Argon2id hashes under `wharf:user:NAME`.
    Hashes,
    /// Plain passwords under the bare name: as the tutorial has them.
    Tutorial,
}

/// A Redis server.
pub struct Redis {
    client: Client,
    format: Format,
    link: Mutex<Link>,
}

/// The connection, and when to try to get another one.
struct Link {
    connection: Option<Connection>,
    failures: u32,
    retry_at: Option<Instant>,
    last_error: String,
}

impl Redis {
    /// The server at this address. Nothing is connected yet.
    ///
    /// # Errors
    /// It is no address of a Redis server.
    pub fn new(url: &RedisUrl, format: Format) -> Result<Self, StoreError> {
        let client = Client::open(url.with_password()).map_err(|error| {
            StoreError::Refused(format!("the login store's address is none of a Redis: {error}"))
        })?;
        let link =
            Link { connection: None, failures: 0, retry_at: None, last_error: String::new() };
        Ok(Self { client, format, link: Mutex::new(link) })
    }

    fn key(&self, name: &str) -> String {
        match self.format {
            Format::Hashes => format!("{NAMESPACE}{name}"),
            Format::Tutorial => name.to_owned(),
        }
    }

    /// Asks the server, over the connection that there is or a new one.
    fn ask<R>(&self, ask: impl Fn(&mut Connection) -> RedisResult<R>) -> Result<R, StoreError> {
        let mut link = self.lock();
        let was_connected = link.connection.is_some();
        match self.try_once(&mut link, &ask) {
            // It may have been restarted since it was last asked; one that hangs is not asked again.
            Err(error) if was_connected && error.is_io_error() && !error.is_timeout() => {
                self.try_once(&mut link, &ask)
            }
            other => other,
        }
        .map_err(|error| link.failed(error, now(), fastrand::u64(..)))
    }

    fn try_once<R>(
        &self,
        link: &mut Link,
        ask: impl Fn(&mut Connection) -> RedisResult<R>,
    ) -> RedisResult<R> {
        let mut connection = match link.connection.take() {
            Some(connection) => connection,
            None => self.connect(link)?,
        };
        let answer = ask(&mut connection);
        // What a late answer belongs to cannot be told: after a time-out the connection is not used.
        if answer.as_ref().is_err_and(|error| error.is_io_error() || error.is_timeout()) {
            return answer;
        }
        link.connection = Some(connection);
        (link.failures, link.retry_at) = (0, None);
        answer
    }

    fn connect(&self, link: &Link) -> RedisResult<Connection> {
        if link.retry_at.is_some_and(|at| now() < at) {
            return Err((ErrorKind::Io, "not tried again yet", link.last_error.clone()).into());
        }
        let connection = self.client.get_connection_with_timeout(ANSWER_TIMEOUT)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        if link.failures > 0 {
            tracing::info!("the login store answers again");
        }
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// When the server is tried again, after it failed; what was not even asked changes nothing.
    fn failed(&mut self, error: RedisError, now: Instant, random: u64) -> StoreError {
        if (error.is_io_error() || error.is_timeout()) && self.retry_at.is_none_or(|at| at <= now) {
            self.failures = self.failures.saturating_add(1);
            self.retry_at = RETRY.pause(self.failures, random).map(|pause| now + pause);
            self.last_error = told(&error);
        }
        StoreError::unavailable("the login store redis", told(&error))
    }
}

/// What an error says, for whoever reads a log: a time-out's own words are about a resource.
fn told(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {ANSWER_TIMEOUT:?}");
    }
    error.to_string()
}

/// How long a Redis may take to be connected to, and to answer: on one's own network it takes less
/// than a millisecond, and whoever logs in is waiting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Twice as late each time, and not all servers of a Redis at once.
const RETRY: Reconnect =
    Reconnect::Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
const NAMESPACE: &str = "wharf:user:";

#[expect(clippy::disallowed_methods, reason = "stores are called where blocking work runs")]
fn now() -> Instant {
    Instant::now()
}

impl Store for Redis {
    fn secret(&self, name: &str) -> Result<Option<String>, StoreError> {
        // A key of another type is no user; bytes that are no text are no password.
        let get = |connection: &mut Connection| match connection
            .get::<_, Option<Vec<u8>>>(self.key(name))
        {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            other => other,
        };
        Ok(self.ask(get)?.and_then(|secret| String::from_utf8(secret).ok()))
    }

    fn scheme(&self) -> Scheme {
        match self.format {
            Format::Hashes => Scheme::Argon2id,
            Format::Tutorial => Scheme::Plain,
        }
    }

    fn put(&self, name: &str, secret: &str, replace: bool) -> Result<bool, StoreError> {
        let condition = if replace { "XX" } else { "NX" };
        let key = self.key(name);
        let set = |connection: &mut Connection| {
            let set = redis::cmd("SET").arg(&key).arg(secret).arg(condition).query(connection);
            set.map(|answer: Option<String>| answer.is_some())
        };
        self.ask(set)
    }

    fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.ask(|connection| connection.del(self.key(name)))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        if self.format == Format::Tutorial {
            let what = "a Redis as the tutorial has it does not tell users from other keys";
            return Err(StoreError::refused(what));
        }
        let scan = |connection: &mut Connection| {
            let keys = connection.scan_match::<_, String>(format!("{NAMESPACE}*"))?;
            keys.collect::<RedisResult<Vec<String>>>()
        };
        let keys = self.ask(scan)?;
        let names = keys.iter().filter_map(|key| key.strip_prefix(NAMESPACE));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        // A scan may name a key twice.
        names.dedup();
        Ok(names)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({:?})", self.format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> RedisError {
        std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
    }

    #[test]
    fn tries_are_later_and_later_and_at_chance() {
        let began = now();
        let pauses = |random: u64| {
            let mut link =
                Link { connection: None, failures: 0, retry_at: None, last_error: String::new() };
            let mut at = began;
            let pauses = (0..8).map(|_| {
                link.failed(refused(), at, random);
                let pause = link.retry_at.unwrap() - at;
                // Those who come meanwhile are told the same, and move nothing.
                let before = link.retry_at;
                link.failed(refused(), at + pause / 2, random);
                assert_eq!(link.retry_at, before);
                at += pause;
                pause.as_millis()
            });
            pauses.collect::<Vec<_>>()
        };
        assert_eq!(pauses(0), [50, 100, 200, 400, 800, 1_600, 2_500, 2_500], "half of each");
        let longest = pauses(49_999_999);
        assert_eq!(longest[0], 99, "up to the whole of each");
        let any: Vec<_> = (0..100).map(|_| pauses(fastrand::u64(..))[3]).collect();
        assert!(any.iter().all(|pause| (400..800).contains(pause)), "{any:?}");
        assert!(any.iter().any(|pause| *pause != any[0]), "not all at once");
    }

    #[test]
    fn a_time_out_is_told_as_one() {
        for kind in [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut] {
            assert_eq!(told(&std::io::Error::from(kind).into()), "no answer within 1s");
        }
        assert!(told(&refused()).contains("refused"));
    }

    #[test]
    fn what_the_server_refuses_is_no_reason_to_wait() {
        let mut link =
            Link { connection: None, failures: 0, retry_at: None, last_error: String::new() };
        let error = RedisError::from((ErrorKind::UnexpectedReturnType, "another type"));
        link.failed(error, now(), 0);
        assert_eq!((link.failures, link.retry_at), (0, None));
    }
}
