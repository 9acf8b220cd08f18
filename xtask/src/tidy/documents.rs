//! Rules over the Markdown files: links lead somewhere, and the translation keeps up.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Finding, Source, course};
use crate::markdown::{self, Document, Link};

const README: &str = "README.md";
const README_KOREAN: &str = "README.ko.md";
const GUIDE: &str = "docs/guide";
const GUARANTEES: &str = "docs/guarantees.md";
const PLANTS: &str = "xtask/plants";

pub(super) fn broken_links(root: &Path, source: &Source) -> Vec<Finding> {
    let folder = root.join(&source.path).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut findings = Vec::new();
    for Link { to, line, .. } in markdown::parse(&source.text).links {
        let target = to.split('#').next().unwrap_or_default();
        let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
        if !target.is_empty() && !is_elsewhere && !folder.join(target).exists() {
            findings.push(source.finding(line, format!("`{to}` leads nowhere")));
        }
    }
    findings
}

/// Every test that a guarantee names in the last column of its table is there, and is `proven`: some fault
/// makes it fail.
pub(super) fn missing_tests(sources: &[Source], proven: &BTreeSet<String>) -> Vec<Finding> {
    let is_there = |name: &str| {
        let function = format!("fn {name}(");
        let mut rust = sources.iter().filter(|source| source.has_extension("rs"));
        rust.any(|source| source.text.contains(&function))
    };
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path == Path::new(GUARANTEES)) {
        for (index, line) in source.text.lines().enumerate() {
            let Some(row) = line.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
                continue;
            };
            let tests = row.rsplit('|').next().unwrap_or_default().split('`').skip(1).step_by(2);
            for name in tests.filter(|name| name.contains('_')) {
                let what = if !is_there(name) {
                    format!("there is no test `{name}`")
                } else if !proven.contains(name) {
                    format!("no fault in {PLANTS} takes out what `{name}` guards")
                } else {
                    continue;
                };
                findings.push(source.finding(index + 1, what));
            }
        }
    }
    findings
}

/// A name with three underlines or more that a page of the guide has in backticks is in the code:
/// most are tests.
pub(super) fn unknown_names(sources: &[Source]) -> Vec<Finding> {
    let is_there = |name: &str| {
        let mut rust = sources.iter().filter(|source| source.has_extension("rs"));
        rust.any(|source| source.text.contains(name))
    };
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with(GUIDE)) {
        for (index, line) in source.text.lines().enumerate() {
            let names = line.split('`').skip(1).step_by(2);
            let names =
                names.filter(|name| name.chars().all(|c| c == '_' || c.is_ascii_lowercase()));
            for name in names.filter(|name| name.matches('_').count() >= 3 && !is_there(name)) {
                findings.push(source.finding(index + 1, format!("there is no `{name}`")));
            }
        }
    }
    findings
}

pub(super) fn readme_differences(root: &Path) -> Result<Vec<Finding>> {
    let read = |name: &str| fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let original = Source { path: README.into(), text: read(README)? };
    let source = Source { path: README_KOREAN.into(), text: read(README_KOREAN)? };
    let mut findings = differences(&markdown::parse(&original.text), &source);
    findings.extend(course::false_excerpts(root, &original));
    Ok(findings)
}

/// The same headings by level, and the same code blocks with the same markers, in one order.
fn differences(english: &Document, source: &Source) -> Vec<Finding> {
    let translation = markdown::parse(&source.text);
    let mut findings = Vec::new();
    if english.headings != translation.headings {
        findings.push(source.finding(0, format!("other headings than {README}, by level")));
    }
    if english.blocks.len() != translation.blocks.len() {
        findings.push(source.finding(0, format!("other number of code blocks than {README}")));
    }
    for (original, block) in english.blocks.iter().zip(&translation.blocks) {
        let is_same = (&original.language, &original.text, &original.marker)
            == (&block.language, &block.text, &block.marker);
        if !is_same {
            let what = format!("differs from {README} line {}", original.line);
            findings.push(source.finding(block.line, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_to_their_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("docs")).unwrap();
        fs::write(folder.path().join("docs/a.md"), "").unwrap();
        let text =
            "[a](a.md#part) [up](../docs) [web](https://x.y)\n\n[no](docs/a.md) [self](#x)\n";
        let source = Source { path: "docs/b.md".into(), text: text.to_owned() };
        let found = broken_links(folder.path(), &source);
        assert_eq!(found, [source.finding(3, "`docs/a.md` leads nowhere")]);
    }

    #[test]
    fn guarantees_name_tests_that_exist_and_can_fail() {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.to_owned() };
        let text =
            "`prose_is_free`\n| `a_field` | `it_holds`, `it_held` |\n| `Closed` | `it_is` |\n";
        let code = "#[test]\nfn it_holds() {}\n#[test]\nfn it_is() {}\n";
        let sources = [source(GUARANTEES, text), source("a.rs", code)];
        let expected = [
            sources[0].finding(2, "there is no test `it_held`"),
            sources[0].finding(3, format!("no fault in {PLANTS} takes out what `it_is` guards")),
        ];
        let proven = BTreeSet::from(["it_holds".to_owned()]);
        assert_eq!(missing_tests(&sources, &proven), expected);
    }

    #[test]
    fn the_guide_names_what_is_in_the_code() {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.to_owned() };
        let text = "`it_holds_at_last` and `a_b`,\n`it_held_at_last`. `x/it_has_no_end.rs`\n";
        let page = source("docs/guide/en/1.md", text);
        let sources = [page, source("a.rs", "#[test]\nfn it_holds_at_last() {}\n")];
        let expected = sources[0].finding(2, "there is no `it_held_at_last`");
        assert_eq!(unknown_names(&sources), [expected]);
    }

    #[test]
    fn a_translation_has_the_same_frame() {
        let text = "# A\n\n<!-- ci:run -->\n```sh\nls\n```\n";
        let check = |translation: &str, expected_lines: &[usize]| {
            let source = Source { path: README_KOREAN.into(), text: translation.to_owned() };
            let found = differences(&markdown::parse(text), &source);
            assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), expected_lines);
        };
        check(&text.replace("# A", "# 가"), &[]);
        check(&text.replace("# A", "## 가"), &[0]);
        check(&text.replace("ls", "ls -l"), &[4]);
        check(&text.replace("ci:run", "ci:serve"), &[4]);
    }
}
