//! `wharf bench echo`: closed-loop load that verifies every byte.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::load;
use crate::settings::{Bytes, Engine, Framing, parse_value};

/// What to load and how hard.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    pub(crate) addr: SocketAddr,
    /// How the server cuts bytes into frames
    #[arg(long, value_enum, default_value = "study")]
    pub(crate) framing: Framing,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// Payload of one message, such as `64` or `4KiB`
    #[arg(long, value_name = "SIZE", default_value = "64", value_parser = |text: &str| parse_value::<Bytes>(text, "bytes"))]
    pub(crate) size: Bytes,
    /// Messages under way per connection
    #[arg(long, value_name = "P", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// How long to measure, such as `10s`; a plain number counts seconds
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = |text: &str| parse_value::<Duration>(text, "s"))]
    pub(crate) duration: Duration,
    /// How long to load before measuring
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = |text: &str| parse_value::<Duration>(text, "s"))]
    pub(crate) warmup: Duration,
    /// How long to wait at the end for answers that are still under way
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = |text: &str| parse_value::<Duration>(text, "s"))]
    pub(crate) grace: Duration,
    /// Threads of the load itself [default: half of the processors, for the server may need the rest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) workers: Option<u8>,
    /// The completion engine of the load itself
    #[arg(long, value_enum, default_value = "auto", env = "WHARF_ENGINE", hide_env_values = true)]
    pub(crate) engine: Engine,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the load; fails if any byte that came back was wrong, 2 if the options cannot go together.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Err(mistake) = load::check(options) {
        eprintln!("error: {mistake}");
        return Ok(ExitCode::from(2));
    }
    let is_right = load::run(options)?;
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
