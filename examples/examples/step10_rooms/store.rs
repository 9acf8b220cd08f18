//! Where passwords are. Asking blocks, so nobody does it on a worker.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{Client, Commands, Connection, RedisResult};

pub(crate) trait Store: Send + Sync {
    /// Whether this is the user's password. May block.
    fn check(&self, name: &str, password: &str) -> Verdict;
}

/// What a store says of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Wrong,
    /// The store does not answer.
    Unknown,
}

/// Any password will do.
pub(crate) struct Anybody;

impl Store for Anybody {
    fn check(&self, _: &str, _: &str) -> Verdict {
        Verdict::Right
    }
}

/// The tutorial's: `GET name` is the password, as it is.
pub(crate) struct Redis {
    client: Client,
    /// `None` before the first question and after one that was not answered.
    connection: Mutex<Option<Connection>>,
}

impl Redis {
    /// Nothing is connected yet: a Redis that is down does not keep the server from starting.
    pub(crate) fn new(url: &str) -> RedisResult<Self> {
        Ok(Self { client: Client::open(url)?, connection: Mutex::new(None) })
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(ANSWER_TIMEOUT)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(connection)
    }

    fn password(&self, name: &str) -> RedisResult<Option<String>> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = connection.get(name);
        // An answer that comes late would be taken for that to the next question: only a connection
        // that has answered is asked again.
        if !answer.as_ref().is_err_and(|error| error.is_io_error() || error.is_timeout()) {
            *slot = Some(connection);
        }
        match answer {
            // A list, for example, which is no user's.
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            answer => answer,
        }
    }
}

impl Store for Redis {
    fn check(&self, name: &str, password: &str) -> Verdict {
        match self.password(name) {
            Ok(Some(stored)) if stored == password => Verdict::Right,
            Ok(_) => Verdict::Wrong,
            Err(error) => {
                eprintln!("the login store: {error}");
                Verdict::Unknown
            }
        }
    }
}

/// How long a Redis may take to be connected to, and to answer: on one's own network it takes less
/// than a millisecond, and whoever logs in is waiting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
