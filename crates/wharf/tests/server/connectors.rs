//! Outgoing sessions.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use wharf::{CloseReason, ConnectorOptions, Error, Reconnect, framing::LengthField};

use crate::support::*;

const FRAMING: LengthField = LengthField::u16_be();
const MS: Duration = Duration::from_millis(1);

/// A listener with so many connections waiting that the next one gets no answer: the system drops
/// its first segment (listen(2), "backlog"). Keep what is returned.
pub(crate) fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&ANY_PORT.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, 200 * MS) {
        waiting.push(stream);
    }
    (listener, waiting)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> Client {
    Client::from(listener.accept().unwrap().0)
}

fn backoff(first: Duration) -> ConnectorOptions {
    let reconnect = Reconnect::Backoff { first, max: 20 * first };
    ConnectorOptions { reconnect, ..ConnectorOptions::default() }
}

/// A server with nothing but a connector that echoes, and closes or aborts when told so.
fn connector(engine: wharf::port::Engine, options: ConnectorOptions) -> TestServer {
    let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
        match on {
            On::Open => cx.send(b"hello")?,
            On::Frame(b"close") => cx.close(),
            On::Frame(b"abort") => cx.abort(),
            On::Frame(body) => cx.send(body)?,
            _ => {}
        }
        Ok(())
    };
    Events::new().with(|events| {
        builder(engine).limits(calm()).connector("out", options, FRAMING, events.script(script))
    })
}

fn greeted(listener: &TcpListener) -> Client {
    let mut peer = accept(listener);
    assert_eq!(bodies(&FRAMING, &peer.read(7)), [b"hello"]);
    peer
}

#[test]
fn connects_and_is_a_session_like_any_other() {
    on_every_engine(|engine| {
        let (listener, address) = listener();
        let mut server = connector(engine, ConnectorOptions::default());
        for _ in 0..4 {
            server.handle.connect("out", address).unwrap();
            let mut peer = greeted(&listener);
            peer.echo(&FRAMING, b"question");
            let id = server.wait_for(|event| match event {
                Event::Open(id, peer) if *peer == address => Some(*id),
                _ => None,
            });
            assert_eq!(server.handle.session(id).unwrap().unwrap().peer, address);
            server.handle.send(id, b"from outside").unwrap();
            assert_eq!(bodies(&FRAMING, &peer.read(14)), [b"from outside"]);
            drop(peer);
            assert_eq!(server.closed(), (id, CloseReason::PeerClosed));
        }
        let error = server.handle.connect("nowhere", address).unwrap_err();
        assert!(matches!(&error, Error::Settings(what) if what.contains("nowhere")), "{error}");
        wait_until(|| server.handle.count() == 0);
        let stats = server.finish().stats;
        assert_eq!((stats.connected, stats.connect_failures, stats.accepted), (4, 0, 0));
    });
}

/// Both ends in one server, on one worker.
#[test]
fn a_server_may_connect_to_itself() {
    on_every_engine(|engine| {
        let events = Events::new();
        let client = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            match on {
                On::Open => cx.send(b"ping")?,
                On::Frame(b"ping") => cx.close(),
                _ => {}
            }
            Ok(())
        };
        let builder = builder(engine)
            .workers(1)
            .limits(calm())
            .listen(ANY_PORT, FRAMING, events.echo())
            .connector("self", ConnectorOptions::default(), FRAMING, events.script(client));
        let mut server = events.start(builder);
        let address = server.address();
        (0..20).for_each(|_| server.handle.connect("self", address).unwrap());
        (0..40).for_each(|_| _ = server.closed());
        wait_until(|| server.handle.count() == 0);
        let stats = server.finish().stats;
        assert_eq!((stats.connected, stats.accepted, stats.frames_received), (20, 20, 40));
    });
}

/// Only on Linux is all of 127.0.0.0/8 this machine's.
#[cfg(target_os = "linux")]
#[test]
fn sources_are_used_in_turn() {
    use std::net::{IpAddr, Ipv4Addr};
    on_every_engine(|engine| {
        let (listener, address) = listener();
        let sources = [7, 8, 9].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
        let options = ConnectorOptions { sources: sources.to_vec(), ..ConnectorOptions::default() };
        let script = |_: &mut wharf::Context<'_, ()>, _: On<'_>| Ok(());
        let events = Events::new();
        let builder = builder(engine)
            .workers(1)
            .limits(calm())
            .connector("chosen", options, FRAMING, events.script(script))
            .connector("any", ConnectorOptions::default(), FRAMING, events.script(script));
        let server = events.start(builder);
        for round in 0..4 {
            server.handle.connect("chosen", address).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), sources[round % 3]);
            // The choice of one connector is not that of another.
            server.handle.connect("any", address).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), Ipv4Addr::LOCALHOST);
        }
        server.finish();
    });
}

#[test]
fn a_refused_connection_is_told() {
    on_every_engine(|engine| {
        let address = listener().1;
        let mut server = connector(engine, ConnectorOptions::default());
        server.handle.connect("out", address).unwrap();
        assert_eq!(server.next(), Event::ConnectFailed(io::ErrorKind::ConnectionRefused, None));
        wait_until(|| server.handle.count() == 0);
        assert_eq!(server.finish().stats.connect_failures, 1);
    });
}

#[test]
fn a_connection_that_is_not_answered_times_out() {
    on_every_engine(|engine| {
        let (full, _waiting) = full_listener();
        let address = full.local_addr().unwrap();
        let options = ConnectorOptions { connect_timeout: 100 * MS, ..ConnectorOptions::default() };
        let mut server = connector(engine, options.clone());
        server.handle.connect("out", address).unwrap();
        assert_eq!(server.next(), Event::ConnectFailed(io::ErrorKind::TimedOut, None));
        server.finish();
        // With back-off it is tried again and again, until the server drains.
        let mut server =
            connector(engine, ConnectorOptions { connect_timeout: 50 * MS, ..backoff(MS) });
        server.handle.connect("out", address).unwrap();
        for _ in 0..3 {
            let event = server.next();
            assert!(matches!(event, Event::ConnectFailed(io::ErrorKind::TimedOut, Some(_))));
        }
        server.finish();
    });
}

/// The other server goes away, stays away for a while, and comes back.
#[test]
fn a_lost_connection_is_made_again() {
    on_every_engine(|engine| {
        let (listener, address) = listener();
        let mut server = connector(engine, backoff(10 * MS));
        server.handle.connect("out", address).unwrap();
        drop(greeted(&listener));
        assert_eq!(server.closed().1, CloseReason::PeerClosed);
        greeted(&listener).reset();
        assert_eq!(server.closed().1, CloseReason::Reset);
        let peer = greeted(&listener);
        drop(listener);
        drop(peer);
        let mut pauses = Vec::new();
        while pauses.len() < 5 {
            pauses.extend(server.wait_for(|event| match event {
                Event::ConnectFailed(io::ErrorKind::ConnectionRefused, pause) => Some(*pause),
                _ => None,
            }));
        }
        // The n-th pause in a row is between half of 10 ms * 2^(n-1) and all of it, 200 ms at most.
        for (pause, longest) in pauses.iter().zip([10, 20, 40, 80, 160]) {
            assert!((MS * longest / 2..=MS * longest).contains(pause), "{pauses:?}");
        }
        let listener = TcpListener::bind(address).unwrap();
        greeted(&listener).echo(&FRAMING, b"back again");
        drop(listener);
        let stats = server.finish().stats;
        assert_eq!(stats.connected, 4);
    });
}

#[test]
fn what_this_side_closed_is_not_made_again() {
    on_every_engine(|engine| {
        for way in ["close", "abort", "handle"] {
            let (listener, address) = listener();
            let mut server = connector(engine, backoff(MS));
            server.handle.connect("out", address).unwrap();
            let mut peer = greeted(&listener);
            let id = server.opened();
            match way {
                "handle" => server.handle.close(id).unwrap(),
                way => peer.write(&wire(&FRAMING, &[way.as_bytes()])),
            }
            server.closed();
            peer.end();
            drop(peer);
            wait_until(|| server.handle.count() == 0);
            // The pause would have been 1 ms.
            block_for(100 * MS);
            listener.set_nonblocking(true).unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "{way}");
            assert_eq!(server.finish().stats.connected, 1, "{way}");
        }
    });
}

/// The limit on sessions counts those that connect, too.
#[test]
fn outgoing_sessions_keep_to_the_limit() {
    on_every_engine(|engine| {
        let (listener, address) = listener();
        let events = Events::new();
        let builder = builder(engine).limits(calm()).max_sessions(3).connector(
            "out",
            ConnectorOptions::default(),
            FRAMING,
            events.echo(),
        );
        let server = events.start(builder);
        let made = (0..8).filter(|_| server.handle.connect("out", address).is_ok()).count();
        wait_until(|| {
            let stats = server.handle.stats().unwrap();
            (stats.connected + stats.connect_failures) as usize == made
        });
        assert!(server.handle.count() <= 3, "{} sessions", server.handle.count());
        drop(listener);
        server.finish_now();
    });
}
