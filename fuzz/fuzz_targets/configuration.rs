//! Any text as a configuration file, any value in the environment: it is taken, or refused with a
//! message; and what is printed of it reads back as the same settings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_cli::fuzzing::{FILE_BYTES_MAX, configuration};
use wharf_fuzz::Limited;

fuzz_target!(|input: &str| {
    // The first line is a variable of the environment if it looks like one.
    let (environment, text) = match input.split_once('\n') {
        Some((first, rest)) if first.starts_with("WHARF_") => {
            let (name, value) = first.split_once('=').unwrap_or((first, ""));
            (vec![(name.to_owned(), value.to_owned())], rest)
        }
        _ => (Vec::new(), input),
    };
    LIMITED.check_refusal(text.as_bytes(), |long| {
        configuration(str::from_utf8(long).expect("as often as that it is still text"), &[])
    });
    match LIMITED.check(input.len(), || configuration(text, &environment)) {
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

/// Each table of a value costs the parser a kilobyte, and two bytes may be one.
const LIMITED: Limited = Limited {
    bytes_max: FILE_BYTES_MAX,
    memory_bytes_per_byte: 600,
    memory_bytes: 32 * 1024,
    refusal_memory_bytes: 8 * 1024,
};
