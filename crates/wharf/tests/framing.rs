//! Framings as a session uses them: bytes that arrive in arbitrary pieces, good and bad.

use proptest::prelude::*;
use wharf::framing::{
    self, AnyFraming, Decoded, Endian, Framing, FramingError, HeaderField, LayoutError,
    LengthField, Lines, Need, Packet, Raw,
};

/// Collects pieces as a session does, and takes whole frames out as soon as they are there.
struct Reassembly<F> {
    framing: F,
    frame_len_max: usize,
    unread: Vec<u8>,
    /// Bytes of `unread` that the framing has looked at.
    seen: usize,
    need: Need,
    frames: Vec<(u32, Vec<u8>)>,
}

#[derive(Debug, PartialEq)]
enum Refused {
    TooLong,
    Framing(FramingError),
}

impl<F: Framing> Reassembly<F> {
    fn new(framing: F, body_bytes_max: usize) -> Self {
        let frame_len_max = framing.encoded_len(body_bytes_max);
        let need = Need::More;
        Self { framing, frame_len_max, unread: vec![], seen: 0, need, frames: vec![] }
    }

    fn receive(&mut self, piece: &[u8]) -> Result<(), Refused> {
        self.unread.extend_from_slice(piece);
        loop {
            if matches!(self.need, Need::AtLeast(len) if len > self.unread.len()) {
                return Ok(());
            }
            let window = &self.unread[..self.unread.len().min(self.frame_len_max)];
            match self.framing.decode(window, self.seen).map_err(Refused::Framing)? {
                Decoded::Frame { len, body, id } => {
                    assert!(len > 0 && len <= window.len(), "frame of {len}");
                    assert!(body.start <= body.end && body.end <= len, "body {body:?} of {len}");
                    self.frames.push((id, window[body].to_vec()));
                    self.unread.drain(..len);
                    (self.seen, self.need) = (0, Need::More);
                    if self.unread.is_empty() {
                        return Ok(());
                    }
                }
                Decoded::Incomplete { need } => {
                    let promised = !matches!(need, Need::AtLeast(len) if len <= window.len());
                    assert!(promised, "{need:?} of {}", window.len());
                    if need.frame_bytes_min(window.len()) > self.frame_len_max {
                        return Err(Refused::TooLong);
                    }
                    (self.seen, self.need) = (window.len(), need);
                    return Ok(());
                }
            }
        }
    }
}

const BODY_BYTES_MAX: usize = 300;

fn packet(id: u32, body: &[u8]) -> Packet<'_> {
    Packet { id, session: 0xaabb_ccdd, body }
}

/// Every named framing that marks the ends of frames, and layouts with gaps and narrow fields.
fn framings() -> Vec<AnyFraming> {
    let layouts = [
        LengthField::builder(9, Endian::Big).length(3, 4).id(1, 2).session(7, 1),
        LengthField::builder(8, Endian::Little).length(6, 2).length_counts_header().id(0, 4),
        LengthField::builder(4, Endian::Big).length(2, 2).id(1, 1),
    ];
    let named = AnyFraming::NAMED.map(|(_, framing)| framing);
    let marked = named.into_iter().filter(|framing| *framing != AnyFraming::Raw(Raw));
    marked.chain(layouts.map(|layout| AnyFraming::LengthField(layout.build().unwrap()))).collect()
}

/// Cuts `bytes` at the given places, each a fraction of the whole.
fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Bytes rich in delimiters, and in bytes that make small lengths.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => any::<u8>(), 1 => Just(b'\r'), 1 => Just(b'\n'), 1 => 0u8..8];
    prop::collection::vec(byte, 0..=BODY_BYTES_MAX)
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(
        packets in prop::collection::vec((0u32..256, body()), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        for framing in framings() {
            let mut wire = Vec::new();
            let mut sent = Vec::new();
            let carries_id = !framings_without_id().contains(&framing);
            for (id, body) in &packets {
                match framing::append(&framing, packet(*id, body), &mut wire) {
                    Ok(()) => sent.push((if carries_id { *id } else { 0 }, body.clone())),
                    Err(error) => {
                        prop_assert_eq!(error, FramingError::BodyHasDelimiter);
                        prop_assert!(framing == AnyFraming::Lines(Lines) && body.contains(&b'\n'));
                    }
                }
            }
            let bytewise: Vec<_> = wire.chunks(1).collect();
            for split in [vec![&wire[..]], pieces(&wire, &cuts), bytewise] {
                let mut reassembly = Reassembly::new(framing, BODY_BYTES_MAX);
                for piece in split {
                    prop_assert_eq!(reassembly.receive(piece), Ok(()));
                }
                prop_assert_eq!(&reassembly.frames, &sent, "{}", framing);
                prop_assert!(reassembly.unread.is_empty());
            }
            let walked: Result<Vec<_>, _> = framing::frames(&framing, &wire)
                .map(|frame| frame.map(|frame| (frame.id(), frame.body().to_vec())))
                .collect();
            prop_assert_eq!(walked, Ok(sent));
        }
    }

    #[test]
    fn garbage_is_never_a_frame_outside_the_bytes(
        garbage in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(255)], 0..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        for framing in framings() {
            let mut whole = Reassembly::new(framing, BODY_BYTES_MAX);
            let at_once = whole.receive(&garbage);
            let mut split = Reassembly::new(framing, BODY_BYTES_MAX);
            let in_pieces = pieces(&garbage, &cuts).into_iter().try_for_each(|p| split.receive(p));
            prop_assert_eq!(at_once, in_pieces, "{}", framing);
            prop_assert_eq!(whole.frames, split.frames);
        }
    }

    #[test]
    fn raw_gives_every_read_back(reads in prop::collection::vec(body(), 0..8)) {
        let mut reassembly = Reassembly::new(Raw, BODY_BYTES_MAX);
        for read in &reads {
            prop_assert_eq!(reassembly.receive(read), Ok(()));
        }
        let expected: Vec<_> = reads.into_iter().filter(|r| !r.is_empty()).map(|r| (0, r)).collect();
        prop_assert_eq!(reassembly.frames, expected);
    }

    #[test]
    fn what_is_written_fits_the_stated_length(id in 0u32..256, body in body()) {
        for framing in framings() {
            let len_max = framing.encoded_len(body.len());
            let mut out = vec![0; len_max];
            if let Ok(len) = framing.encode(packet(id, &body), &mut out) {
                prop_assert!(0 < len && len <= len_max, "{} {}", framing, len);
                let short = framing.encode(packet(id, &body), &mut out[..len - 1]);
                prop_assert_eq!(short, Err(FramingError::OutputTooSmall));
            }
        }
    }
}

fn framings_without_id() -> [AnyFraming; 5] {
    ["u16be", "u32be", "u16le", "u32le", "lines"].map(|name| name.parse().unwrap())
}

/// The tables of the two wire formats, byte for byte.
#[test]
fn golden_bytes() {
    let padded = |text: &str, bytes: usize| {
        let mut field = text.as_bytes().to_vec();
        field.resize(bytes, 0);
        field
    };
    let login = [padded("user0", 33), padded("pw", 33)].concat();
    let notify = [padded("user0", 33), padded("hi", 257)].concat();
    let (tutorial, study) = (LengthField::TUTORIAL, LengthField::STUDY);
    for (framing, id, body, header) in [
        (tutorial, 201, &login[..], &[0x47, 0x00, 0xc9, 0x00, 0x00][..]),
        (tutorial, 206, &[0; 4], &[0x09, 0x00, 0xce, 0x00, 0x00]),
        (tutorial, 215, &[], &[0x05, 0x00, 0xd7, 0x00, 0x00]),
        (tutorial, 202, &[0; 2], &[0x07, 0x00, 0xca, 0x00, 0x00]),
        (tutorial, 207, &[0; 2], &[0x07, 0x00, 0xcf, 0x00, 0x00]),
        (tutorial, 216, &[0; 2], &[0x07, 0x00, 0xd8, 0x00, 0x00]),
        (tutorial, 222, &[0; 2], &[0x07, 0x00, 0xde, 0x00, 0x00]),
        (tutorial, 221, &padded("hi", 257), &[0x06, 0x01, 0xdd, 0x00, 0x00]),
        (tutorial, 223, &notify, &[0x27, 0x01, 0xdf, 0x00, 0x00]),
        (study, 1, b"echo", &[4, 0, 0, 0, 1, 0, 0, 0, 0xdd, 0xcc, 0xbb, 0xaa]),
        (study, 1, &[7; 8192], &[0, 0x20, 0, 0, 1, 0, 0, 0, 0xdd, 0xcc, 0xbb, 0xaa]),
        (LengthField::u16_be(), 0, b"abc", &[0, 3]),
        (LengthField::u32_be(), 0, b"abc", &[0, 0, 0, 3]),
        (LengthField::u16_le(), 0, b"abc", &[3, 0]),
        (LengthField::u32_le(), 0, b"abc", &[3, 0, 0, 0]),
    ] {
        let mut wire = Vec::new();
        framing::append(&framing, packet(id, body), &mut wire).unwrap();
        assert_eq!(wire, [header, body].concat(), "id {id}");
        let frame = framing::frames(&framing, &wire).next().unwrap().unwrap();
        assert_eq!((frame.id(), frame.body(), frame.bytes()), (id, body, &wire[..]));
    }
}

#[test]
fn the_reserved_byte_of_a_tutorial_header_is_zeroed_and_ignored() {
    let mut out = [0xee; 5];
    assert_eq!(LengthField::TUTORIAL.encode(packet(215, b""), &mut out), Ok(5));
    assert_eq!(out, [5, 0, 215, 0, 0]);
    out[4] = 0xff;
    let found = LengthField::TUTORIAL.decode(&out, 0);
    assert_eq!(found, Ok(Decoded::Frame { len: 5, body: 5..5, id: 215 }));
}

/// A declared length is told as soon as the header is there, whatever it is, and nothing overflows.
#[test]
fn hostile_lengths() {
    let need = |len: u64| {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(Decoded::Incomplete { need: Need::AtLeast(len) })
    };
    let below =
        |declared_bytes| Err(FramingError::LengthBelowHeader { declared_bytes, header_bytes: 5 });
    let empty = |len| Ok(Decoded::Frame { len, body: len..len, id: 0 });
    for (declared, expected) in [
        (0, below(0)),
        (1, below(1)),
        (4, below(4)),
        (5, empty(5)),
        (6, need(6)),
        (1024, need(1024)),
        (1025, need(1025)),
        (u16::MAX, need(65_535)),
    ] {
        let [low, high] = declared.to_le_bytes();
        let found = LengthField::TUTORIAL.decode(&[low, high, 0, 0, 0], 0);
        assert_eq!(found, expected, "tutorial {declared}");
    }
    for (declared, expected) in [
        (0, empty(12)),
        (1, need(13)),
        (8192, need(8204)),
        (8193, need(8205)),
        (1 << 31, need((1 << 31) + 12)),
        (u32::MAX, need(u64::from(u32::MAX) + 12)),
    ] {
        let mut header = [0; 12];
        header[..4].copy_from_slice(&u32::to_le_bytes(declared));
        let found = LengthField::STUDY.decode(&header, 0);
        assert_eq!(found, expected, "study {declared}");
        let short = LengthField::STUDY.decode(&header[..11], 0);
        assert_eq!(short, need(12));
    }
}

/// The rule that a session goes by: the longest frame passes, one byte more does not.
#[test]
fn the_limit_is_met_before_a_body_arrives() {
    let study = |declared: u32| [&declared.to_le_bytes()[..], &[0; 8]].concat();
    for (declared, expected) in [
        (8192, Ok(())),
        (8193, Err(Refused::TooLong)),
        (1 << 31, Err(Refused::TooLong)),
        (u32::MAX, Err(Refused::TooLong)),
    ] {
        let mut reassembly = Reassembly::new(LengthField::STUDY, 8192);
        assert_eq!(reassembly.receive(&study(declared)), expected, "{declared}");
    }
    let mut reassembly = Reassembly::new(Lines, 8);
    assert_eq!(reassembly.receive(b"12345678\r\n12345678"), Ok(()));
    assert_eq!(reassembly.receive(b"9ab"), Err(Refused::TooLong));
    assert_eq!(reassembly.frames, [(0, b"12345678".to_vec())]);
}

#[test]
fn packets_that_a_layout_cannot_say_are_refused() {
    let narrow = LengthField::builder(2, Endian::Big).length(0, 1).id(1, 1).build().unwrap();
    let too_long = |body_bytes_max| Err(FramingError::BodyTooLong { body_bytes_max });
    let id_too_large = |id_max| Err(FramingError::IdTooLarge { id_max });
    let mut out = vec![0; 70_000];
    for (framing, id, body_len, expected) in [
        (narrow, 255, 255, Ok(257)),
        (narrow, 255, 256, too_long(255)),
        (narrow, 256, 0, id_too_large(255)),
        (LengthField::TUTORIAL, 65_535, 65_530, Ok(65_535)),
        (LengthField::TUTORIAL, 0, 65_531, too_long(65_530)),
        (LengthField::TUTORIAL, 65_536, 0, id_too_large(65_535)),
        (LengthField::STUDY, u32::MAX, 65_536, Ok(65_548)),
        (LengthField::u16_be(), u32::MAX, 65_535, Ok(65_537)),
        (LengthField::u16_be(), 0, 65_536, too_long(65_535)),
    ] {
        let body = vec![1; body_len];
        assert_eq!(framing.encode(packet(id, &body), &mut out), expected, "{id} {body_len}");
    }
}

#[test]
fn layouts_are_checked() {
    let header = |bytes| LengthField::builder(bytes, Endian::Little);
    let (length, id) = (HeaderField::Length, HeaderField::Id);
    let session = HeaderField::Session;
    let size = |header_bytes| Err(LayoutError::HeaderSize { header_bytes });
    let outside = |field, header_bytes| Err(LayoutError::Outside { field, header_bytes });
    let overlap = |first, second| Err(LayoutError::Overlap { first, second });
    for (layout, expected) in [
        (header(12).length(0, 4).id(4, 4).session(8, 4), Ok(LengthField::STUDY)),
        (header(5).length(0, 2).length_counts_header().id(2, 2), Ok(LengthField::TUTORIAL)),
        (header(2).length(0, 2), Ok(LengthField::u16_le())),
        (header(4).length(0, 4), Ok(LengthField::u32_le())),
        (header(0).length(0, 1), size(0)),
        (header(256).length(0, 1), size(256)),
        (header(4), Err(LayoutError::NoLength)),
        (header(4).length(0, 3), Err(LayoutError::Width { field: length, width: 3 })),
        (header(9).length(0, 8), Err(LayoutError::Width { field: length, width: 8 })),
        (header(3).length(0, 4), outside(length, 3)),
        (header(4).length(0, 2).id(3, 2), outside(id, 4)),
        (header(4).length(0, 2).session(usize::MAX, 2), outside(session, 4)),
        (header(8).length(0, 4).id(2, 2), overlap(length, id)),
        (header(8).length(4, 4).session(3, 2), overlap(length, session)),
        (header(8).length(0, 1).id(2, 4).session(4, 4), overlap(id, session)),
    ] {
        assert_eq!(layout.build(), expected, "{layout:?}");
    }
}
