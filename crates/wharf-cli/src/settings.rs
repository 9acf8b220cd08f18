//! Settings: one definition gives a flag, a key of the file, a variable of the environment, its
//! documentation and a typed field.
//!
//! `table` holds the definitions, `value` and `choice` read and show the kinds of values, `load` lays the
//! sources over each other (flag over environment over file over default) and remembers where
//! each value came from, `file` reads TOML with line numbers, `flags` makes command-line
//! arguments, `print` writes `--print-config` and `docs/configuration.md`.

mod address;
mod chat;
mod choice;
mod definition;
mod endpoint;
mod file;
mod flags;
mod flush;
mod load;
mod print;
mod slow_handler;
mod table;
mod value;

use std::borrow::Cow;

pub(crate) use address::to_reach;
pub(crate) use choice::{
    DuplicateLogin, Engine, Framing, LogFormat, LogLevel, OverRate, SendPolicy, parse_choice,
};
pub(crate) use definition::{Definition, Section};
pub(crate) use endpoint::Control;
pub use file::FILE_BYTES_MAX;
pub(crate) use flags::{argument_of, arguments, assignments};
pub(crate) use flush::Flush;
pub(crate) use load::{Loaded, Origin, Problems, Sources, load, load_text};
pub(crate) use print::{documentation, effective};
pub(crate) use table::{DEFINITIONS, SECTIONS, Server, Settings};
pub(crate) use value::{Bytes, Dispatch, EchoListener, Workers, grouped, parse_value};

/// The name nearest to what was written, if one is near enough to have been meant.
pub(crate) fn nearest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = written.chars().count();
    let tolerance = |name: &str| 1.max(name.len() / 3);
    names
        .into_iter()
        // Comparing takes memory for each pair of characters, and these are too many or too few.
        .filter(|name| length.abs_diff(name.len()) <= tolerance(name))
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= tolerance(name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// As much of a text as a message shows of it: its beginning and its end.
pub(crate) fn excerpt(text: &str, characters_max: usize) -> Cow<'_, str> {
    if text.chars().nth(characters_max).is_none() {
        return Cow::Borrowed(text);
    }
    let byte = |(at, _)| at;
    let begins = text.char_indices().nth(characters_max * 3 / 4).map_or(text.len(), byte);
    let ends = text.char_indices().rev().nth(characters_max / 4 - 1).map_or(0, byte);
    Cow::Owned(format!("{} ... {}", &text[..begins], &text[ends..]))
}

#[cfg(test)]
mod tests {
    use super::{excerpt, nearest};

    #[test]
    fn of_a_long_text_the_beginning_and_the_end_are_shown() {
        assert_eq!(excerpt("", 8), "");
        assert_eq!(excerpt("김김김김김김김김", 8), "김김김김김김김김");
        assert_eq!(excerpt("abcdefghi", 8), "abcdef ... hi");
        assert_eq!(excerpt(&"김".repeat(60_000), 4), "김김김 ... 김");
    }

    #[test]
    fn the_nearest_name_is_one_that_could_have_been_meant() {
        let names = ["server.workers", "server.engine", "limits.frame_bytes_max"];
        assert_eq!(nearest("server.workes", names), Some("server.workers"));
        assert_eq!(nearest("server.wrokers", names), Some("server.workers"));
        assert_eq!(nearest("limits.frame_byte_max", names), Some("limits.frame_bytes_max"));
        assert_eq!(nearest("database.url", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"server.workers".repeat(5000), names), None);
    }
}
