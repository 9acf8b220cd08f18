//! Who is logged in, over all workers. Asked at a login and at a goodbye, never for a message: a lock
//! is good enough.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::packets::{Name, Outcome};

#[derive(Default)]
pub(crate) struct Online(Mutex<HashSet<Name>>);

impl Online {
    /// Takes the name, unless somebody has it. Of two that come at one time, one is first.
    pub(crate) fn claim(&self, name: Name) -> Outcome {
        if name.as_str().is_empty() {
            Outcome::LoginFailed
        } else if self.names().insert(name) {
            Outcome::Ok
        } else {
            Outcome::AlreadyLoggedIn
        }
    }

    /// Gives the name back. Only whoever has claimed it does so.
    pub(crate) fn release(&self, name: Name) {
        self.names().remove(&name);
    }

    fn names(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
