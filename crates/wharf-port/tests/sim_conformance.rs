//! The suite of `conformance.rs` on the simulated port.

#[path = "conformance/accept.rs"]
mod accept;
#[path = "conformance/buffers.rs"]
mod buffers;
#[path = "conformance/close.rs"]
mod close;
#[path = "conformance/lab.rs"]
mod lab;
#[path = "conformance/port.rs"]
mod port;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/port_echo.rs"]
mod port_echo;
#[path = "conformance/receive.rs"]
mod receive;
#[path = "conformance/send.rs"]
mod send;

use std::{io, net::SocketAddr};

use lab::{Peer, Rig};
use wharf_port::{
    CompletionPort, Config, UnboundListener,
    sim::{Faults, PeerState, SimNet, SimPeer},
};

/// Every case as it is and behind guard pages, on a network of its own. One that is added to the
/// suite and not here is reported as unused.
macro_rules! cases {
    ($($module:ident: [$($case:ident),+ $(,)?]),+ $(,)?) => {
        $($(
            #[test]
            fn $case() {
                for guard_pages in [false, true] {
                    let rig = SimRig(SimNet::new(1, Faults::none()));
                    $module::$case(&rig, Config { guard_pages, ..Config::default() });
                }
            }
        )+)+
    };
}

cases! {
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
        a_second_receive_panics_and_harms_nothing,
        a_receive_is_in_flight_until_its_end_is_delivered,
        a_credit_of_zero_panics,
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

struct SimRig(SimNet);

impl Rig for SimRig {
    fn port(&self, config: Config) -> Box<dyn CompletionPort> {
        self.0.open(&config)
    }

    fn listen(&self) -> UnboundListener {
        self.0.listen("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn connect(&self, address: SocketAddr) -> Box<dyn Peer> {
        Box::new(self.0.connect(address))
    }

    fn refusing_address(&self) -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }
}

impl Peer for SimPeer {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.write(bytes) {
            0 => Err(match self.state() {
                PeerState::Failed(kind) => kind.into(),
                _ if self.can_write() => io::ErrorKind::WouldBlock.into(),
                _ => io::ErrorKind::BrokenPipe.into(),
            }),
            written => Ok(written),
        }
    }

    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match (self.read(bytes), self.state()) {
            (0, PeerState::Ended) => Ok(0),
            (0, PeerState::Failed(kind)) => Err(kind.into()),
            (0, _) => Err(io::ErrorKind::WouldBlock.into()),
            (read, _) => Ok(read),
        }
    }

    fn shutdown_write(&mut self) {
        SimPeer::shutdown_write(self);
    }

    fn reset(mut self: Box<Self>) {
        SimPeer::reset(&mut self);
    }

    fn local_addr(&self) -> SocketAddr {
        SimPeer::local_addr(self)
    }
}
