//! What the checks need to know of a Markdown file: headings, code blocks with the marker comment
//! above them, and links.

use std::{
    ops::Range,
    path::{Component, Path, PathBuf},
};

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A marker comment `<!-- ci:NAME ARGUMENT -->`, or a code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The word after the opening fence: `sh`, `rust`, `text`.
    pub(crate) language: String,
    pub(crate) text: String,
    /// The marker between this block and the block before it.
    pub(crate) marker: Option<Marker>,
    pub(crate) line: usize,
    /// Its bytes in the file, fences included.
    pub(crate) span: Range<usize>,
}

/// A link or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) to: String,
    /// What it is written as: `text` of `[text](to)`.
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) span: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) argument: String,
}

#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) headings: Vec<HeadingLevel>,
    /// What each heading says.
    pub(crate) titles: Vec<String>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) links: Vec<Link>,
}

/// A page's link to a file as a path from where the page's own path begins, unless it leaves that folder.
pub(crate) fn resolve(page: &Path, link: &str) -> Option<PathBuf> {
    let mut path = page.parent()?.to_path_buf();
    for component in Path::new(link).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.parent().is_some() => _ = path.pop(),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(path)
}

pub(crate) fn parse(text: &str) -> Document {
    let mut document = Document::default();
    let mut marker = None;
    let mut open_block: Option<Block> = None;
    let mut in_heading = false;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        let line = text[..range.start].matches('\n').count() + 1;
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                document.headings.push(level);
                document.titles.push(String::new());
                in_heading = true;
            }
            Event::End(TagEnd::Heading(_)) => in_heading = false,
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                let written = text[range.clone()].trim_start_matches('!').trim_start_matches('[');
                let text = written.split("](").next().unwrap_or_default().to_owned();
                let to = dest_url.into_string();
                document.links.push(Link { to, text, line, span: range });
            }
            Event::Html(html) => marker = parse_marker(&html).or(marker),
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => info.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                let marker = marker.take();
                let (text, span) = (String::new(), range);
                open_block = Some(Block { language, text, marker, line, span });
            }
            Event::Text(text) | Event::Code(text) if in_heading => {
                document.titles.last_mut().expect("one is open").push_str(&text);
            }
            Event::Text(text) => {
                if let Some(block) = &mut open_block {
                    block.text.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => document.blocks.extend(open_block.take()),
            _ => {}
        }
    }
    document
}

fn parse_marker(html: &str) -> Option<Marker> {
    let inner = html.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    let (name, argument) = inner.strip_prefix("ci:")?.split_once(' ').unwrap_or((&inner[3..], ""));
    Some(Marker { name: name.to_owned(), argument: argument.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_carry_the_marker_above_them() {
        let text = "# A\n\n<!-- ci:run hello -->\n\n```sh\necho hello\n```\n\n```text\nno\n```\n\n\
                    ## B\n\n[c](docs/d.md)\n";
        let document = parse(text);
        assert_eq!(document.headings, [HeadingLevel::H1, HeadingLevel::H2]);
        assert_eq!(document.titles, ["A", "B"]);
        let [link] = &document.links[..] else { panic!("{document:?}") };
        assert_eq!((link.to.as_str(), link.text.as_str(), link.line), ("docs/d.md", "c", 15));
        assert_eq!(&text[link.span.clone()], "[c](docs/d.md)");
        let [shell, plain] = &document.blocks[..] else { panic!("{document:?}") };
        let marker = Marker { name: "run".to_owned(), argument: "hello".to_owned() };
        assert_eq!((shell.language.as_str(), shell.text.as_str()), ("sh", "echo hello\n"));
        assert_eq!((shell.marker.as_ref(), shell.line), (Some(&marker), 5));
        assert_eq!(plain.marker, None);
        assert_eq!(&text[plain.span.clone()], "```text\nno\n```");
    }
}
