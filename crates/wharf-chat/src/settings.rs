//! What a chat can be told. Every limit has a unit, a default and a reason.

use std::{net::SocketAddr, time::Duration};

use wharf::Limits;

use crate::{online::Duplicate, rate::Rate, store::Scheme};

/// The settings of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many rooms there are (10): those of the tutorial. They are always there.
    pub rooms: u32,
    /// How many users a room takes (4), as in the tutorial; the next one is answered 54.
    pub room_seats: u32,
    /// Whether those in a room are told who comes and goes, and whoever comes who is there (yes).
    pub room_notifications: bool,
    /// Above so many seats (64) they are not: each one who comes would be told of all others, and all
    /// others of them.
    pub notify_seats_max: u32,
    /// Packets that one session may send, each second and at one time (150 and 300): far above what a
    /// person types. Those beyond are answered 63; the session is closed if it goes on.
    pub rate: Rate,
    /// How long a new connection has until its first packet (60 s): a person may be typing a password.
    pub first_frame_timeout: Option<Duration>,
    /// How long it has until it is logged in (120 s), with any number of tries; then it is closed.
    pub login_timeout: Option<Duration>,
    /// What becomes of a login under a name that is online.
    pub duplicate_login: Duplicate,
    /// Users that may be logged in at one time (50,000); the next one is answered 32.
    pub users_max: usize,
    /// Failed logins from one address in a minute (20), after which its logins are answered 63 without
    /// a look at the password: nobody guesses many. 0 for no limit; loopback is exempt.
    pub address_failures_per_minute: u32,
    /// Whether users may log in from other machines, though whoever is on the way can read their
    /// passwords (no).
    pub allow_plaintext_login: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rooms: 10,
            room_seats: 4,
            room_notifications: true,
            notify_seats_max: 64,
            rate: Rate { per_second: 150, burst: 300 },
            first_frame_timeout: Some(Duration::from_secs(60)),
            login_timeout: Some(Duration::from_secs(120)),
            duplicate_login: Duplicate::Refuse,
            users_max: 50_000,
            address_failures_per_minute: 20,
            allow_plaintext_login: false,
        }
    }
}

impl Settings {
    /// What the limits of the chat's sessions are, where those of others are `limits`: there is more
    /// time for the first frame, and the protocol has no heartbeat (TCP's keepalive finds peers that
    /// are gone).
    #[must_use]
    pub fn session_limits(&self, limits: Limits) -> Limits {
        Limits { first_frame_timeout: self.first_frame_timeout, idle_read_timeout: None, ..limits }
    }

    /// Whether a chat with such a store may listen there.
    pub(crate) fn validate(&self, address: SocketAddr, scheme: Scheme) -> wharf::Result {
        let refuse = |what: String| Err(wharf::Error::Settings(what));
        if self.rooms == 0
            || self.room_seats == 0
            || self.rate.per_second == 0
            || self.rate.burst == 0
        {
            return refuse(
                "a chat has rooms, rooms have seats, and users may send something".to_owned(),
            );
        }
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        if scheme == Scheme::Open {
            return refuse(format!(
                "the chat does not listen on {address} with the store `open`, which lets anybody in: \
                 that is for loopback addresses, such as 127.0.0.1:{}",
                address.port()
            ));
        }
        if !self.allow_plaintext_login {
            return refuse(format!(
                "the chat does not listen on {address}: other machines reach it, and passwords would \
                 cross the network as they are. Give --allow-plaintext-login if that network is your \
                 own, or listen on 127.0.0.1:{} behind a tunnel",
                address.port()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_cross_no_network_unless_that_is_asked_for() {
        let strict = Settings::default();
        let lax = Settings { allow_plaintext_login: true, ..Settings::default() };
        for (address, scheme, strict_allows, lax_allows) in [
            ("127.0.0.1:11021", Scheme::Argon2id, true, true),
            ("127.0.0.1:11021", Scheme::Open, true, true),
            ("[::1]:11021", Scheme::Plain, true, true),
            ("0.0.0.0:11021", Scheme::Argon2id, false, true),
            ("[::]:11021", Scheme::Plain, false, true),
            ("192.0.2.1:11021", Scheme::Open, false, false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let allows = |settings: &Settings| settings.validate(address, scheme).is_ok();
            assert_eq!((allows(&strict), allows(&lax)), (strict_allows, lax_allows), "{address}");
        }
        let error = strict.validate("0.0.0.0:1".parse().unwrap(), Scheme::Argon2id).unwrap_err();
        assert!(error.to_string().contains("--allow-plaintext-login"), "{error}");
    }

    #[test]
    fn a_chat_without_rooms_is_refused() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for settings in [
            Settings { rooms: 0, ..Settings::default() },
            Settings { room_seats: 0, ..Settings::default() },
        ] {
            assert!(settings.validate(address, Scheme::Argon2id).is_err());
        }
    }
}
