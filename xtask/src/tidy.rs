//! Rules that neither the compiler nor clippy checks, over every file of the checkout. All
//! findings are listed, not only the first.

mod course;
mod dependencies;
mod documents;
mod rust_source;

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{plant, process::Cmd};

const FILE_LINES_MAX: usize = 800;
/// Folders that hold no source, for a checkout that git does not list.
const SKIPPED_FOLDERS: [&str; 2] = [".git", "target"];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    /// From 1; 0 speaks of the whole file.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// A text file of the checkout, its path relative to the root.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, what: what.into() }
    }

    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path.extension() == Some(OsStr::new(extension))
    }
}

/// # Errors
/// Any rule is broken; each finding has been printed.
pub(crate) fn run(root: &Path) -> Result<()> {
    let sources = read_sources(root)?;
    let mut findings = Vec::new();
    for source in &sources {
        findings.extend(text_findings(source));
        if source.has_extension("rs") {
            findings.extend(rust_source::findings(source));
        }
        if source.has_extension("md") {
            findings.extend(documents::broken_links(root, source));
        }
    }
    findings.extend(documents::missing_tests(&sources, &plant::check(root)?));
    findings.extend(documents::unknown_names(&sources));
    findings.extend(documents::readme_differences(root)?);
    findings.extend(course::findings(root)?);
    findings.extend(dependencies::findings(root)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} broken rules", findings.len());
    }
    println!("{} files are tidy", sources.len());
    Ok(())
}

pub(crate) fn read_sources(root: &Path) -> Result<Vec<Source>> {
    let listed = Cmd::line(root, "git ls-files --cached --others --exclude-standard").output();
    let mut paths: Vec<PathBuf> = match listed {
        Ok(list) => list.lines().map(PathBuf::from).collect(),
        // An exported tree, or no git on this machine.
        Err(_) => walk(root, Path::new(""))?,
    };
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        // Listed by git yet deleted, or not text: nothing to read.
        if let Ok(text) = fs::read_to_string(root.join(&path)) {
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

fn walk(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let full = root.join(folder);
    for entry in fs::read_dir(&full).with_context(|| full.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let path = folder.join(&name);
        if entry.file_type()?.is_file() {
            paths.push(path);
        } else if entry.file_type()?.is_dir() && !SKIPPED_FOLDERS.iter().any(|skip| name == *skip) {
            paths.extend(walk(root, &path)?);
        }
    }
    Ok(paths)
}

/// Text that belongs to one machine. Written in halves, or this file would break its own rule.
const MACHINE_TEXT: [&str; 9] = [
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("../sha", "red"),
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("deb.deb", "ian.org"),
    concat!("spar", "se+http"),
];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn text_findings(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_lock_file = source.has_extension("lock");
    for (index, line) in source.text.lines().enumerate() {
        for text in MACHINE_TEXT {
            if contains_from_the_start(line, text) {
                findings.push(source.finding(index + 1, format!("`{text}` names a machine")));
            }
        }
        if is_lock_file && line.starts_with("source = ") && !line.contains(CRATES_IO) {
            findings.push(source.finding(index + 1, "a dependency that is not from crates.io"));
        }
    }
    let lines = source.text.lines().count();
    let hand_written = ["rs", "md", "toml", "sh", "yml", "py", "c"];
    let is_hand_written = hand_written.iter().any(|extension| source.has_extension(extension));
    let is_generated = source.text.lines().take(5).any(|line| line.contains("@generated"));
    if is_hand_written && !is_generated && lines > FILE_LINES_MAX {
        findings.push(source.finding(0, format!("{lines} lines, more than {FILE_LINES_MAX}")));
    }
    findings
}

/// Whether `line` holds `text` at the start of a path: the end of a longer name is no match.
fn contains_from_the_start(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected_lines: &[usize]) {
        let source = Source { path: path.into(), text: text.to_owned() };
        let lines: Vec<usize> = text_findings(&source).iter().map(|f| f.line).collect();
        assert_eq!(lines, expected_lines, "{path}: {text}");
    }

    #[test]
    fn machine_paths_are_found_and_longer_names_are_not() {
        check("a.md", concat!("x\n`/ho", "me/me/x`"), &[2]);
        check("a.md", concat!("see ../sha", "red/design"), &[1]);
        check("a.md", concat!("network/wo", "rk/x"), &[]);
        check("Cargo.lock", "source = \"registry+https://mirror.example/index\"", &[1]);
        check("Cargo.lock", &format!("source = \"{CRATES_IO}\""), &[]);
    }

    #[test]
    fn long_files_are_found_unless_generated() {
        let long = "//\n".repeat(FILE_LINES_MAX + 1);
        check("a.rs", &long, &[0]);
        check("a.rs", &long["//\n".len()..], &[]);
        check("a.rs", &format!("// @generated\n{long}"), &[]);
        check("a.lock", &long, &[]);
    }
}
