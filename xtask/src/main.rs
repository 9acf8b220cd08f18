//! Project tasks, run as `cargo xtask TASK`. `ci` is the one entry that continuous integration
//! calls; every other task is one of its steps, or a part of one, that is useful alone.
#![forbid(unsafe_code)]

mod ci;
mod cross;
mod dist;
mod docs;
mod fuzz;
mod instructions;
mod markdown;
mod plant;
mod process;
mod readme;
mod seeds;
mod steps;
mod tidy;
mod wine;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
Usage: cargo xtask TASK

  ci [--list] [--only STEP,..] [--skip STEP,..]   all checks; stops at the first failure
  tidy                                            rules that no compiler checks
  cross-check                                     type-check for Windows, FreeBSD, macOS and wasm32
  tsan                                            tests under the thread sanitizer
  seeds N [--from SEED]                           the simulations with so many seeds
  plant [--missing | NAME]                        break rules one by one; does a test notice each?
  fuzz [SECONDS]                                  every fuzz target for so long (60)
  steps diff A B                                  what step B of the course changes in step A
  steps try N                                     whether the starter of step N is filled
  dist [--target linux|windows] [--out FOLDER]    release archives, checked, with SHA256SUMS
  wine                                            lints for Windows, and everything under Wine
  docs                                            the course, guide and reference as one site
  instructions                                    count what a frame costs, with valgrind
  readme                                          run what README.md tells a reader to run
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    process::watch_signals()?;
    let root = workspace_root()?;
    let mut args = env::args().skip(1);
    let task = args.next();
    let rest: Vec<String> = args.collect();
    match task.as_deref() {
        Some("ci") => ci::run(&root, &rest),
        Some(task @ ("tidy" | "cross-check" | "tsan" | "wine" | "readme")) => {
            if let Some(extra) = rest.first() {
                bail!("{task} takes no argument, found `{extra}`\n{USAGE}");
            }
            ci::run_one(&root, task)
        }
        Some("instructions") if rest.is_empty() => instructions::run(&root),
        Some("docs") if rest.is_empty() => docs::run(&root),
        Some("dist") => dist::run(&root, &rest),
        Some("seeds") => seeds::run(&root, &rest),
        Some("plant") => plant::run(&root, &rest),
        Some("fuzz") => fuzz::run(&root, &rest),
        Some("steps") => steps::run(&root, &rest),
        Some("help" | "--help" | "-h") | None => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("no task `{other}`\n{USAGE}"),
    }
}

/// The folder above this crate's manifest, wherever the caller stands.
fn workspace_root() -> Result<PathBuf> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").context("run it as `cargo xtask`")?;
    let parent = PathBuf::from(manifest_dir).parent().map(PathBuf::from);
    parent.context("the xtask folder has no parent")
}
