//! What the numbers of a load may be, on the command line and in a scenario's file alike.

use std::time::Duration;

use crate::settings::{grouped, parse_value};

/// More than a machine has descriptors and memory for.
pub(crate) const CONNECTIONS_MAX: u32 = 1_000_000;

/// Messages under way on a connection, or of one visit: beyond it a queue is measured, not a server.
pub(crate) const MESSAGES_MAX: u32 = 65_536;

/// A time. At most 30 days: whoever wants to see for longer whether a server leaks runs it again.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let time: Duration = parse_value(text, "s")?;
    let is_bounded = time <= TIME_MAX;
    is_bounded.then_some(time).ok_or_else(|| "expected 30 days at most".to_owned())
}

/// Visits per second.
pub(crate) fn visits(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| *rate > 0.0 && *rate <= VISITS_MAX)
        .ok_or_else(|| format!("expected a number above 0, {VISITS_MAX} at most"))
}

/// A whole number of a range.
pub(crate) fn whole(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    let most = || grouped(most.into());
    number.ok_or_else(|| format!("expected a number from {least} to {}", most()))
}

const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// More than any machine accepts.
const VISITS_MAX: f64 = 1e7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_end_and_rates_are_numbers() {
        assert_eq!(time("30days").unwrap(), TIME_MAX);
        assert_eq!((time("0").unwrap(), time("90").unwrap().as_secs()), (Duration::ZERO, 90));
        for wrong in ["", "-1s", "NaN", "31days", "18446744073709551615", "500000000000years"] {
            time(wrong).unwrap_err();
        }
        assert_eq!((visits("0.5"), visits("1e7")), (Ok(0.5), Ok(1e7)));
        for wrong in ["", "0", "-1", "NaN", "nan", "inf", "1e300", "1e8"] {
            visits(wrong).unwrap_err();
        }
        assert_eq!(whole("5", 1, 5), Ok(5));
        for wrong in ["", "0", "6", "-1", "1.5", "18446744073709551616"] {
            whole(wrong, 1, 5).unwrap_err();
        }
    }
}
