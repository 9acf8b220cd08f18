//! Two results beside each other, and the differences that somebody does not want.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::report::metric_text;

/// A figure and by how much it may change: `p99=+10%` fails above, `rate=-5%` below.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tolerance {
    metric: &'static str,
    /// In hundredths; its sign is the direction that fails.
    percent: f64,
}

/// What was measured, as far as it can be compared.
#[derive(Debug)]
pub(crate) struct Measured {
    name: String,
    is_closed_loop: bool,
    scenario: String,
    does: String,
    is_right: bool,
    metrics: BTreeMap<String, Spread>,
}

/// One figure: its median over the runs, and how far they were apart.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || {
            format!(
                "expected FIGURE=+N% (fails when it grows by more) or FIGURE=-N% (fails when it \
                 shrinks by more), such as `p99=+10%`; figures are {}",
                METRICS.join(", ")
            )
        };
        let (name, change) = text.trim().split_once('=').ok_or_else(refusal)?;
        let metric = METRICS.into_iter().find(|metric| *metric == name).ok_or_else(refusal)?;
        let digits = change.strip_suffix('%').ok_or_else(refusal)?;
        let percent: f64 = digits.parse().map_err(|_| refusal())?;
        let is_signed = digits.starts_with(['+', '-']) && percent.is_finite();
        is_signed.then_some(Self { metric, percent }).ok_or_else(refusal)
    }
}

impl Measured {
    /// Reads what `--json` wrote.
    ///
    /// # Errors
    /// The file cannot be read, or is something else.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        Self::of(path.display().to_string(), &value)
            .with_context(|| format!("{} is not a result of `wharf bench --json`", path.display()))
    }

    /// Takes the comparable part of a result.
    pub(crate) fn of(name: String, result: &Value) -> Option<Self> {
        let number = |value: &Value, name| value[name].as_f64();
        let metric = |(name, value): (&String, &Value)| {
            let [median, min, max] = ["median", "min", "max"].map(|field| number(value, field));
            Some((name.clone(), Spread { median: median?, min: min?, max: max? }))
        };
        Some(Self {
            name,
            is_closed_loop: result["closed_loop"].as_bool()?,
            scenario: result["settings"]["scenario"].as_str()?.to_owned(),
            does: result["groups"]
                .as_array()?
                .iter()
                .filter_map(|group| group["settings"]["does"].as_str())
                .collect::<Vec<_>>()
                .join("; "),
            is_right: result["right"].as_bool()?,
            metrics: result["medians"].as_object()?.iter().filter_map(metric).collect(),
        })
    }
}

/// Both results as a table.
///
/// # Errors
/// They are of different kinds: a closed loop's latency says nothing about an open one's.
pub(crate) fn table(before: &Measured, after: &Measured) -> Result<String> {
    check_comparable(before, after)?;
    let mut text =
        format!("  A  {}: {}\n  B  {}: {}\n", before.name, before.does, after.name, after.does);
    if before.does != after.does {
        text.push_str("  They did not do the same: read the differences with care.\n");
    }
    for measured in [before, after] {
        if !measured.is_right {
            let _ = writeln!(
                text,
                "  {} has errors: its figures are those of a wrong run.",
                measured.name
            );
        }
    }
    let _ = writeln!(text, "\n  {:<15}{:>14}{:>14}{:>10}", "", "A", "B", "B - A");
    for name in METRICS {
        let pair = before.metrics.get(name).zip(after.metrics.get(name));
        let Some((a, b)) = pair else { continue };
        let note = if a.min <= b.max && b.min <= a.max && a.min < a.max && b.min < b.max {
            "   the runs overlap"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "  {name:<15}{:>14}{:>14}{:>10}{note}",
            metric_text(name, a.median),
            metric_text(name, b.median),
            change(a.median, b.median).map_or("-".to_owned(), |percent| format!("{percent:+.1} %")),
        );
    }
    Ok(text)
}

/// The figures that have changed by more than they may, each as a sentence.
///
/// # Errors
/// As [`table`]; or a figure is not there in one of them.
pub(crate) fn failures(
    before: &Measured,
    after: &Measured,
    tolerances: &[Tolerance],
) -> Result<Vec<String>> {
    check_comparable(before, after)?;
    let mut failures = Vec::new();
    for Tolerance { metric, percent } in tolerances {
        let pair = before.metrics.get(*metric).zip(after.metrics.get(*metric));
        let Some((a, b)) = pair else {
            bail!("there is no {metric} in both {} and {}", before.name, after.name);
        };
        let Some(changed) = change(a.median, b.median) else { continue };
        let is_too_much = if *percent < 0.0 { changed < *percent } else { changed > *percent };
        if is_too_much {
            failures.push(format!(
                "{metric} went from {} to {} ({changed:+.1} %, and {percent:+} % is allowed)",
                metric_text(metric, a.median),
                metric_text(metric, b.median)
            ));
        }
    }
    Ok(failures)
}

fn check_comparable(before: &Measured, after: &Measured) -> Result<()> {
    let kind = |measured: &Measured| if measured.is_closed_loop { "a closed" } else { "an open" };
    if before.is_closed_loop != after.is_closed_loop {
        bail!(
            "{} is {} loop and {} is {} loop: their figures cannot be compared, because a closed \
             loop asks a slow server for less",
            before.name,
            kind(before),
            after.name,
            kind(after)
        );
    }
    if before.scenario != after.scenario {
        bail!(
            "{} is `{}` and {} is `{}`: their figures cannot be compared",
            before.name,
            before.scenario,
            after.name,
            after.scenario
        );
    }
    Ok(())
}

fn change(before: f64, after: f64) -> Option<f64> {
    (before != 0.0).then(|| (after / before - 1.0) * 100.0)
}

/// The figures that results have in common, in the order in which they are shown.
const METRICS: [&str; 9] =
    ["rate", "p50", "p90", "p99", "p99.9", "max", "server_cpu", "server_memory", "session_memory"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measured(name: &str, closed_loop: bool, rate: f64, p99: f64) -> Measured {
        let figure = |value: f64| json!({ "median": value, "min": value, "max": value });
        let result = json!({
            "closed_loop": closed_loop,
            "right": true,
            "settings": { "scenario": "echo" },
            "groups": [],
            "medians": { "rate": figure(rate), "p99": figure(p99) },
        });
        Measured::of(name.to_owned(), &result).unwrap()
    }

    #[test]
    fn tolerances_are_read() {
        for wrong in ["", "p99", "p99=10%", "p99=+10", "p98=+1%", "p99=+x%", "rate=-inf%"] {
            assert!(wrong.parse::<Tolerance>().is_err(), "{wrong}");
        }
        let tolerance: Tolerance = "rate=-5%".parse().unwrap();
        assert_eq!(tolerance, Tolerance { metric: "rate", percent: -5.0 });
    }

    #[test]
    fn only_a_change_for_the_worse_fails() {
        let before = measured("A", false, 1000.0, 100.0);
        let tolerances = ["p99=+10%", "rate=-5%"].map(|text| text.parse().unwrap());
        for (rate, p99, expected) in [
            (1000.0, 100.0, 0),
            (5000.0, 1.0, 0),
            (951.0, 109.0, 0),
            (949.0, 100.0, 1),
            (1000.0, 111.0, 1),
            (1.0, 1e9, 2),
        ] {
            let after = measured("B", false, rate, p99);
            let failures = failures(&before, &after, &tolerances).unwrap();
            assert_eq!(failures.len(), expected, "{failures:?}");
        }
        let missing = failures(&before, &before, &["p50=+1%".parse().unwrap()]).unwrap_err();
        assert!(missing.to_string().contains("no p50"), "{missing}");
    }

    #[test]
    fn closed_and_open_loops_are_not_compared() {
        let (open, closed) = (measured("A", false, 1.0, 1.0), measured("B", true, 1.0, 1.0));
        let refused = table(&open, &closed).unwrap_err().to_string();
        assert!(refused.contains("A is an open loop and B is a closed loop"), "{refused}");
        assert!(failures(&open, &closed, &[]).is_err());
        let text = table(&open, &measured("C", false, 2.0, 1.0)).unwrap();
        assert!(text.contains("+100.0 %") && text.contains("p99"), "{text}");
    }
}
