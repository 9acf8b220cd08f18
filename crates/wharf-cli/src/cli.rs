//! What can be typed, and what it means.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand, value_parser};
use clap_complete::Shell;
use wharf_chat::Location;

use crate::control::{self, DrainOptions, KickOptions, Question, SessionsOptions};
use crate::settings::{self, Control, Loaded, Problems, Sources, parse_value};
use crate::{attack, bench, chat, doctor, user};

/// What the program was asked to do.
pub(crate) enum Invocation {
    Serve(Loaded, Sources),
    PrintConfig(Loaded),
    Bench(bench::Bench),
    Attack(attack::Options),
    Chat(chat::Options),
    User(user::Options, Location, Control),
    Ask(control::Question, Control),
    Doctor(doctor::Options, Result<Loaded, Problems>),
    Completions(Shell),
    Man,
    PrintConfigurationDocs,
    /// Flags were fine; the file or the environment was not, or not together.
    Misconfigured(Problems),
}

/// Reads the command line. Wrong usage ends the process with status 2, `--help` with 0.
pub(crate) fn parse() -> Invocation {
    let matches = command().get_matches();
    match matches.subcommand() {
        None => serve(&matches),
        Some(("serve", matches)) => serve(matches),
        Some(("bench", matches)) => Invocation::Bench(typed(matches)),
        Some(("attack", matches)) => Invocation::Attack(typed(matches)),
        Some(("dummy", matches)) => Invocation::Bench(bench::Bench::Echo(typed(matches))),
        Some(("chat", matches)) => Invocation::Chat(typed(matches)),
        Some(("user", matches)) => match load(matches) {
            Ok(loaded) => {
                let server = loaded.settings.server;
                Invocation::User(typed(matches), server.store.0, server.control)
            }
            Err(problems) => Invocation::Misconfigured(problems),
        },
        Some(("sessions", matches)) => {
            let SessionsOptions { json } = typed(matches);
            ask(matches, Question::Sessions { json })
        }
        Some(("kick", matches)) => {
            let KickOptions { session, reason } = typed(matches);
            ask(matches, Question::Kick { session, reason })
        }
        Some(("drain", matches)) => {
            let DrainOptions { timeout } = typed(matches);
            ask(matches, Question::Drain { timeout })
        }
        Some(("reload", matches)) => ask(matches, Question::Reload),
        Some(("doctor", matches)) => Invocation::Doctor(typed(matches), load(matches)),
        Some(("completions", matches)) => match matches.get_one("shell") {
            Some(shell) => Invocation::Completions(*shell),
            None => unreachable_subcommand(),
        },
        Some(("man", _)) => Invocation::Man,
        Some((PRINT_DOCS, _)) => Invocation::PrintConfigurationDocs,
        Some(_) => unreachable_subcommand(),
    }
}

/// The whole command line; also what help, completions and the man page are made from.
pub(crate) fn command() -> Command {
    let root = Command::new("wharf")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A session server on a completion port (io_uring, IOCP, epoll/kqueue)")
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .args_conflicts_with_subcommands(true)
        .subcommand_help_heading("Commands")
        .subcommand(
            with_settings(Command::new("serve"))
                .about("Serve; this is also what `wharf` alone does")
                .after_help(EXAMPLES),
        )
        .subcommand(
            bench::Bench::augment_subcommands(Command::new("bench"))
                .about("Load a server and verify every byte that comes back")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .after_help("Exit status: 0 every answer was right, 1 one was not, 2 wrong usage"),
        )
        .subcommand(
            bench::Echo::augment_args(Command::new("dummy"))
                .about("The same as `wharf bench echo`"),
        )
        .subcommand(asking(SessionsOptions::augment_args(Command::new("sessions"))))
        .subcommand(asking(KickOptions::augment_args(Command::new("kick"))))
        .subcommand(asking(DrainOptions::augment_args(Command::new("drain"))))
        .subcommand(asking(Command::new("reload").about(
            "Let a running server read its file again: changes what can change while it runs",
        )))
        .subcommand(
            attack::Options::augment_args(Command::new("attack"))
                .about("Attack a server and tell what honest users felt")
                .after_help(
                    "Exit status: 0 honest users were served, 1 they were not, 2 wrong usage",
                ),
        )
        .subcommand(
            chat::Options::augment_args(Command::new("chat"))
                .about("Chat: a client for people and, with --json, for scripts"),
        )
        .subcommand(
            user::Options::augment_args(Command::new("user"))
                .about("Manage the chat's users, also those of a running server")
                .arg(settings::argument_of(STORE).global(true))
                .arg(control_argument().global(true))
                .arg(config_argument()),
        )
        .subcommand(
            doctor::Options::augment_args(Command::new("doctor"))
                .about("Tell what this machine allows and what to do about the rest")
                .arg(config_argument()),
        )
        .subcommand(
            Command::new("completions")
                .about("Print completions for a shell")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(Shell))),
        )
        .subcommand(Command::new("man").about("Print the manual page"))
        .subcommand(Command::new(PRINT_DOCS).hide(true).about("Print docs/configuration.md"));
    with_settings(root)
}

const PRINT_DOCS: &str = "print-configuration-docs";

const LONG_ABOUT: &str = "\
A session server on a completion port (io_uring, IOCP, epoll/kqueue).

`wharf` alone serves echo on 127.0.0.1:9000 (study framing) and 127.0.0.1:9001 (lines), and a chat
on 127.0.0.1:11021. Every flag
is also a key of the file (--config FILE, or wharf.toml in the working directory) and a variable
of the environment: --limits-frame-bytes-max, limits.frame_bytes_max and
WHARF_LIMITS_FRAME_BYTES_MAX are one setting. Flags win over the environment, the environment over
the file.";

const EXAMPLES: &str = "\
Examples:
  wharf                                          serve with the defaults
  wharf --echo lines@0.0.0.0:7000 --workers 2    one listener, two workers
  wharf serve --print-config                     every setting and where it came from
  wharf bench echo --addr 127.0.0.1:9000         load it and verify every byte
  wharf serve --demo                             a chat with users for a try
  wharf chat --user user0                        take part in it (password pw)
  wharf sessions                                 who is connected to the running server
  wharf doctor                                   what this machine allows

Exit status: 0 fine, 1 failed, 2 wrong usage";

fn with_settings(command: Command) -> Command {
    command
        .arg(config_argument())
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print every setting, its value and where it came from, and exit"),
        )
        .args(settings::arguments())
}

/// A command that asks a running server.
fn asking(command: Command) -> Command {
    command.arg(control_argument()).arg(config_argument())
}

fn control_argument() -> Arg {
    settings::argument_of(CONTROL).help("The server's control channel, if not the default")
}

const CONTROL: &str = "server.control";
const STORE: &str = "server.store";

fn config_argument() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("WHARF_CONFIG")
        .hide_env_values(true)
        .value_parser(value_parser!(PathBuf))
        .help("Read settings from this TOML file instead of wharf.toml")
}

fn serve(matches: &ArgMatches) -> Invocation {
    let sources = sources(matches);
    match settings::load(sources.clone()) {
        Ok(loaded) if matches.get_flag("print-config") => Invocation::PrintConfig(loaded),
        Ok(loaded) => Invocation::Serve(loaded, sources),
        Err(problems) => Invocation::Misconfigured(problems),
    }
}

fn ask(matches: &ArgMatches, question: Question) -> Invocation {
    // Where the channel is named, nothing else of the settings matters, nor what is wrong with them.
    let named = matches.get_one::<String>(CONTROL);
    match named.and_then(|text| parse_value(text, "").ok()) {
        Some(control) => Invocation::Ask(question, control),
        None => match load(matches) {
            Ok(loaded) => Invocation::Ask(question, loaded.settings.server.control),
            Err(problems) => Invocation::Misconfigured(problems),
        },
    }
}

fn load(matches: &ArgMatches) -> Result<Loaded, Problems> {
    settings::load(sources(matches))
}

fn sources(matches: &ArgMatches) -> Sources {
    // A name or value that is not Unicode cannot be a setting; its readable part is shown.
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect();
    Sources {
        named_file: matches.get_one::<PathBuf>("config").cloned(),
        directory: PathBuf::from("."),
        environment,
        flags: settings::assignments(matches),
    }
}

fn typed<T: FromArgMatches>(matches: &ArgMatches) -> T {
    T::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
}

/// The parser only returns what `command` offers.
fn unreachable_subcommand() -> ! {
    command().error(clap::error::ErrorKind::InvalidSubcommand, "unknown command").exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
