//! The `wharf` program: a session server, its load tool and its doctor.
//!
//! `cli` knows what can be typed, `settings` what can be set; each subcommand has a file of its
//! own. `network` makes a server of the settings; `control`, `drain` and `reload` are for the one who
//! runs it.
//!
//! Exit status: 0 fine, 1 failed, 2 wrong usage. Standard output carries results and, while
//! serving, the `ready` line alone; everything else goes to standard error.
#![forbid(unsafe_code)]

mod announce;
mod attack;
mod bench;
mod chat;
mod cli;
mod content;
mod control;
mod descriptors;
mod doctor;
mod drain;
#[doc(hidden)]
pub mod fuzzing;
mod generate;
mod load;
mod logging;
mod metrics;
mod network;
mod reload;
mod serve;
mod settings;
mod user;

use std::io::{self, Write as _};
use std::process::ExitCode;

use cli::Invocation;

/// Runs the program with the process's arguments; the exit status is the answer.
pub fn main() -> ExitCode {
    let outcome = match cli::parse() {
        Invocation::Serve(loaded, sources) => serve::run(loaded, sources),
        Invocation::PrintConfig(loaded) => generate::print(&settings::effective(&loaded)),
        Invocation::Bench(bench) => bench::run(&bench),
        Invocation::Attack(options) => attack::run(&options),
        Invocation::Chat(options) => chat::run(&options),
        Invocation::User(options, store, control) => user::run(&options, &store, &control),
        Invocation::Ask(question, control) => control::run(&question, &control),
        Invocation::Doctor(options, loaded) => doctor::run(&options, &loaded),
        Invocation::Completions(shell) => generate::completions(shell),
        Invocation::Man => generate::man(),
        Invocation::PrintConfigurationDocs => generate::print(&settings::documentation()),
        Invocation::Misconfigured(problems) => {
            tell(&problems.to_string());
            return ExitCode::from(2);
        }
    };
    outcome.unwrap_or_else(|error| {
        tell(&format!("error: {error:#}\n"));
        ExitCode::FAILURE
    })
}

/// To standard error; where nobody can read it, the exit status is what is left to say.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
