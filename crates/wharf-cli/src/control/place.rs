//! Where the control channel is: what the setting `server.control` says, the default, and which
//! servers have one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::transport;
use crate::settings::Control;

/// The place of a server's channel; `None`: it has none. `port` tells servers of one user apart.
///
/// # Errors
/// The default folder cannot be made, or is not this user's alone.
pub(crate) fn of_server(control: &Control, port: u16) -> Result<Option<PathBuf>> {
    match control {
        Control::Off => Ok(None),
        Control::At(path) => Ok(Some(path.clone())),
        Control::Auto => transport::default_place(port).map(Some),
    }
}

/// The channel of the server that is meant: the one that is named, or the only one that this user
/// has running.
///
/// # Errors
/// None is running, or several; says which.
pub(crate) fn of_client(control: &Control) -> Result<PathBuf> {
    match control {
        Control::Off => {
            bail!("`server.control` is \"off\" here: name the server's channel with --control PATH")
        }
        Control::At(path) => Ok(path.clone()),
        Control::Auto => only(transport::live_places()?),
    }
}

/// The channels of servers of which one may have what is looked for.
pub(crate) fn that_may_be(control: &Control) -> Vec<PathBuf> {
    match control {
        Control::Off => Vec::new(),
        Control::At(path) => vec![path.clone()],
        // Where they cannot be found, there is none to ask.
        Control::Auto => transport::live_places().unwrap_or_default(),
    }
}

fn only(mut live: Vec<PathBuf>) -> Result<PathBuf> {
    live.sort();
    match &live[..] {
        [] => bail!(
            "no running server of this user was found; one that was started with `--control PATH`, \
             or by another user, must be named with the same --control PATH"
        ),
        [_] => Ok(live.remove(0)),
        several => {
            let list = several.iter().map(|path| format!("\n  --control {}", shown(path)));
            bail!("{} servers are running; name one:{}", several.len(), list.collect::<String>())
        }
    }
}

/// A path as it can be pasted into a shell, where that is simple.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(' ') { format!("'{text}'") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_is_meant_and_of_several_one_is_to_be_named() {
        let path = |name: &str| PathBuf::from(name);
        assert_eq!(only(vec![path("/run/9000.sock")]).unwrap(), path("/run/9000.sock"));
        assert!(only(Vec::new()).unwrap_err().to_string().contains("no running server"));
        let several = only(vec![path("/run/b x"), path("/run/a")]).unwrap_err().to_string();
        assert_eq!(
            several,
            "2 servers are running; name one:\n  --control /run/a\n  --control '/run/b x'"
        );
    }

    #[test]
    fn a_channel_that_is_off_is_nowhere() {
        assert_eq!(of_server(&Control::Off, 1).unwrap(), None);
        assert!(of_client(&Control::Off).unwrap_err().to_string().contains("--control PATH"));
        let at = Control::At(PathBuf::from("/x"));
        assert_eq!(of_server(&at, 1).unwrap(), Some(PathBuf::from("/x")));
        assert_eq!(of_client(&at).unwrap(), PathBuf::from("/x"));
    }
}
