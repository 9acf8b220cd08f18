//! The programs of the course: the difference between two of them is the lesson.

use std::{
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::Cmd;

const FOLDER: &str = "examples/examples";

/// # Errors
/// Other arguments than `diff A B` or `try N`, no such step, or a command that fails.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["diff", from, to] => diff(root, from, to),
        ["try", step] => try_starter(root, step),
        _ => bail!("steps takes `diff A B` or `try N`"),
    }
}

/// Runs the tests of the starters with one of them taken for filled.
fn try_starter(root: &Path, step: &str) -> Result<()> {
    program(root, step)?;
    let number = step.trim_start_matches('0');
    // What the second step allocates is counted in a process of its own.
    let tests = if number == "2" { "--test step02_allocations" } else { "--test starters" };
    let cargo = format!("cargo test -q --locked -p wharf-examples {tests}");
    Cmd::line(root, &cargo)
        .args(
            if number == "2" { String::new() } else { format!("step_{number}_") }
                .split_whitespace(),
        )
        .env("WHARF_TRY", number)
        .run()
        .context("the gap is not filled yet, or not rightly")?;
    println!("step {number}: well done");
    Ok(())
}

fn diff(root: &Path, from: &str, to: &str) -> Result<()> {
    let color = if std::io::stdout().is_terminal() { "--color=always" } else { "--color=never" };
    let status = Command::new("git")
        .current_dir(root)
        .args(["--no-pager", "diff", "--no-index", color])
        .args([program(root, from)?, program(root, to)?])
        .status()
        .context("git")?;
    // 1 says that there is a difference.
    ensure!(matches!(status.code(), Some(0 | 1)), "git diff: {status}");
    Ok(())
}

/// The file or the folder of a step.
fn program(root: &Path, step: &str) -> Result<PathBuf> {
    let number: u32 = step.parse().with_context(|| format!("`{step}` is no step's number"))?;
    let prefix = format!("step{number:02}_");
    for entry in fs::read_dir(root.join(FOLDER)).context(FOLDER)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(&prefix) {
            return Ok(Path::new(FOLDER).join(name));
        }
    }
    bail!("there is no step {number} in {FOLDER}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_number() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(program(root, "1").unwrap(), Path::new(FOLDER).join("step01_echo.rs"));
        assert!(program(root, "07").unwrap().ends_with("step07_async_accept"));
        assert!(program(root, "99").is_err() && program(root, "x").is_err());
    }
}
