//! What happens at each limit, and that it happens to nobody else.

use std::time::Duration;

use wharf::{
    CloseReason, Limits, SendError,
    framing::LengthField,
    port::{Config, EngineChoice},
};

use crate::support::*;

/// A peer that never reads: above the soft mark nothing more is received from it. Without that its
/// queue would grow to the hard mark, which ends the session.
#[test]
fn a_peer_that_does_not_read_is_asked_for_nothing_more() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let limits = Limits { send_queue_bytes_soft: 64 * 1024, ..calm() };
        // One more credit comes in; where the system cannot stop there, all buffers at most (P9).
        let port = Config {
            receive_buffers: 32,
            engine: EngineChoice::Named(engine),
            ..Config::default()
        };
        let credit = limits.receive_credit_bytes as usize;
        let queued_max =
            limits.send_queue_bytes_soft + 32 * port.receive_buffer_bytes as usize + credit;
        let events = Events::new();
        let builder =
            builder(engine).port(port).limits(limits).listen(ANY_PORT, framing, events.echo());
        let mut server = events.start(builder);
        let mut client = Client::connect_narrow(server.address());
        let id = server.opened();
        let mut other = server.connect();
        let sent = wire(&framing, &vec![&[3; 8000][..]; 2000]);
        let mut writer = Client::from(client.0.try_clone().unwrap());
        beside(
            || writer.write(&sent),
            || {
                let queued = || server.handle.session(id).unwrap().unwrap().queued_bytes;
                // Held at more than the mark, it is let go at half of it.
                wait_until(|| queued() > 32 * 1024);
                for _ in 0..100 {
                    other.echo(&framing, b"not affected");
                    assert!(queued() <= queued_max, "{}", queued());
                }
                let received = client.read(sent.len());
                assert!(received == sent, "all of it, in order");
            },
        );
        client.echo(&framing, b"and it goes on");
        server.finish();
    });
}

/// The smallest soft mark there is: receiving must still go on once the queue is empty.
#[test]
fn a_soft_mark_of_one_byte_still_lets_a_session_go_on() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let limits = Limits { send_queue_bytes_soft: 1, ..calm() };
        let server = TestServer::with(engine, framing, limits, echo);
        let mut client = server.connect();
        for _ in 0..10 {
            // More than a credit, so that the receive ends and must be started again.
            let sent = wire(&framing, &[&[1; 8000], &[2; 8000], &[3; 8000]]);
            client.write(&sent);
            assert!(client.read(sent.len()) == sent);
        }
        server.finish();
    });
}

#[test]
fn unasked_sends_to_a_peer_that_does_not_read_abort_it() {
    on_every_engine(|engine| {
        let framing = LengthField::u32_be();
        let mut server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(b"flood") = on {
                assert!((0..100).any(|_| cx.try_send(&[0; 16 * 1024]).is_err()), "a limit");
                assert!(cx.queued_bytes() <= Limits::default().send_queue_bytes_max);
                assert_eq!(cx.try_send(&[0; 16 * 1024]), Err(SendError::WouldExceed));
                assert_eq!(cx.try_send(b"a short one fits"), Ok(()));
                assert_eq!(cx.send(&[0; 16 * 1024]), Err(SendError::WouldExceed));
                assert_eq!(cx.send(b"over"), Err(SendError::Closed));
                return Ok(());
            }
            echo(cx, on)
        });
        let mut client = server.connect();
        let mut other = server.connect();
        client.write(&wire(&framing, &[b"flood"]));
        assert_eq!(server.closed().1, CloseReason::SlowConsumer);
        assert_eq!(client.read_to_end(), (vec![], End::Reset));
        other.echo(&framing, b"not affected");
        let stats = server.finish().stats;
        assert!(stats.bytes_lost > 900_000, "{}", stats.bytes_lost);
    });
}

/// `try_send` at the hard mark refuses and no more: the session lives, and takes more once its peer
/// has read.
#[test]
fn try_send_only_refuses() {
    on_every_engine(|engine| {
        let framing = LengthField::u32_be();
        let server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(b"fill") = on {
                assert!((0..100).any(|_| cx.try_send(&[0; 16 * 1024]).is_err()), "a limit");
                return Ok(());
            }
            echo(cx, on)
        });
        let mut client = server.connect();
        client.write(&wire(&framing, &[b"fill", b"refused"]));
        let one = 16 * 1024 + 4;
        let filled = Limits::default().send_queue_bytes_max / one * one;
        client.read(filled);
        // The echo of `refused` fitted into what was left.
        client.read(wire(&framing, &[b"refused"]).len());
        client.echo(&framing, b"again");
        server.finish();
    });
}

/// The handler is told when the queue goes above the soft mark, and when it has gone down to half of
/// it; what it sends then goes behind the rest.
#[test]
fn the_handler_hears_of_the_soft_mark() {
    // A logic thread hears of it a little later, when the queue may be down again.
    on_every_engine_inline(|engine| {
        let framing = LengthField::u32_be();
        let count = 40;
        let mut server = TestServer::with(engine, framing, calm(), move |cx, on| {
            match on {
                On::Frame(_) => (0..count).try_for_each(|_| cx.send(&[1; 16 * 1024]))?,
                On::Backpressure => {
                    assert!(cx.queued_bytes() > Limits::default().send_queue_bytes_soft);
                    cx.send(b"much")?;
                }
                On::Writable => {
                    assert!(cx.queued_bytes() <= Limits::default().send_queue_bytes_soft / 2);
                    cx.send(b"go on")?;
                }
                _ => {}
            }
            Ok(())
        });
        let mut client = Client::connect_narrow(server.address());
        let id = server.opened();
        client.write(&wire(&framing, &[b"flood"]));
        let told = |event: &Event| match event {
            Event::Backpressure(id) => Some((*id, true)),
            Event::Writable(id) => Some((*id, false)),
            _ => None,
        };
        assert_eq!(server.wait_for(told), (id, true));
        let all = vec![&[1; 16 * 1024][..]; count];
        let expected = wire(&framing, &[&all[..], &[b"much", b"go on"]].concat());
        assert!(client.read(expected.len()) == expected);
        assert_eq!(server.wait_for(told), (id, false));
        drop(client);
        assert_eq!(server.finish().stats.soft_marks_crossed, 1);
    });
}

/// From another thread the hard mark is noticed by the worker, and means the same.
#[test]
fn sends_from_another_thread_abort_a_peer_that_does_not_read() {
    on_every_engine(|engine| {
        let framing = LengthField::u32_be();
        let mut server = TestServer::with(engine, framing, calm(), echo);
        let mut client = Client::connect_narrow(server.address());
        let id = server.opened();
        wait_until(|| server.handle.send(id, &[0; 64 * 1024]) == Err(SendError::Closed));
        assert_eq!(server.closed(), (id, CloseReason::SlowConsumer));
        client.end().assert_reset();
        server.finish();
    });
}

#[test]
fn sessions_beyond_the_limit_are_refused_until_there_is_room() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let events = Events::new();
        let builder = builder(engine).workers(1).max_sessions(3).limits(calm()).listen(
            ANY_PORT,
            framing,
            events.echo(),
        );
        let mut server = events.start(builder);
        let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.echo(&framing, b"in"));
        for _ in 0..5 {
            let (received, _) = server.connect().read_to_end();
            assert_eq!(received, b"");
        }
        clients.iter_mut().for_each(|client| client.echo(&framing, b"not affected"));
        for _ in 0..5 {
            drop(clients.pop());
            server.closed();
            wait_until(|| server.handle.count() == 2);
            let mut client = server.connect();
            client.echo(&framing, b"there is room again");
            clients.push(client);
        }
        assert_eq!(server.finish().stats.refused, 5);
    });
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_starts() {
    let listen = |builder: wharf::Builder, limits| {
        builder.limits(limits).listen(ANY_PORT, LengthField::u16_be(), Events::new().echo())
    };
    for (builder, named) in [
        (listen(wharf::Server::builder(), Limits { frame_bytes_max: 0, ..calm() }), "frame_bytes"),
        (listen(wharf::Server::builder().workers(0), calm()), "workers"),
        (listen(wharf::Server::builder().workers(257), calm()), "workers"),
        (listen(wharf::Server::builder().max_sessions(0), calm()), "max_sessions"),
        (listen(wharf::Server::builder().max_sessions(1 << 25), calm()), "max_sessions"),
    ] {
        let error = builder.start().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

/// Deadlines with real sockets; that they are kept to the tick is the simulator's to show.
#[test]
fn peers_that_are_late_end_for_their_reason_and_alone() {
    on_every_engine(|engine| {
        let soon = Some(Duration::from_millis(50));
        let framing = LengthField::u16_be();
        let half = &wire(&framing, &[b"half of it"])[..5];
        for (limits, sent, reason) in [
            (Limits { first_frame_timeout: soon, ..calm() }, half, CloseReason::FirstFrameTimeout),
            (Limits { frame_timeout: soon, ..calm() }, half, CloseReason::FrameTimeout),
            (Limits { idle_read_timeout: soon, ..calm() }, &[][..], CloseReason::IdleRead),
        ] {
            // The listener beside it has other limits, and its session lives on.
            let events = Events::new();
            let builder = builder(engine)
                .limits(limits)
                .listen(ANY_PORT, framing, events.echo())
                .limits(calm())
                .listen(ANY_PORT, framing, events.echo());
            let mut server = events.start(builder);
            let mut other = Client::connect(server.handle.local_addrs()[1]);
            other.echo(&framing, b"before");
            let mut client = server.connect();
            client.write(sent);
            assert_eq!(server.closed().1, reason);
            client.end();
            other.echo(&framing, b"and after");
            drop((client, other));
            server.finish();
        }
    });
}

#[test]
fn a_peer_that_takes_nothing_of_a_send_is_aborted() {
    on_every_engine(|engine| {
        let framing = LengthField::u32_be();
        let limits = Limits {
            idle_write_timeout: Some(Duration::from_millis(100)),
            send_queue_soft_timeout: None,
            send_queue_bytes_max: 16 << 20,
            ..calm()
        };
        let mut server = TestServer::with(engine, framing, limits, |cx, on| {
            if let On::Frame(b"flood") = on {
                while cx.try_send(&[0; 64 * 1024]).is_ok() {}
                return Ok(());
            }
            echo(cx, on)
        });
        let mut client = Client::connect_narrow(server.address());
        client.write(&wire(&framing, &[b"flood"]));
        assert_eq!(server.closed().1, CloseReason::IdleWrite);
        client.end().assert_reset();
        server.finish();
    });
}

/// A paused session gets nothing and loses nothing, and one with a rate gets all in the end.
#[test]
fn what_is_not_received_for_a_while_is_not_lost() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        for bytes_per_second in [None, Some(200_000)] {
            let limits = Limits { bytes_per_second, ..calm() };
            let server = TestServer::with(engine, framing, limits, |cx, on| {
                match on {
                    On::Frame(b"pause") => {
                        cx.pause();
                        cx.set_timer(Duration::from_millis(50), 1);
                    }
                    On::Timer(_) => cx.resume(),
                    on => echo(cx, on)?,
                }
                Ok(())
            });
            let mut client = server.connect();
            client.write(&wire(&framing, &[b"pause"]));
            let sent = wire(&framing, &vec![&[9; 8000][..]; 30]);
            client.write(&sent);
            assert!(client.read(sent.len()) == sent, "all of it, in order");
            // How often a rate delays is the simulator's to say: here it depends on the machine.
            let stats = server.finish().stats;
            assert!(bytes_per_second.is_some() || stats.rate_delays == 0);
        }
    });
}

/// Limits that change while the server runs are those of sessions that open afterwards, of that
/// listener alone; who is there keeps what it began with.
#[test]
fn limits_can_change_while_the_server_runs() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let events = Events::new();
        let builder = builder(engine)
            .limits(calm())
            .listen(ANY_PORT, framing, events.echo())
            .listen(ANY_PORT, framing, events.echo());
        let mut server = events.start(builder);
        let addresses = server.handle.local_addrs().to_vec();
        let mut before = server.connect();
        before.echo(&framing, &[1; 100]);
        let id = server.opened();
        assert_eq!(server.handle.session(id).unwrap().unwrap().listener, Some(addresses[0]));

        for (listener, limits, named) in [
            (2, calm(), "no listener 2"),
            (0, Limits { frame_bytes_max: 0, ..calm() }, "frame_bytes_max"),
        ] {
            let error = server.handle.set_limits(listener, &limits).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        server.handle.set_limits(0, &Limits { frame_bytes_max: 50, ..calm() }).unwrap();
        server.handle.stats().unwrap(); // asked after it: every worker has come to it
        for _ in 0..4 {
            let mut after = server.connect();
            after.echo(&framing, &[2; 50]);
            after.write(&wire(&framing, &[&[3; 51][..]]));
            assert_eq!(server.closed().1, CloseReason::Protocol);
        }
        before.echo(&framing, &[4; 100]);
        Client::connect(addresses[1]).echo(&framing, &[5; 100]);
        server.finish();
    });
}

/// A handler is refused what its session's queue has no room for, also where it is on a logic thread.
#[test]
fn a_limit_that_was_changed_is_what_handlers_are_held_to() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(_) = on {
                let refused = cx.try_send(&[7; 2000]) == Err(SendError::WouldExceed);
                cx.send(if refused { b"refused" } else { b"queued." })?;
            }
            Ok(())
        });
        let soft = 500;
        let limits = Limits { send_queue_bytes_soft: soft, send_queue_bytes_max: 1000, ..calm() };
        server.handle.set_limits(0, &limits).unwrap();
        server.handle.stats().unwrap(); // asked after it: every worker has come to it
        let mut client = server.connect();
        client.write(&wire(&framing, &[b"try"]));
        assert_eq!(bodies(&framing, &client.read(9)), [b"refused"]);
        drop(client);
        server.finish();
    });
}
