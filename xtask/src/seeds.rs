//! `cargo xtask seeds N`: the simulations with many more seeds than `cargo test` takes.

use std::{io::IsTerminal as _, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::process::Cmd;

/// What is simulated: arguments of `cargo test`.
pub(crate) const SIMULATIONS: [&str; 5] = [
    "-p wharf --lib sim_tests",
    "-p wharf --test testing",
    "-p wharf --test simulated",
    "-p wharf --test logic",
    "-p wharf-chat --test simulated",
];

/// In one go of the tests, between which progress is shown.
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
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds  {eta} left");
        ProgressBar::new(count).with_style(style.expect("the template is right"))
    });
    for from in (first..end).step_by(SLICE as usize) {
        let to = end.min(from + SLICE);
        for simulation in SIMULATIONS {
            // Optimised, or most of the time would be the compiler's missing work.
            let test = Cmd::line(root, "cargo test --locked --release -q");
            let test = test.args(simulation.split_whitespace());
            test.env("WHARF_SEEDS", format!("{from}..{to}")).output()?;
        }
        match &bar {
            Some(bar) => bar.set_position(to - first),
            None => println!("{} of {count} seeds", to - first),
        }
    }
    Ok(())
}
