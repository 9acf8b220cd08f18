//! The settings as command-line arguments, and back.

use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::load::{Assignment, Origin};
use super::{DEFINITIONS, Definition};

/// One argument per setting, in the order of the table, under a heading per section.
pub(crate) fn arguments() -> impl Iterator<Item = Arg> {
    DEFINITIONS.iter().map(argument)
}

/// The argument of one setting, for a command that takes few.
pub(crate) fn argument_of(key: &str) -> Arg {
    let known = DEFINITIONS.iter().find(|definition| definition.key == key);
    argument(known.expect("a setting of the table")).help_heading(None)
}

/// The settings that were given as flags.
pub(crate) fn assignments(matches: &ArgMatches) -> Vec<Assignment> {
    DEFINITIONS
        .iter()
        .enumerate()
        // A subcommand that takes settings from file and environment only has no such argument.
        .filter(|(_, known)| matches.try_contains_id(known.key).unwrap_or(false))
        .filter(|(_, known)| matches.value_source(known.key) == Some(ValueSource::CommandLine))
        .filter_map(|(definition, known)| {
            let texts: Vec<&str> =
                matches.get_many::<String>(known.key)?.map(String::as_str).collect();
            let origin = Origin::Flag(known.flag());
            Some(Assignment { definition, text: texts.join(","), origin })
        })
        .collect()
}

fn argument(definition: &'static Definition) -> Arg {
    let help = definition.help();
    let facts = format!("[default: {}] [env: {}]", definition.default, definition.environment());
    let action = if definition.is_list { ArgAction::Append } else { ArgAction::Set };
    let choices = (definition.choices)();
    let argument = Arg::new(definition.key)
        .long(definition.flag())
        .value_name(value_name(definition))
        .help_heading(heading(definition.section))
        // The short help stays on one screen: the settings that a first run may want.
        .hide_short_help(definition.section != "server")
        .long_help(format!("{help} {}\n\n{facts}", definition.reason))
        .help(format!("{help} {facts}"))
        .action(action);
    let argument = match definition.bare {
        Some(bare) => argument.num_args(0..=1).default_missing_value(bare),
        None => argument,
    };
    if definition.has_secrets {
        // An error of the parser would show what was written; whoever loads the settings finds it, too.
        argument
    } else if choices.is_empty() {
        argument.value_parser(move |text: &str| definition.check(text).map(|()| text.to_owned()))
    } else {
        argument.hide_possible_values(true).value_parser(PossibleValuesParser::new(choices))
    }
}

fn value_name(definition: &Definition) -> String {
    match definition.key {
        "server.chat" => return "ADDR|off".to_owned(),
        "server.store" => return "KIND:PLACE".to_owned(),
        _ => {}
    }
    if let Some(placeholder) = (definition.placeholder)() {
        return placeholder.to_owned();
    }
    let choices = (definition.choices)();
    if !choices.is_empty() {
        return choices.iter().map(|choice| choice.get_name()).collect::<Vec<_>>().join("|");
    }
    match definition.unit {
        "bytes" => "SIZE",
        "s" => "DURATION",
        _ => "N",
    }
    .to_owned()
}

fn heading(section: &str) -> String {
    let mut letters = section.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}
