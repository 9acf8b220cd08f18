//! Any bytes as a request on the control channel, and as the answer to one: they are taken and read the
//! same when written again, or refused with one line, and no more memory is held than a line justifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_cli::fuzzing::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, control_answer, control_request};
use wharf_fuzz::Limited;

fuzz_target!(|bytes: &[u8]| {
    let line: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\n').collect();
    REQUEST.check_refusal(&line, control_request);
    ANSWER.check_refusal(&line, control_answer);
    match REQUEST.check(bytes.len(), || control_request(bytes)) {
        // Written again it says what was left out, too, and may be longer than a request may be.
        Ok(line) if line.len() > REQUEST.bytes_max => assert!(control_request(&line).is_err()),
        Ok(line) => assert_eq!(control_request(&line).as_ref(), Ok(&line)),
        Err(answer) => {
            check_one_line(&answer);
            assert_eq!(control_answer(&answer).expect("a client understands it"), answer);
        }
    }
    match ANSWER.check(bytes.len(), || control_answer(bytes)) {
        Ok(line) => {
            check_one_line(&line);
            assert_eq!(control_answer(&line).expect("it was understood before"), line);
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal says why"),
    }
});

fn check_one_line(line: &[u8]) {
    let ends = line.iter().filter(|byte| **byte == b'\n').count();
    assert!(ends == 1 && line.ends_with(b"\n"), "{:?} is not one line", line.escape_ascii());
}

/// Each byte may be an element of a list that is put aside until the whole line has been read.
const REQUEST: Limited = Limited {
    bytes_max: REQUEST_BYTES_MAX as usize,
    memory_bytes_per_byte: 96,
    memory_bytes: 4 * 1024,
    refusal_memory_bytes: 12 * 1024,
};

const ANSWER: Limited =
    Limited { bytes_max: ANSWER_BYTES_MAX as usize, refusal_memory_bytes: 80 * 1024, ..REQUEST };
