//! `wharf serve`: raises limits, starts the server, says that it is there, waits for its end.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::settings::{LogFormat, Settings};
use crate::{announce, descriptors, logging, network};

/// Serves until a signal ends it.
///
/// # Errors
/// If the server cannot start, or fails before it is told to stop.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    logging::init(&settings.server)?;
    let limit = match descriptors::raise(u64::from(settings.server.max_sessions)) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit on open descriptors could not be raised");
            descriptors::limit()
        }
    };
    let allowed = limit.and_then(|limit| limit.soft);
    let running = network::start(settings, allowed)?;
    announce(&running.serving, settings, allowed);
    let mut output = io::stdout().lock();
    writeln!(output, "{}", announce::ready_line(&running.serving, std::process::id()))
        .and_then(|()| output.flush())
        .context("writing the ready line to standard output")?;
    drop(output);
    (running.join)()?;
    Ok(ExitCode::SUCCESS)
}

/// Tells people what is served, or, where a collector reads along, logs it.
fn announce(serving: &announce::Serving, settings: &Settings, descriptors: Option<u64>) {
    if settings.server.log_format == LogFormat::Json {
        let engine = &serving.engine_detail;
        let (workers, sessions) = (serving.workers, serving.max_sessions);
        tracing::info!(engine, workers, sessions, version = env!("CARGO_PKG_VERSION"), "serving");
    } else {
        // Where nobody can read it, the server goes on.
        let _ = io::stderr().write_all(announce::banner(serving, settings, descriptors).as_bytes());
    }
}
