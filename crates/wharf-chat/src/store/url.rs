//! Where a Redis server is. There may be a password in it, which is shown nowhere.

use std::{fmt, str::FromStr};

/// The URL of a Redis server. Wherever it is shown, also for debugging, `***` stands for its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The whole of it: for whoever connects, and for nobody who reads.
    #[must_use]
    pub fn with_password(&self) -> &str {
        &self.0
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Takes a URL, or what comes behind `redis://` in one.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the URL of a server is missing, such as redis://127.0.0.1".to_owned());
        }
        let is_url = text.contains("://");
        let url = Self(if is_url { text.to_owned() } else { format!("redis://{text}") });
        // A configuration that was printed is read again: better refused here than at each login.
        if url.0.contains(HIDDEN) && url.to_string() == url.0 {
            return Err(format!("{HIDDEN} stands for a password that is not shown: write it out"));
        }
        Ok(url)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_password(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What somebody wrote where the place of a store belongs, as others may read it: whatever may be a
/// password in it is left out, also where it is no place of a store.
#[must_use]
pub fn hide_password(text: &str) -> String {
    let scheme = text.find("://").map(|at| at + "://".len());
    let start = scheme.or_else(|| text.find(':').map(|at| at + 1)).unwrap_or(0);
    let (kind, place) = text.split_at(start);
    // Behind the last `@`: one that is not encoded may be in a password, and a server's name has none.
    let (user, server) = match place.rsplit_once('@') {
        Some((user, server)) => match user.split_once(':') {
            Some((user, _)) => (format!("{user}:{HIDDEN}@"), server),
            None => (format!("{HIDDEN}@"), server),
        },
        None => (String::new(), place),
    };
    // A Unix socket has no place for it before its path.
    let server = match server.split_once("pass=") {
        Some((before, password)) => {
            let end = password.find(['&', '"']).unwrap_or(password.len());
            format!("{before}pass={HIDDEN}{}", &password[end..])
        }
        None => server.to_owned(),
    };
    format!("{kind}{user}{server}")
}

const HIDDEN: &str = "***";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_in_no_way() {
        for (url, shown) in [
            ("redis://kim:secret@host:1/2", "redis://kim:***@host:1/2"),
            ("redis://:secret@host", "redis://:***@host"),
            ("rediss://kim:s:e@cr/et@host/0", "rediss://kim:***@host/0"),
            // Written in the wrong place.
            ("redis://secret@host", "redis://***@host"),
            ("kim:secret@host", "redis://kim:***@host"),
            ("redis://host:1/2", "redis://host:1/2"),
            ("unix:///run/redis.sock?pass=secret&db=1", "unix:///run/redis.sock?pass=***&db=1"),
            (
                "unix:///run/redis.sock?user=kim&pass=secret",
                "unix:///run/redis.sock?user=kim&pass=***",
            ),
        ] {
            let read: RedisUrl = url.parse().unwrap();
            assert_eq!(
                (read.to_string(), format!("{read:?}")),
                (shown.to_owned(), shown.to_owned())
            );
            assert!(read.with_password().ends_with(url), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_hidden_like_one() {
        for (text, shown) in [
            ("redis:redis://kim:secret@host", "redis:redis://kim:***@host"),
            ("redis:kim:secret@host", "redis:kim:***@host"),
            ("redi:kim:secret@host", "redi:kim:***@host"),
            ("kim:secret@host", "kim:***@host"),
            ("store = \"redis://:secret@host\"", "store = \"redis://:***@host\""),
            ("store = \"redis:unix:///s?pass=secret\"", "store = \"redis:unix:///s?pass=***\""),
            ("open", "open"),
            ("", ""),
        ] {
            assert_eq!(hide_password(text), shown);
        }
    }

    #[test]
    fn what_was_printed_is_not_taken_for_a_password() {
        let printed = "redis://kim:secret@host".parse::<RedisUrl>().unwrap().to_string();
        assert!(printed.parse::<RedisUrl>().unwrap_err().contains("write it out"));
        assert!("redis://:se***cret@host".parse::<RedisUrl>().is_ok());
        assert!("".parse::<RedisUrl>().unwrap_err().contains("such as redis://"));
    }
}
