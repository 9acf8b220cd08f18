//! `wharf serve`: raises limits, starts the server, says that it is there, waits for its end.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use wharf::{CloseReason, Report, on_signal};

use crate::control::{self, Channel, Controls};
use crate::drain::Drain;
use crate::metrics::{self, Metrics};
use crate::network::{self, Running};
use crate::reload::Reload;
use crate::settings::{Control, Loaded, LogFormat, Settings, Sources};
use crate::{announce, content, descriptors, logging};

/// Serves until it is told to end: by a signal, or through the control channel.
///
/// # Errors
/// If the server cannot start, or fails before it is told to stop.
pub(crate) fn run(loaded: Loaded, sources: Sources) -> Result<ExitCode> {
    let settings = loaded.settings;
    logging::init(&settings.server)?;
    let limit = match descriptors::raise(u64::from(settings.server.max_sessions)) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit on open descriptors could not be raised");
            descriptors::limit()
        }
    };
    let allowed = limit.and_then(|limit| limit.soft);
    let mut running = network::start(&settings, allowed)?;
    let drain = Drain::new(running.handle.clone(), settings.server.drain_timeout);
    let signalled = Arc::clone(&drain);
    on_signal(move || signalled.begin(None, "a signal; a second one ends at once"))?;
    let metrics = match settings.server.metrics.0 {
        Some(address) => {
            let engine = network::engine_choice(settings.server.engine);
            Some(metrics::start(address, engine, &running.handle, &drain)?)
        }
        None => None,
    };
    running.serving.metrics = metrics.as_ref().map(Metrics::address);
    let channel = open_channel(&settings, sources, &running, &drain)?;
    announce(&running.serving, &settings, allowed);
    let mut output = io::stdout().lock();
    writeln!(output, "{}", announce::ready_line(&running.serving, std::process::id()))
        .and_then(|()| output.flush())
        .context("writing the ready line to standard output")?;
    drop(output);
    let report = drain.join(settings.server.log_format)?;
    drop(channel);
    if let Some(metrics) = metrics {
        metrics.end();
    }
    log_end(&report, running.ignored.load(Ordering::Relaxed));
    Ok(ExitCode::SUCCESS)
}

/// Opens the control channel, if there is to be one. A server that was not told where does without,
/// if it cannot have the default place.
fn open_channel(
    settings: &Settings,
    sources: Sources,
    running: &Running,
    drain: &Arc<Drain>,
) -> Result<Option<Channel>> {
    let controls = Controls {
        handle: running.handle.clone(),
        drain: Arc::clone(drain),
        reload: Mutex::new(Reload::new(sources, settings.clone())),
        users: running.chat.as_ref().and_then(|chat| {
            let store = content::held_store(settings)?;
            Some((store, Mutex::new(chat.accounts().clone())))
        }),
    };
    let port = running.handle.local_addrs().first().map_or(0, |address| address.port());
    let open = |path: &Path| control::serve(path, controls);
    match control::place_of(&settings.server.control, port) {
        Ok(None) => Ok(None),
        Ok(Some(path)) => match open(&path) {
            Err(error) if settings.server.control == Control::Auto => without_channel(&error),
            opened => opened.map(Some),
        },
        Err(error) => without_channel(&error),
    }
}

fn without_channel(error: &anyhow::Error) -> Result<Option<Channel>> {
    let error = format!("{error:#}");
    tracing::warn!(error, "no control channel: `wharf sessions` and the like cannot reach this");
    Ok(None)
}

fn log_end(report: &Report, frames_ignored: u64) {
    let stats = &report.stats;
    let closed: Vec<String> = CloseReason::ALL
        .into_iter()
        .filter(|reason| stats.closed_for(*reason) > 0)
        .map(|reason| format!("{reason}={}", stats.closed_for(reason)))
        .collect();
    tracing::info!(
        accepted = stats.accepted,
        refused = stats.refused,
        closed = closed.join(","),
        frames_received = stats.frames_received,
        frames_sent = stats.frames_sent,
        frames_ignored,
        sends = stats.sends,
        system_calls = stats.system_calls,
        bytes_lost = stats.bytes_lost,
        "drained"
    );
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
