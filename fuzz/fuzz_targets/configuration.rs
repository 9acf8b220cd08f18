//! Any text as a configuration file, any value in the environment: it is taken, or refused with a
//! message; and what is printed of it reads back as the same settings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_cli::fuzzing::configuration;
use wharf_fuzz::within_memory;

fuzz_target!(|text: &str| {
    // The first line is a variable of the environment if it looks like one.
    let (environment, text) = match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("WHARF_") => {
            let (name, value) = first.split_once('=').unwrap_or((first, ""));
            (vec![(name.to_owned(), value.to_owned())], rest)
        }
        _ => (Vec::new(), text),
    };
    // The file is the operator's own, and a byte of it may be a whole element of a list or a message
    // of its own: bounded by its length, if not by twice of it.
    let bytes_max = CONSTANT_BYTES + BYTES_PER_BYTE * text.len();
    match within_memory(0, bytes_max, || configuration(text, &environment)) {
        Ok(printed) => {
            let again = configuration(&printed, &[]).expect("what is printed can be read");
            assert_eq!(values(&again), values(&printed));
        }
        Err(message) => assert!(message.starts_with("error: "), "{message:?} is no message"),
    }
});

/// Without the comments that say where each value came from.
fn values(printed: &str) -> Vec<&str> {
    let value = |line| str::split_once(line, "  # ").map_or(line, |(value, _)| value.trim_end());
    printed.lines().filter(|line| !line.starts_with('#')).map(value).collect()
}

const CONSTANT_BYTES: usize = 256 * 1024;
const BYTES_PER_BYTE: usize = 400;
