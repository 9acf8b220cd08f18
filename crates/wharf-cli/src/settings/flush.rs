//! When frames leave: with each turn of a worker, or every so often.

use std::time::Duration;

use super::value::{Value, quoted};

/// When frames leave that sessions have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    Turn,
    /// Every so many milliseconds.
    EveryMs(u32),
}

impl Value for Flush {
    fn parse(text: &str, unit: &str) -> Result<Self, String> {
        if text == "turn" {
            return Ok(Self::Turn);
        }
        let whole = |time: Duration| {
            let ms = u32::try_from(time.as_millis()).ok()?;
            (Duration::from_millis(ms.into()) == time).then_some(Self::EveryMs(ms))
        };
        let wrong = || "expected `turn`, or whole milliseconds such as `50ms`".to_owned();
        Duration::parse(text, unit).ok().and_then(whole).ok_or_else(wrong)
    }

    fn toml(&self) -> String {
        match self {
            Self::Turn => quoted("turn"),
            Self::EveryMs(ms) => Duration::from_millis((*ms).into()).toml(),
        }
    }

    fn magnitude(&self) -> Option<u64> {
        match self {
            Self::Turn => None,
            Self::EveryMs(ms) => Some(u64::from(*ms)),
        }
    }

    fn placeholder() -> Option<&'static str> {
        Some("turn|DURATION")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::value::parse_within;

    #[test]
    fn a_flush_is_each_turn_or_after_whole_milliseconds() {
        for (text, shown) in [("turn", "\"turn\""), ("50ms", "\"50ms\""), ("1", "\"1s\"")] {
            assert_eq!(Flush::parse(text, "s").unwrap().toml(), shown);
        }
        for text in ["", "turns", "1500us", "-1", "60days"] {
            assert!(Flush::parse(text, "s").unwrap_err().contains("`turn`"), "{text}");
        }
        let range = [1..=10_000];
        assert_eq!(parse_within::<Flush>("10s", "s", &range), Ok(Flush::EveryMs(10_000)));
        for text in ["0", "10001ms"] {
            assert!(parse_within::<Flush>(text, "s", &range).unwrap_err().contains("must be"));
        }
    }
}
