//! Writes settings for people: the effective configuration, and its reference page.

use std::fmt::Write as _;

use super::value::range_text;
use super::{DEFINITIONS, Definition, Loaded, SECTIONS, Section};
use crate::reload::is_reloadable;

/// Every setting, its value and where the value came from, as TOML that can be loaded again, but for
/// secrets: those have to be written out first.
pub(crate) fn effective(loaded: &Loaded) -> String {
    let mut page =
        String::from("# Every setting of wharf, its value and where the value came from.\n");
    for section in SECTIONS {
        let _ = writeln!(page, "\n[{}]", section.name);
        let lines: Vec<(String, String)> = DEFINITIONS
            .iter()
            .zip(&loaded.origins)
            .filter(|(definition, _)| definition.section == section.name)
            .map(|(definition, origin)| {
                let value = (definition.toml)(&loaded.settings);
                (format!("{} = {value}", definition.name), origin.to_string())
            })
            .collect();
        // A long list does not push all other comments out of sight.
        let fitting = lines.iter().map(|(line, _)| line.len()).filter(|length| *length <= 40);
        let width = fitting.max().unwrap_or(0);
        for (line, origin) in lines {
            let _ = writeln!(page, "{line:width$}  # {}", one_line(&origin));
        }
    }
    page
}

/// `docs/configuration.md`.
pub(crate) fn documentation() -> String {
    let mut page = String::from(HEAD);
    for section in SECTIONS {
        write_section(&mut page, section);
    }
    page
}

const HEAD: &str = "\
# Configuration

<!-- Written by `wharf print-configuration-docs` from the table of settings; a test compares. -->

Every setting can be given in four ways; the first one that is there counts:

1. a flag: `wharf serve --workers 2`
2. a variable of the environment: `WHARF_WORKERS=2`
3. a TOML file of at most 64 KiB, named with `--config FILE` (or `WHARF_CONFIG`), otherwise `wharf.toml`
   in the working directory if there is one
4. the default

```toml
[server]
workers = 2
echo = [\"study@0.0.0.0:9000\", \"lines@[::1]:9001\"]

[limits]
frame_bytes_max = \"16KiB\"
first_frame_timeout = \"5s\"
```

`wharf reload` lets a running server read file and environment again. It changes the settings that have
a `yes` in the last column, limits for the sessions that open from then on, and says which others differ
and wait for a restart.

`wharf serve --print-config` shows every value and where it came from, as TOML. An unknown name or
a wrong value is an error (exit status 2) that names the place and, if one is near, the name that
was probably meant. That is also true of variables that begin with `WHARF_`.

The password of a Redis in `server.store` is shown nowhere, neither there nor in a log or an error:
`***` stands for it, and is refused as a password.

Durations are written as `10s`, `500ms`, `1m30s`; sizes as `64KiB`, `1MiB` (powers of 1024) or
`64kB`, `1MB` (powers of 1000). A plain number counts in the setting's unit.
";

fn write_section(page: &mut String, section: &Section) {
    let _ = write!(page, "\n## `[{}]`\n\n{}\n\n", section.name, section.help());
    page.push_str(
        "| key | flag | environment | unit | default | reload |\n|---|---|---|---|---|---|\n",
    );
    let rows = || DEFINITIONS.iter().filter(|definition| definition.section == section.name);
    for definition in rows() {
        let _ = writeln!(
            page,
            "| `{}` | `--{}` | `{}` | {} | {} | {} |",
            definition.key,
            definition.flag(),
            definition.environment(),
            definition.unit,
            default(definition),
            if is_reloadable(definition) { "yes" } else { "restart" }
        );
    }
    page.push('\n');
    for definition in rows() {
        let _ = writeln!(
            page,
            "- **`{}`** {}{}",
            definition.key,
            definition.help(),
            choices(definition)
        );
        let _ = writeln!(page, "  *Why {}:* {}", default(definition), definition.reason);
    }
}

fn default(definition: &Definition) -> String {
    let items: Vec<String> =
        definition.default.split(',').map(|item| format!("`{item}`")).collect();
    items.join(", ")
}

fn choices(definition: &Definition) -> String {
    let choices = (definition.choices)();
    if choices.is_empty() {
        return range(definition);
    }
    let names: Vec<String> =
        choices.iter().map(|choice| format!("`{}`", choice.get_name())).collect();
    format!(" One of {}.", names.join(", "))
}

fn range(definition: &Definition) -> String {
    let Some(range) = definition.ranges.first() else { return String::new() };
    let has_own_units = matches!(definition.unit, "s" | "bytes");
    let unit = if has_own_units { String::new() } else { format!(" {}", definition.unit) };
    format!(" Allowed: {}{unit}.", range_text(range, definition.unit))
}

/// A file's name may hold a line break, which would end the comment.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::settings::{Sources, load};

    #[test]
    fn the_effective_configuration_can_be_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let environment = vec![
            ("WHARF_ECHO".to_owned(), "raw@[::1]:0,127.0.0.1:1".to_owned()),
            ("WHARF_SOCKETS_USER_TIMEOUT".to_owned(), "1m30s".to_owned()),
            ("WHARF_PORT_RECEIVE_BUFFER_BYTES".to_owned(), "1000".to_owned()),
        ];
        let first = load(Sources { environment, ..Sources::default() }).unwrap();
        let path = directory.path().join("printed.toml");
        fs::write(&path, effective(&first)).unwrap();
        let second = load(Sources { named_file: Some(path), ..Sources::default() }).unwrap();
        assert_eq!(first.settings, second.settings);
    }

    #[test]
    fn a_password_is_left_out_and_then_missed() {
        let directory = tempfile::tempdir().unwrap();
        let store = ("WHARF_STORE".to_owned(), "redis:redis://kim:secret@host".to_owned());
        let first = load(Sources { environment: vec![store], ..Sources::default() }).unwrap();
        let printed = effective(&first);
        assert!(printed.contains("store = \"redis:redis://kim:***@host\"  # env"), "{printed}");
        assert!(!format!("{:?}", first.settings).contains("secret"));
        let path = directory.path().join("printed.toml");
        fs::write(&path, printed).unwrap();
        let again = load(Sources { named_file: Some(path), ..Sources::default() });
        assert!(again.unwrap_err().to_string().contains("write it out"));
    }

    #[test]
    fn a_path_with_a_line_break_stays_inside_its_comment() {
        assert_eq!(one_line("a\nb\u{1b}:1"), "a\\nb\\u{1b}:1");
    }

    #[test]
    fn the_page_has_every_setting() {
        let page = documentation();
        for definition in DEFINITIONS {
            assert!(page.contains(&format!("| `{}` | `--", definition.key)), "{}", definition.key);
        }
    }
}
