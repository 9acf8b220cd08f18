//! `cargo xtask plant`: do the simulations find faults? Breaks one rule at a time in a copy of the
//! workspace, runs the simulations until a seed fails, and writes `docs/planted-faults.md`.
//!
//! The faults are in `xtask/plants.toml`: a file, the text that is there, and what stands there
//! instead. `cargo xtask tidy` looks that each still finds its text.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{process::Cmd, seeds::SIMULATIONS};

#[derive(Deserialize)]
struct Plants {
    plant: Vec<Plant>,
}

/// One fault.
#[derive(Deserialize)]
struct Plant {
    /// What was broken, in words.
    name: String,
    file: PathBuf,
    old: String,
    new: String,
}

/// How a fault was found.
struct Found {
    test: String,
    seed: Option<u64>,
    took: Duration,
}

const LIST: &str = "xtask/plants.toml";
const PAGE: &str = "docs/planted-faults.md";
/// In slices, so that a fault which every seed shows is found at once.
const SLICES: [(u64, u64); 3] = [(0, 50), (50, 500), (500, 2000)];

/// # Errors
/// A fault is found by no seed, or no longer fits the code.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let plants = read(root)?;
    let chosen: Vec<&Plant> = match args {
        [] => plants.iter().collect(),
        [words] => plants.iter().filter(|plant| plant.name.contains(words)).collect(),
        _ => bail!("plant takes nothing, or a part of one fault's name"),
    };
    ensure!(!chosen.is_empty(), "no fault in {LIST} is named like that");
    let copy = root.join("target/planted");
    copy_workspace(root, &copy)?;
    let (mut rows, mut missed) = (Vec::new(), Vec::new());
    for (index, plant) in chosen.iter().enumerate() {
        println!("{} of {}: {}", index + 1, chosen.len(), plant.name);
        let planted = plant.apply(root)?;
        let file = copy.join(&plant.file);
        fs::write(&file, planted).with_context(|| file.display().to_string())?;
        let found = find(&copy);
        fs::copy(root.join(&plant.file), &file).with_context(|| file.display().to_string())?;
        match found.with_context(|| plant.name.clone())? {
            Some(found) => {
                let seed = found.seed.map_or_else(|| "any".to_owned(), |seed| seed.to_string());
                println!("  {} (seed {seed}), {:.1} s", found.test, found.took.as_secs_f64());
                let took = found.took.as_secs_f64();
                rows.push(format!("| {} | `{}` | {seed} | {took:.1} |", plant.name, found.test));
            }
            None => missed.push(plant.name.as_str()),
        }
    }
    ensure!(missed.is_empty(), "no seed below 2,000 finds: {}", missed.join("; "));
    if args.is_empty() {
        fs::write(root.join(PAGE), page(&rows)).context(PAGE)?;
        println!("{PAGE} is written");
    }
    Ok(())
}

/// Whether every fault still fits the code.
///
/// # Errors
/// One does not, with its name.
pub(crate) fn check(root: &Path) -> Result<()> {
    for plant in read(root)? {
        plant.apply(root)?;
    }
    Ok(())
}

fn read(root: &Path) -> Result<Vec<Plant>> {
    let text = fs::read_to_string(root.join(LIST)).context(LIST)?;
    let plants: Plants = toml::from_str(&text).context(LIST)?;
    let names: BTreeSet<&str> = plants.plant.iter().map(|plant| plant.name.as_str()).collect();
    ensure!(names.len() == plants.plant.len(), "{LIST} has one name twice");
    Ok(plants.plant)
}

impl Plant {
    /// The file's text with the fault in it.
    fn apply(&self, root: &Path) -> Result<String> {
        let path = root.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let places = text.matches(self.old.as_str()).count();
        ensure!(
            places == 1,
            "{LIST}: the text of `{}` is {places} times in {}, not once",
            self.name,
            self.file.display()
        );
        Ok(text.replacen(self.old.as_str(), &self.new, 1))
    }
}

/// What git knows, so that nothing is built twice but what a fault changes.
fn copy_workspace(root: &Path, copy: &Path) -> Result<()> {
    let files = Cmd::line(root, "git ls-files").output()?;
    for file in files.lines().filter(|file| !file.starts_with("fuzz/corpus/")) {
        let (from, to) = (root.join(file), copy.join(file));
        let content = match fs::read(&from) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| from.display().to_string()),
        };
        if fs::read(&to).is_ok_and(|there| there == content) {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::write(&to, content).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

fn cargo_test(copy: &Path, simulation: &str) -> Cmd {
    // The simulations are the same at any optimisation; a little of it builds fastest in all.
    Cmd::line(copy, "cargo test --locked -q")
        .args(simulation.split_whitespace())
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_TARGET_DIR", copy.join("target").display().to_string())
        .limit_minutes(5)
}

/// The first slice of seeds and the first simulation in it that fails.
fn find(copy: &Path) -> Result<Option<Found>> {
    let mut took = Duration::ZERO;
    for (from, to) in SLICES {
        // The faults are in the library; its own simulations have to find them.
        for simulation in SIMULATIONS.iter().filter(|of| of.starts_with("-p wharf ")) {
            cargo_test(copy, simulation).arg("--no-run").output()?;
            let start = Instant::now();
            let ran = cargo_test(copy, simulation).env("WHARF_SEEDS", format!("{from}..{to}"));
            let failure = ran.output().err();
            took += start.elapsed();
            if let Some(failure) = failure {
                let said = format!("{failure:#}");
                let test = failed_test(&said).unwrap_or_else(|| "does not end".to_owned());
                return Ok(Some(Found { test, seed: failed_seed(&said), took }));
            }
        }
    }
    Ok(None)
}

/// The first name under `failures:` in what the test harness says.
fn failed_test(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.strip_prefix("---- "))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// As `wharf::testing::for_seeds` says it.
fn failed_seed(said: &str) -> Option<u64> {
    let says = |line: &str| line.strip_prefix("seed ")?.split_once(" fails;")?.0.parse().ok();
    said.lines().find_map(says)
}

fn page(rows: &[String]) -> String {
    let mut page = String::from(
        "# Planted faults\n\nDo the simulations find what they are for? Each line is one rule of the \
         server broken on\npurpose, the simulation that failed, the first seed that showed it (`any` \
         where a test without\nseeds was faster), and the seconds until then, with a build that is \
         optimised little. Written by\n`cargo xtask plant`, which does it again; the faults \
         themselves are in\n[xtask/plants.toml](../xtask/plants.toml).\n\n\
         | what was broken | found by | seed | seconds |\n|---|---|---|---|\n",
    );
    rows.iter().for_each(|row| writeln!(page, "{row}").expect("a string takes it"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_read_from_what_the_tests_say() {
        let said = "\
running 6 tests\n..F\nfailures:\n\n---- sim_tests::a_drain_at_any_moment stdout ----\n\
thread 'x' panicked at a seed of doubt\nseed 17 fails; to repeat it: WHARF_SEED=17 cargo test x\n";
        assert_eq!(failed_test(said).as_deref(), Some("sim_tests::a_drain_at_any_moment"));
        assert_eq!(failed_seed(said), Some(17));
        assert_eq!(failed_test("took longer than 5 minutes"), None);
        assert_eq!(failed_seed("no such words"), None);
    }
}
