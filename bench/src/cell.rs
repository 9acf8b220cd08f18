//! The cells of the comparison: how many connections, how deep, how large.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Connections, all open at once.
    pub connections: usize,
    /// Messages on the way per connection.
    pub depth: usize,
    /// Bytes of a body.
    pub size: usize,
}

/// What is measured if nothing is chosen.
pub const DEFAULT_CELLS: &str = "50x1x32,50x16x32,1000x1x32,50x1x16384";

impl FromStr for Cell {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Cell> {
        let numbers: Vec<usize> = text
            .split('x')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("`{text}` is not CONNECTIONSxDEPTHxSIZE"))?;
        match numbers[..] {
            [connections, depth, size] if connections > 0 && depth > 0 && size > 0 => {
                Ok(Cell { connections, depth, size })
            }
            _ => bail!("`{text}` is not CONNECTIONSxDEPTHxSIZE, such as 50x1x32"),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}x{}x{}", self.connections, self.depth, self.size)
    }
}

impl Cell {
    /// For headings.
    pub fn title(&self) -> String {
        format!("{} connections, depth {}, {} bytes", self.connections, self.depth, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_and_written_alike() {
        for text in DEFAULT_CELLS.split(',') {
            assert_eq!(text.parse::<Cell>().unwrap().to_string(), text);
        }
        for wrong in ["", "50", "50x1", "50x0x32", "50x1x32x4", "50x1xmany", "-1x1x1"] {
            assert!(wrong.parse::<Cell>().is_err(), "{wrong}");
        }
    }
}
