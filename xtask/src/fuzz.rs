//! `cargo xtask fuzz`: every fuzz target for a while, from the corpus in the repository.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::Cmd;

/// As a step of `ci`: the corpus, and a few seconds of new inputs for each target.
pub(crate) fn short(root: &Path) -> Result<()> {
    run_for(root, 8)
}

/// # Errors
/// An input fails: libFuzzer has shown it, and the command that repeats it.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    match args {
        [] => run_for(root, 60),
        [seconds] => {
            let wanted = seconds.parse().with_context(|| format!("`{seconds}` is no number"))?;
            run_for(root, wanted)
        }
        _ => bail!("fuzz takes nothing but how many seconds for each target"),
    }
}

fn run_for(root: &Path, seconds: u32) -> Result<()> {
    let folder = root.join("fuzz");
    Cmd::line(&folder, "cargo fmt --check").run()?;
    install(root)?;
    let targets = targets(&folder)?;
    for target in &targets {
        println!("{target}: {seconds} s beyond its corpus");
        // New inputs go to the first folder, so that a run changes nothing in the repository.
        let found = folder.join("target/found").join(target);
        fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        Cmd::line(&folder, "cargo fuzz run")
            .args([target.as_str(), &found.display().to_string(), &format!("corpus/{target}")])
            .args(["--", &format!("-max_total_time={seconds}"), "-timeout=60", "-verbosity=0"])
            // The fuzzer's flags are unstable ones of the stable toolchain.
            .env("RUSTC_BOOTSTRAP", "1")
            .limit_minutes(20 + u64::from(seconds) / 60)
            .run()?;
    }
    Ok(())
}

/// One for each file; one without inputs to begin with finds little in a few seconds.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(folder.join("fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a file")?.to_string_lossy().into_owned();
        let corpus = folder.join("corpus").join(&name);
        ensure!(corpus.is_dir(), "{} is missing", corpus.display());
        targets.push(name);
    }
    ensure!(!targets.is_empty(), "there is no fuzz target");
    targets.sort();
    Ok(targets)
}

fn install(root: &Path) -> Result<()> {
    let there = Command::new("cargo-fuzz").arg("--version").output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    println!("installing cargo-fuzz");
    // It only calls cargo: optimising it takes longer than it ever runs.
    Cmd::line(root, "cargo install --locked --quiet --debug cargo-fuzz").run()
}
