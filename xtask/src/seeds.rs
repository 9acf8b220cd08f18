//! `cargo xtask seeds N`: the simulations with many more seeds than `cargo test` takes.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::process::Cmd;

/// What is simulated: arguments of `cargo test`.
pub(crate) const SIMULATIONS: [&str; 5] = [
    "-p wharf --lib sim_tests",
    "-p wharf --test testing",
    "-p wharf --test simulated",
    "-p wharf --test logic",
    "-p wharf-chat --test simulated",
];

/// In one go of one program: its tests have one thread, and each processor has a program.
const SLICE: u64 = 250;

/// As a step of `ci`.
pub(crate) fn short(root: &Path) -> Result<()> {
    try_seeds(root, 0, 2_000)
}

/// # Errors
/// A seed fails: its test has said which, and how to repeat it.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let number = |text: &String| {
        text.replace('_', "").parse::<u64>().with_context(|| format!("`{text}` is not a number"))
    };
    match args {
        [count] => try_seeds(root, 0, number(count)?),
        [count, from, first] if from == "--from" => try_seeds(root, number(first)?, number(count)?),
        _ => bail!("seeds takes how many, and may take --from and the first one"),
    }
}

fn try_seeds(root: &Path, first: u64, count: u64) -> Result<()> {
    ensure!(count > 0, "no seed to try");
    let end = first.checked_add(count).context("there are no such seeds")?;
    let programs = build(root)?;
    let mut runs = Vec::new();
    for from in (first..end).step_by(SLICE as usize) {
        let seeds = format!("{from}..{}", end.min(from + SLICE));
        let run = |program: &Cmd| program.clone().env("WHARF_SEEDS", seeds.as_str());
        runs.extend(programs.iter().map(run));
    }
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:30} {percent} %  {eta} left");
        ProgressBar::new(runs.len() as u64).with_style(style.expect("the template is right"))
    });
    let all = runs.len();
    run_all(&runs, |done| match &bar {
        Some(bar) => bar.set_position(done as u64),
        None if done.is_multiple_of(programs.len()) => {
            println!("{count} seeds: {done} of {all} parts are done");
        }
        None => {}
    })
}

/// The programs of the tests, each with what chooses its simulations. Optimised, or most of the time
/// would be the compiler's missing work, but with all assertions.
fn build(root: &Path) -> Result<Vec<Cmd>> {
    let tests = "-p wharf -p wharf-chat --lib --test testing --test simulated --test logic";
    let said = Cmd::line(root, "cargo test --locked --profile seeds --no-run")
        .args("--message-format json".split(' ').chain(tests.split(' ')))
        .limit_minutes(20)
        .output()?;
    let built = programs(&said)?;
    SIMULATIONS.iter().map(|simulation| command(simulation, &built)).collect()
}

/// Of what cargo says as JSON: where the program is by its package's folder and its target.
fn programs(said: &str) -> Result<BTreeMap<(String, String), PathBuf>> {
    let mut built = BTreeMap::new();
    for line in said.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line)?;
        let target = message["target"]["name"].as_str();
        let (Some(program), Some(target)) = (message["executable"].as_str(), target) else {
            continue;
        };
        let manifest = message["manifest_path"].as_str().context("no manifest_path")?;
        let folder = Path::new(manifest).parent().context("a manifest is in a folder")?;
        let key = (folder.display().to_string(), target.to_owned());
        built.insert(key, PathBuf::from(program));
    }
    Ok(built)
}

fn command(simulation: &str, built: &BTreeMap<(String, String), PathBuf>) -> Result<Cmd> {
    let words: Vec<&str> = simulation.split(' ').collect();
    let (package, target, filter) = match words[..] {
        ["-p", package, "--lib", filter] => (package, package.replace('-', "_"), Some(filter)),
        ["-p", package, "--test", target] => (package, target.to_owned(), None),
        _ => bail!("`{simulation}` names no program of tests"),
    };
    let found = built
        .iter()
        .find(|((folder, name), _)| folder.ends_with(&format!("/{package}")) && *name == target);
    let ((folder, _), program) = found.with_context(|| format!("{simulation}: not built"))?;
    Ok(Cmd::new(Path::new(folder), program.display().to_string())
        .args(filter)
        .args(["-q", "--test-threads=1"])
        .limit_minutes(30))
}

/// As many at a time as there are processors; those that have not begun are left out after a failure.
fn run_all(runs: &[Cmd], done: impl Fn(usize) + Sync) -> Result<()> {
    let (next, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure = Mutex::new(None);
    let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while failed().is_none()
            && let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            match run.output() {
                Ok(_) => done(ended.fetch_add(1, Ordering::Relaxed) + 1),
                Err(error) => *failed() = Some(error),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    failed().take().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_the_program_that_cargo_names() {
        let said = "running\n\
            {\"reason\":\"compiler-artifact\",\"manifest_path\":\"/c/wharf/Cargo.toml\",\
            \"target\":{\"name\":\"wharf\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"manifest_path\":\"/c/wharf/Cargo.toml\",\
            \"target\":{\"name\":\"wharf\"},\"executable\":\"/t/wharf-1\"}\n\
            {\"reason\":\"compiler-artifact\",\"manifest_path\":\"/c/wharf-chat/Cargo.toml\",\
            \"target\":{\"name\":\"simulated\"},\"executable\":\"/t/simulated-2\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        let built = programs(said).unwrap();
        assert_eq!(built.len(), 2);
        let shown = |simulation: &str| command(simulation, &built).map(|it| it.to_string());
        let expected = "cd /c/wharf; /t/wharf-1 sim_tests -q --test-threads=1";
        assert_eq!(shown("-p wharf --lib sim_tests").unwrap(), expected);
        let expected = "cd /c/wharf-chat; /t/simulated-2 -q --test-threads=1";
        assert_eq!(shown("-p wharf-chat --test simulated").unwrap(), expected);
        assert!(shown("-p wharf --test simulated").is_err());
        assert!(shown("-p wharf").is_err());
    }

    #[test]
    fn a_failure_is_reported_and_ends_the_rest() {
        let sh = |script: &str| Cmd::new(Path::new("/"), "sh").args(["-c", script]);
        let ended = AtomicUsize::new(0);
        let count = |done| ended.store(done, Ordering::Relaxed);
        run_all(&[sh("true"), sh("true"), sh("true")], count).unwrap();
        assert_eq!(ended.load(Ordering::Relaxed), 3);
        let many = vec![sh("echo seed 17; false"); 1000];
        let error = run_all(&many, |_| panic!("none ends well")).unwrap_err().to_string();
        assert!(error.contains("seed 17"), "{error}");
    }
}
