//! What is done with users: by whoever has their store open.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_chat::{Accounts, Location, StoreError};

/// One thing to do.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub(crate) enum Task {
    Add { name: String, password: Password },
    SetPassword { name: String, password: Password },
    Remove { name: String },
    List,
}

/// A password, which no log shows.
#[derive(Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a password")
    }
}

impl Task {
    /// Does it; the names that it was to find.
    ///
    /// # Errors
    /// The store fails, or has no such user, or has one already.
    pub(crate) fn run(&self, accounts: &Accounts) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Add { name, password } => accounts.add(name, &password.0)?,
            Self::SetPassword { name, password } => accounts.set_password(name, &password.0)?,
            Self::Remove { name } => accounts.remove(name)?,
            Self::List => return accounts.names(),
        }
        Ok(Vec::new())
    }
}

/// The name of a store that one process has alone, the same for all processes. Other stores need none:
/// each may use them.
pub(crate) fn held_store(location: &Location) -> Option<String> {
    let Location::Embedded(path) = location else { return None };
    Some(format!("embedded:{}", resolved(path)?.to_str()?))
}

/// The file that is meant, which need not be there yet.
fn resolved(path: &Path) -> Option<PathBuf> {
    if let Ok(path) = path.canonicalize() {
        return Some(path);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Some(folder.unwrap_or(Path::new(".")).canonicalize().ok()?.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_name_however_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.redb");
        let name = |path: &Path| held_store(&Location::Embedded(path.to_owned()));
        let before = name(&path);
        assert!(before.as_ref().is_some_and(|name| name.ends_with("users.redb")), "{before:?}");
        std::fs::write(&path, "").unwrap();
        assert_eq!(name(&path), before, "whether the file is there or not");
        std::fs::create_dir(folder.path().join("in")).unwrap();
        assert_eq!(name(&folder.path().join("in/../users.redb")), before);
        assert_ne!(name(&folder.path().join("other.redb")), before);
        assert!(name(Path::new("here.redb")).unwrap().len() > "embedded:here.redb".len());
        assert_eq!(name(&folder.path().join("no/such/users.redb")), None);
        assert_eq!(held_store(&"redis:redis://x".parse().unwrap()), None);
    }

    #[test]
    fn no_log_shows_a_password() {
        let task = Task::Add { name: "a".to_owned(), password: Password("secret".to_owned()) };
        assert!(!format!("{task:?}").contains("secret"));
        assert!(serde_json::to_string(&task).unwrap().contains("secret"), "but the channel does");
    }
}
