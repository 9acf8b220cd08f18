//! The pages of the book: every Markdown file of the checkout, in the order of the contents.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{markdown, tidy};

/// A page, its path as in the repository.
pub(super) struct Page {
    pub(super) path: PathBuf,
    pub(super) text: String,
    part: usize,
}

/// What the contents are divided into: a heading, and the files or folders that belong there, in
/// order. The first has no heading, and the last takes whatever no other does.
const PARTS: [(&str, &[&str]); 8] = [
    ("", &["README.md", "README.ko.md", "docs/tutorial/README.md", "docs/glossary.md"]),
    ("The course", &["docs/tutorial/en"]),
    ("After the course", &["docs/guide/en"]),
    ("과정", &["docs/tutorial/ko"]),
    ("과정 다음", &["docs/guide/ko"]),
    ("Reference", &["docs"]),
    ("The code", &["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/decisions"]),
    ("More", &["CHANGELOG.md", ""]),
];

/// # Errors
/// The checkout cannot be read.
pub(super) fn read(root: &Path) -> Result<Vec<Page>> {
    let sources = tidy::read_sources(root)?.into_iter().filter(|s| s.has_extension("md"));
    let pages = sources.map(|source| (place(&source.path), source));
    let mut pages: Vec<_> = pages.collect();
    pages.sort_by(|(one, a), (other, b)| (one, &a.path).cmp(&(other, &b.path)));
    ensure!(!pages.is_empty(), "there is no page");
    let page = |((part, _), source): ((usize, usize), tidy::Source)| Page {
        path: source.path,
        text: source.text,
        part,
    };
    Ok(pages.into_iter().map(page).collect())
}

/// In which part, and behind which entry of it: the longest that matches.
fn place(path: &Path) -> (usize, usize) {
    let entries = PARTS.iter().enumerate().flat_map(|(part, (_, entries))| {
        entries.iter().enumerate().map(move |(at, entry)| (entry.len(), (part, at), *entry))
    });
    let matching = entries.filter(|(.., entry)| path.starts_with(entry));
    matching.max_by_key(|(len, ..)| *len).expect("the last entry matches all").1
}

/// mdbook's table of contents.
pub(super) fn summary(pages: &[Page]) -> String {
    let mut summary = String::from("# Summary\n");
    let mut part = 0;
    for page in pages {
        if page.part != part {
            part = page.part;
            let _ = writeln!(summary, "\n# {}\n", PARTS[part].0);
        }
        // What comes before the first heading has no mark of a list.
        let mark = if part == 0 { "\n" } else { "- " };
        let _ = writeln!(summary, "{mark}[{}]({})", page.title(), page.path.display());
    }
    summary
}

impl Page {
    fn title(&self) -> String {
        let titles = markdown::parse(&self.text).titles;
        let title = titles.into_iter().next().unwrap_or_else(|| self.path.display().to_string());
        let is_korean = self.path.to_string_lossy().ends_with(".ko.md");
        if is_korean { format!("{title} (한국어)") } else { title }
    }
}

/// Pictures become what mermaid draws in the reader's browser, and shows as text where it does not.
pub(super) fn with_pictures(text: &str) -> String {
    let mut out = text.to_owned();
    for block in markdown::parse(text).blocks.iter().rev().filter(|b| b.language == "mermaid") {
        let picture = block.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        out.replace_range(block.span.clone(), &format!("<pre class=\"mermaid\">\n{picture}</pre>"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, text: &str) -> Page {
        let (path, text) = (PathBuf::from(path), text.to_owned());
        let part = place(&path).0;
        Page { path, text, part }
    }

    #[test]
    fn each_page_has_its_part() {
        let part = |path: &str| PARTS[place(Path::new(path)).0].0;
        assert_eq!(part("README.ko.md"), "");
        assert_eq!(part("docs/tutorial/ko/01-echo.md"), "과정");
        assert_eq!(part("docs/windows.md"), "Reference");
        assert_eq!(part("docs/decisions/0001-x.md"), "The code");
        assert_eq!(part("bench/README.md"), "More");
    }

    #[test]
    fn the_contents_have_parts_and_titles() {
        let pages =
            [page("README.md", "# wharf\n"), page("docs/tutorial/en/1.md", "# 1. `Echo`\n")];
        let expected = "# Summary\n\n[wharf](README.md)\n\n# The course\n\n- [1. Echo](docs/tutorial/en/1.md)\n";
        assert_eq!(summary(&pages), expected);
    }

    #[test]
    fn pictures_are_escaped_and_other_code_is_left_alone() {
        let text = "a\n\n```mermaid\nA -->> B<C>\n```\n\n```sh\nls\n```\n";
        let expected =
            "a\n\n<pre class=\"mermaid\">\nA --&gt;&gt; B&lt;C&gt;\n</pre>\n\n```sh\nls\n```\n";
        assert_eq!(with_pictures(text), expected);
    }
}
