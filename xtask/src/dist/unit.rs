//! Whether the files in `packaging/` fit the program that they start: its limits grow, and a unit that
//! was right a year ago cuts off its drain.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::UNIT;
use crate::process::Cmd;

const INSTALLED: &str = "/usr/local/bin/wharf";
/// Descriptors that are no session's: listeners, rings, logs, the control channel.
const OTHER_DESCRIPTORS: u64 = 512;
/// What ending takes besides the drain: its last sends, threads that join, a log that is written.
const ENDING: Duration = Duration::from_secs(5);

/// # Errors
/// A number of the unit or the container does not fit the program's defaults, the file of settings is
/// not one, or systemd does not understand the unit.
pub(super) fn check(root: &Path, program: &Path) -> Result<()> {
    let settings = root.join("packaging/wharf.toml");
    let printed = Cmd::new(root, program.display().to_string())
        .args(["serve", "--print-config", "--config", &settings.display().to_string()])
        .output()?;
    let defaults = Defaults::read(&printed)?;
    let unit = fs::read_to_string(root.join(UNIT.1)).context(UNIT.1)?;
    check_unit(&unit, &defaults).context(UNIT.1)?;
    let container = fs::read_to_string(root.join("packaging/Dockerfile"))?;
    check_container(&container, env!("CARGO_PKG_RUST_VERSION")).context("packaging/Dockerfile")?;
    verify(&unit, program)
}

#[derive(Deserialize)]
struct Defaults {
    server: ServerDefaults,
}

#[derive(Deserialize)]
struct ServerDefaults {
    max_sessions: u64,
    drain_timeout: String,
}

impl Defaults {
    fn read(printed: &str) -> Result<Defaults> {
        toml::from_str(printed).context("what --print-config says")
    }
}

fn check_unit(unit: &str, defaults: &Defaults) -> Result<()> {
    let value = |key: &str| -> Result<&str> {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let value = values.next().with_context(|| format!("{key} is missing"))?;
        ensure!(values.next().is_none(), "{key} is there twice");
        Ok(value)
    };
    let descriptors: u64 = value("LimitNOFILE")?.parse().context("LimitNOFILE")?;
    let sessions = defaults.server.max_sessions;
    ensure!(
        descriptors >= sessions + OTHER_DESCRIPTORS,
        "LimitNOFILE={descriptors} is too few for {sessions} sessions"
    );
    let stop = seconds(value("TimeoutStopSec")?)?;
    let drain = seconds(&defaults.server.drain_timeout)?;
    ensure!(
        stop >= drain + ENDING,
        "TimeoutStopSec is {stop:?}: systemd would cut off a drain of {drain:?}"
    );
    for (key, wanted) in [
        ("ExecStart", format!("{INSTALLED} serve")),
        ("ExecReload", format!("{INSTALLED} reload")),
        // A server that has no way to tell systemd that it is ready.
        ("Type", "exec".to_owned()),
        // To all processes at once, the signal could count twice.
        ("KillMode", "mixed".to_owned()),
    ] {
        ensure!(value(key)? == wanted, "{key} is not `{wanted}`");
    }
    let calls = value("SystemCallFilter")?;
    let allows_uring = !calls.starts_with('~') && calls.split(' ').any(|group| group == "@aio");
    ensure!(allows_uring, "SystemCallFilter={calls} refuses io_uring");
    Ok(())
}

fn seconds(text: &str) -> Result<Duration> {
    let number = text.strip_suffix('s').with_context(|| format!("`{text}` is not in seconds"))?;
    Ok(Duration::from_secs(number.parse().with_context(|| text.to_owned())?))
}

fn check_container(file: &str, rust_version: &str) -> Result<()> {
    let line = |start: &str| file.lines().find_map(|line| line.strip_prefix(start));
    let version = line("FROM rust:").context("no stage with Rust")?;
    let minor = |text: &str| text.split(['.', '-']).nth(1).and_then(|it| it.parse::<u32>().ok());
    ensure!(
        minor(version).context("Rust's version")? >= minor(rust_version).context("rust-version")?,
        "Rust {version} is older than {rust_version}"
    );
    ensure!(line("STOPSIGNAL ") == Some("SIGTERM"), "STOPSIGNAL is not the one that drains");
    ensure!(line("USER ").is_some(), "it runs as root");
    Ok(())
}

/// With systemd's own eyes, where the machine has them.
fn verify(unit: &str, program: &Path) -> Result<()> {
    let there = Command::new("systemd-analyze").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!("note: no systemd-analyze here: the unit is checked for its numbers alone");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("wharf.service");
    // It looks whether the program is there.
    fs::write(&path, unit.replace(INSTALLED, &program.display().to_string()))?;
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&path)
        .output()?;
    let said = String::from_utf8_lossy(&verify.stderr);
    if !verify.status.success() || said.contains("wharf.service") {
        bail!("systemd-analyze verify: {}\n{said}", verify.status);
    }
    println!("systemd-analyze understands the unit");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "Type=exec\nExecStart=/usr/local/bin/wharf serve\n\
        ExecReload=/usr/local/bin/wharf reload\nKillMode=mixed\nTimeoutStopSec=30s\n\
        LimitNOFILE=65536\nSystemCallFilter=@system-service @aio\n";
    const DOCKERFILE: &str = "FROM rust:1.95-bookworm AS build\nUSER 999\nSTOPSIGNAL SIGTERM\n";

    fn defaults(sessions: u64, drain: &str) -> Defaults {
        let text =
            format!("[server]\nmax_sessions = {sessions}\ndrain_timeout = \"{drain}\"\nx = 1");
        Defaults::read(&text).unwrap()
    }

    fn refuse(result: Result<()>, expected: &str) {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_unit_that_does_not_fit_the_program_is_refused() {
        check_unit(UNIT, &defaults(50_000, "10s")).unwrap();
        refuse(check_unit(UNIT, &defaults(65_500, "10s")), "too few for 65500 sessions");
        refuse(check_unit(UNIT, &defaults(50_000, "30s")), "would cut off a drain");
        for (from, to, expected) in [
            ("LimitNOFILE", "Limit", "LimitNOFILE is missing"),
            ("mixed", "control-group", "KillMode"),
            ("wharf reload", "kill", "ExecReload"),
            (" @aio", "", "refuses io_uring"),
            ("=@system-service", "=~@system-service", "refuses io_uring"),
            ("30s", "1min", "not in seconds"),
            ("Type=exec", "Type=notify", "Type"),
        ] {
            refuse(check_unit(&UNIT.replace(from, to), &defaults(50_000, "10s")), expected);
        }
    }

    #[test]
    fn a_container_with_an_old_rust_or_the_wrong_signal_is_refused() {
        check_container(DOCKERFILE, "1.95").unwrap();
        refuse(check_container(DOCKERFILE, "1.96"), "older than 1.96");
        refuse(check_container(&DOCKERFILE.replace("TERM", "KILL"), "1.95"), "STOPSIGNAL");
        refuse(check_container(&DOCKERFILE.replace("USER", "#"), "1.95"), "root");
    }
}
