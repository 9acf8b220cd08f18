//! How many instructions a frame costs: the study echo on the simulated port under callgrind. Unlike a
//! time the count is the same on a busy machine, to the digit for one compiler. bench/README.md has
//! the counts that this is compared with.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::process::Cmd;

/// What is counted: a worker's turns, without what the simulated port does in them.
const COUNTED: [&str; 2] = ["wharf::worker::Worker::turn", "*SimPort*submit*"];
/// By how much a count may exceed the one that is written down.
const TOLERANCE_PERCENT: u64 = 3;
const BASELINE_FILE: &str = "bench/README.md";

/// # Errors
/// There is no valgrind, or a count exceeds what is written down.
pub(crate) fn run(root: &Path) -> Result<()> {
    let program = test_program(root)?;
    let of_1 = per_round(root, &program, 1)?;
    let of_16 = per_round(root, &program, 16)?;
    let counts = [
        ("a turn with one frame", of_1),
        ("each further frame", of_16.saturating_sub(of_1) / 15),
        ("a frame, 16 in a turn", of_16 / 16),
    ];
    let document = fs::read_to_string(root.join(BASELINE_FILE))?;
    let mut exceeded = Vec::new();
    for (what, count) in counts {
        println!("{what}: {count} instructions");
        let baseline = baseline(&document, what)
            .with_context(|| format!("{BASELINE_FILE} has no line `{what}: N instructions`"))?;
        if count * 100 > baseline * (100 + TOLERANCE_PERCENT) {
            exceeded.push(format!("{what}: {count} instead of {baseline}"));
        }
    }
    ensure!(exceeded.is_empty(), "more than {TOLERANCE_PERCENT} % above: {}", exceeded.join("; "));
    Ok(())
}

/// The tests of `wharf` in the release profile.
fn test_program(root: &Path) -> Result<String> {
    let messages = Cmd::line(root, "cargo test --locked --release -p wharf --lib --no-run")
        .arg("--message-format=json")
        .limit_minutes(15)
        .output()?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(message["executable"].as_str()?.to_owned())
    });
    programs.next_back().context("cargo names no program")
}

/// Of two thousand rounds and of one: what starting and ending costs is in both.
fn per_round(root: &Path, program: &str, depth: u32) -> Result<u64> {
    let more = counted(root, program, &format!("echo_2000_rounds_of_{depth}"))?;
    let fewer = counted(root, program, &format!("echo_1000_rounds_of_{depth}"))?;
    Ok(more.saturating_sub(fewer) / 1000)
}

fn counted(root: &Path, program: &str, test: &str) -> Result<u64> {
    let out = tempfile::NamedTempFile::new()?;
    let toggles = COUNTED.map(|function| format!("--toggle-collect={function}"));
    Cmd::line(root, "valgrind --quiet --tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .args(toggles)
        .args([program, "--exact", &format!("testing::instructions::{test}")])
        .output()
        .context("this needs valgrind, which every distribution packages")?;
    let profile = fs::read_to_string(out.path())?;
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.context("callgrind wrote no totals")?.trim().parse()?;
    ensure!(total > 0, "nothing was counted in {test}: has a function another name?");
    Ok(total)
}

/// The number in a line `WHAT: N instructions`.
fn baseline(document: &str, what: &str) -> Option<u64> {
    let line = document.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
    line?.strip_suffix(" instructions")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_is_a_line_of_the_document() {
        let document = "text\n\na frame, 16 in a turn: 400 instructions\neach frame: many\n";
        assert_eq!(baseline(document, "a frame, 16 in a turn"), Some(400));
        assert_eq!(baseline(document, "each frame"), None);
        assert_eq!(baseline(document, "a frame"), None);
    }
}
