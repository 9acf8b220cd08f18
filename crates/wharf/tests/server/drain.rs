//! The end of a server.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use wharf::{CloseReason, ConnectorOptions, Error, SendError, framing::LengthField};

use crate::{connectors::full_listener, support::*};

const FRAMING: LengthField = LengthField::u16_be();

/// A session of each kind: idle, with answers on their way, about to connect, and one whose peer
/// does not read and which is therefore aborted at the deadline.
#[test]
fn every_kind_of_session_ends() {
    on_every_engine(|engine| {
        let (full, _waiting) = full_listener();
        let events = Events::new();
        let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| match on {
            On::Frame(b"flood") => {
                while cx.try_send(&[7; 60_000]).is_ok() {}
                Ok(())
            }
            on => echo(cx, on),
        };
        let limits =
            wharf::Limits { send_queue_bytes_max: 16 << 20, linger_timeout: PATIENCE, ..calm() };
        let builder = builder(engine)
            .limits(limits)
            .listen(ANY_PORT, FRAMING, events.script(script))
            .connector("out", ConnectorOptions::default(), FRAMING, events.echo());
        let mut server = events.start(builder);
        let mut idle = server.connect();
        let mut busy = server.connect();
        let mut deaf = Client::connect_narrow(server.address());
        (0..3).for_each(|_| _ = server.opened());
        server.handle.connect("out", full.local_addr().unwrap()).unwrap();
        deaf.write(&wire(&FRAMING, &[b"flood"]));
        let sent = wire(&FRAMING, &vec![&[1; 8000][..]; 30]);
        busy.write(&sent);
        server.until(|stats| stats.frames_received == 31);
        assert_eq!(server.handle.count(), 4);

        server.handle.drain(Duration::from_secs(1));
        assert_eq!(idle.read_to_end(), (vec![], End::OfStream));
        let (answer, end) = busy.read_to_end();
        assert!(answer == sent && end == End::OfStream);
        drop((idle, busy));
        let (report, events) = server.join();
        deaf.end().assert_reset();
        assert_eq!(report.stats.closed_for(CloseReason::Drain), 3);
        assert_eq!(report.stats.drain_aborted, 1);
        let told = |event: &&Event| matches!(event, Event::Drain(_));
        assert_eq!(events.iter().filter(told).count(), 3, "each open session is told");
        assert!(report.stats.bytes_lost > 0, "the peer that did not read was aborted");
        let failed = |event: &&Event| matches!(event, Event::ConnectFailed(_, None));
        assert_eq!(events.iter().filter(failed).count(), 1, "{events:?}");
    });
}

#[test]
fn a_second_drain_can_only_bring_the_deadline_nearer() {
    on_every_engine(|engine| {
        let limits = wharf::Limits { linger_timeout: NEVER, ..calm() };
        let mut server = TestServer::with(engine, FRAMING, limits, echo);
        // It stays, and the server waits for it to go.
        let mut client = server.connect();
        server.opened();
        server.handle.drain(NEVER);
        assert_eq!(server.closed().1, CloseReason::Drain);
        assert_eq!(server.handle.count(), 1);
        server.handle.drain(Duration::ZERO);
        server.handle.drain(Duration::MAX);
        server.join();
        assert_eq!(client.read_to_end(), (vec![], End::OfStream));
    });
}

#[test]
fn a_drain_from_inside_a_callback() {
    on_every_engine(|engine| {
        let server = TestServer::with(engine, FRAMING, calm(), |cx, on| {
            if let On::Frame(_) = on {
                cx.handle().drain(NEVER);
                cx.send(b"good bye")?;
            }
            Ok(())
        });
        let mut client = server.connect();
        client.write(&wire(&FRAMING, &[b"end"]));
        let (answer, end) = client.read_to_end();
        assert_eq!((bodies(&FRAMING, &answer), end), (vec![b"good bye".to_vec()], End::OfStream));
        drop(client);
        server.join();
    });
}

/// The last word of a handler reaches a peer that is idle and one whose answers are on their way,
/// behind those; another drain says nothing more.
#[test]
fn a_farewell_is_the_last_that_a_peer_gets() {
    on_every_engine(|engine| {
        let mut server = TestServer::with(engine, FRAMING, calm(), |cx, on| {
            if let On::Drain = on {
                cx.handle().drain(NEVER);
                cx.send(b"good bye")?;
            }
            echo(cx, on)
        });
        let (mut idle, mut busy) = (server.connect(), server.connect());
        (0..2).for_each(|_| _ = server.opened());
        let mut sent = wire(&FRAMING, &vec![&[1; 8000][..]; 20]);
        busy.write(&sent);
        server.until(|stats| stats.frames_received == 20);
        server.handle.drain(NEVER);
        server.handle.drain(NEVER);
        let farewell = wire(&FRAMING, &[b"good bye"]);
        assert_eq!(idle.read_to_end(), (farewell.clone(), End::OfStream));
        sent.extend(farewell);
        let (received, end) = busy.read_to_end();
        assert!(received == sent && end == End::OfStream);
        drop((idle, busy));
        let (report, _) = server.join();
        assert_eq!((report.stats.closed_for(CloseReason::Drain), report.stats.bytes_lost), (2, 0));
    });
}

/// Whatever a handler asks of its session and its server, in whichever callback, is done when the
/// callback has returned: it waits for nobody, least of all for itself.
#[test]
fn everything_may_be_asked_for_in_every_callback() {
    on_every_engine(|engine| {
        let (full, _waiting) = full_listener();
        let writable = AtomicUsize::new(0);
        let script = move |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            // One that always says more when it may is never out of it.
            if matches!(on, On::Writable)
                && !writable.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
            {
                return Ok(());
            }
            let (handle, id) = (cx.handle().clone(), cx.id());
            assert!(matches!(handle.sessions(), Err(Error::OnWorker)));
            assert!(matches!(handle.join(), Err(Error::OnWorker)));
            assert!(handle.count() > 0);
            let over = matches!(on, On::Close(_));
            assert_eq!(handle.is_open(id), !over);
            let sent = (cx.send(b"from inside"), handle.send(id, b"from outside"));
            match on {
                On::Frame(b"close") | On::Timer(_) => {
                    cx.close();
                    handle.close(id)?;
                    handle.close(id)?;
                    assert_eq!(cx.send(b"late"), Err(SendError::Closed));
                }
                On::Frame(b"timer") => cx.set_timer(Duration::ZERO, 1),
                On::Frame(b"drain") => handle.drain(NEVER),
                On::Drain => {
                    handle.drain(NEVER);
                    cx.pause();
                    cx.resume();
                    cx.close();
                }
                _ => {}
            }
            let expected = if over { Err(SendError::Closed) } else { Ok(()) };
            assert_eq!(sent, (expected, expected));
            Ok(())
        };
        let events = Events::new();
        let builder = builder(engine)
            .limits(wharf::Limits { send_queue_bytes_soft: 1, ..calm() })
            .listen(ANY_PORT, FRAMING, events.script(script))
            .connector("out", ConnectorOptions::default(), FRAMING, events.echo());
        let mut server = events.start(builder);
        server.handle.connect("out", full.local_addr().unwrap()).unwrap();
        for end in [&b"close"[..], b"timer"] {
            let mut client = server.connect();
            client.write(&wire(&FRAMING, &[end]));
            assert_eq!(server.closed().1, CloseReason::Handler);
            assert_eq!(client.end(), End::OfStream);
        }
        let mut client = server.connect();
        client.write(&wire(&FRAMING, &[b"drain"]));
        assert_eq!(server.closed().1, CloseReason::Handler);
        assert_eq!(client.end(), End::OfStream);
        drop(client);
        let (_, events) = server.join();
        for wanted in ["Backpressure", "Writable", "Drain", "Timer", "ConnectFailed"] {
            let happened = |event: &Event| format!("{event:?}").starts_with(wanted);
            assert!(events.iter().any(happened), "{wanted}: {events:?}");
        }
    });
}

#[test]
fn several_threads_join_and_a_server_that_has_ended_answers() {
    on_every_engine(|engine| {
        let mut server = TestServer::with(engine, FRAMING, calm(), echo);
        let mut client = server.connect();
        client.echo(&FRAMING, b"x");
        let id = server.opened();
        drop(client);
        server.closed();
        let handle = server.handle.clone();
        let reports = in_threads(5, |thread| {
            if thread == 0 {
                handle.drain(NEVER);
            }
            handle.join().unwrap()
        });
        assert!(reports.iter().all(|report| *report == reports[0]), "{reports:?}");
        assert_eq!(reports[0].stats.frames_received, 1);
        assert_eq!(handle.send(id, b""), Err(SendError::Closed));
        assert_eq!(handle.sessions().unwrap(), []);
        assert_eq!(handle.stats().unwrap(), wharf::Stats::default());
        assert_eq!(handle.count(), 0);
        handle.drain(Duration::ZERO);
        server.join();
        let refused = std::net::TcpStream::connect(handle.local_addrs()[0]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn started_again_on_the_same_port_at_once() {
    on_every_engine(|engine| {
        let mut address: std::net::SocketAddr = ANY_PORT.parse().unwrap();
        for _ in 0..5 {
            let builder = builder(engine).limits(calm());
            let server = Events::new().with(|e| builder.listen(address, FRAMING, e.echo()));
            address = server.address();
            let mut client = server.connect();
            client.echo(&FRAMING, b"served");
            // This side closes first, which leaves the address in TIME_WAIT.
            server.handle.drain(NEVER);
            assert_eq!(client.end(), End::OfStream);
            drop(client);
            server.join();
        }
    });
}

/// Orders while the server ends: each is refused, or its failure is told; none is lost, and none is
/// counted for ever.
#[test]
fn orders_while_it_ends() {
    on_every_engine(|engine| {
        let (full, _waiting) = full_listener();
        let address = full.local_addr().unwrap();
        for _ in 0..30 {
            let events = Events::new();
            let options = ConnectorOptions::default();
            let builder = builder(engine).limits(calm());
            let builder = builder.connector("out", options, FRAMING, events.echo());
            let server = events.start(builder);
            let handle = server.handle.clone();
            let mut taken = 0;
            beside(
                || server.handle.drain(Duration::ZERO),
                || {
                    // Bounded: each holds a descriptor of the process that all tests share.
                    while taken < 100 && handle.connect("out", address).is_ok() {
                        taken += 1
                    }
                },
            );
            let (report, events) = server.join();
            assert_eq!(report.stats.connect_failures, taken);
            assert_eq!(events.len() as u64, taken, "each is told to the handler");
            let late = Event::ConnectFailed(io::ErrorKind::TimedOut, None);
            assert!(!events.contains(&late), "it is the end, and no time-out");
            let refused = handle.connect("out", address);
            assert!(matches!(refused, Err(Error::Send(SendError::Closed))), "{refused:?}");
        }
    });
}

/// No listener, no session: nothing keeps it.
#[test]
fn a_server_of_nothing_ends() {
    on_every_engine(|engine| {
        Events::new().start(builder(engine)).finish();
    });
}
