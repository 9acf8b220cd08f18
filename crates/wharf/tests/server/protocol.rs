//! Peers that break the framing, or never come to the point.

use std::time::Duration;

use wharf::{
    CloseReason, Limits,
    framing::{
        AnyFraming, Decoded, Endian, Framing, FramingError, LengthField, Lines, Need, Packet,
    },
};

use crate::support::*;

/// A header that declares `len` in the first bytes, as the layout says.
fn header(name: &str, len: u32) -> Vec<u8> {
    match name {
        "u16be" => (len as u16).to_be_bytes().to_vec(),
        "u16le" => (len as u16).to_le_bytes().to_vec(),
        "u32be" => len.to_be_bytes().to_vec(),
        "u32le" => len.to_le_bytes().to_vec(),
        _ => unreachable!("{name}"),
    }
}

#[test]
fn lengths_out_of_bounds_end_their_session_alone() {
    on_every_engine(|engine| {
        let max = 8 * 1024;
        for (name, refused) in [
            ("u16be", &[max + 1, 65_535][..]),
            ("u16le", &[max + 1, 65_535]),
            ("u32be", &[max + 1, 65_535, 1 << 31, u32::MAX]),
            ("u32le", &[max + 1, 65_535, 1 << 31, u32::MAX]),
        ] {
            let framing: AnyFraming = name.parse().unwrap();
            let mut server = TestServer::with(engine, framing, calm(), echo);
            let mut other = server.connect();
            server.opened();
            for len in refused {
                let mut client = server.connect();
                // A frame before it is answered, whatever comes after.
                client.write(&[wire(&framing, &[b"before"]), header(name, *len)].concat());
                let (answer, end) = client.read_to_end();
                assert_eq!(bodies(&framing, &answer), [b"before"], "{name} {len}");
                assert_eq!(end, End::OfStream, "{name} {len}");
                assert_eq!(server.closed().1, CloseReason::Protocol, "{name} {len}");
            }
            other.echo(&framing, b"");
            other.echo(&framing, &vec![7; max as usize]);
            let stats = server.finish().stats;
            assert_eq!(stats.closed_for(CloseReason::Protocol), refused.len() as u64);
        }
    });
}

#[test]
fn lengths_shorter_than_their_header_are_refused() {
    on_every_engine(|engine| {
        let wide = LengthField::builder(12, Endian::Big).length(4, 4).length_counts_header();
        for (framing, header, length) in
            [(LengthField::TUTORIAL, 5, 0..2), (wide.build().unwrap(), 12, 4..8)]
        {
            let whole = wire(&framing, &[b"four"]);
            assert_eq!(whole.len(), header + 4);
            let mut server = TestServer::with(engine, framing, calm(), echo);
            for declared in 0..header as u8 {
                let mut client = server.connect();
                let mut bytes = whole.clone();
                let at = if whole[length.start] == 0 { length.end - 1 } else { length.start };
                assert_eq!(whole[at], whole.len() as u8, "where the length is");
                bytes[at] = declared;
                client.write(&bytes);
                assert_eq!(client.read_to_end(), (vec![], End::OfStream), "{declared}");
                assert_eq!(server.closed().1, CloseReason::Protocol, "{declared}");
            }
            server.finish();
        }
    });
}

#[test]
fn a_line_that_goes_on_for_too_long_is_refused() {
    on_every_engine(|engine| {
        let limits = Limits { frame_bytes_max: 100, ..calm() };
        let mut server = TestServer::with(engine, Lines, limits, echo);
        let mut client = server.connect();
        client.write(&[&[b'x'; 100][..], b"\r\n"].concat());
        assert_eq!(client.read(101), [&[b'x'; 100][..], b"\n"].concat());
        client.write(&[b'x'; 103]);
        assert_eq!(client.read_to_end(), (vec![], End::OfStream));
        assert_eq!(server.closed().1, CloseReason::Protocol);
        // One byte more than the body may have, though the line with its end fits.
        let mut client = server.connect();
        client.write(&[&[b'x'; 101][..], b"\n"].concat());
        assert_eq!(client.read_to_end(), (vec![], End::OfStream));
        assert_eq!(server.closed().1, CloseReason::Protocol);
        server.finish();
    });
}

/// The first whole frame has an absolute deadline: bytes that come meanwhile do not move it.
#[test]
fn no_first_frame_in_time() {
    on_every_engine(|engine| {
        let limits = Limits { first_frame_timeout: Some(Duration::from_millis(100)), ..calm() };
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, limits, echo);
        let mut silent = server.connect();
        let mut half = server.connect();
        half.write(&[0]);
        let mut trickling = server.connect();
        // It would be whole after 16 s at the earliest; a deadline that moves would wait for it.
        trickling.write(&8192_u16.to_be_bytes());
        let trickle = || {
            while trickling.write_if_possible(b"x").is_ok() {
                block_for(Duration::from_millis(2));
            }
        };
        let reasons = beside(trickle, || [server.closed().1, server.closed().1, server.closed().1]);
        assert_eq!(reasons, [CloseReason::FirstFrameTimeout; 3]);
        [silent.end(), half.end()].into_iter().for_each(End::assert_reset);
        server.finish();
    });
}

/// A framing whose word is not to be trusted: it asks for no more bytes than there are.
#[derive(Clone, Copy)]
struct AsksForNothing;

impl Framing for AsksForNothing {
    fn decode(&self, unread: &[u8], _: usize) -> Result<Decoded, FramingError> {
        Ok(match unread.iter().position(|byte| *byte == b'.') {
            Some(at) => Decoded::Frame { len: at + 1, body: 0..at, id: 0 },
            None => Decoded::Incomplete { need: Need::AtLeast(0) },
        })
    }

    fn encoded_len(&self, body_len: usize) -> usize {
        body_len.saturating_add(1)
    }

    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        out[..packet.body.len()].copy_from_slice(packet.body);
        out[packet.body.len()] = b'.';
        Ok(packet.body.len() + 1)
    }
}

#[test]
fn a_framing_that_asks_for_too_little_is_bounded_all_the_same() {
    on_every_engine(|engine| {
        let limits = Limits { frame_bytes_max: 100, ..calm() };
        let mut server = TestServer::with(engine, AsksForNothing, limits, echo);
        let mut client = server.connect();
        for byte in b"abc." {
            let before = server.handle.stats().unwrap().bytes_received;
            client.write(&[*byte]);
            server.until(|stats| stats.bytes_received > before);
        }
        assert_eq!(client.read(4), b"abc.");
        client.write(&[b'x'; 60]);
        server.until(|stats| stats.bytes_received == 64);
        client.write(&[b'x'; 60]);
        assert_eq!(client.end(), End::OfStream);
        assert_eq!(server.closed().1, CloseReason::Protocol);
        server.finish();
    });
}

/// A thousand frames come in one segment, and their answers leave together.
#[test]
fn a_thousand_frames_in_one_segment() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let server = TestServer::with(engine, framing, calm(), echo);
        let mut client = server.connect();
        let bodies: Vec<Vec<u8>> = (0..1000_u16).map(|n| vec![n as u8]).collect();
        let sent = wire(&framing, &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
        client.write(&sent);
        assert!(client.read(sent.len()) == sent);
        server.connect().echo(&framing, b"not affected");
        let stats = server.finish().stats;
        assert_eq!(stats.frames_received, 1001);
        assert!(stats.sends <= 4, "{} sends", stats.sends);
    });
}
