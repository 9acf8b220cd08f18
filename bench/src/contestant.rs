//! The servers that are compared, each a command that prints a line beginning with `ready`.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::load::Framing;
use crate::peer::Peer;

/// The contestant that all others are set in relation to.
pub const FLOOR: &str = "floor";
/// The longest body that wharf takes in its default setting.
const WHARF_BODY_BYTES_DEFAULT: usize = 8 * 1024;

/// One server under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contestant {
    /// The name in the tables.
    pub name: String,
    /// What the load generator speaks to it.
    pub framing: Framing,
    /// Program and arguments; `{size}` stands for the cell's body bytes, `{core}` for the
    /// server's core.
    pub command: Vec<String>,
    /// Arguments added for bodies larger than the server takes by itself.
    pub large_body_arguments: Vec<String>,
}

impl Contestant {
    /// The command for one cell.
    pub fn command_for(&self, cell: Cell, core: usize) -> Vec<String> {
        let large = cell.size > WHARF_BODY_BYTES_DEFAULT;
        let extra = if large { &self.large_body_arguments[..] } else { &[] };
        self.command
            .iter()
            .chain(extra)
            .map(|word| {
                word.replace("{size}", &cell.size.to_string()).replace("{core}", &core.to_string())
            })
            .collect()
    }
}

/// All that can be named with `--contestants`, in the order of the tables and of a round: the floor and
/// wharf run right after one another.
pub fn known(own_program: &str, wharf: &Path, wharf_arguments: &[String]) -> Vec<Contestant> {
    let peers = Peer::value_variants().iter().filter_map(Peer::to_possible_value);
    let mut known: Vec<Contestant> = peers
        .map(|peer| Contestant {
            name: peer.get_name().to_owned(),
            framing: Framing::Raw,
            command: [own_program, "peer", peer.get_name(), "127.0.0.1:0", "{core}"]
                .map(str::to_owned)
                .to_vec(),
            large_body_arguments: Vec::new(),
        })
        .collect();
    for (place, name, framing) in
        [(1, "wharf-raw", Framing::Raw), (2, "wharf-study", Framing::Study)]
    {
        let listen = if framing == Framing::Raw { "raw@127.0.0.1:0" } else { "study@127.0.0.1:0" };
        let program = wharf.to_string_lossy();
        let mut command: Vec<String> =
            [&program, "serve", "--chat", "off", "--echo", listen, "--workers", "1"]
                .map(str::to_owned)
                .to_vec();
        command.extend_from_slice(wharf_arguments);
        let own = Contestant {
            name: name.to_owned(),
            framing,
            command,
            large_body_arguments: ["--limits-frame-bytes-max", "64KiB"].map(str::to_owned).to_vec(),
        };
        known.insert(place, own);
    }
    known
}

/// `NAME=FRAMING:COMMAND`, a contestant that is not known.
impl FromStr for Contestant {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Contestant> {
        let shape = "an extra contestant is NAME=FRAMING:'COMMAND', FRAMING being raw or study";
        let (name, rest) = text.split_once('=').context(shape)?;
        let (framing, command) = rest.split_once(':').context(shape)?;
        let framing = match Framing::from_str(framing, false) {
            Ok(framing) => framing,
            Err(_) => bail!("`{framing}` is no framing; {shape}"),
        };
        let command = shell_words::split(command).context("the extra contestant's command")?;
        if name.is_empty() || command.is_empty() {
            bail!(shape);
        }
        let name = name.to_owned();
        Ok(Contestant { name, framing, command, large_body_arguments: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_contestant_is_read() {
        let extra: Contestant =
            "poll=study:wharf serve --engine 'po ll' --echo study@127.0.0.1:0".parse().unwrap();
        assert_eq!((extra.name.as_str(), extra.framing), ("poll", Framing::Study));
        assert_eq!(
            extra.command,
            ["wharf", "serve", "--engine", "po ll", "--echo", "study@127.0.0.1:0"]
        );
        for wrong in ["", "name", "name=raw", "name=lines:x", "=raw:x", "name=raw:", "n=raw:'x"] {
            assert!(wrong.parse::<Contestant>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_large_bodies_raise_the_limit() {
        let known = known("bench", Path::new("wharf"), &["--engine".into(), "poll".into()]);
        let raw = known.iter().find(|known| known.name == "wharf-raw").unwrap();
        let small = raw.command_for("50x1x32".parse().unwrap(), 0).join(" ");
        assert_eq!(
            small,
            "wharf serve --chat off --echo raw@127.0.0.1:0 --workers 1 --engine poll"
        );
        let large = raw.command_for("50x1x16384".parse().unwrap(), 0).join(" ");
        assert_eq!(large, format!("{small} --limits-frame-bytes-max 64KiB"));
        let floor = known[0].command_for("50x1x16384".parse().unwrap(), 3).join(" ");
        assert_eq!(floor, "bench peer floor 127.0.0.1:0 3");
    }
}
