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
/// What a step in one file has, in this order; other files come behind.
const ONE_FILE: [&str; 2] = ["main.rs", "network.rs"];

/// # Errors
/// Other arguments than `diff A B` or `try N`, no such step, or a command that fails.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["diff", from, to] => {
            let is_terminal = std::io::stdout().is_terminal();
            let color = if is_terminal { "--color=always" } else { "--color=never" };
            print!("{}", diff(root, from, to, color)?);
            Ok(())
        }
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

/// What git has to say of the difference between two steps.
fn diff(root: &Path, from: &str, to: &str, color: &str) -> Result<String> {
    let (mut from, mut to) = (program(root, from)?, program(root, to)?);
    if root.join(&from).is_dir() != root.join(&to).is_dir() {
        from = as_one_file(root, &from)?;
        to = as_one_file(root, &to)?;
    }
    let git = Command::new("git")
        .current_dir(root)
        .args(["--no-pager", "diff", "--no-index", color])
        .args([from, to])
        .output()
        .context("git")?;
    // 1 says that there is a difference, and also that a file cannot be read.
    let errors = String::from_utf8_lossy(&git.stderr);
    ensure!(matches!(git.status.code(), Some(0 | 1)) && errors.is_empty(), "git diff: {errors}");
    Ok(String::from_utf8_lossy(&git.stdout).into_owned())
}

/// A step that is a folder, its files one behind the other: what they have of a step that is one file
/// is then no difference.
fn as_one_file(root: &Path, program: &Path) -> Result<PathBuf> {
    if root.join(program).is_file() {
        return Ok(program.to_path_buf());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(program)).with_context(|| program.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let order = |name: &String| ONE_FILE.iter().position(|it| it == name).unwrap_or(ONE_FILE.len());
    names.sort_by_key(|name| (order(name), name.clone()));
    let mut text = String::new();
    for name in names {
        let path = root.join(program).join(&name);
        let code = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text += &format!("// ------ {name}\n{code}");
    }
    let name = program.file_name().context("a step has a name")?;
    let path = Path::new("target/steps").join(name).with_extension("rs");
    fs::create_dir_all(root.join("target/steps"))?;
    fs::write(root.join(&path), text).with_context(|| path.display().to_string())?;
    Ok(path)
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

    #[test]
    fn a_folder_of_files_can_be_compared_with_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b")).unwrap();
        fs::write(root.join("a.rs"), "one\n").unwrap();
        for (name, text) in [("application", "three\n"), ("main", "one\n"), ("network", "two\n")] {
            fs::write(root.join(format!("b/{name}.rs")), text).unwrap();
        }
        assert_eq!(as_one_file(root, Path::new("a.rs")).unwrap(), Path::new("a.rs"));
        let all = as_one_file(root, Path::new("b")).unwrap();
        let expected = "// ------ main.rs\none\n// ------ network.rs\ntwo\n\
                        // ------ application.rs\nthree\n";
        assert_eq!(fs::read_to_string(root.join(all)).unwrap(), expected);
    }

    #[test]
    fn neighbouring_steps_can_be_compared() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for step in 1..12 {
            let (from, to) = (step.to_string(), (step + 1).to_string());
            assert!(diff(root, &from, &to, "--color=never").unwrap().contains("\n+"), "{step}");
        }
    }
}
