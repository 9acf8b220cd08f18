//! Passwords as argon2id hashes. Hashing takes its memory and milliseconds on purpose: it runs where
//! blocking work runs, never on a worker.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::{Salt, SaltString, rand_core::OsRng},
};

/// What a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB (19,456).
    pub memory_kib: u32,
    /// Passes over it (2).
    pub passes: u32,
    /// Lanes (1).
    pub lanes: u32,
}

impl Default for Cost {
    /// What OWASP's password storage cheat sheet names first for argon2id.
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1 }
    }
}

impl Cost {
    /// The least that argon2 can do: for tests, which are not attacked.
    pub const LEAST: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    /// What a stored hash may cost at most: a store that somebody else has written to cannot make the
    /// server take gigabytes.
    const MOST: Cost = Cost { memory_kib: 262_144, passes: 16, lanes: 16 };
}

/// Hashes and checks passwords, and counts how often.
#[derive(Debug)]
pub struct Passwords {
    argon2: Argon2<'static>,
    /// A hash that no password is known for, of the same cost as real ones.
    nobodys: OnceLock<String>,
    hashes: AtomicU64,
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new(Cost::default())
    }
}

impl Passwords {
    /// Hashes of this cost.
    ///
    /// # Panics
    /// Argon2 has no such cost.
    #[must_use]
    pub fn new(cost: Cost) -> Self {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None);
        let params = params.unwrap_or_else(|error| panic!("{cost:?}: {error}"));
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Self { argon2, nobodys: OnceLock::new(), hashes: AtomicU64::new(0) }
    }

    /// The hash of a password with a salt of its own, as a text that says how it was made.
    #[must_use]
    pub fn hash(&self, password: &str) -> String {
        self.hash_with(password, SaltString::generate(&mut OsRng).as_salt())
    }

    /// Whether this is the password. Exactly one hash is made, whatever `stored` is: with `None`, for
    /// a user that is not there, and with a text that is no hash, the answer is no, and takes as long.
    #[must_use]
    pub fn verify(&self, password: &str, stored: Option<&str>) -> bool {
        let stored = stored.and_then(|stored| PasswordHash::new(stored).ok()).filter(is_bearable);
        let nobodys = self.nobodys();
        let is_somebody = stored.is_some();
        let Some(hash) = stored.or_else(|| PasswordHash::new(nobodys).ok()) else { return false };
        self.hashes.fetch_add(1, Ordering::Relaxed);
        // The parameters are those of the stored hash.
        let matches = self.argon2.verify_password(password.as_bytes(), &hash).is_ok();
        matches && is_somebody
    }

    /// How many hashes were made so far.
    #[must_use]
    pub fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// Makes ready what [`verify`](Self::verify) needs for users that are not there, so that the first
    /// of them does not take longer.
    pub fn prepare(&self) {
        self.nobodys();
    }

    fn nobodys(&self) -> &str {
        self.nobodys.get_or_init(|| {
            // Verified against and never matched: the salt need not be secret, nor the password.
            let salt = Salt::from_b64("bm9ib2R5IGlzIGhlcmU").expect("a salt");
            let hash = self.argon2.hash_password(b"nobody", salt).expect("a salt and a password");
            hash.to_string()
        })
    }

    fn hash_with(&self, password: &str, salt: Salt<'_>) -> String {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        let hash = self.argon2.hash_password(password.as_bytes(), salt);
        hash.expect("argon2 takes any password of a packet").to_string()
    }
}

/// Whether a stored hash is argon2's, and costs no more than one may.
fn is_bearable(hash: &PasswordHash<'_>) -> bool {
    let Ok(params) = Params::try_from(hash) else { return false };
    Algorithm::try_from(hash.algorithm).is_ok()
        && params.m_cost() <= Cost::MOST.memory_kib
        && params.t_cost() <= Cost::MOST.passes
        && params.p_cost() <= Cost::MOST.lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_argon2id_with_the_stated_cost_and_a_salt_of_its_own() {
        let passwords = Passwords::default();
        let hash = passwords.hash("pw");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("pw", Some(&hash)));
        assert!(!passwords.verify("pw ", Some(&hash)));
        let passwords = Passwords::new(Cost::LEAST);
        assert_ne!(passwords.hash("pw"), passwords.hash("pw"));
    }

    #[test]
    fn one_hash_whatever_is_stored() {
        let passwords = Passwords::new(Cost::LEAST);
        let stored = passwords.hash("pw");
        passwords.prepare();
        for (password, stored, right) in [
            ("pw", Some(&*stored), true),
            ("no", Some(&*stored), false),
            ("pw", None, false),
            // The password of the hash that stands in for a user who is not there.
            ("nobody", None, false),
            ("pw", Some("pw"), false),
            ("pw", Some(""), false),
            ("pw", Some("$argon2id$v=19$m=4294967295,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"), false),
            ("pw", Some("$scrypt$ln=1,r=8,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"), false),
        ] {
            let before = passwords.hashes();
            assert_eq!(passwords.verify(password, stored), right, "{password} {stored:?}");
            assert_eq!(passwords.hashes() - before, 1, "{password} {stored:?}");
        }
    }
}
