//! Listening: on several addresses, with several workers, at the limits of the system.

use std::net::{SocketAddr, TcpListener};

use wharf::framing::{LengthField, Lines};

use crate::support::*;

const FRAMING: LengthField = LengthField::u16_be();

#[test]
fn one_accepting_worker_hands_connections_to_the_one_with_the_fewest() {
    on_every_engine(|engine| {
        let builder = builder(engine).workers(4).share_listeners(false).limits(calm());
        let mut server = Events::new().with(|e| builder.listen(ANY_PORT, FRAMING, e.echo()));
        let mut clients = Vec::new();
        let mut by_worker = [0; 4];
        for _ in 0..40 {
            let mut client = server.connect();
            client.echo(&FRAMING, b"x");
            by_worker[(server.opened().as_u64() >> 56) as usize] += 1;
            clients.push(client);
        }
        assert_eq!(by_worker, [10; 4]);
        drop(clients);
        wait_until(|| server.handle.count() == 0);
        let report = server.finish();
        assert_eq!(report.stats.accepted, 40);
    });
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_address() {
    on_every_engine(|engine| {
        let other = TcpListener::bind(ANY_PORT).unwrap();
        let wharf = TestServer::with(engine, FRAMING, calm(), echo);
        for address in [other.local_addr().unwrap(), wharf.address()] {
            for share in [true, false] {
                let error = builder(engine)
                    .share_listeners(share)
                    .listen(address, FRAMING, Events::new().echo())
                    .start()
                    .map(|_| ())
                    .unwrap_err();
                assert!(error.to_string().contains(&address.to_string()), "{error}");
                let wharf::Error::Io { source, .. } = &error else { panic!("{error}") };
                assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
            }
        }
        wharf.connect().echo(&FRAMING, b"not affected");
        wharf.finish();
    });
}

#[test]
fn an_address_that_is_none_is_an_error() {
    let error = wharf::Server::builder().listen("127.0.0.1:none", FRAMING, Events::new().echo());
    let error = error.start().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:none"), "{error}");
}

#[test]
fn each_listener_has_its_framing_its_handler_and_its_limits() {
    on_every_engine(|engine| {
        let upper = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            if let On::Frame(body) = on {
                cx.send(&body.to_ascii_uppercase())?;
            }
            Ok(())
        };
        let narrow = wharf::Limits { frame_bytes_max: 4, ..calm() };
        let events = Events::new();
        let builder = builder(engine)
            .limits(calm())
            .listen(ANY_PORT, FRAMING, events.echo())
            .listen(ANY_PORT, Lines, events.script(upper))
            .limits(narrow)
            .listen(ANY_PORT, FRAMING, events.echo());
        let server = events.start(builder);
        let addresses: Vec<SocketAddr> = server.handle.local_addrs().to_vec();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| address.port() != 0));
        for _ in 0..4 {
            Client::connect(addresses[0]).echo(&FRAMING, b"plain");
            let mut lines = Client::connect(addresses[1]);
            lines.write(b"loud\n");
            assert_eq!(lines.read(5), b"LOUD\n");
            let mut short = Client::connect(addresses[2]);
            short.echo(&FRAMING, b"four");
            short.write(&wire(&FRAMING, &[b"five!"]));
            assert_eq!(short.end(), End::OfStream);
        }
        let stats = server.finish().stats;
        assert_eq!(stats.closed_for(wharf::CloseReason::Protocol), 4);
    });
}

/// No descriptor left: whoever comes, to whichever worker, is turned away and knows it; those who are
/// there go on, and once there is room new ones are taken again. In a process of its own, with a limit
/// of its own.
#[cfg(unix)]
#[test]
fn at_the_descriptor_limit_nobody_is_left_hanging() {
    in_a_process_of_its_own(
        "listeners::at_the_descriptor_limit_nobody_is_left_hanging",
        "ulimit -n 100",
        accept_at_the_descriptor_limit,
    );
}

#[cfg(unix)]
fn accept_at_the_descriptor_limit() {
    const COMING: usize = 12;
    on_every_engine(|engine| {
        let builder = builder(engine).limits(calm());
        let mut server = Events::new().with(|e| builder.listen(ANY_PORT, FRAMING, e.echo()));
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(server.connect());
            server.opened();
        }
        // Those who will come have their own descriptors; then all that is left is taken.
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let coming: Vec<_> = (0..COMING).map(|_| socket().unwrap()).collect();
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        assert!(taken.len() < 100, "the limit holds");
        let mut turned_away = Vec::new();
        for socket in coming {
            socket.connect(&server.address().into()).unwrap();
            let mut client = Client::from(std::net::TcpStream::from(socket));
            client.end();
            turned_away.push(client); // its descriptor is not for others
        }
        for client in &mut clients {
            client.echo(&FRAMING, b"not affected");
        }
        server.until(|stats| stats.refused_descriptors > 0);
        assert_eq!(server.handle.count(), 10);
        drop((taken, turned_away));
        // A worker may still pause before it looks for others.
        let mut late = server.connect();
        late.echo(&FRAMING, b"in at last");
        assert_eq!(server.handle.count(), 11);
        drop((clients, late));
        server.finish();
    });
}

/// Several workers share the address, and the system gives each its own queue of connections. Those in
/// the queue of one that is busy when the drain comes are not forgotten there.
#[test]
fn a_drain_strands_nobody_in_the_queue_of_a_busy_worker() {
    on_every_engine_inline(|engine| {
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let script = move |_: &mut wharf::Context<'_, ()>, on: On<'_>| {
            if let On::Frame(_) = on {
                gate.lock().unwrap().recv_timeout(PATIENCE).expect("released by the test");
            }
            Ok(())
        };
        let builder = builder(engine).limits(calm());
        let mut server =
            Events::new().with(|e| builder.listen(ANY_PORT, FRAMING, e.script(script)));
        let mut holding = server.connect();
        holding.write(&wire(&FRAMING, &[b"hold this worker"]));
        server.frame();
        let coming: Vec<_> = (0..32).map(|_| server.connect()).collect();
        server.handle.drain(PATIENCE);
        release.send(()).unwrap();
        for mut client in coming {
            client.end();
        }
        holding.end();
        server.join();
    });
}
