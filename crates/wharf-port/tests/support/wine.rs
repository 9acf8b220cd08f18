//! The tests that Wine has no say in, each with the reason. They are left out there and say so;
//! `cargo xtask wine` prints the list and sees to it that docs/windows.md has it, too.

/// Test and reason.
pub(crate) const CANNOT_JUDGE: [(&str, &str); 8] = [
    ("a_reset_behind_bytes_is_noticed_behind_others", NO_RESET),
    ("a_reset_fails_the_receive", NO_RESET),
    ("a_reset_fails_a_single_receive", NO_RESET),
    ("a_reset_right_behind_bytes_is_noticed", NO_RESET),
    ("close_can_reset", NO_RESET),
    ("a_reset_at_any_stage_ends_that_session_alone", NO_RESET),
    ("a_handler_that_fails_because_its_session_has_ended_is_not_the_reason", NO_RESET),
    ("a_server_stands", "half a second of an attack is too short where Wine makes each step slow"),
];

const NO_RESET: &str = "Wine ends the stream before it closes a socket, so that closing with a \
    linger time of zero sends FIN and no reset";
