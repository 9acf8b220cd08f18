//! What the checks need to know of a Markdown file: headings, code blocks with the marker comment
//! above them, and links.

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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) argument: String,
}

#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) headings: Vec<HeadingLevel>,
    pub(crate) blocks: Vec<Block>,
    /// Destination and line.
    pub(crate) links: Vec<(String, usize)>,
}

pub(crate) fn parse(text: &str) -> Document {
    let mut document = Document::default();
    let mut marker = None;
    let mut open_block: Option<Block> = None;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        let line = text[..range.start].matches('\n').count() + 1;
        match event {
            Event::Start(Tag::Heading { level, .. }) => document.headings.push(level),
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                document.links.push((dest_url.into_string(), line));
            }
            Event::Html(html) => marker = parse_marker(&html).or(marker),
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => info.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                let marker = marker.take();
                open_block = Some(Block { language, text: String::new(), marker, line });
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
        assert_eq!(document.links, [("docs/d.md".to_owned(), 15)]);
        let [shell, plain] = &document.blocks[..] else { panic!("{document:?}") };
        let marker = Marker { name: "run".to_owned(), argument: "hello".to_owned() };
        assert_eq!((shell.language.as_str(), shell.text.as_str()), ("sh", "echo hello\n"));
        assert_eq!((shell.marker.as_ref(), shell.line), (Some(&marker), 5));
        assert_eq!(plain.marker, None);
    }
}
