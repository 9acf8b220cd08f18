//! Closed-loop echo load.

use anyhow::{Result, bail};

use crate::bench::Options;

/// Runs the echo load; whether every byte that came back was right.
pub(crate) fn run(_options: &Options) -> Result<bool> {
    bail!("not yet")
}
