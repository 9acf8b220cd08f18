//! What the conformance suite does not see: which calls are made, and what becomes of packets.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
};

use windows_sys::Win32::Networking::WinSock::{
    SO_EXCLUSIVEADDRUSE, SO_UPDATE_ACCEPT_CONTEXT, SO_UPDATE_CONNECT_CONTEXT,
};

use super::*;
use crate::{
    contract::{AcceptEnd, ReceiveEnd},
    socket::ListenOptions,
};

/// A port that listens and accepts.
fn listening(config: &Config) -> (IocpPort, Socket, SocketAddr) {
    let mut port = IocpPort::open(config).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = crate::socket::listen(any, &ListenOptions::default(), 1).unwrap().remove(0);
    let address = listener.local_addr();
    let listener = port.adopt_listener(listener).unwrap();
    port.submit(Op::Accept { listener }, Token(0));
    (port, listener, address)
}

/// Waits until `found` finds something among what completed.
#[track_caller]
fn until<T>(port: &mut IocpPort, mut found: impl FnMut(Outcome) -> Option<T>) -> T {
    let mut done = Vec::new();
    for _ in 0..1000 {
        port.wait(Some(Duration::from_millis(10)), &mut done).unwrap();
        if let Some(result) = done.drain(..).find_map(|done| found(done.outcome)) {
            return result;
        }
    }
    panic!("it never came: {:?}", port.counts());
}

fn accepted(port: &mut IocpPort) -> UnboundSocket {
    until(port, |outcome| match outcome {
        Outcome::Accepted(socket) => Some(socket),
        _ => None,
    })
}

/// The values that this thread has set the option to since it was last asked.
fn set_to(option: i32) -> Vec<Vec<u8>> {
    winsock::OPTIONS_SET.with_borrow_mut(|all| {
        let (these, others) = std::mem::take(all).into_iter().partition(|(it, _)| *it == option);
        *all = others;
        let these: Vec<(i32, Vec<u8>)> = these;
        these.into_iter().map(|(_, value)| value).collect()
    })
}

/// W4: with the listening socket itself, once per connection. Wine does not miss the call.
#[test]
fn every_accepted_socket_is_given_its_listeners_context() {
    use std::os::windows::io::AsRawSocket;
    let (mut port, listener, address) = listening(&Config::default());
    assert_eq!(set_to(SO_EXCLUSIVEADDRUSE), [1_u32.to_ne_bytes().to_vec()]);
    let listening = port.entries.get(listener).unwrap().os().as_raw_socket() as usize;
    for _ in 0..3 {
        let _client = TcpStream::connect(address).unwrap();
        drop(accepted(&mut port));
        assert_eq!(set_to(SO_UPDATE_ACCEPT_CONTEXT), [listening.to_ne_bytes().to_vec()]);
    }
}

#[test]
fn every_connected_socket_is_given_its_context() {
    let (mut port, _, address) = listening(&Config::default());
    let socket = port.stream(address, &SocketOptions::default()).unwrap();
    port.submit(Op::Connect { socket, address }, Token(1));
    until(&mut port, |outcome| match outcome {
        Outcome::Connected(result) => Some(result),
        _ => None,
    })
    .unwrap();
    assert_eq!(set_to(SO_UPDATE_CONNECT_CONTEXT), [Vec::new()]);
}

#[test]
fn as_many_accepts_are_outstanding_as_configured_and_stay_while_paused() {
    let mut config = Config::default();
    config.iocp.accepts_outstanding = 3;
    let (mut port, listener, address) = listening(&config);
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    assert_eq!(port.core.packets_posted.get(), 3);
    port.pause(listener);
    until(&mut port, |outcome| match outcome {
        Outcome::AcceptEnded(AcceptEnd::Paused) => Some(()),
        outcome => panic!("{outcome:?}"),
    });
    assert_eq!(port.core.packets_posted.get(), 3, "W8");
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
    port.submit(Op::Accept { listener }, Token(1));
    let mut left = clients.len();
    until(&mut port, |outcome| match outcome {
        Outcome::Accepted(_) => {
            left -= 1;
            (left == 0).then_some(())
        }
        outcome => panic!("{outcome:?}"),
    });
    assert_eq!(port.core.packets_posted.get(), 3);
}

/// I4, W5: the descriptor is closed when the receive of nothing has come back.
#[test]
fn a_closed_socket_comes_back_before_its_descriptor_is_closed() {
    let (mut port, _, address) = listening(&Config::default());
    let mut client = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut port);
    let socket = port.adopt(socket).unwrap();
    port.submit(Op::Receive { socket, credit_bytes: 10 }, Token(1));
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    port.cancel(socket);
    until(&mut port, |outcome| match outcome {
        Outcome::ReceiveEnded(ReceiveEnd::Cancelled) => Some(()),
        outcome => panic!("{outcome:?}"),
    });
    let posted = port.core.packets_posted.get();
    port.close(socket, Close::Graceful);
    // The end of the stream has been sent all the same.
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    for _ in 0..100 {
        port.wait(Some(Duration::from_millis(1)), &mut Vec::new()).unwrap();
    }
    assert_eq!(port.core.packets_posted.get(), posted - 1, "it came back");
    assert_eq!(port.counts().stale_completions, 0);
}

/// P8: with no time to wait, what the system still has is leaked, not freed.
#[test]
fn a_port_without_time_to_drop_leaks_what_the_system_has() {
    let config = Config { drop_deadline: Duration::ZERO, ..Config::default() };
    let (mut port, listener, _) = listening(&config);
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    let Role::Listener(listener) = &port.entries.get(listener).unwrap().role else {
        panic!("it listens")
    };
    let packets = listener.packets();
    assert!(!packets.is_empty() && packets.iter().all(|packet| Rc::strong_count(packet) == 3));
    drop(port);
    for packet in &packets {
        // Ours, and the system's unless it gave the packet back at once.
        assert_eq!(Rc::strong_count(packet), 1 + usize::from(packet.is_posted()));
    }
}

#[test]
fn what_the_system_gives_back_is_freed() {
    let (mut port, listener, _) = listening(&Config::default());
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    let Role::Listener(listener) = &port.entries.get(listener).unwrap().role else {
        panic!("it listens")
    };
    let packets = listener.packets();
    drop(port);
    assert!(packets.iter().all(|packet| !packet.is_posted() && Rc::strong_count(packet) == 1));
}

/// Inline success queues no packet, and one busy socket still gets a turn's share only.
#[test]
fn sends_that_succeed_at_once_need_no_packet() {
    for skip_on_success in [false, true] {
        let mut config = Config::default();
        config.iocp.skip_on_success = skip_on_success;
        let mut port = IocpPort::open(&config).unwrap();
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
        let socket = port.adopt(stream.into()).unwrap();
        let mut buf = port.buffers().take(5);
        buf.append(b"hello");
        port.submit(Op::Send { socket, gather: buf.freeze().into() }, Token(1));
        let mut done = Vec::new();
        port.turn(&mut done);
        assert_eq!(done.len(), usize::from(skip_on_success));
        assert_eq!(port.core.packets_posted.get(), usize::from(!skip_on_success));
        while done.is_empty() {
            port.wait(None, &mut done).unwrap();
        }
        assert!(matches!(done[0].outcome, Outcome::Sent { result: Ok(()), .. }), "{done:?}");
    }
}

/// W11: the flag keeps a wake-up that the system has no packet for.
#[test]
fn a_sleep_has_an_end_even_if_a_wake_up_is_lost() {
    let mut port = IocpPort::open(&Config::default()).unwrap();
    let start = port.now();
    port.wait(None, &mut Vec::new()).unwrap();
    assert!(port.now().since(start) >= SLEEP_MAX / 2, "it did sleep");
}

#[test]
fn a_connection_without_a_word_does_not_hold_up_an_accept() {
    let (mut port, _, address) = listening(&Config::default());
    let _silent = TcpStream::connect(address).unwrap();
    drop(accepted(&mut port));
    let mut talking = TcpStream::connect(address).unwrap();
    talking.write_all(b"hello").unwrap();
    drop(accepted(&mut port));
}
