//! What carries the control channel: a socket in the file system, or a named pipe.
//!
//! Both give the same few functions and types: `default_place`, `live_places`, `connect`, [`Listener`],
//! and a [`Stream`] of bytes whose reads and writes fail once its deadline has passed.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use wharf::port::peer;

#[cfg(unix)]
#[path = "transport/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "transport/windows.rs"]
mod system;

pub(super) use system::{Listener, Stream, default_place, live_places};

/// Reaches the server whose channel this is, if it is one of this user: whoever was first with the name
/// may wait there for passwords.
///
/// # Errors
/// Nobody answers, or somebody else's process does.
pub(super) fn connect(path: &Path) -> Result<Stream> {
    connect_as(&peer::this_user().context("cannot tell which user this is")?, path)
}

fn connect_as(user: &str, path: &Path) -> Result<Stream> {
    let stream = system::connect(path)?;
    let shown = path.display();
    let found = stream.user().with_context(|| format!("whose server answers at {shown}"))?;
    if found != user {
        bail!(
            "the server at {shown} is of user {found}, and this is user {user}: nobody else's server is \
             told anything"
        );
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_another_user_is_told_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = if cfg!(windows) {
            let name = folder.path().file_name().unwrap().to_string_lossy();
            format!(r"\\.\pipe\wharf-test{name}").into()
        } else {
            folder.path().join("c.sock")
        };
        let listener = Listener::bind(&path).unwrap();
        let _own = connect(&path).unwrap();
        let _accepted = listener.accept().unwrap(); // a pipe has no place for two that wait
        let error = connect_as("S-1-5-18", &path).unwrap_err().to_string();
        assert!(error.contains("and this is user S-1-5-18"), "{error}");
    }
}
