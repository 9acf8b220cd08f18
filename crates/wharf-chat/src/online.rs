//! Who is logged in: one session for a name, wherever that session runs.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use wharf::SessionId;

use crate::packets::{Name, Outcome};

/// What becomes of a login under a name that is online.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicate {
    /// It is refused with 31.
    #[default]
    Refuse,
    /// It takes the name over, and the other session is closed.
    Kick,
}

/// The names that are online. Asked once per login and once per disconnect, never for a message.
#[derive(Debug)]
pub(crate) struct Online {
    users_max: usize,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    by_name: HashMap<Name, SessionId>,
    unique_ids_given: i64,
}

/// A name that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) unique_id: i64,
    /// The session that had it until now, and is to be closed.
    pub(crate) kicked: Option<SessionId>,
}

impl Online {
    pub(crate) fn new(users_max: usize) -> Self {
        Self { users_max, users: Mutex::default() }
    }

    /// Takes a name for a session, in one step: of two that want it at one time, one gets it first.
    pub(crate) fn claim(
        &self,
        name: Name,
        session: SessionId,
        duplicate: Duplicate,
    ) -> Result<Claim, Outcome> {
        let mut users = self.lock();
        let is_full = users.by_name.len() >= self.users_max;
        let kicked = match users.by_name.entry(name) {
            Entry::Occupied(_) if duplicate == Duplicate::Refuse => {
                return Err(Outcome::AlreadyLoggedIn);
            }
            Entry::Occupied(mut taken) => Some(taken.insert(session)),
            Entry::Vacant(_) if is_full => return Err(Outcome::ServerFull),
            Entry::Vacant(free) => {
                free.insert(session);
                None
            }
        };
        users.unique_ids_given += 1;
        Ok(Claim { unique_id: users.unique_ids_given, kicked })
    }

    /// Gives a name back, unless another session has taken it over.
    pub(crate) fn release(&self, name: &Name, session: SessionId) {
        let mut users = self.lock();
        if users.by_name.get(name) == Some(&session) {
            users.by_name.remove(name);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().by_name.len()
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u64) -> SessionId {
        SessionId::from_u64(slot)
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_name_has_one_session() {
        let online = Online::new(10);
        let first = online.claim(name("a"), session(1), Duplicate::Refuse);
        assert_eq!(first, Ok(Claim { unique_id: 1, kicked: None }));
        let second = online.claim(name("a"), session(2), Duplicate::Refuse);
        assert_eq!(second, Err(Outcome::AlreadyLoggedIn));
        online.release(&name("a"), session(1));
        let third = online.claim(name("a"), session(2), Duplicate::Refuse);
        assert_eq!(third, Ok(Claim { unique_id: 2, kicked: None }));
        assert_eq!(online.count(), 1);
    }

    #[test]
    fn whoever_was_kicked_does_not_free_the_name_of_the_other() {
        let online = Online::new(10);
        online.claim(name("a"), session(1), Duplicate::Kick).unwrap();
        let second = online.claim(name("a"), session(2), Duplicate::Kick);
        assert_eq!(second, Ok(Claim { unique_id: 2, kicked: Some(session(1)) }));
        online.release(&name("a"), session(1));
        assert_eq!(online.count(), 1);
        online.release(&name("a"), session(2));
        assert_eq!(online.count(), 0);
    }

    #[test]
    fn a_full_server_takes_no_new_name() {
        let online = Online::new(1);
        online.claim(name("a"), session(1), Duplicate::Kick).unwrap();
        let other = online.claim(name("b"), session(2), Duplicate::Kick);
        assert_eq!(other, Err(Outcome::ServerFull));
        assert!(online.claim(name("a"), session(3), Duplicate::Kick).is_ok(), "no new name");
        online.release(&name("a"), session(3));
        assert!(online.claim(name("b"), session(2), Duplicate::Kick).is_ok());
    }
}
