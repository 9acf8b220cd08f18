//! One suite for every backend: each promise of the contract (P1 to P10) as at least one case.
//!
//! A case is a function of a [`Rig`](lab::Rig), the world that its port lives in, and runs with and
//! without guard pages. `WHARF_ENGINE=poll cargo test -p wharf-port --test conformance` runs one
//! backend alone. A backend that the kernel refuses is left out, which standard error says.

#[path = "conformance/accept.rs"]
mod accept;
#[path = "conformance/buffers.rs"]
mod buffers;
#[path = "conformance/close.rs"]
mod close;
#[path = "conformance/lab.rs"]
mod lab;
#[cfg(any(unix, windows))]
#[path = "conformance/os.rs"]
mod os;
#[path = "conformance/port.rs"]
mod port;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/port_echo.rs"]
mod port_echo;
#[path = "conformance/receive.rs"]
mod receive;
#[path = "conformance/receive_once.rs"]
mod receive_once;
#[path = "conformance/send.rs"]
mod send;
#[path = "conformance/simulated.rs"]
mod simulated;
#[path = "support/wine.rs"]
mod wine;

use std::io::Write as _;

use lab::Rig;
use wharf_port::Config;

/// Runs a case as it is and behind guard pages. `None`: this backend is left out.
fn run(rig: Option<Box<dyn Rig>>, name: &str, case: fn(&dyn Rig, Config)) {
    let Some(rig) = rig else { return };
    if let Some(why) = rig.cannot_judge(name) {
        // Past the test harness, which shows what a passing test prints to nobody.
        let _ = writeln!(std::io::stderr(), "{name} is left out: {why}");
        return;
    }
    for guard_pages in [false, true] {
        case(&*rig, Config { guard_pages, ..Config::default() });
    }
}

/// Instantiates all cases for a backend; `$rig` makes an `Option<Box<dyn Rig>>`.
macro_rules! suite {
    ($backend:ident, $rig:expr) => {
        mod $backend {
            use super::*;
            cases! { $rig,
                accept: [
                    accept_streams,
                    accept_ends_when_cancelled_and_can_be_submitted_again,
                    a_paused_accept_loses_no_connection,
                    connections_that_race_with_a_pause_are_all_accepted,
                    an_accepted_socket_that_is_dropped_is_closed,
                    an_accepted_socket_that_nobody_took_is_closed_with_the_port,
                    a_second_accept_panics_and_harms_nothing,
                ],
                receive: [
                    a_megabyte_arrives_in_order_over_many_credits,
                    a_credit_ends_the_receive,
                    bytes_that_came_before_adopt_or_before_submit_are_received,
                    pause_and_cancel_end_an_idle_receive,
                    what_was_received_before_a_pause_comes_first_and_the_rest_later,
                    a_cancelled_receive_loses_no_bytes,
                    the_end_of_the_stream_comes_after_its_bytes_and_stays,
                    an_end_that_came_with_the_bytes_is_noticed,
                    a_peer_that_has_ended_its_stream_can_still_be_answered,
                    after_shutdown_write_the_peer_is_still_heard,
                    a_reset_fails_the_receive,
                    a_reset_right_behind_bytes_is_noticed,
                    a_second_receive_panics_and_harms_nothing,
                    a_receive_is_in_flight_until_its_end_is_delivered,
                    a_credit_of_zero_panics,
                ],
                receive_once: [
                    a_single_receive_brings_at_most_so_many_bytes,
                    a_single_receive_waits_for_the_first_bytes,
                    the_end_of_the_stream_ends_a_single_receive,
                    a_reset_fails_a_single_receive,
                    pause_and_cancel_end_a_single_receive,
                    a_single_receive_is_the_one_in_flight,
                    a_single_receive_waits_in_line_for_a_buffer,
                ],
                send: [
                    frames_arrive_in_order_whatever_their_number,
                    eight_megabytes_reach_a_slow_peer_byte_for_byte,
                    a_partial_send_is_resumed_inside,
                    the_end_of_the_stream_waits_for_the_send_in_flight,
                    a_blocked_send_can_be_cancelled,
                    a_send_cancelled_at_once_completes_once,
                    sending_to_a_peer_that_has_reset_fails,
                    a_reset_fails_a_blocked_send,
                    sending_behind_ones_own_end_of_stream_fails,
                    a_second_send_panics_and_harms_nothing,
                    a_second_send_is_refused_if_so_configured,
                    an_empty_gather_panics,
                    both_directions_flow_at_once,
                ],
                close: [
                    cancel_ends_everything_on_a_socket,
                    closing_with_an_operation_in_flight_panics,
                    a_graceful_close_delivers_everything_that_was_sent,
                    closing_with_unread_input_loses_nothing_if_it_lingers,
                    close_can_reset,
                    the_name_of_a_closed_socket_never_reaches_the_next_one,
                    sockets_come_and_go,
                ],
                buffers: [
                    an_idle_socket_holds_no_buffer,
                    receives_without_a_buffer_are_served_first_come_first_served,
                    nobody_starves_for_a_buffer,
                    parked_receives_can_be_paused_and_cancelled,
                    a_reset_behind_bytes_is_noticed_behind_others,
                    lent_buffers_outlive_the_port,
                ],
                port: [
                    a_port_connects_to_itself,
                    a_refused_connect_fails,
                    a_connect_cancelled_at_once_completes_once,
                    values_from_other_threads_come_in_order,
                    time_never_goes_back,
                    a_flood_does_not_hold_up_others,
                    an_accepted_socket_can_be_adopted_by_another_port,
                    a_port_can_be_dropped_with_everything_in_flight,
                    the_echo_example_echoes,
                ],
            }
        }
    };
}

macro_rules! cases {
    ($rig:expr, $($module:ident: [$($case:ident),+ $(,)?]),+ $(,)?) => {
        $($(
            #[test]
            fn $case() {
                run($rig, stringify!($case), $module::$case);
            }
        )+)+
    };
}

/// The cases that only a system's own sockets have, for a backend on them.
#[cfg(any(unix, windows))]
macro_rules! os_suite {
    ($backend:ident, $rig:expr) => {
        mod $backend {
            use super::*;
            cases! { $rig,
                os: [
                    a_tcp_stream_can_be_adopted,
                    a_connect_that_nobody_answers_can_be_cancelled,
                    urgent_data_does_not_hold_up_what_follows,
                    a_sleeping_port_is_woken_by_other_threads,
                    a_wake_up_before_waiting_is_not_lost,
                    spinning_finds_completions_and_wake_ups,
                ],
            }
        }
    };
}

#[cfg(unix)]
suite!(poll, os::rig(wharf_port::Engine::Poll));
#[cfg(unix)]
os_suite!(poll_on_its_system, os::rig(wharf_port::Engine::Poll));

#[cfg(target_os = "linux")]
suite!(uring, os::rig(wharf_port::Engine::Uring));
#[cfg(target_os = "linux")]
suite!(
    uring_with_receives_of_one_buffer,
    os::rig_with(wharf_port::Engine::Uring, |config| {
        config.uring.streaming_receive = false;
    })
);
#[cfg(target_os = "linux")]
os_suite!(uring_on_its_system, os::rig(wharf_port::Engine::Uring));

#[cfg(windows)]
suite!(iocp, os::rig(wharf_port::Engine::Iocp));
#[cfg(windows)]
suite!(
    iocp_with_a_packet_for_everything,
    os::rig_with(wharf_port::Engine::Iocp, |config| {
        config.iocp.skip_on_success = false;
    })
);
#[cfg(windows)]
os_suite!(iocp_on_its_system, os::rig(wharf_port::Engine::Iocp));

suite!(sim, simulated::rig());
