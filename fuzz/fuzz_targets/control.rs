//! Any bytes as a request on the control channel, and as the answer to one: they are taken and read the
//! same when written again, or refused with one line, and no more memory is held than a line justifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_cli::fuzzing::{control_answer, control_request};
use wharf_fuzz::within_memory;

fuzz_target!(|bytes: &[u8]| {
    // However long it is, the server looks at 4 KiB of it; each byte of those may be an element of a list
    // that is put aside until the whole line has been read.
    match within_memory(bytes.len(), REQUEST_CONSTANT_BYTES, || control_request(bytes)) {
        // Written again it says what was left out, too, and may be longer than a request may be.
        Ok(line) if line.len() > REQUEST_BYTES_MAX => assert!(control_request(&line).is_err()),
        Ok(line) => assert_eq!(control_request(&line).as_ref(), Ok(&line)),
        Err(answer) => {
            check_one_line(&answer);
            assert_eq!(control_answer(&answer).expect("a client understands it"), answer);
        }
    }
    // What a server of the same user says, up to 256 KiB for a line: the constant grows with it.
    let constant_bytes = REQUEST_CONSTANT_BYTES + ANSWER_BYTES_PER_BYTE * bytes.len();
    match within_memory(bytes.len(), constant_bytes, || control_answer(bytes)) {
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

const REQUEST_BYTES_MAX: usize = 4 * 1024;
const REQUEST_CONSTANT_BYTES: usize = 256 * 1024;
const ANSWER_BYTES_PER_BYTE: usize = 64;
