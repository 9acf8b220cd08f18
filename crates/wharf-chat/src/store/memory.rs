//! Users in memory, and no users at all: for demonstrations, tests and dummy clients.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Scheme, Store, StoreError};

/// Users that are forgotten with the process.
#[derive(Debug)]
pub struct Memory {
    scheme: Scheme,
    users: Mutex<BTreeMap<String, String>>,
}

impl Memory {
    /// No users yet.
    #[must_use]
    pub fn new(scheme: Scheme) -> Self {
        Self { scheme, users: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn secret(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.lock().get(name).cloned())
    }

    fn scheme(&self) -> Scheme {
        self.scheme
    }

    fn put(&self, name: &str, secret: &str, replace: bool) -> Result<bool, StoreError> {
        let mut users = self.lock();
        let is_due = users.contains_key(name) == replace;
        if is_due {
            users.insert(name.to_owned(), secret.to_owned());
        }
        Ok(is_due)
    }

    fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.lock().remove(name).is_some())
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn is_empty(&self) -> Option<bool> {
        Some(self.lock().is_empty())
    }
}

/// Any name and any password: the tutorial's step 8, and what dummy clients use.
#[derive(Clone, Copy, Debug)]
pub struct Open;

impl Store for Open {
    fn secret(&self, _: &str) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    fn scheme(&self) -> Scheme {
        Scheme::Open
    }

    fn put(&self, _: &str, _: &str, _: bool) -> Result<bool, StoreError> {
        Err(no_users())
    }

    fn remove(&self, _: &str) -> Result<bool, StoreError> {
        Err(no_users())
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        Err(no_users())
    }

    fn is_empty(&self) -> Option<bool> {
        Some(false)
    }
}

fn no_users() -> StoreError {
    StoreError::refused("the store `open` knows no users: any may log in")
}
