//! What fuzzers call: the parsers of what comes from outside. No part of the public interface.

use std::io;

use crate::control;
pub use crate::control::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX};
pub use crate::settings::FILE_BYTES_MAX;
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

/// Reads what a client sends on the control channel, and writes the request again.
///
/// # Errors
/// The line that the client is answered.
pub fn control_request(bytes: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    control::request_again(bytes)
}

/// Reads a line that a server answers on the control channel, and writes it again.
///
/// # Errors
/// What the client is told.
pub fn control_answer(bytes: &[u8]) -> io::Result<Vec<u8>> {
    control::answer_again(bytes)
}
