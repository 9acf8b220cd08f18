//! Reads settings from TOML and keeps the line of each, so that an error can point at it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::load::{Assignment, Origin, Problems};
use super::{DEFINITIONS, Definition, SECTIONS, excerpt, nearest};

/// What a file sets; whatever is wrong with it is added to `problems`, in the order of its lines.
pub(crate) fn read(path: &Path, problems: &mut Problems) -> Vec<Assignment> {
    let name = path.display().to_string();
    match contents(path) {
        Ok(bytes) => read_bytes(name, &bytes, problems),
        Err(error) => {
            problems.0.push(format!("{name}: cannot be read: {error}"));
            Vec::new()
        }
    }
}

/// As much of the file as is looked at: where it is too long, a byte too much.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read`], for what is in a file named `name`.
pub(super) fn read_bytes(name: String, bytes: &[u8], problems: &mut Problems) -> Vec<Assignment> {
    let text = match std::str::from_utf8(bytes) {
        _ if bytes.len() > FILE_BYTES_MAX => {
            let most = FILE_BYTES_MAX / 1024;
            problems.0.push(format!("{name}: longer than a configuration may be, {most} KiB"));
            return Vec::new();
        }
        Ok(text) => text,
        Err(error) => {
            problems.0.push(format!("{name}: cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut reader = Reader { name, text, found: Vec::new(), wrong: BTreeMap::new(), unsaid: 0 };
    reader.read_document();
    problems.0.extend(reader.wrong.into_values());
    if reader.unsaid > 0 {
        problems.0.push(format!("{}: {} more like these", reader.name, reader.unsaid));
    }
    reader.found
}

/// The longest configuration file, in bytes: every setting with its documentation fits twice. What is
/// parsed takes up to 600 times its text while it is read, which this bounds.
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// So many problems of a file are told, those that come first in it: whoever has more has given another
/// kind of file.
const PROBLEMS_MAX: usize = 20;

/// So much is said of what is wrong, which may be named as it stands there.
const SHOWN_CHARACTERS_MAX: usize = 240;

struct Reader<'a> {
    name: String,
    text: &'a str,
    found: Vec<Assignment>,
    /// Problems by the byte offset that they are at, and how many there were before.
    wrong: BTreeMap<(usize, usize), String>,
    /// How many are left out.
    unsaid: usize,
}

impl<'a> Reader<'a> {
    fn read_document(&mut self) {
        let document = match DeTable::parse(self.text) {
            Ok(document) => document,
            Err(error) => {
                let message = error.message().to_owned();
                self.refuse(error.span().unwrap_or(0..0), &message, || None);
                return;
            }
        };
        for (section, table) in document.get_ref() {
            let name: &str = section.get_ref();
            let is_known = SECTIONS.iter().any(|section| section.name == name);
            match table.get_ref() {
                DeValue::Table(table) if is_known => self.read_section(name, table),
                DeValue::Table(_) => {
                    self.refuse(section.span(), &format!("unknown section `[{name}]`"), || {
                        let near = nearest(name, SECTIONS.iter().map(|section| section.name));
                        near.map(|name| format!("[{name}]"))
                    });
                }
                _ => {
                    let message = format!("unknown setting `{name}` outside of a section");
                    self.refuse(section.span(), &message, || meant("", name));
                }
            }
        }
    }

    fn read_section(&mut self, section: &str, table: &DeTable<'a>) {
        for (name, value) in table {
            let key = format!("{section}.{}", name.get_ref());
            let Some(definition) = DEFINITIONS.iter().position(|known| known.key == key) else {
                let hint = || meant(section, name.get_ref());
                self.refuse(name.span(), &format!("unknown setting `{key}`"), hint);
                continue;
            };
            let known = &DEFINITIONS[definition];
            let read =
                text_of(known, value.get_ref()).and_then(|text| known.check(&text).map(|()| text));
            match read {
                Ok(text) => {
                    let line = self.place(value.span().start).0;
                    let origin = Origin::File { path: self.name.clone(), line };
                    self.found.push(Assignment { definition, text, origin });
                }
                Err(message) => {
                    self.refuse(value.span(), &format!("`{key}`: {message}"), || None);
                }
            }
        }
    }

    /// Adds a problem, unless enough come before it in the file.
    fn refuse(&mut self, span: Range<usize>, message: &str, hint: impl FnOnce() -> Option<String>) {
        let at = (span.start, self.wrong.len() + self.unsaid);
        if self.wrong.len() == PROBLEMS_MAX {
            self.unsaid += 1;
            if self.wrong.last_key_value().is_some_and(|(last, _)| *last < at) {
                return;
            }
            self.wrong.pop_last();
        }
        let mut problem = self.problem(span, &excerpt(message, SHOWN_CHARACTERS_MAX));
        if let Some(hint) = hint() {
            problem.push_str(&format!("\n  did you mean `{hint}`?"));
        }
        self.wrong.insert(at, problem);
    }

    /// `wharf.toml:3: message`, and the line with the place marked.
    fn problem(&self, span: Range<usize>, message: &str) -> String {
        let (line, column) = self.place(span.start);
        let source = shown(self.text.lines().nth(line - 1).unwrap_or("").trim_end());
        if source.len() > SHOWN_BYTES_MAX {
            // Nobody finds the mark under such a line, which is probably no text at all.
            return format!("{}:{line}: {message} (column {})", self.name, column + 1);
        }
        let before: String = source
            .chars()
            .take(column)
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        let marked = self.text.get(span).unwrap_or("").lines().next().unwrap_or("");
        // Of a password that is left out there is nothing to mark.
        let marks = marked.chars().count().min(source.chars().count().saturating_sub(column));
        let marks = "^".repeat(marks.max(1));
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        format!(
            "{}:{line}: {message}\n  {number} | {source}\n  {margin} | {before}{marks}",
            self.name
        )
    }

    /// The line, from 1, and the column in characters, from 0, of a byte offset.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count())
    }
}

/// A line that is longer is not shown with what is wrong in it.
const SHOWN_BYTES_MAX: usize = 400;

/// A line as it may be shown. One that cannot be read may still name a store, with its password.
fn shown(line: &str) -> String {
    let may_have_secrets = line.contains("store") || line.contains("://");
    if may_have_secrets { wharf_chat::hide_password(line) } else { line.to_owned() }
}

/// The key that was probably meant: this name in another section, or a name that is near.
fn meant(section: &str, name: &str) -> Option<String> {
    let elsewhere = DEFINITIONS.iter().find(|definition| definition.name == name);
    if let Some(definition) = elsewhere {
        return Some(definition.key.to_owned());
    }
    let in_section = DEFINITIONS.iter().filter(|definition| definition.section == section);
    let near = nearest(name, in_section.map(|definition| definition.name));
    let near = near.map(|name| format!("{section}.{name}"));
    near.or_else(|| {
        let name = nearest(name, DEFINITIONS.iter().map(|definition| definition.name))?;
        let definition = DEFINITIONS.iter().find(|definition| definition.name == name)?;
        Some(definition.key.to_owned())
    })
}

/// The value as it would be written in the environment.
fn text_of(definition: &Definition, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map(|number| number.to_string())
            .map_err(|_| "the number is too large".to_owned()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Float(float) => Ok(float.as_str().to_owned()),
        DeValue::Array(items) if definition.is_list => {
            let texts: Result<Vec<String>, String> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    other => Err(format!("expected a list of strings, found {}", described(other))),
                })
                .collect();
            Ok(texts?.join(","))
        }
        other => Err(format!("expected one value, found {}", described(other))),
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
        DeValue::Datetime(_) => "a date or time",
        DeValue::String(_) => "a string",
        _ => "a number or a switch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Vec<String>, Vec<String>) {
        let mut problems = Problems::default();
        let found = read_bytes("w.toml".to_owned(), text.as_bytes(), &mut problems)
            .into_iter()
            .map(|found| {
                let key = DEFINITIONS[found.definition].key;
                let origin = found.origin.to_string().replace("w.toml:", "");
                format!("{origin} {key} {}", found.text)
            })
            .collect();
        (found, problems.0)
    }

    #[test]
    fn values_come_with_their_line() {
        let (found, problems) = read_text(
            "limits.frame_bytes_max = \"16KiB\" # dotted\n\n[server]\nworkers = 0x2\n\
             echo = [\n  'lines@[::1]:1', \"127.0.0.1:2\",\n]\n\n[sockets]\nnodelay = false\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(
            found,
            [
                "1 limits.frame_bytes_max 16KiB",
                "5 server.echo lines@[::1]:1,127.0.0.1:2",
                "4 server.workers 2",
                "10 sockets.nodelay false",
            ]
        );
    }

    #[test]
    fn unknown_keys_are_pointed_at_with_a_suggestion() {
        for (text, expected) in [
            (
                "[server]\n\nworkes = 2\n",
                "w.toml:3: unknown setting `server.workes`\n  3 | workes = 2\n    | ^^^^^^\n  \
                 did you mean `server.workers`?",
            ),
            (
                "[sever]\nworkers = 2\n",
                "w.toml:1: unknown section `[sever]`\n  1 | [sever]\n    |  ^^^^^\n  \
                 did you mean `[server]`?",
            ),
            (
                "[server]\n\tnodelay = true",
                "w.toml:2: unknown setting `server.nodelay`\n  2 | \tnodelay = true\n    | \
                 \t^^^^^^^\n  did you mean `sockets.nodelay`?",
            ),
            (
                "workers = 1",
                "w.toml:1: unknown setting `workers` outside of a section\n  1 | workers = 1\n    \
                 | ^^^^^^^\n  did you mean `server.workers`?",
            ),
            (
                "[server]\nfrobnicate = 1",
                "w.toml:2: unknown setting `server.frobnicate`\n  2 | frobnicate = 1\n    | \
                 ^^^^^^^^^^",
            ),
        ] {
            assert_eq!(read_text(text).1, [expected], "{text:?}");
        }
    }

    #[test]
    fn wrong_shapes_and_wrong_toml_are_pointed_at() {
        for (text, expected) in [
            (
                "[server]\nworkers = [1]",
                "w.toml:2: `server.workers`: expected one value, found a list",
            ),
            ("[server]\necho = [1]", "w.toml:2: `server.echo`: expected a list of strings"),
            (
                "[server]\necho = {a = 1}",
                "w.toml:2: `server.echo`: expected one value, found a table",
            ),
            ("[server]\nspin_us = 1979-05-27", "found a date or time"),
            ("[server]\nspin_us = 99999999999999999999", "w.toml:2: `server.spin_us`: the number"),
            ("[server]\nworkers = 0\n", "w.toml:2: `server.workers`: must be from 1 to 256"),
            ("[server]\nengine = \"pol\"\n", "did you mean `poll`?"),
            ("[server]\nworkers = \n", "w.toml:2: "),
            ("[server]\nworkers = 1\nworkers = 2\n", "w.toml:3: duplicate key"),
        ] {
            let (_, problems) = read_text(text);
            assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
            assert!(problems[0].contains(expected), "{text:?}: {}", problems[0]);
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_unread() {
        let refusal = ["w.toml: longer than a configuration may be, 64 KiB"];
        let filled = |bytes: usize| format!("server.workers = 2\n{}", "#".repeat(bytes - 19));
        assert_eq!(read_text(&filled(FILE_BYTES_MAX)).0, ["1 server.workers 2"]);
        assert_eq!(
            read_text(&filled(FILE_BYTES_MAX + 1)),
            (vec![], refusal.map(String::from).into())
        );

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.toml");
        // Cut anywhere it would not be UTF-8.
        for bytes in ["김".repeat(FILE_BYTES_MAX), "#".repeat(FILE_BYTES_MAX + 1)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(contents(&path).unwrap().len(), FILE_BYTES_MAX + 1, "no more is looked at");
            let mut problems = Problems::default();
            assert!(read(&path, &mut problems).is_empty());
            assert!(problems.to_string().contains(&refusal[0][1..]), "{problems}");
        }
        std::fs::write(&path, [b'#', 0xff]).unwrap();
        let mut problems = Problems::default();
        assert!(read(&path, &mut problems).is_empty());
        assert!(
            problems.to_string().contains("w.toml: cannot be read: invalid utf-8"),
            "{problems}"
        );
    }

    #[test]
    fn of_a_file_with_everything_wrong_a_little_is_told() {
        let text: String = (1..=1000).rev().map(|n| format!("a{n} = 1\n")).collect();
        let (_, problems) = read_text(&format!("[limits]\n{text}"));
        assert_eq!(problems.len(), PROBLEMS_MAX + 1);
        for (at, problem) in problems[..PROBLEMS_MAX].iter().enumerate() {
            let expected = format!("w.toml:{}: unknown setting `limits.a{}`", at + 2, 1000 - at);
            assert!(problem.starts_with(&expected), "{problem}");
        }
        assert_eq!(problems[PROBLEMS_MAX], "w.toml: 980 more like these");

        let keys: String = (1..=5000).map(|n| format!("a{n} = 1, ")).collect();
        let (_, problems) = read_text(&format!("limits = {{ {keys}{} = 1 }}", "b".repeat(10_000)));
        assert!(problems.iter().all(|problem| problem.len() < 1000), "{problems:?}");
        assert_eq!(problems[1], "w.toml:1: unknown setting `limits.a2` (column 20)");
    }

    #[test]
    fn problems_are_in_the_order_of_the_lines() {
        let (_, problems) = read_text("[server]\nzzz = 1\naaa = 1\n[limit]\n");
        let lines: Vec<&str> = problems.iter().filter_map(|p| p.split(':').nth(1)).collect();
        assert_eq!(lines, ["2", "3", "4"]);
    }
}
