//! `cargo xtask plant`: would the tests notice? Breaks one rule at a time in a copy of the workspace,
//! looks that what should fail then does, and writes `docs/planted-faults.md`.
//!
//! The faults are in `xtask/plants`: a file, the text that is there, and what stands there instead. One
//! that names tests takes out the rule which those guard (docs/guarantees.md), and each of them must
//! fail; any other must be found by some seed of the simulations. `cargo xtask tidy` looks that each
//! fault still finds its text, and that each guarantee's test is one that has to fail.

mod page;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use self::page::Page;
use crate::{process::Cmd, seeds::SIMULATIONS, tidy};

#[derive(Deserialize)]
struct List {
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
    /// Each of these must fail; where there are none, the simulations must find it.
    #[serde(default)]
    tests: Vec<String>,
    /// The name of the list that it is in.
    #[serde(skip)]
    list: String,
}

#[derive(Clone, Copy)]
enum Optimised {
    Not = 0,
    ALittle = 1,
}

/// How a fault was found.
struct Found {
    tests: Vec<String>,
    seed: Option<u64>,
    took: Duration,
}

const LISTS: [&str; 4] = ["sending", "sessions", "program", "simulations"];
/// In slices, so that a fault which every seed shows is found at once.
const SLICES: [(u64, u64); 3] = [(0, 50), (50, 500), (500, 2000)];
/// A build shares the machine with whatever else runs there.
const BUILD_MINUTES: u64 = 20;
/// A test that a fault makes wait for ever is ended, which is a failure as any other.
const TEST_MINUTES: u64 = 2;
/// As much for all simulations with a slice of seeds.
const SLICE_MINUTES: u64 = 5;

/// # Errors
/// A fault is not found, or no longer fits the code.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let plants = read(root)?;
    let mut page = Page::read(root)?;
    let chosen: Vec<&Plant> = match args {
        [] => plants.iter().collect(),
        [words] if words == "--missing" => {
            plants.iter().filter(|plant| !page.has(&plant.name)).collect()
        }
        [words] => plants.iter().filter(|plant| plant.is_meant(words)).collect(),
        _ => {
            bail!("plant takes nothing, --missing, a list's name, or a part of a fault's or test's")
        }
    };
    ensure!(!chosen.is_empty(), "no fault in xtask/plants is named like that");
    let copy = root.join("target/planted");
    copy_workspace(root, &copy)?;
    let mut missed = Vec::new();
    for (index, plant) in chosen.iter().enumerate() {
        println!("{} of {}: {}", index + 1, chosen.len(), plant.name);
        let planted = plant.apply(root)?;
        let file = copy.join(&plant.file);
        fs::write(&file, planted).with_context(|| file.display().to_string())?;
        let found = plant.find(root, &copy);
        fs::copy(root.join(&plant.file), &file).with_context(|| file.display().to_string())?;
        match found.with_context(|| plant.name.clone())? {
            Some(found) => {
                println!("  {found}");
                page.insert(&plant.name, &found);
            }
            None => {
                println!("  NOT FOUND");
                page.remove(&plant.name);
                missed.push(plant.name.as_str());
            }
        }
        // Each time, so that a run which is cut off loses one fault and not all of them.
        page.write(root, &plants)?;
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join("; "));
    Ok(())
}

/// Whether every fault still fits the code; the tests that have to fail.
///
/// # Errors
/// One does not, with its name.
pub(crate) fn check(root: &Path) -> Result<BTreeSet<String>> {
    let plants = read(root)?;
    for plant in &plants {
        plant.apply(root)?;
    }
    Ok(plants.into_iter().flat_map(|plant| plant.tests).collect())
}

fn read(root: &Path) -> Result<Vec<Plant>> {
    let mut plants = Vec::new();
    for name in LISTS {
        let path = root.join(format!("xtask/plants/{name}.toml"));
        let at = || path.display().to_string();
        let text = fs::read_to_string(&path).with_context(at)?;
        let list: List = toml::from_str(&text).with_context(at)?;
        plants.extend(list.plant.into_iter().map(|plant| Plant { list: name.into(), ..plant }));
    }
    let names: BTreeSet<&str> = plants.iter().map(|plant| plant.name.as_str()).collect();
    ensure!(names.len() == plants.len(), "xtask/plants has one name twice");
    Ok(plants)
}

impl Plant {
    fn is_meant(&self, words: &str) -> bool {
        let tests = self.tests.iter().any(|test| test.contains(words));
        self.list == words || self.name.contains(words) || tests
    }

    /// The file's text with the fault in it.
    fn apply(&self, root: &Path) -> Result<String> {
        let path = root.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let places = text.matches(self.old.as_str()).count();
        ensure!(
            places == 1,
            "xtask/plants/{}.toml: the text of `{}` is {places} times in {}, not once",
            self.list,
            self.name,
            self.file.display()
        );
        Ok(text.replacen(self.old.as_str(), &self.new, 1))
    }

    fn find(&self, root: &Path, copy: &Path) -> Result<Option<Found>> {
        if self.tests.is_empty() { find_by_seed(copy) } else { self.find_by_tests(root, copy) }
    }

    /// Each of its tests must fail.
    fn find_by_tests(&self, root: &Path, copy: &Path) -> Result<Option<Found>> {
        let mut found = Found { tests: self.tests.clone(), seed: None, took: Duration::ZERO };
        for test in &self.tests {
            let target = target_of(root, test)?;
            let cargo = cargo_test(copy, &target, Optimised::Not);
            cargo.clone().arg("--no-run").output()?;
            let start = Instant::now();
            let ran = cargo.arg(test).limit_minutes(TEST_MINUTES).output();
            found.took += start.elapsed();
            let Err(failure) = ran else {
                println!("  {test} does not notice");
                return Ok(None);
            };
            let said = format!("{failure:#}");
            // Whoever is cut off names none: it has waited for ever, or taken the process along.
            let is_it = failed_test(&said).is_none_or(|failed| failed.ends_with(test.as_str()));
            ensure!(is_it, "another test than {test} failed\n{said}");
            found.seed = found.seed.or(failed_seed(&said));
        }
        Ok(Some(found))
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

/// Runs these tests in the copy; `target` is what chooses them. Tests are the same at any optimisation:
/// those that take little time are there soonest with none, and many seeds with a little.
fn cargo_test(copy: &Path, target: &str, optimised: Optimised) -> Cmd {
    Cmd::line(copy, "cargo test --locked -q")
        .args(target.split_whitespace())
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", (optimised as u8).to_string())
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_TARGET_DIR", copy.join("target").display().to_string())
        .limit_minutes(BUILD_MINUTES)
}

/// The package and the kind of test that has a function of this name.
fn target_of(root: &Path, test: &str) -> Result<String> {
    let function = format!("fn {test}(");
    let sources = tidy::read_sources(root)?;
    let mut paths = sources.iter().filter(|source| {
        source.path.starts_with("crates") && source.text.contains(function.as_str())
    });
    let path = &paths.next().with_context(|| format!("there is no test {test}"))?.path;
    ensure!(paths.next().is_none(), "there are two tests {test}");
    target_at(path).with_context(|| format!("{test} is in {}", path.display()))
}

fn target_at(path: &Path) -> Option<String> {
    let mut parts = path.iter().skip(1).filter_map(|part| part.to_str());
    let (package, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
    match kind {
        "src" => Some(format!("-p {package} --lib")),
        "tests" => Some(format!("-p {package} --test {}", name.trim_end_matches(".rs"))),
        _ => None,
    }
}

/// The first slice of seeds and the first simulation in it that fails.
fn find_by_seed(copy: &Path) -> Result<Option<Found>> {
    let mut took = Duration::ZERO;
    for (from, to) in SLICES {
        // The faults are in the library; its own simulations have to find them.
        for simulation in SIMULATIONS.iter().filter(|of| of.starts_with("-p wharf ")) {
            let optimised = if from == 0 { Optimised::Not } else { Optimised::ALittle };
            let cargo = cargo_test(copy, simulation, optimised);
            cargo.clone().arg("--no-run").output()?;
            let start = Instant::now();
            let ran = cargo.env("WHARF_SEEDS", format!("{from}..{to}"));
            let failure = ran.limit_minutes(SLICE_MINUTES).output().err();
            took += start.elapsed();
            if let Some(failure) = failure {
                let said = format!("{failure:#}");
                // Simulations end by themselves: one that was cut off proves nothing.
                let Some(test) = failed_test(&said) else {
                    println!("  {simulation}, seeds {from}..{to}: {said}");
                    return Ok(None);
                };
                return Ok(Some(Found { tests: vec![test], seed: failed_seed(&said), took }));
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

    #[test]
    fn where_a_test_is_says_how_it_is_run() {
        for (path, target) in [
            ("crates/wharf/src/a/b.rs", Some("-p wharf --lib")),
            ("crates/wharf/tests/logic.rs", Some("-p wharf --test logic")),
            ("crates/wharf-port/tests/server/x.rs", Some("-p wharf-port --test server")),
            ("crates/wharf/Cargo.toml", None),
        ] {
            assert_eq!(target_at(Path::new(path)).as_deref(), target, "{path}");
        }
    }
}
