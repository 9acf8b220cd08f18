//! The programs of the course: the difference between two of them is the lesson.

use std::{
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

const FOLDER: &str = "examples/examples";

/// # Errors
/// Other arguments than `diff A B`, no such step, or no git.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let [task, from, to] = args else { bail!("steps takes `diff A B`") };
    ensure!(task == "diff", "steps has no task `{task}`: it is `diff A B`");
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
