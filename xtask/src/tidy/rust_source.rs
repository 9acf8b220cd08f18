//! Rules over the tokens of Rust files, so that comments and strings are not mistaken for code.

use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{Finding, Source};

/// Where `unsafe` may be written. `bench/` measures against programs written on the bare system
/// interface, and is no part of what anybody links.
const UNSAFE_FOLDERS: [&str; 2] = ["crates/wharf-port", "bench"];
/// How far above `unsafe {` its reason may begin.
const SAFETY_LINES_ABOVE: usize = 10;
const UNFINISHED_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub(super) fn findings(source: &Source) -> Vec<Finding> {
    let mut walk = Walk { source, lines: source.text.lines().collect(), findings: Vec::new() };
    match source.text.parse::<TokenStream>() {
        Ok(tokens) => walk.tokens(tokens),
        Err(error) => {
            let line = error.span().start().line;
            walk.findings.push(source.finding(line, format!("not Rust: {error}")));
        }
    }
    walk.findings
}

struct Walk<'a> {
    source: &'a Source,
    lines: Vec<&'a str>,
    findings: Vec<Finding>,
}

impl Walk<'_> {
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            let next = tokens.get(index + 1);
            match token {
                TokenTree::Ident(ident) => {
                    self.word(&ident.to_string(), ident.span().start().line, next);
                }
                TokenTree::Group(group) => {
                    let after_hash = index.checked_sub(1).and_then(|before| tokens.get(before));
                    if group.delimiter() == Delimiter::Bracket && is_punct(after_hash, '#') {
                        self.attribute(&group.stream(), group.span_open().start().line);
                    }
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn word(&mut self, word: &str, line: usize, next: Option<&TokenTree>) {
        if UNFINISHED_MACROS.contains(&word) && is_punct(next, '!') {
            self.add(line, format!("`{word}!`"));
        }
        if word != "unsafe" {
            return;
        }
        if !UNSAFE_FOLDERS.iter().any(|folder| self.source.path.starts_with(Path::new(folder))) {
            self.add(line, "unsafe belongs in crates/wharf-port (I1)");
        }
        let opens_block =
            matches!(next, Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace);
        if opens_block && !self.has_safety_comment(line) {
            self.add(line, "an unsafe block without a `// SAFETY:` comment above it");
        }
    }

    fn attribute(&mut self, content: &TokenStream, line: usize) {
        let first = content.clone().into_iter().next();
        if matches!(first, Some(TokenTree::Ident(ident)) if ident == "ignore") {
            self.add(line, "an ignored test is not a test");
        }
    }

    fn has_safety_comment(&self, line: usize) -> bool {
        let first = line.saturating_sub(1 + SAFETY_LINES_ABOVE);
        self.lines[first..line].iter().any(|text| text.contains("SAFETY:"))
    }

    fn add(&mut self, line: usize, what: impl Into<String>) {
        self.findings.push(self.source.finding(line, what));
    }
}

fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected_lines: &[usize]) {
        let source = Source { path: path.into(), text: text.to_owned() };
        let lines: Vec<usize> = findings(&source).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, expected_lines, "{path}: {text}");
    }

    #[test]
    fn unsafe_is_found_in_code_alone() {
        let block = "fn f() {\n    // SAFETY: P2.\n    unsafe { g() }\n}\n";
        check("crates/wharf-port/src/a.rs", block, &[]);
        check("crates/wharf/src/a.rs", block, &[3]);
        check("crates/wharf/src/a.rs", "#![forbid(unsafe_code)]\n// unsafe { }\n", &[]);
        check("crates/wharf/src/a.rs", "//! unsafe\nconst A: &str = \"unsafe {}\";\n", &[]);
        check("crates/wharf-porting/src/a.rs", "\nunsafe fn f() {}\n", &[2]);
    }

    #[test]
    fn each_unsafe_block_needs_its_reason_near() {
        check("bench/a.rs", "fn f() {\n    unsafe { g() }\n}\n", &[2]);
        let far =
            format!("// SAFETY: too far.\n{}fn f() {{ unsafe {{ g() }} }}\n", "\n".repeat(10));
        check("bench/a.rs", &far, &[12]);
    }

    #[test]
    fn unfinished_code_is_found() {
        check(
            "a.rs",
            concat!("fn f() {\n    to", "do!();\n    let x = d", "bg!(1);\n}\n"),
            &[2, 3],
        );
        check("a.rs", concat!("#[test]\n#[ig", "nore = \"slow\"]\nfn f() {}\n"), &[2]);
        check("a.rs", "fn ignore() { todo(); }\n", &[]);
    }
}
