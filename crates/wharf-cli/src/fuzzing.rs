//! What fuzzers call: the parsers of what comes from outside. No part of the public interface.

use crate::settings::{effective, load_text};

/// Reads a configuration file's text and variables of the environment, and prints the result as
/// `wharf serve --print-config` does.
///
/// # Errors
/// What a user would be told.
pub fn configuration(text: &str, environment: &[(String, String)]) -> Result<String, String> {
    match load_text("wharf.toml", text, environment) {
        Ok(loaded) => Ok(effective(&loaded)),
        Err(problems) => Err(problems.to_string()),
    }
}
