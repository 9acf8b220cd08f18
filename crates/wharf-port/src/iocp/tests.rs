//! What the conformance suite does not see: which calls are made, and what becomes of packets.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
};

use windows_sys::Win32::Networking::WinSock::{
    SO_EXCLUSIVEADDRUSE, SO_UPDATE_ACCEPT_CONTEXT, SO_UPDATE_CONNECT_CONTEXT, WSAECONNRESET,
    WSAEMFILE, WSAENOBUFS,
};

use super::{packet::NEXT_ERRORS, queue::POST_FAILURES, *};
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

/// W3: nor does an accept that fails. One whose connection is gone is no word about the listener; the
/// process's own lack ends the accept, which can be started again.
#[test]
fn a_failed_accept_leaves_the_listener_whole() {
    let mut config = Config::default();
    config.iocp.accepts_outstanding = 1;
    NEXT_ERRORS.set([WSAECONNRESET, WSAECONNRESET].into());
    let (mut port, listener, address) = listening(&config);
    let _client = TcpStream::connect(address).unwrap();
    NEXT_ERRORS.with_borrow_mut(|errors| errors.push_back(WSAEMFILE));
    let mut errors = Vec::new();
    let socket = loop {
        let accepted = until(&mut port, |outcome| match outcome {
            Outcome::Accepted(socket) => Some(Ok(socket)),
            Outcome::AcceptEnded(AcceptEnd::Failed(error)) => Some(Err(error)),
            outcome => panic!("{outcome:?}"),
        });
        match accepted {
            Ok(socket) => break socket,
            Err(error) => errors.push(error.raw_os_error().unwrap()),
        }
        port.submit(Op::Accept { listener }, Token(1));
    };
    assert_eq!((&errors[..], NEXT_ERRORS.take().len()), (&[WSAEMFILE][..], 0));
    drop(socket);
}

/// W9: the system is short of memory for a while; every kind of operation is tried again.
#[test]
fn what_the_system_has_no_memory_for_is_tried_again() {
    let shortage = || NEXT_ERRORS.set([WSAENOBUFS; 3].into());
    let mut config = Config::default();
    config.iocp.accepts_outstanding = 1;
    shortage();
    let (mut port, _, address) = listening(&config);
    let mut client = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut port);
    let socket = port.adopt(socket).unwrap();
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap(); // the next accept is outstanding
    shortage();
    port.submit(Op::Receive { socket, credit_bytes: 10 }, Token(1));
    client.write_all(b"hello").unwrap();
    let received = until(&mut port, |outcome| match outcome {
        Outcome::Received(bytes) => Some(bytes),
        outcome => panic!("{outcome:?}"),
    });
    assert_eq!((&*received, NEXT_ERRORS.take().len()), (&b"hello"[..], 0));
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap(); // the next receive of nothing, too
    shortage();
    let mut buf = port.buffers().take(5);
    buf.append(b"hello");
    port.submit(Op::Send { socket, gather: buf.freeze().into() }, Token(2));
    until(&mut port, |outcome| match outcome {
        Outcome::Sent { result, .. } => Some(result),
        outcome => panic!("{outcome:?}"),
    })
    .unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = outside.local_addr().unwrap();
    let socket = port.stream(address, &SocketOptions::default()).unwrap();
    shortage();
    port.submit(Op::Connect { socket, address }, Token(3));
    until(&mut port, |outcome| match outcome {
        Outcome::Connected(result) => Some(result),
        outcome => panic!("{outcome:?}"),
    })
    .unwrap();
    assert_eq!(NEXT_ERRORS.take().len(), 0);
}

/// W11: whoever wakes next kicks again.
#[test]
fn a_wake_up_that_could_not_be_posted_is_not_the_last() {
    let mut port = IocpPort::open(&Config::default()).unwrap();
    let waker = port.waker();
    assert!(port.flag.prepare_sleep());
    POST_FAILURES.set(usize::MAX);
    waker.wake();
    POST_FAILURES.set(0);
    let mut packets = [OVERLAPPED_ENTRY::default(); 4];
    assert_eq!(port.dequeue(&mut packets, Some(Duration::ZERO)).unwrap(), 0);
    waker.wake();
    assert_eq!(port.dequeue(&mut packets, Some(Duration::ZERO)).unwrap(), 1);
    port.flag.wake_up();
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
}

/// W2: what there is to receive is taken without waiting, a turn's share at a time.
#[test]
fn a_busy_socket_gets_a_turns_share() {
    let mut port = IocpPort::open(&Config::default()).unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
    let socket = port.adopt(stream.into()).unwrap();
    let mut busy = outside.accept().unwrap().0;
    busy.write_all(&[7; 64 * 1024]).unwrap();
    port.submit(Op::Receive { socket, credit_bytes: 64 * 1024 }, Token(1));
    let mut bytes = 0;
    for _ in 0..1000 {
        let mut done = Vec::new();
        port.turn(&mut done);
        assert!(done.len() <= stream::RECEIVES_PER_TURN + 1, "and perhaps the end: {done:?}");
        for done in done {
            if let Outcome::Received(piece) = done.outcome {
                bytes += piece.len();
            }
        }
        port.look(Some(Duration::from_millis(10)), &mut Vec::new()).unwrap();
        if bytes == 64 * 1024 {
            return;
        }
    }
    panic!("{bytes} bytes came");
}

/// W1, W5, W6: closed with all there can be outstanding, over and over; everything comes back, and
/// reaches nobody else.
#[test]
fn sockets_closed_with_everything_outstanding_leave_nothing() {
    let (mut port, _, address) = listening(&Config::default());
    let bytes = vec![7; 1 << 20];
    port.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    let outstanding = port.core.packets_posted.get();
    for round in 0..200 {
        let _client = TcpStream::connect(address).unwrap();
        let socket = accepted(&mut port);
        let socket = port.adopt(socket).unwrap();
        port.submit(Op::Receive { socket, credit_bytes: 10 }, Token(1));
        let mut buf = port.buffers().take(bytes.len());
        buf.append(&bytes);
        port.submit(Op::Send { socket, gather: buf.freeze().into() }, Token(2));
        let mut left = 2;
        let mut ended = |outcome: &Outcome| {
            left -= 1;
            let sent = matches!(outcome, Outcome::Sent { .. });
            assert!(sent || matches!(outcome, Outcome::ReceiveEnded(ReceiveEnd::Cancelled)));
            (left == 0).then_some(())
        };
        let mut done = Vec::new();
        port.wait(Some(Duration::ZERO), &mut done).unwrap();
        let mut over = done.drain(..).find_map(|done| ended(&done.outcome));
        port.cancel(socket);
        while over.is_none() {
            port.wait(Some(Duration::from_millis(10)), &mut done).unwrap();
            over = done.drain(..).find_map(|done| ended(&done.outcome));
        }
        port.close(socket, if round % 2 == 0 { Close::Graceful } else { Close::Reset });
    }
    for _ in 0..1000 {
        port.wait(Some(Duration::from_millis(1)), &mut Vec::new()).unwrap();
        if port.core.packets_posted.get() == outstanding {
            break;
        }
    }
    let counts = port.counts();
    assert_eq!((port.core.packets_posted.get(), counts.stale_completions), (outstanding, 0));
    assert_eq!((counts.sockets, counts.blocks_in_use, counts.buffers_lent), (1, 0, 0));
}
