//! `cargo xtask docs`: one site of the course, the guide and the pages of reference, in both
//! languages. It asks no network for anything, so it can be read from the disk.
//!
//! The pages lie in the book's source as they lie in the repository, so that a link between two of
//! them is the same on both. As a step of `ci` the source alone is made and checked; mdbook takes
//! minutes to build.

mod links;
mod pages;
mod site;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cross, process::Cmd};

/// Versions that work together; `cargo install` and `cargo fetch` check what they get.
const MDBOOK: &str = "0.5.4";
/// Its package carries mermaid, minified, as one file.
const MDBOOK_MERMAID: &str = "0.17.1";
const MERMAID: &str = "mermaid.min.js";

const SOURCE: &str = "target/docs-book";
const SITE: &str = "target/docs-site";

/// # Errors
/// A page that leads nowhere, a tool that cannot be had, or a site with a broken link.
pub(crate) fn run(root: &Path) -> Result<()> {
    let source = prepare(root)?;
    let cache = cross::cache_folder()?.join("docs");
    let mermaid = fetch_mermaid(&cache)?;
    fs::copy(&mermaid, source.join("src").join(MERMAID))
        .with_context(|| mermaid.display().to_string())?;
    let mdbook = install_mdbook(root, &cache)?;
    let site = root.join(SITE);
    if site.exists() {
        fs::remove_dir_all(&site).with_context(|| site.display().to_string())?;
    }
    Cmd::new(root, mdbook.display().to_string())
        .args(["build", &source.display().to_string(), "--dest-dir"])
        .arg(site.display().to_string())
        .run()?;
    let files = site::check(&site)?;
    println!("{files} files without a broken link: open {SITE}/index.html");
    Ok(())
}

/// The step of `ci`: every page is in the book, and every link, anchor and picture in it is whole.
pub(crate) fn check(root: &Path) -> Result<()> {
    prepare(root).map(drop)
}

/// Writes the book's source and checks it.
fn prepare(root: &Path) -> Result<PathBuf> {
    let pages = pages::read(root)?;
    let broken = links::broken(root, &pages);
    broken.iter().for_each(|line| eprintln!("{line}"));
    if !broken.is_empty() {
        bail!("{} broken links", broken.len());
    }
    let folder = root.join(SOURCE);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let write = |path: &Path, text: &str| -> Result<()> {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("a file")?)?;
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write(Path::new("book.toml"), BOOK)?;
    write(Path::new("pictures.js"), PICTURES)?;
    write(Path::new("search.js"), SEARCH)?;
    write(Path::new("src/SUMMARY.md"), &pages::summary(&pages))?;
    for page in &pages {
        let text = pages::with_pictures(&links::for_the_site(root, &pages, page));
        write(&Path::new("src").join(&page.path), &text)?;
        for file in links::files(root, &pages, page) {
            let copy = folder.join("src").join(&file);
            fs::create_dir_all(copy.parent().context("a file")?)?;
            fs::copy(root.join(&file), &copy).with_context(|| file.display().to_string())?;
        }
    }
    println!("{} pages in {SOURCE}", pages.len());
    Ok(folder)
}

/// Built once, in the cache folder: nothing of the machine's own changes.
fn install_mdbook(root: &Path, cache: &Path) -> Result<PathBuf> {
    let mdbook = cache.join("bin").join("mdbook");
    let version = Cmd::new(root, mdbook.display().to_string()).arg("--version");
    let there = mdbook.exists() && version.output()?.trim() == format!("mdbook v{MDBOOK}");
    if !there {
        println!("building mdbook {MDBOOK}: some minutes, once");
        Cmd::line(root, "cargo install --locked --quiet --no-default-features --features search")
            .args(["mdbook", "--version", MDBOOK, "--root"])
            .arg(cache.display().to_string())
            .limit_minutes(30)
            .run()?;
    }
    Ok(mdbook)
}

/// Only the file is wanted, so the package is fetched and not built.
fn fetch_mermaid(cache: &Path) -> Result<PathBuf> {
    let project = cache.join("mermaid");
    fs::create_dir_all(project.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"mermaid\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nmdbook-mermaid = \"={MDBOOK_MERMAID}\"\n"
    );
    fs::write(project.join("Cargo.toml"), manifest)?;
    fs::write(project.join("src/lib.rs"), "")?;
    let metadata = Cmd::line(&project, "cargo metadata --quiet --format-version 1").output()?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let package = packages.iter().find(|package| package["name"] == "mdbook-mermaid");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let folder = Path::new(manifest.context("mdbook-mermaid")?).parent().context("its folder")?;
    Ok(folder.join("src/bin/assets").join(MERMAID))
}

const BOOK: &str = r#"[book]
title = "wharf"
language = "en"

[build]
create-missing = false
# They would make `index.html` of README.md, and not of the links to it.
use-default-preprocessors = false

[output.html]
additional-js = ["pictures.js", "search.js"]
default-theme = "light"
preferred-dark-theme = "navy"
no-section-label = true
# A page for addresses that lead nowhere needs a web server.
input-404 = ""
"#;

/// Loads mermaid, which lies beside the pages, only where there is a picture.
const PICTURES: &str = r"// Pictures follow the theme, also when the reader changes it.
(() => {
    const html = document.documentElement;
    const sources = [...document.querySelectorAll('pre.mermaid')].map(e => [e, e.textContent]);
    const isDark = () => ['ayu', 'coal', 'navy'].some(name => html.classList.contains(name));
    let drawn;
    const draw = () => {
        if (drawn === isDark()) return;
        drawn = isDark();
        for (const [element, source] of sources) {
            element.removeAttribute('data-processed');
            element.textContent = source;
        }
        mermaid.initialize({ startOnLoad: false, theme: drawn ? 'dark' : 'default' });
        mermaid.run({ nodes: sources.map(([element]) => element) });
    };
    if (sources.length === 0) return;
    const script = document.createElement('script');
    script.src = path_to_root + 'mermaid.min.js';
    script.onload = () => {
        draw();
        new MutationObserver(draw).observe(html, { attributes: true, attributeFilter: ['class'] });
    };
    document.body.append(script);
})();
";

/// mdbook's index has no word but those of ASCII letters; the text of all pages is in it.
const SEARCH: &str = r"// Adds the Korean words to the index, and keeps them in what is looked for.
(() => {
    if (typeof elasticlunr === 'undefined') return;
    const trim = word => word.replace(/^[^\p{L}\p{N}_]+|[^\p{L}\p{N}_]+$/gu, '');
    trim.label = 'trimmer';
    elasticlunr.Pipeline.registeredFunctions.trimmer = trim;
    const load = elasticlunr.Index.load;
    elasticlunr.Index.load = data => {
        const index = load.call(elasticlunr.Index, data);
        for (const [ref, page] of Object.entries(data.documentStore.docs)) {
            for (const field of data.fields) {
                const counts = new Map();
                for (const word of page[field].match(/[가-힣]+/g) ?? []) {
                    counts.set(word, (counts.get(word) ?? 0) + 1);
                }
                for (const [word, count] of counts) {
                    index.index[field].addToken(word, { ref, tf: Math.sqrt(count) });
                }
            }
        }
        return index;
    };
})();
";
