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

pub(crate) use address::to_reach;
pub(crate) use choice::{
    DuplicateLogin, Engine, Framing, LogFormat, LogLevel, OverRate, SendPolicy, parse_choice,
};
pub(crate) use definition::{Definition, Section};
pub(crate) use endpoint::Control;
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
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= 1.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_is_one_that_could_have_been_meant() {
        let names = ["server.workers", "server.engine", "limits.frame_bytes_max"];
        assert_eq!(nearest("server.workes", names), Some("server.workers"));
        assert_eq!(nearest("server.wrokers", names), Some("server.workers"));
        assert_eq!(nearest("limits.frame_byte_max", names), Some("limits.frame_bytes_max"));
        assert_eq!(nearest("database.url", names), None);
        assert_eq!(nearest("", names), None);
    }
}
