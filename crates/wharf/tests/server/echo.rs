//! What goes in comes out, however it is cut.

use proptest::{prelude::*, test_runner::TestRunner};
use wharf::framing::{AnyFraming, LengthField, Lines, Raw};

use crate::support::*;

#[test]
fn every_framing_echoes() {
    on_every_engine(|engine| {
        for (name, framing) in AnyFraming::NAMED {
            let server = TestServer::with(engine, framing, calm(), echo);
            let mut client = server.connect();
            let long = vec![b'x'; 8 * 1024];
            for body in [&b"one"[..], b"\0\r\xff", &long] {
                if name == "raw" {
                    client.write(body);
                    assert_eq!(client.read(body.len()), body);
                } else {
                    client.echo(&framing, body);
                }
            }
            if !matches!(name, "raw") {
                client.echo(&framing, b"");
            }
            let report = server.finish();
            assert!(report.stats.frames_received >= 3, "{name}");
        }
    });
}

#[test]
fn several_frames_in_one_segment_are_answered_in_order_and_together() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let server = TestServer::with(engine, framing, calm(), echo);
        let mut client = server.connect();
        let sent = wire(&framing, &[b"one", b"", b"three"]);
        client.write(&sent);
        assert_eq!(client.read(sent.len()), sent);
        drop(client);
        let report = server.finish();
        assert_eq!(report.stats.frames_received, 3);
        assert_eq!(report.stats.sends, 1, "what one turn produced leaves in one send");
    });
}

#[test]
fn one_byte_per_segment() {
    on_every_engine(|engine| {
        for framing in [AnyFraming::LengthField(LengthField::STUDY), AnyFraming::Lines(Lines)] {
            let server = TestServer::with(engine, framing, calm(), echo);
            let mut client = server.connect();
            let sent = wire(&framing, &[b"hello", b"", b"\r", b"world"]);
            for (index, byte) in sent.iter().enumerate() {
                client.write(&[*byte]);
                server.until(|stats| stats.bytes_received == index as u64 + 1);
            }
            let expected = bodies(&framing, &sent);
            assert_eq!(bodies(&framing, &client.read(sent.len())), expected);
            assert_eq!(server.finish().stats.frames_received, 4);
        }
    });
}

#[test]
fn a_frame_split_at_every_position() {
    on_every_engine(|engine| {
        let framing = LengthField::u32_le();
        let server = TestServer::with(engine, framing, calm(), echo);
        let mut client = server.connect();
        let sent = wire(&framing, &[b"first", b"second"]);
        for cut in 1..sent.len() {
            let before = server.handle.stats().unwrap().bytes_received;
            client.write(&sent[..cut]);
            server.until(|stats| stats.bytes_received == before + cut as u64);
            client.write(&sent[cut..]);
            assert_eq!(client.read(sent.len()), sent, "cut at {cut}");
        }
        server.finish();
    });
}

#[test]
fn a_thousand_frames_in_one_write() {
    on_every_engine(|engine| {
        let framing = LengthField::STUDY;
        let server = TestServer::with(engine, framing, calm(), echo);
        let mut client = server.connect();
        let numbers: Vec<Vec<u8>> = (0..1000_u32).map(|n| n.to_le_bytes().repeat(5)).collect();
        let sent = wire(&framing, &numbers.iter().map(Vec::as_slice).collect::<Vec<_>>());
        client.write(&sent);
        // The answers' session field is the server's to fill: compare the bodies.
        assert_eq!(bodies(&framing, &client.read(sent.len())), numbers);
        let stats = server.finish().stats;
        assert_eq!(stats.frames_sent, 1000);
        assert!(stats.sends < 100, "{} sends", stats.sends);
    });
}

#[test]
fn any_bodies_and_any_cuts_give_the_same_answers() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let server = TestServer::with(engine, framing, calm(), echo);
        let body = prop::collection::vec(any::<u8>(), 0..3000);
        let cuts = prop::collection::vec(1..4000_usize, 1..30);
        let input = (prop::collection::vec(body, 1..20), cuts);
        let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
        let answered = TestRunner::new(config).run(&input, |(bodies, cuts)| {
            let mut client = server.connect();
            let sent = wire(&framing, &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let mut rest = &sent[..];
            for cut in cuts.into_iter().cycle() {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                client.write(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            client.end_stream();
            let (answer, end) = client.read_to_end();
            prop_assert_eq!(end, End::OfStream);
            prop_assert!(answer == sent);
            Ok(())
        });
        answered.unwrap();
        server.finish();
    });
}

#[test]
fn a_thousand_connections_at_once() {
    #[cfg(unix)]
    in_a_process_of_its_own(
        "echo::a_thousand_connections_at_once",
        "ulimit -S -n $(ulimit -H -n)",
        || connections_at_once(1000),
    );
    #[cfg(not(unix))]
    connections_at_once(1000);
}

/// Both ends of each are in this process: where its hard limit of descriptors is too low for that,
/// as many as it allows.
fn connections_at_once(wanted: usize) {
    on_every_engine(|engine| {
        let framing = LengthField::u32_be();
        let server = TestServer::with(engine, framing, calm(), echo);
        let free = free_descriptors(2 * wanted + 10);
        let count = wanted.min((free - 10) / 2);
        assert!(count >= 100, "{free} descriptors are too few");
        eprintln!("{count} of {wanted} connections");
        let mut clients: Vec<_> = (0..count).map(|_| server.connect()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client.write(&wire(&framing, &[&index.to_le_bytes()]));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let sent = wire(&framing, &[&index.to_le_bytes()]);
            assert_eq!(client.read(sent.len()), sent);
        }
        assert_eq!(server.handle.count(), count);
        clients.clear();
        wait_until(|| server.handle.count() == 0);
        let report = server.finish();
        assert_eq!(report.stats.closed_for(wharf::CloseReason::PeerClosed), count as u64);
    });
}

/// How many more descriptors this process may open, counted up to `enough`.
fn free_descriptors(enough: usize) -> usize {
    let open = || std::net::UdpSocket::bind("127.0.0.1:0").ok();
    std::iter::from_fn(open).take(enough).collect::<Vec<_>>().len()
}

#[test]
fn raw_frames_are_never_longer_than_allowed() {
    on_every_engine(|engine| {
        let limits = wharf::Limits { frame_bytes_max: 100, ..calm() };
        let mut server = TestServer::with(engine, Raw, limits, echo);
        let mut client = server.connect();
        let sent: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        client.write(&sent);
        assert_eq!(client.read(1000), sent);
        let mut lens = 0;
        while lens < 1000 {
            let frame = server.frame();
            assert!((1..=100).contains(&frame.len()), "{}", frame.len());
            lens += frame.len();
        }
        server.finish();
    });
}
