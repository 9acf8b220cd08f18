//! What wharf is meant to reach, beside what was measured.

use std::fmt::Write as _;

use crate::contestant::FLOOR;
use crate::fanout;
use crate::suite::{self, Kind, Results};
use crate::table::{Summary, paired};

/// Above the goal by no more than this share is a tie with it.
const TIE: f64 = 0.05;

/// A figure that is not to be above another.
struct Goal {
    what: String,
    measured: Option<f64>,
    at_most: f64,
    /// Of both numbers.
    unit: &'static str,
}

impl Goal {
    fn line(&self) -> String {
        let digits = if self.unit.contains("ns") || self.unit == "bytes" { 0 } else { 3 };
        let Goal { what, at_most, unit, .. } = self;
        let (measured, reached) = match self.measured {
            None => ("-".to_owned(), "not measured"),
            Some(measured) if measured <= *at_most => (format!("{measured:.digits$}"), "yes"),
            Some(measured) if measured <= at_most * (1.0 + TIE) => {
                (format!("{measured:.digits$}"), "a tie")
            }
            Some(measured) => (format!("{measured:.digits$}"), "no"),
        };
        format!("| {what} | {measured} | {at_most:.digits$} | {unit} | {reached} |")
    }
}

/// The table of all goals.
pub fn markdown(results: &Results) -> String {
    let mut text = String::from(
        "## Goals\n\nAs in the tables below. Up to 5 % above the goal is a tie with it. What is missed \
         is under [Open](#open), with where it goes and what was tried.\n\n\
         | what | measured | at most | unit | reached |\n|---|---:|---:|---|---|\n",
    );
    for goal in echo(results).into_iter().chain(rooms(results)).chain(connections(results)) {
        let _ = writeln!(text, "{}", goal.line());
    }
    text.push('\n');
    text
}

const FLOORS: &str = "x floor";

/// Cell, contestant and how many times the floor's CPU time its messages may take.
const ECHO: [(&str, &str, f64); 6] = [
    ("50x1x32", "wharf-raw", 1.05),
    ("50x1x32", "wharf-study", 1.05),
    ("1000x1x32", "wharf-raw", 1.08),
    ("1000x1x32", "wharf-study", 1.08),
    ("50x1x16384", "wharf-raw", 1.10),
    ("50x1x16384", "wharf-study", 1.15),
];
/// What a message may cost outside the kernel's TCP in the first cell, ns.
const OTHER_THAN_TCP_NS: f64 = 700.0;
/// What a frame may cost above the floor where sixteen come at once, ns.
const FRAME_NS: f64 = 20.0;
const FIRST: &str = "50x1x32";
const DEEP: &str = "50x16x32";

fn echo(results: &Results) -> Vec<Goal> {
    let line = |cell: &str, contestant: &str| -> Option<&Summary> {
        let result = results.cells.iter().find(|result| result.cell.to_string() == cell)?;
        result.summary.iter().find(|line| line.contestant == contestant)
    };
    let outside = |contestant: &str| line(FIRST, contestant)?.other_than_tcp_ns_per_message;
    let of_floor = outside(FLOOR).map_or(String::new(), |ns| format!(" (the floor's: {ns:.0})"));
    let mut goals: Vec<Goal> = ECHO
        .iter()
        .map(|&(cell, contestant, at_most)| Goal {
            what: format!("echo {cell}, {contestant}: CPU per message"),
            measured: line(cell, contestant).and_then(|line| line.ratio),
            at_most,
            unit: FLOORS,
        })
        .collect();
    for contestant in ["wharf-raw", "wharf-study"] {
        goals.push(Goal {
            what: format!("echo {DEEP}, {contestant}: CPU per message above the floor's"),
            measured: line(DEEP, contestant).and_then(|line| line.above_ns),
            at_most: FRAME_NS,
            unit: "ns",
        });
        goals.push(Goal {
            what: format!("echo {FIRST}, {contestant}: CPU per message outside TCP{of_floor}"),
            measured: outside(contestant),
            at_most: OTHER_THAN_TCP_NS,
            unit: "ns",
        });
        for cell in results.cells.iter().map(|result| result.cell.to_string()) {
            let calls = |contestant| Some(line(&cell, contestant)?.syscalls?.per_message);
            let Some(at_most) = calls(FLOOR) else { continue };
            goals.push(Goal {
                what: format!("echo {cell}, {contestant}: system calls per message"),
                measured: calls(contestant),
                at_most,
                unit: "the floor's",
            });
        }
    }
    goals
}

/// How many times the floor's CPU time a delivery may take, by who talks.
const ROOMS: [(&str, f64); 6] = [
    ("200xone", 1.08),
    ("1000xone", 1.08),
    ("200xsixteen", 1.05),
    ("1000xsixteen", 1.05),
    ("200xtalkers", 1.05),
    ("1000xtalkers", 1.05),
];
/// Of what tokio's channels take for one text to a thousand.
const OF_CHANNELS: f64 = 0.85;

fn rooms(results: &Results) -> Vec<Goal> {
    let share =
        |cell: &str, of: &str| fanout::ratio(&results.fanout, cell.parse().ok()?, "wharf", of);
    let goal = |cell: &str, of: &str, at_most, unit| Goal {
        what: format!("room {cell}: CPU per delivery"),
        measured: share(cell, of),
        at_most,
        unit,
    };
    let mut goals: Vec<Goal> =
        ROOMS.iter().map(|&(cell, at_most)| goal(cell, FLOOR, at_most, FLOORS)).collect();
    goals.push(goal("1000xone", "tokio-channels", OF_CHANNELS, "x tokio-channels"));
    goals
}

/// How many times the floor's CPU time a visit may take.
const VISIT: f64 = 1.1;
/// Resident bytes of an idle session.
const IDLE_BYTES: f64 = 400.0;

fn connections(results: &Results) -> Vec<Goal> {
    let visit = |contestant| suite::values(results, Kind::Storm, contestant, "cpu_ns");
    ["wharf-raw", "wharf-study"]
        .iter()
        .flat_map(|&contestant| {
            let visit = paired(&visit(contestant), &visit(FLOOR), |own, floor| own / floor);
            let idle = suite::median(results, Kind::Idle, contestant, "bytes");
            [("a visit: CPU", visit, VISIT, FLOORS), ("an idle session", idle, IDLE_BYTES, "bytes")]
                .map(|(what, measured, at_most, unit)| Goal {
                    what: format!("{what}, {contestant}"),
                    measured,
                    at_most,
                    unit,
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_tied_or_missed() {
        let line = |measured| {
            let what = "a visit: CPU".to_owned();
            Goal { what, measured, at_most: 1.1, unit: FLOORS }.line()
        };
        assert_eq!(line(Some(1.1)), "| a visit: CPU | 1.100 | 1.100 | x floor | yes |");
        assert!(line(Some(1.12)).ends_with("| a tie |"));
        assert!(line(Some(1.2)).ends_with("| no |"));
        assert!(line(None).ends_with("| not measured |"));
    }

    #[test]
    fn every_cell_that_has_a_goal_can_be_measured() {
        for (cell, _) in ROOMS {
            assert_eq!(cell.parse::<fanout::FanCell>().unwrap().to_string(), cell);
        }
        let echo: Vec<&str> = crate::cell::DEFAULT_CELLS.split(',').collect();
        for (cell, _, _) in ECHO {
            assert!(echo.contains(&cell), "{cell}");
        }
        assert!(echo.contains(&DEEP));
    }
}
