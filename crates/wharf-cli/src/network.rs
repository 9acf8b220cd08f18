//! The one file that names the network library: what serving, loading and the doctor need of it.

use anyhow::{Result, bail};

use crate::announce::Serving;
use crate::bench;
use crate::settings::Settings;

/// A server that has started.
pub(crate) struct Running {
    /// What it serves, with port 0 resolved.
    pub(crate) serving: Serving,
    /// Waits until a signal has ended it and every session is drained.
    pub(crate) join: Box<dyn FnOnce() -> Result<()>>,
}

/// One engine: its name and what it offers here, or why it cannot be used.
pub(crate) type EngineProbe = (String, Result<String, String>);

/// Starts a server: all listeners are bound and accept when this returns.
pub(crate) fn start(_settings: &Settings) -> Result<Running> {
    bail!("this build of wharf has no network library")
}

/// Runs the echo load; whether every byte that came back was right.
pub(crate) fn bench_echo(_options: &bench::Options) -> Result<bool> {
    bail!("this build of wharf has no network library")
}

/// Tries every engine that this build has.
pub(crate) fn probe_engines() -> Vec<EngineProbe> {
    Vec::new()
}
