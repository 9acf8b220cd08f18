//! Links between the pages, before mdbook has made a site of them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::pages::Page;
use crate::markdown::{self, Link};

/// Where a link leads.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A page of the book, and perhaps a heading there.
    Page(PathBuf, Option<String>),
    /// A file of the repository, which the site has as it is.
    File(PathBuf),
    /// A folder: something to see in the repository alone.
    Folder,
    Elsewhere,
    Nowhere,
}

fn target(root: &Path, pages: &[Page], page: &Page, link: &str) -> Target {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let anchor = (!anchor.is_empty()).then(|| anchor.to_owned());
    if path.is_empty() {
        return Target::Page(page.path.clone(), anchor);
    }
    if path.contains("://") || path.starts_with("mailto:") {
        return Target::Elsewhere;
    }
    let Some(path) = markdown::resolve(&page.path, path) else { return Target::Nowhere };
    let full = root.join(&path);
    if pages.iter().any(|page| page.path == path) {
        Target::Page(path, anchor)
    } else if full.is_file() {
        Target::File(path)
    } else if full.is_dir() {
        Target::Folder
    } else {
        Target::Nowhere
    }
}

/// One line for each link that leads nowhere, or to a heading that is not there.
pub(super) fn broken(root: &Path, pages: &[Page]) -> Vec<String> {
    let anchors: HashMap<&Path, Vec<String>> = pages
        .iter()
        .map(|page| (page.path.as_path(), anchors(&markdown::parse(&page.text).titles)))
        .collect();
    let mut broken = Vec::new();
    for page in pages {
        for Link { to, line, .. } in markdown::parse(&page.text).links {
            let whole = match target(root, pages, page, &to) {
                Target::Nowhere => false,
                Target::Page(path, Some(anchor)) => anchors[path.as_path()].contains(&anchor),
                _ => true,
            };
            if !whole {
                broken.push(format!("{}:{line}: `{to}` leads nowhere", page.path.display()));
            }
        }
    }
    broken
}

/// The names that headings get, of mdbook as of GitHub.
fn anchors(titles: &[String]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut anchors = Vec::new();
    for title in titles {
        let kept = title.trim().chars().filter_map(|c| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        });
        let name = kept.collect::<String>().to_lowercase();
        let again = seen.entry(name.clone()).or_default();
        anchors.push(if *again == 0 { name } else { format!("{name}-{again}") });
        *again += 1;
    }
    anchors
}

/// The page with links to folders as plain text.
pub(super) fn for_the_site(root: &Path, pages: &[Page], page: &Page) -> String {
    let mut text = page.text.clone();
    for link in markdown::parse(&page.text).links.iter().rev() {
        if target(root, pages, page, &link.to) == Target::Folder {
            text.replace_range(link.span.clone(), &link.text);
        }
    }
    text
}

/// The files that a page links to.
pub(super) fn files(root: &Path, pages: &[Page], page: &Page) -> Vec<PathBuf> {
    let links = markdown::parse(&page.text).links.into_iter();
    let files = links.filter_map(|link| match target(root, pages, page, &link.to) {
        Target::File(path) => Some(path),
        _ => None,
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::super::pages;
    use super::*;

    #[test]
    fn every_link_leads_somewhere_in_the_book() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("docs/a.md", "# A part\n\n# A part\n\n[up](../x/y.rs) [f](../x) [w](https://x.y)\n");
        write("x/y.rs", "");
        let good = "[a](docs/a.md#a-part-1) [self](#here-it-is)\n\n# Here, it *is*\n";
        write("README.md", good);
        let pages = pages::read(root).unwrap();
        assert_eq!(broken(root, &pages), Vec::<String>::new());
        let page = pages.iter().find(|page| page.path.ends_with("a.md")).unwrap();
        assert_eq!(files(root, &pages, page), [Path::new("x/y.rs")]);
        let site = for_the_site(root, &pages, page);
        assert!(site.contains("[up](../x/y.rs) f [w](https://x.y)"), "{site}");

        for bad in ["docs/b.md", "docs/a.md#a-part-2", "#nothing", "../docs/a.md"] {
            write("README.md", &format!("# T\n\n[bad]({bad})\n"));
            let pages = pages::read(root).unwrap();
            assert_eq!(broken(root, &pages), [format!("README.md:3: `{bad}` leads nowhere")]);
        }
    }
}
