//! Rules over the course and the guide: what a chapter shows is the code of the repository, both languages have the
//! same frame, and the Korean pages, `README.ko.md` among them, use the words of `docs/glossary.md`.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use pulldown_cmark::HeadingLevel;

use super::{Finding, Source};
use crate::markdown::{self, Document};

/// Each has a folder `en` and a folder `ko`.
const FOLDERS: [&str; 2] = ["docs/tutorial", "docs/guide"];
/// The list of the chapters, with the minutes that each takes.
const CONTENTS: &str = "docs/tutorial/README.md";
/// The parts of each chapter of the course.
const PARTS: [&str; 7] = [
    "What this step is for",
    "The picture",
    "The code",
    "What goes wrong without it",
    "What Windows and Linux do",
    "Your turn",
    "Exercises",
];
/// Programs that the compiler has to refuse, each with what it says.
const MISTAKES: &str = "examples/compile_fail";
const GLOSSARY: &str = "docs/glossary.md";
/// A Korean page beside those of the course.
const README_KOREAN: &str = "README.ko.md";
/// The line of each chapter that says how long it takes: English, Korean.
const MINUTES: [&str; 2] = ["Minutes: ", "걸리는 시간(분): "];

pub(super) fn findings(root: &Path) -> Result<Vec<Finding>> {
    let glossary = read(root, GLOSSARY)?;
    let words = Words::read(&glossary.text);
    let mut findings = Vec::new();
    if words.terms.is_empty() || words.rejected.is_empty() {
        findings.push(glossary.finding(0, "no table of terms and rejected words"));
    }
    findings.extend(korean_findings(&read(root, README_KOREAN)?, &words));
    let contents = read(root, CONTENTS)?;
    let mut shown = BTreeSet::new();
    for folder in FOLDERS {
        let (english, korean) = (format!("{folder}/en"), format!("{folder}/ko"));
        let (originals, translations) = (file_names(root, &english)?, file_names(root, &korean)?);
        for only in originals.symmetric_difference(&translations) {
            let what = format!("{folder}: {only} is there in one language alone");
            findings.push(glossary.finding(0, what));
        }
        for name in originals.intersection(&translations) {
            let original = read(root, &format!("{english}/{name}"))?;
            let translation = read(root, &format!("{korean}/{name}"))?;
            findings.extend(false_excerpts(root, &original));
            let blocks = markdown::parse(&original.text).blocks;
            shown.extend(blocks.iter().filter_map(excerpted).map(str::to_owned));
            findings.extend(unknown_targets(root, &original));
            if folder == FOLDERS[0] {
                findings.extend(missing_parts(&original));
                findings.extend(missing_in_contents(&contents, &original, name));
            }
            findings.extend(differences(&original, &translation));
            findings.extend(korean_findings(&translation, &words));
        }
    }
    for name in file_names(root, MISTAKES)?.iter().filter(|name| name.ends_with(".stderr")) {
        let page = read(root, &format!("{MISTAKES}/{name}"))?;
        if !shown.contains(&page.path.display().to_string()) {
            findings.push(page.finding(0, "no chapter shows this message"));
        }
    }
    Ok(findings)
}

fn read(root: &Path, path: &str) -> Result<Source> {
    let text = fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
    Ok(Source { path: path.into(), text })
}

fn file_names(root: &Path, folder: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Each block of code, and of what the compiler says, says of which file it is and is there, line for
/// line but for the indent. A line `// ...` stands for what is left out. The program that `readme` builds is
/// a file of its own.
pub(super) fn false_excerpts(root: &Path, page: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for block in &markdown::parse(&page.text).blocks {
        let Some(file) = excerpted(block) else {
            let is_built = block.marker.as_ref().is_some_and(|it| it.name == "echo-program");
            if block.language == "rust" && !is_built {
                findings.push(page.finding(block.line, "no `<!-- ci:excerpt FILE -->` above"));
            }
            continue;
        };
        match fs::read_to_string(root.join(file)) {
            Ok(code) if is_excerpt(&block.text, &code) => {}
            Ok(_) => findings.push(page.finding(block.line, format!("this is not in {file}"))),
            Err(error) => findings.push(page.finding(block.line, format!("{file}: {error}"))),
        }
    }
    findings
}

/// The file that a block says it is from.
fn excerpted(block: &markdown::Block) -> Option<&str> {
    let marker = block.marker.as_ref().filter(|marker| marker.name == "excerpt");
    marker.map(|marker| marker.argument.as_str())
}

fn is_excerpt(excerpt: &str, code: &str) -> bool {
    let code: Vec<&str> = code.lines().map(str::trim).collect();
    let lines: Vec<&str> = excerpt.lines().map(str::trim).collect();
    let mut from = 0;
    lines.split(|line| *line == "// ...").filter(|part| !part.is_empty()).all(|part| {
        let found = code[from..].windows(part.len()).position(|window| window == part);
        from += found.map_or(0, |at| at + part.len());
        found.is_some()
    })
}

/// What a command names with `--example` or `--test` is a program of the package that it names.
fn unknown_targets(root: &Path, page: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for block in markdown::parse(&page.text).blocks.iter().filter(|block| block.language == "sh") {
        for command in block.text.lines() {
            let words: Vec<&str> = command.split_whitespace().collect();
            let after = |option: &str| words.windows(2).find(|w| w[0] == option).map(|w| w[1]);
            let package = match after("-p") {
                None | Some("wharf-examples") => "examples".to_owned(),
                Some(package) => format!("crates/{package}"),
            };
            for (option, folder) in [("--example", "examples"), ("--test", "tests")] {
                let Some(name) = after(option) else { continue };
                let path = format!("{package}/{folder}/{name}");
                let full = root.join(&path);
                if !full.exists() && !full.with_extension("rs").exists() {
                    findings.push(page.finding(block.line, format!("there is no {path}")));
                }
            }
        }
    }
    findings
}

/// What a chapter has to have, in English; the Korean one has the same frame.
fn missing_parts(page: &Source) -> Vec<Finding> {
    let document = markdown::parse(&page.text);
    let titles = document.headings.iter().zip(&document.titles);
    let parts = titles.filter(|(level, _)| **level == HeadingLevel::H2).map(|(_, title)| title);
    let has = |language: &str, text: &str| {
        let mut blocks = document.blocks.iter().filter(|block| block.language == language);
        blocks.any(|block| block.text.contains(text))
    };
    let wrong = [
        (!parts.eq(PARTS.iter()), "other parts than the chapters have"),
        (!has("mermaid", ""), "no picture"),
        (!has("sh", "cargo xtask steps try "), "no starter to be tried"),
        (!page.text.contains("<details><summary>Answer</summary>"), "no exercise with an answer"),
    ];
    let wrong = wrong.into_iter().filter(|(is_wrong, _)| *is_wrong);
    wrong.map(|(_, what)| page.finding(0, what)).collect()
}

/// The list has each chapter in both languages, with the minutes that it says it takes.
fn missing_in_contents(contents: &Source, page: &Source, name: &str) -> Option<Finding> {
    let minutes = minutes(page, MINUTES[0])?;
    let links = [format!("[{minutes} minutes](en/{name})"), format!("[{minutes}분](ko/{name})")];
    let missing = links.into_iter().find(|link| !contents.text.contains(link))?;
    Some(contents.finding(0, format!("no `{missing}`")))
}

/// What a chapter says of how long it takes.
fn minutes(page: &Source, label: &str) -> Option<u32> {
    page.text.lines().find_map(|line| line.strip_prefix(label)?.parse().ok())
}

/// Headings by level, code (but for pictures and output, which have words in them; what the compiler
/// says has none to be translated), answers to exercises, minutes.
fn differences(original: &Source, translation: &Source) -> Vec<Finding> {
    let (english, korean) = (markdown::parse(&original.text), markdown::parse(&translation.text));
    let mut findings = Vec::new();
    let mut unlike = |what: &str| {
        let what = format!("other {what} than {}", original.path.display());
        findings.push(translation.finding(0, what));
    };
    if english.headings != korean.headings {
        unlike("headings, by level,");
    }
    if code(&english) != code(&korean) {
        unlike("excerpts, commands or pictures");
    }
    let answers = |page: &Source| page.text.matches("<details>").count();
    if answers(original) != answers(translation) {
        unlike("number of exercises with an answer");
    }
    let [in_english, in_korean] = MINUTES;
    match (minutes(original, in_english), minutes(translation, in_korean)) {
        (Some(one), Some(other)) if one == other => {}
        _ => unlike(&format!("minutes (`{in_english}N`, `{in_korean}N`)")),
    }
    findings
}

fn code(page: &Document) -> Vec<(&str, &str)> {
    let has_words = |block: &markdown::Block| {
        block.language == "mermaid" || (block.language == "text" && excerpted(block).is_none())
    };
    let text = |block| if has_words(block) { "" } else { block.text.as_str() };
    page.blocks.iter().map(|block| (block.language.as_str(), text(block))).collect()
}

/// The glossary's table.
struct Words {
    /// The Korean terms, without what they have in brackets.
    terms: Vec<String>,
    /// The words in backticks in the last column.
    rejected: Vec<String>,
}

impl Words {
    fn read(glossary: &str) -> Self {
        let (mut terms, mut rejected) = (Vec::new(), Vec::new());
        for row in glossary.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let korean = cells.get(1).and_then(|cell| cell.split('(').next()).unwrap_or_default();
            terms.extend(korean.starts_with(is_hangul).then(|| korean.trim().to_owned()));
            let last = cells.last().copied().unwrap_or_default();
            rejected.extend(last.split('`').skip(1).step_by(2).map(str::to_owned));
        }
        Self { terms, rejected }
    }
}

fn korean_findings(page: &Source, words: &Words) -> Vec<Finding> {
    let text = text_alone(&page.text);
    let mut findings = Vec::new();
    for term in &words.terms {
        let Some((at, _)) = text.match_indices(term).find(|(at, _)| begins_word(&text, *at)) else {
            continue;
        };
        let mut behind = text[at + term.len()..].chars();
        if behind.next() != Some('(') || !behind.next().is_some_and(|c| c.is_ascii_alphabetic()) {
            let line = page.text[..at].matches('\n').count() + 1;
            let what = format!("the first `{term}` has no English word in brackets: {GLOSSARY}");
            findings.push(page.finding(line, what));
        }
    }
    let mut in_code = false;
    for (index, line) in page.text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for word in words.rejected.iter().filter(|word| line.contains(word.as_str())) {
            findings.push(page.finding(index + 1, format!("`{word}`: see {GLOSSARY}")));
        }
        if has_bare_port(line) {
            let what = format!("`포트` is neither a 완료 포트 nor a TCP 포트: see {GLOSSARY}");
            findings.push(page.finding(index + 1, what));
        }
        if has_plain_ending(line) {
            findings.push(page.finding(index + 1, "a sentence that is not in 합니다체"));
        }
    }
    findings
}

/// The page in one line, with spaces where code and the titles of page and chapters are, so that each
/// byte is at its place.
fn text_alone(page: &str) -> String {
    let mut in_code = false;
    let lines = page.split_inclusive('\n').map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        let is_title = line.starts_with("# ") || line.starts_with("## ");
        if in_code || is_fence || is_title {
            " ".repeat(line.len())
        } else {
            line.replace('\n', " ")
        }
    });
    lines.collect()
}

fn is_hangul(c: char) -> bool {
    ('가'..='힣').contains(&c)
}

fn begins_word(text: &str, at: usize) -> bool {
    !text[..at].ends_with(is_hangul)
}

fn has_bare_port(line: &str) -> bool {
    line.match_indices("포트").any(|(at, _)| {
        let before = &line[..at];
        begins_word(line, at) && !before.ends_with("완료 ") && !before.ends_with("TCP ")
    })
}

/// `한다.` and `해요.` end sentences of other registers; `합니다.` ends with `니다.`.
fn has_plain_ending(line: &str) -> bool {
    let plain = line.match_indices("다.").any(|(at, _)| !line[..at].ends_with('니'));
    plain || line.contains("요.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Source {
        Source { path: "p.md".into(), text: text.to_owned() }
    }

    #[test]
    fn an_excerpt_is_the_code_but_for_indent_and_gaps() {
        let code = "fn a() {\n    one();\n    two();\n    three();\n}\n";
        assert!(is_excerpt("one();\ntwo();\n", code));
        assert!(is_excerpt("fn a() {\n    // ...\n    three();\n}\n", code));
        assert!(!is_excerpt("one();\nthree();\n", code));
        assert!(!is_excerpt("three();\n// ...\none();\n", code), "in another order");
    }

    #[test]
    fn rust_without_a_marker_is_no_excerpt() {
        let count = |text: &str| false_excerpts(Path::new("."), &page(text)).len();
        assert_eq!(count("```rust\nfn a() {}\n```\n"), 1);
        assert_eq!(count("<!-- ci:echo-program -->\n```rust\nfn a() {}\n```\n"), 0);
        assert_eq!(count("<!-- ci:run -->\n```rust\nfn a() {}\n```\n"), 1);
    }

    #[test]
    fn what_the_compiler_says_is_an_excerpt_too_and_is_not_translated() {
        let text = "# A\n\nMinutes: 5\n\n<!-- ci:excerpt Cargo.toml -->\n```text\nerror\n```\n";
        let found = false_excerpts(Path::new(env!("CARGO_MANIFEST_DIR")), &page(text));
        assert_eq!(found.len(), 1);
        let korean = text.replace("Minutes: ", "걸리는 시간(분): ").replace("error\n", "오류\n");
        assert_eq!(differences(&page(text), &page(&korean)).len(), 1);
    }

    #[test]
    fn commands_name_programs_that_are_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let check =
            |command: &str| unknown_targets(root, &page(&format!("```sh\n{command}\n```\n"))).len();
        assert_eq!(check("cargo run -p wharf-examples --example step01_echo"), 0);
        assert_eq!(check("cargo test -p wharf-port --test conformance"), 0);
        assert_eq!(check("cargo test -p wharf-examples --test conformance"), 1);
        assert_eq!(check("cargo run -p wharf-examples --example step99"), 1);
    }

    #[test]
    fn a_chapter_has_all_its_parts() {
        let part = |title: &&str| match *title {
            "The picture" => "## The picture\n\n```mermaid\nA\n```\n\n".to_owned(),
            "Your turn" => "## Your turn\n\n```sh\ncargo xtask steps try 1\n```\n\n".to_owned(),
            title => format!("## {title}\n\n"),
        };
        let chapter: String = PARTS.iter().map(part).collect();
        let chapter = format!("# 1. A\n\n{chapter}<details><summary>Answer</summary>\n");
        let count = |text: &str| missing_parts(&page(text)).len();
        assert_eq!(count(&chapter), 0);
        for part in ["## The code", "mermaid", "cargo xtask steps try", "<details>"] {
            assert_eq!(count(&chapter.replace(part, "x")), 1, "{part}");
        }
    }

    #[test]
    fn the_list_says_how_long_each_chapter_takes() {
        let list = "| 1 | [20 minutes](en/a.md) | [20분](ko/a.md) |\n";
        let check = |list: &str| missing_in_contents(&page(list), &page("Minutes: 20\n"), "a.md");
        assert_eq!(check(list), None);
        for part in ["20 minutes", "20분", "en/a.md", "ko/a.md"] {
            assert!(check(&list.replace(part, "x")).is_some(), "{part}");
        }
    }

    #[test]
    fn both_languages_have_one_frame() {
        let text = "# A\n\nMinutes: 5\n\n```sh\ncargo test\n```\n\n```mermaid\nA\n```\n\n<details>x</details>\n";
        let korean = text.replace("Minutes: ", "걸리는 시간(분): ").replace("\nA\n", "\n가\n");
        let check = |korean: &str| differences(&page(text), &page(korean)).len();
        assert_eq!(check(&korean), 0);
        for (from, to) in [
            ("# A", "## A"),
            ("cargo test", "cargo run"),
            ("<details>", ""),
            (": 5", ": 6"),
            ("mermaid", "text"),
        ] {
            assert_eq!(check(&korean.replace(from, to)), 1, "{from}");
        }
    }

    #[test]
    fn words_of_the_glossary_are_used() {
        let words = Words::read(
            "| English | Korean | not |\n|---|---|---|\n| session | 세션 | `섹션`, `쎄션` |\n\
             | port (IOCP) | 완료 포트(IOCP) | `완료포트` |\n| TCP port | TCP 포트 | |\n",
        );
        assert_eq!(words.terms, ["세션", "완료 포트"]);
        assert_eq!(words.rejected, ["섹션", "쎄션", "완료포트"]);
        let check = |text: &str| korean_findings(&page(text), &words).len();
        assert_eq!(check("완료 포트(port)와 TCP 포트를 씁니다. 리포트입니다.\n"), 0);
        assert_eq!(check("섹션입니다.\n"), 1);
        assert_eq!(check("포트를 엽니다.\n"), 1);
        assert_eq!(check("포트를 연다.\n"), 2);
        assert_eq!(check("열어요.\n"), 1);
        assert_eq!(check("```text\n연다.\n```\n"), 0);
        assert_eq!(check("# 세션\n\n```text\n세션\n```\n\n세션(session)과 세션입니다.\n"), 0);
        assert_eq!(check("세션과 세션(session)입니다.\n"), 1);
        assert_eq!(check("세션(정상)입니다.\n"), 1);
        assert_eq!(check("### 1. 세션입니까?\n"), 1, "an exercise is text");
    }
}
