//! The kinds of value that a setting can have: how each is read from text, checked and shown.
//!
//! A file, the environment and a flag all hand over text (a TOML number or list is turned into
//! text first), so that one parser per kind serves all of them and they cannot come to differ.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::PossibleValue;

use super::address::to_listen;
use super::choice::{Framing, parse_choice};

/// A kind of value that a setting can have.
pub(crate) trait Value: Sized {
    /// Whether a TOML list, a repeated flag and commas in the environment are accepted.
    const IS_LIST: bool = false;

    /// Whether there may be a secret in what is written, which is then shown to nobody.
    const HAS_SECRETS: bool = false;

    /// Reads a value; a plain number counts in `unit`.
    fn parse(text: &str, unit: &str) -> Result<Self, String>;

    /// The value as TOML, without its secrets.
    fn toml(&self) -> String;

    /// The value as a number for a range check: bytes, milliseconds, or the number itself.
    /// `None`: this value has no size, such as `auto`.
    fn magnitude(&self) -> Option<u64> {
        None
    }

    /// What stands for the value in help, where the kind itself says more than its unit.
    fn placeholder() -> Option<&'static str> {
        None
    }

    /// The words that the value is one of, for help and completions; empty where it is free.
    fn choices() -> Vec<PossibleValue> {
        Vec::new()
    }
}

/// Reads a value that is no setting, such as an option of another command.
pub(crate) fn parse_value<T: Value>(text: &str, unit: &str) -> Result<T, String> {
    parse_within(text, unit, &[])
}

/// Reads a value and holds it against the allowed ranges (none or one).
pub(crate) fn parse_within<T: Value>(
    text: &str,
    unit: &str,
    ranges: &[RangeInclusive<u64>],
) -> Result<T, String> {
    let value = T::parse(text.trim(), unit)?;
    match (ranges.first(), value.magnitude()) {
        (Some(range), Some(magnitude)) if !range.contains(&magnitude) => {
            Err(format!("must be {}", range_text(range, unit)))
        }
        _ => Ok(value),
    }
}

/// A range as people read it: `from 1 KiB to 1 GiB`.
pub(crate) fn range_text(range: &RangeInclusive<u64>, unit: &str) -> String {
    let text = |magnitude: u64| match unit {
        "bytes" => Bytes(magnitude).to_string(),
        "s" => humantime::format_duration(Duration::from_millis(magnitude)).to_string(),
        _ => grouped(magnitude),
    };
    format!("from {} to {}", text(*range.start()), text(*range.end()))
}

/// The default that a definition states.
///
/// # Panics
/// If the definition's default is not a value of its own kind; a test reads every default.
pub(crate) fn of_default<T: Value>(text: &str, unit: &str) -> T {
    T::parse(text, unit).unwrap_or_else(|error| panic!("the default {text:?}: {error}"))
}

impl Value for bool {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected `true` or `false`".to_owned())
    }

    fn toml(&self) -> String {
        self.to_string()
    }

    fn choices() -> Vec<PossibleValue> {
        vec![PossibleValue::new("true"), PossibleValue::new("false")]
    }
}

impl Value for u32 {
    fn parse(text: &str, unit: &str) -> Result<Self, String> {
        let digits = text.replace('_', "");
        digits.parse().map_err(|_| format!("expected a whole number of {unit}, such as `100`"))
    }

    fn toml(&self) -> String {
        self.to_string()
    }

    fn magnitude(&self) -> Option<u64> {
        Some(u64::from(*self))
    }
}

impl Value for Duration {
    fn parse(text: &str, unit: &str) -> Result<Self, String> {
        let with_unit =
            if is_plain_number(text) { format!("{text}{unit}") } else { text.to_owned() };
        humantime::parse_duration(&with_unit).map_err(|_| {
            format!("expected a duration such as `10s`, `500ms`, `1m30s` or a number of {unit}")
        })
    }

    fn toml(&self) -> String {
        quoted(&humantime::format_duration(*self).to_string().replace(' ', ""))
    }

    fn magnitude(&self) -> Option<u64> {
        // Rounded up, so that 100 us is not taken for zero.
        u64::try_from(self.as_nanos().div_ceil(1_000_000)).ok()
    }
}

/// A number of bytes, written as `8KiB` or as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

impl Value for Bytes {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        parse_size::parse_size(text)
            .map(Bytes)
            .map_err(|_| "expected a size such as `64KiB`, `1MiB` or a number of bytes".to_owned())
    }

    fn toml(&self) -> String {
        if self.0 >= 1024 && self.0.is_multiple_of(1024) {
            quoted(&self.to_string().replace(' ', ""))
        } else {
            self.0.to_string()
        }
    }

    fn magnitude(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// For people: `8 KiB`, `1 MiB`; bytes where no larger unit gives the exact number.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let larger = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match larger.iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size)) {
            Some((name, size)) => write!(f, "{} {name}", bytes / size),
            None if bytes == 1 => f.write_str("1 byte"),
            None => write!(f, "{bytes} bytes"),
        }
    }
}

/// How many worker threads: a number, or one per core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    Auto,
    Count(u32),
}

impl Workers {
    /// The number itself, or the cores that this process may use.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Self::Count(count) => count as usize,
        }
    }
}

impl Value for Workers {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Count).map_err(|_| "expected a number or `auto`".to_owned())
    }

    fn toml(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Count(count) => count.to_string(),
        }
    }

    fn magnitude(&self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Count(count) => Some(u64::from(*count)),
        }
    }
}

/// Where handlers run: on the workers, or on so many threads beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dispatch {
    Inline,
    Threads(u32),
}

impl Value for Dispatch {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        let threads = || text.strip_prefix("threads:")?.parse().ok();
        match text {
            "inline" => Ok(Self::Inline),
            _ => threads().map(Self::Threads).ok_or_else(|| {
                format!("`{text}` is neither `inline` nor `threads:N` with a number N")
            }),
        }
    }

    fn toml(&self) -> String {
        match self {
            Self::Inline => quoted("inline"),
            Self::Threads(count) => quoted(&format!("threads:{count}")),
        }
    }

    fn magnitude(&self) -> Option<u64> {
        match self {
            Self::Inline => None,
            Self::Threads(count) => Some(u64::from(*count)),
        }
    }
}

/// One echo listener: `FRAMING@ADDR`, or `ADDR` alone for the `study` framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EchoListener {
    pub(crate) framing: Framing,
    pub(crate) address: SocketAddr,
}

impl FromStr for EchoListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (framing, address) = match text.split_once('@') {
            Some((framing, address)) => (parse_choice(framing)?, address),
            None => (Framing::Study, text),
        };
        Ok(Self { framing, address: to_listen(address)? })
    }
}

impl fmt::Display for EchoListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.framing, self.address)
    }
}

/// The echo listeners, in the order given. An empty text is no listener at all.
impl Value for Vec<EchoListener> {
    const IS_LIST: bool = true;

    fn placeholder() -> Option<&'static str> {
        Some("[FRAMING@]ADDR")
    }

    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("names no address: a server listens somewhere".to_owned());
        }
        text.split(',').map(|item| item.trim().parse()).collect()
    }

    fn toml(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| quoted(&item.to_string())).collect();
        format!("[{}]", items.join(", "))
    }
}

/// A number in groups of three digits: `50,000`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn is_plain_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A string of TOML; no value holds control characters.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn check<T: Value>(text: &str, unit: &str, shown: &str) {
        let value = T::parse(text, unit).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(value.toml(), shown, "{text:?}");
    }

    fn refuse<T: Value>(text: &str, unit: &str, expected: &str) {
        let error = T::parse(text, unit).err().unwrap_or_else(|| panic!("{text:?} was accepted"));
        assert!(error.contains(expected), "{text:?}: {error}");
    }

    #[test]
    fn durations_are_read_with_units_and_in_the_settings_unit() {
        for (text, unit, shown) in [
            ("10s", "s", "\"10s\""),
            ("500ms", "s", "\"500ms\""),
            ("1m30s", "s", "\"1m30s\""),
            ("90", "s", "\"1m30s\""),
            ("90", "ms", "\"90ms\""),
            ("0", "s", "\"0s\""),
        ] {
            check::<Duration>(text, unit, shown);
        }
        for text in ["", "-1s", "ten", "10 parsecs", "99999999999999999999s"] {
            refuse::<Duration>(text, "s", "a duration such as");
        }
    }

    #[test]
    fn sizes_are_read_in_powers_of_1024_and_of_1000() {
        for (text, shown) in [
            ("64KiB", "\"64KiB\""),
            ("1MiB", "\"1MiB\""),
            ("1 MiB", "\"1MiB\""),
            ("2GiB", "\"2GiB\""),
            ("65536", "\"64KiB\""),
            ("1kB", "1000"),
            ("0", "0"),
            ("1000", "1000"),
        ] {
            check::<Bytes>(text, "bytes", shown);
        }
        for text in ["", "-1", "many", "1QiB", "99999999999999999999"] {
            refuse::<Bytes>(text, "bytes", "a size such as");
        }
        assert_eq!(Bytes(8192).to_string(), "8 KiB");
        assert_eq!(Bytes(1000).to_string(), "1000 bytes");
        assert_eq!(Bytes(1).to_string(), "1 byte");
    }

    #[test]
    fn numbers_workers_and_switches() {
        check::<u32>("50_000", "sessions", "50000");
        check::<Workers>("auto", "threads", "\"auto\"");
        check::<Workers>("3", "threads", "3");
        check::<bool>("false", "", "false");
        refuse::<u32>("-1", "sessions", "a whole number of sessions");
        refuse::<u32>("4294967296", "sessions", "a whole number");
        refuse::<Workers>("all", "threads", "a number or `auto`");
        refuse::<bool>("1", "", "`true` or `false`");
        check::<Dispatch>("inline", "threads", "\"inline\"");
        check::<Dispatch>("threads:2", "threads", "\"threads:2\"");
        for wrong in ["threads", "threads:", "threads:x", "2", "threads:-1"] {
            refuse::<Dispatch>(wrong, "threads", "neither `inline` nor `threads:N`");
        }
        assert!(parse_within::<Dispatch>("threads:0", "", &[1..=256]).is_err());
        assert!(parse_within::<Dispatch>("threads:257", "", &[1..=256]).is_err());
        assert_eq!(Workers::Count(3).count(), 3);
        assert!(Workers::Auto.count() >= 1);
    }

    #[test]
    fn echo_listeners_name_framing_and_address() {
        check::<Vec<EchoListener>>("127.0.0.1:9000", "", "[\"study@127.0.0.1:9000\"]");
        check::<Vec<EchoListener>>("[::1]:9000", "", "[\"study@[::1]:9000\"]");
        check::<Vec<EchoListener>>(
            "u16be@[::1]:0, raw@0.0.0.0:7",
            "",
            "[\"u16be@[::1]:0\", \"raw@0.0.0.0:7\"]",
        );
        refuse::<Vec<EchoListener>>("", "", "names no address");
        for framing in Framing::value_variants() {
            let text = format!("{framing}@127.0.0.1:1");
            check::<Vec<EchoListener>>(&text, "", &format!("[\"{text}\"]"));
        }
        check::<Vec<EchoListener>>("raw@localhost:9000", "", "[\"raw@127.0.0.1:9000\"]");
        refuse::<Vec<EchoListener>>("a.example:9000", "", "names a host");
        refuse::<Vec<EchoListener>>("line@127.0.0.1:9000", "", "did you mean `lines`?");
        refuse::<Vec<EchoListener>>("127.0.0.1", "", "not an IP address and a port");
        refuse::<Vec<EchoListener>>("::1:9000", "", "not an IP address and a port");
        refuse::<Vec<EchoListener>>("127.0.0.1:9000,", "", "not an IP address and a port");
    }

    #[test]
    fn numbers_are_grouped_in_threes() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (50_000, "50,000"),
            (123_456, "123,456"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn ranges_are_kept() {
        assert_eq!(parse_within::<u32>(" 5 ", "", &[1..=5]), Ok(5));
        assert_eq!(parse_within::<u32>("6", "", &[1..=5]), Err("must be from 1 to 5".to_owned()));
        let sizes = Err("must be from 1 KiB to 1 MiB".to_owned());
        assert_eq!(parse_within::<Bytes>("1000", "bytes", &[1_024..=1_048_576]), sizes);
        let durations = Err("must be from 1s to 1h".to_owned());
        assert_eq!(parse_within::<Duration>("500ms", "s", &[1_000..=3_600_000]), durations);
        assert_eq!(parse_within::<Workers>("auto", "", &[1..=2]), Ok(Workers::Auto));
        assert!(parse_within::<Workers>("0", "", &[1..=2]).is_err());
        assert!(parse_within::<Duration>("100us", "s", &[1..=2]).is_ok());
        assert!(parse_within::<Duration>("0", "s", &[1..=2]).is_err());
        assert!(parse_within::<Bytes>("3", "bytes", &[]).is_ok());
    }
}
