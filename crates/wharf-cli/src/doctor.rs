//! `wharf doctor`: what this machine allows, why not the rest, and what to do about it.
//!
//! `machine` and `ports` read the facts, `checks` judges them (a pure function), this file shows them.

mod checks;
mod machine;
mod ports;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::settings::{DEFINITIONS, Loaded, Origin, Problems, Settings};
use crate::{generate, network};
pub(crate) use ports::holder;

use checks::{Check, Status, assess};
use machine::Facts;

/// How the doctor answers.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Everything that the doctor found; this is also the form of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    system: String,
    cores: usize,
    checks: Vec<Check>,
}

/// Examines the machine; fails if a server could not start as configured.
pub(crate) fn run(options: &Options, loaded: &Result<Loaded, Problems>) -> Result<ExitCode> {
    let defaults = Settings::default();
    let settings = loaded.as_ref().map_or(&defaults, |loaded| &loaded.settings);
    let facts = Facts::gather(network::probe_engines(), ports::examine(settings));
    let mut checks = vec![configuration(loaded)];
    checks.extend(assess(&facts, settings));
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        system: facts.system(),
        cores: facts.cores,
        checks,
    };
    if options.json {
        generate::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        generate::print(&for_people(&report))?;
    }
    let has_failed = report.checks.iter().any(|check| check.status == Status::Fail);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn configuration(loaded: &Result<Loaded, Problems>) -> Check {
    match loaded {
        Ok(loaded) => {
            let given = loaded.origins.iter().filter(|origin| **origin != Origin::Default).count();
            let found = format!("{given} of {} settings are not the default", DEFINITIONS.len());
            Check::new("configuration", Status::Ok, found)
        }
        Err(problems) => Check::new("configuration", Status::Fail, problems.0.join("\n"))
            .advise("mend it; the checks below assume the defaults"),
    }
}

fn for_people(report: &Report) -> String {
    let mut text =
        format!("wharf {} doctor: {}, {} cores\n\n", report.version, report.system, report.cores);
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let indent = " ".repeat(width + 10);
    for check in &report.checks {
        let found = check.found.replace('\n', &format!("\n{indent}"));
        let _ = writeln!(text, "  {:<4}  {:width$}  {found}", check.status.word(), check.name);
        if let Some(advice) = &check.advice {
            let _ =
                writeln!(text, "{indent}-> {}", advice.replace('\n', &format!("\n{indent}   ")));
        }
    }
    let (warnings, failures) = (count(report, Status::Warn), count(report, Status::Fail));
    let _ = writeln!(text, "\n{warnings} to look at, {failures} that keep a server from starting");
    text
}

fn count(report: &Report, status: Status) -> usize {
    report.checks.iter().filter(|check| check.status == status).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_under_its_finding() {
        let report = Report {
            version: "1.2.3",
            system: "Linux 6.18".to_owned(),
            cores: 2,
            checks: vec![
                Check::new("kernel", Status::Ok, "6.18".to_owned()),
                Check::new("backlog", Status::Warn, "128".to_owned()).advise("raise it\nsoon"),
            ],
        };
        let expected = "wharf 1.2.3 doctor: Linux 6.18, 2 cores

  ok    kernel   6.18
  warn  backlog  128
                 -> raise it
                    soon

1 to look at, 0 that keep a server from starting
";
        assert_eq!(for_people(&report), expected);
    }

    #[test]
    fn a_broken_configuration_is_a_failure() {
        let problems = Problems(vec!["w.toml:1: no".to_owned(), "w.toml:2: no".to_owned()]);
        let check = configuration(&Err(problems));
        assert_eq!(
            (check.status, check.found.as_str()),
            (Status::Fail, "w.toml:1: no\nw.toml:2: no")
        );
    }
}
