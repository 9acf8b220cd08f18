//! The site that mdbook has made: whether each of its links leads somewhere, and nothing is
//! fetched from elsewhere.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

/// How many files it has.
///
/// # Errors
/// A broken link, or something that is fetched from the network; each is printed.
pub(super) fn check(site: &Path) -> Result<usize> {
    let mut files = Vec::new();
    walk(site, &mut files)?;
    let mut pages = HashMap::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "html")) {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        pages.insert(path.clone(), text);
    }
    ensure!(!pages.is_empty(), "{} has no page", site.display());
    let ids: HashMap<&Path, HashSet<&str>> = pages
        .iter()
        .map(|(path, text)| (path.as_path(), attributes(text, "id").collect()))
        .collect();
    let mut broken = 0;
    for (path, text) in &pages {
        for link in links(text).filter(|link| !is_whole(path, link, &ids)) {
            eprintln!("{}: `{link}` leads nowhere", path.display());
            broken += 1;
        }
        for link in fetched(text).filter(|link| is_elsewhere(link)) {
            eprintln!("{}: `{link}` is fetched from the network", path.display());
            broken += 1;
        }
    }
    if broken > 0 {
        bail!("{broken} broken links in {}", site.display());
    }
    Ok(files.len())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The values of an attribute, as mdbook writes it: in double quotes.
fn attributes<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    let values = text.match_indices(&start).map(|(at, found)| &text[at + found.len()..]);
    values.filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>().into_iter()
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    attributes(text, "href").chain(attributes(text, "src"))
}

/// What a browser loads with the page: scripts, pictures, style sheets, fonts.
fn fetched(text: &str) -> impl Iterator<Item = &str> {
    let tags = text.split('<').filter(|tag| tag.starts_with("link "));
    tags.flat_map(|tag| attributes(tag, "href")).chain(attributes(text, "src"))
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("//")
}

fn is_whole(page: &Path, link: &str, ids: &HashMap<&Path, HashSet<&str>>) -> bool {
    if is_elsewhere(link) || link.starts_with("mailto:") {
        return true;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let full = match path {
        "" => page.to_path_buf(),
        path => normal(&page.parent().unwrap_or(page).join(path)),
    };
    let anchor = decode(anchor);
    match ids.get(full.as_path()) {
        Some(ids) => anchor.is_empty() || ids.contains(anchor.as_str()),
        None => full.is_file(),
    }
}

/// Without `..`, since the pages are found by their paths.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => _ = out.pop(),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// `%EC%84%B8` in an anchor.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]),
            None => (bytes.push(*first), rest = after),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_whole_or_its_broken_links_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b.html", "<h1 id=\"세션\"><a href=\"#%EC%84%B8%EC%85%98\">x</a></h1>");
        write("c.js", "");
        let good = "<script src=\"c.js\"></script> <a href=\"a/b.html#세션\"> \
                    <a href=\"https://x.y\"> <a href=\"a/../c.js\">";
        write("index.html", good);
        assert_eq!(check(folder.path()).unwrap(), 3);
        for bad in [
            "<a href=\"d.html\">",
            "<a href=\"a/b.html#x\">",
            "<script src=\"https://x.y/z.js\"></script>",
            "<link rel=\"stylesheet\" href=\"//x.y/z.css\">",
        ] {
            write("index.html", bad);
            assert!(check(folder.path()).is_err(), "{bad}");
        }
    }
}
