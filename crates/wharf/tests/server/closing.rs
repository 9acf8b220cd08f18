//! How connections end, and that nothing is lost which was promised.

use wharf::{
    CloseReason, Limits, SendError,
    framing::{LengthField, Raw},
};

use crate::support::*;

#[test]
fn after_a_half_close_the_answers_still_arrive() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), echo);
        let mut client = server.connect();
        let body = vec![5; 8000];
        let sent = wire(&framing, &vec![&body[..]; 20]);
        client.write(&sent);
        client.end_stream();
        let (answer, end) = client.read_to_end();
        assert!(answer == sent, "{} of {} bytes", answer.len(), sent.len());
        assert_eq!(end, End::OfStream);
        assert_eq!(server.closed().1, CloseReason::PeerClosed);
        // The end in the middle of a frame, and before any.
        let mut client = server.connect();
        client.write(&sent[..100]);
        client.end_stream();
        assert_eq!(client.read_to_end(), (vec![], End::OfStream));
        assert_eq!(server.closed().1, CloseReason::PeerClosed);
        drop(server.connect());
        assert_eq!(server.closed().1, CloseReason::PeerClosed);
        server.finish();
    });
}

#[test]
fn a_reset_at_any_stage_ends_that_session_alone() {
    if left_out("a_reset_at_any_stage_ends_that_session_alone") {
        return;
    }
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), echo);
        let mut other = server.connect();
        server.opened();
        let whole = wire(&framing, &[&[9; 8000]]);
        for sent in [&[][..], &whole[..1], &whole[..100]] {
            let mut client = server.connect();
            server.opened();
            client.write(sent);
            client.reset();
            assert_eq!(server.closed().1, CloseReason::Reset, "after {} bytes", sent.len());
        }
        // While answers are on their way to it, unread.
        let mut client = Client::connect_narrow(server.address());
        let id = server.opened();
        client.0.set_nonblocking(true).unwrap();
        wait_until(|| {
            let full = client.write_if_possible(&whole).is_err();
            full && server.handle.session(id).unwrap().unwrap().queued_bytes > 0
        });
        client.reset();
        assert_eq!(server.closed().1, CloseReason::Reset);
        // Before the server has even accepted it, perhaps.
        (0..50).for_each(|_| server.connect().reset());
        other.echo(&framing, b"still here");
        server.finish();
    });
}

/// The connection ends while a handler on its logic thread is about to answer: its send is refused,
/// and that is not why the session ended.
#[test]
fn a_handler_that_fails_because_its_session_has_ended_is_not_the_reason() {
    if left_out("a_handler_that_fails_because_its_session_has_ended_is_not_the_reason") {
        return;
    }
    on_every_engine(|engine| {
        if handlers_inline() {
            return;
        }
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(body) = on {
                wait_until(|| cx.send(body) == Err(SendError::Closed));
                cx.send(body)?;
            }
            Ok(())
        });
        let mut client = server.connect();
        client.write(&wire(&framing, &[b"a question"]));
        server.frame();
        client.reset();
        assert_eq!(server.closed().1, CloseReason::Reset);
        server.finish();
    });
}

/// The handler closes with 4 MB queued while 100 KB that nobody will handle have come in: closing
/// the socket then would answer with a reset and destroy what is still on its way.
#[test]
fn closing_with_unread_input_loses_nothing_that_was_queued() {
    on_every_engine(|engine| {
        const QUEUED: usize = 4 * 1024 * 1024;
        let limits = Limits {
            send_queue_bytes_soft: QUEUED,
            send_queue_bytes_max: QUEUED,
            linger_timeout: PATIENCE,
            ..calm()
        };
        let mut server = TestServer::with(engine, Raw, limits, |cx, on| {
            if let On::Frame(_) = on {
                let block: Vec<u8> = (0..64 * 1024_u32).map(|n| (n % 251) as u8).collect();
                for _ in 0..QUEUED / block.len() {
                    cx.send(&block)?;
                }
                cx.close();
            }
            Ok(())
        });
        let mut client = Client::connect_narrow(server.address());
        client.write(b"x");
        server.frame();
        client.write(&[b'y'; 100 * 1024]);
        let (received, end) = client.read_to_end();
        assert_eq!((received.len(), end), (QUEUED, End::OfStream));
        let pattern = |(at, byte): (usize, &u8)| usize::from(*byte) == at % (64 * 1024) % 251;
        assert!(received.iter().enumerate().all(pattern));
        assert_eq!(server.closed().1, CloseReason::Handler);
        server.finish_now();
    });
}

/// The same, with answers so short that the system takes them at once, and more input than is read
/// and thrown away.
#[test]
fn closing_with_more_unread_input_than_is_discarded_loses_nothing_either() {
    on_every_engine(|engine| {
        // More than the client's system takes before it reads.
        const ANSWER: usize = 400_000;
        let limits = Limits { linger_timeout: PATIENCE, linger_bytes_max: 4096, ..calm() };
        let mut server = TestServer::with(engine, Raw, limits, |cx, on| {
            if let On::Frame(_) = on {
                // The client sends the rest meanwhile.
                block_for(std::time::Duration::from_millis(50));
                cx.send(&[b'a'; ANSWER])?;
                cx.close();
            }
            Ok(())
        });
        let mut client = Client::connect_narrow(server.address());
        client.write(&[b'y'; 60 * 1024]);
        assert_eq!(server.closed().1, CloseReason::Handler);
        // The worker goes on with the end as far as it can.
        (0..100).for_each(|_| _ = server.handle.stats().unwrap());
        let (received, end) = client.read_to_end();
        assert_eq!((received.len(), end), (ANSWER, End::OfStream));
        server.finish_now();
    });
}

#[test]
fn an_abort_is_a_reset() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(_) = on {
                // What was queued for it is lost.
                cx.send(b"never seen")?;
                cx.abort();
            }
            Ok(())
        });
        let mut client = server.connect();
        client.write(&wire(&framing, &[b"go"]));
        assert_eq!(client.read_to_end(), (vec![], End::Reset));
        assert_eq!(server.closed().1, CloseReason::HandlerAbort);
        let stats = server.finish().stats;
        assert_eq!((stats.sends, stats.bytes_lost), (0, 12));
    });
}

#[test]
fn after_close_nothing_more_is_sent_or_handled() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), |cx, on| {
            if let On::Frame(_) = on {
                cx.send(b"last")?;
                cx.close();
                // The first wish stands.
                cx.abort();
            }
            if let On::Frame(_) | On::Close(_) = on {
                assert_eq!(cx.send(b"too late"), Err(SendError::Closed));
                assert_eq!(cx.try_send(b"too late"), Err(SendError::Closed));
                cx.set_timer(std::time::Duration::ZERO, 1);
                cx.close();
            }
            Ok(())
        });
        let mut client = server.connect();
        let id = server.opened();
        client.write(&wire(&framing, &[b"one", b"two", b"three"]));
        let (answer, end) = client.read_to_end();
        assert_eq!((bodies(&framing, &answer), end), (vec![b"last".to_vec()], End::OfStream));
        assert_eq!(server.closed(), (id, CloseReason::Handler));
        assert!(!server.handle.is_open(id));
        assert_eq!(server.handle.send(id, b"too late"), Err(SendError::Closed));
        assert_eq!(server.handle.close(id), Err(SendError::Closed));
        drop(client);
        wait_until(|| server.handle.count() == 0);
        server.handle.drain(NEVER);
        let (report, events) = server.join();
        assert_eq!(report.stats.frames_received, 1, "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::Timer(..))), "{events:?}");
    });
}

/// A session that closed does not wait for ever for a peer that does not.
#[test]
fn lingering_has_an_end() {
    on_every_engine(|engine| {
        let limits = Limits { linger_timeout: std::time::Duration::from_millis(50), ..calm() };
        let server = TestServer::with(engine, LengthField::u16_be(), limits, |cx, _| {
            cx.close();
            Ok(())
        });
        let mut client = server.connect();
        assert_eq!(client.end(), End::OfStream);
        wait_until(|| server.handle.count() == 0);
        drop(client);
        server.finish();
    });
}

/// Nor for one that does not read what it is owed.
#[test]
fn flushing_has_an_end() {
    on_every_engine(|engine| {
        let limits = Limits {
            close_flush_timeout: std::time::Duration::from_millis(50),
            send_queue_bytes_soft: 16 << 20,
            send_queue_bytes_max: 16 << 20,
            ..calm()
        };
        let server = TestServer::with(engine, Raw, limits, |cx, on| {
            if let On::Open = on {
                let block = vec![0; 1 << 20];
                while cx.try_send(&block).is_ok() {}
                cx.close();
            }
            Ok(())
        });
        let mut client = Client::connect_narrow(server.address());
        wait_until(|| server.handle.stats().unwrap().accepted == 1 && server.handle.count() == 0);
        let (received, end) = client.read_to_end();
        assert!(received.len() < 16 << 20);
        end.assert_reset();
        let stats = server.finish().stats;
        assert!(stats.bytes_lost > 0);
        assert_eq!(stats.closed_for(CloseReason::Handler), 1);
    });
}
