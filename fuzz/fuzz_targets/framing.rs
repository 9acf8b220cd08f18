//! Any bytes, cut anywhere: the same frames come out as from all bytes at once, every frame lies in
//! the bytes, what a framing wants is more than there is, and a frame that was read can be said again.
#![no_main]

use libfuzzer_sys::{arbitrary::Arbitrary, fuzz_target};
use wharf::framing::{self, AnyFraming, Decoded, Framing, FramingError, Need, Packet};
use wharf_fuzz::within_memory;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    framing: u8,
    cuts: [u8; 8],
    bytes: &'a [u8],
}

const NAMES: [&str; 8] = ["study", "tutorial", "u16be", "u32be", "u16le", "u32le", "lines", "raw"];

fuzz_target!(|input: Input<'_>| {
    let name = NAMES[usize::from(input.framing) % NAMES.len()];
    let framing: AnyFraming = name.parse().expect("a known name");
    let (whole, rest, failure) = all_at_once(&framing, input.bytes);
    if name != "raw" {
        // Raw frames are whatever one read brings: cuts do make a difference there.
        let (pieces, left, failed) = in_pieces(&framing, &input);
        assert_eq!((&pieces, left, failed), (&whole, rest, failure), "cuts make a difference");
    }
    for (id, body) in &whole {
        let packet = Packet { id: *id, session: 0, body };
        let mut wire = Vec::new();
        framing::append(&framing, packet, &mut wire).expect("what was read can be said");
        let again = framing::frames(&framing, &wire).next().expect("whole").expect("right");
        assert_eq!((again.id(), again.body()), (*id, body.as_slice()));
        assert!(wire.len() <= framing.encoded_len(body.len()));
    }
});

type Frames = Vec<(u32, Vec<u8>)>;

fn all_at_once(framing: &AnyFraming, bytes: &[u8]) -> (Frames, usize, Option<FramingError>) {
    // Frames are found in place: nothing is allocated for what a header announces.
    within_memory(0, 0, || framing::frames(framing, bytes).for_each(|frame| _ = frame));
    let mut frames = framing::frames(framing, bytes);
    let (mut found, mut failure) = (Vec::new(), None);
    for frame in &mut frames {
        match frame {
            Ok(frame) => found.push((frame.id(), frame.body().to_vec())),
            Err(error) => failure = Some(error),
        }
    }
    (found, frames.unread().len(), failure)
}

/// As a session sees them: bytes arrive, and the framing is told what it has seen already.
fn in_pieces(framing: &AnyFraming, input: &Input<'_>) -> (Frames, usize, Option<FramingError>) {
    let (mut found, mut unread, mut seen) = (Vec::new(), Vec::new(), 0);
    let mut cuts = input.cuts.iter().cycle();
    let mut arriving = input.bytes;
    while !arriving.is_empty() {
        let piece = (1 + usize::from(*cuts.next().expect("endless"))).min(arriving.len());
        unread.extend_from_slice(&arriving[..piece]);
        arriving = &arriving[piece..];
        while !unread.is_empty() {
            match framing.decode(&unread, seen) {
                Ok(Decoded::Frame { len, body, id }) => {
                    assert!(len > 0 && len <= unread.len() && body.end <= len);
                    found.push((id, unread[body].to_vec()));
                    unread.drain(..len);
                    seen = 0;
                }
                Ok(Decoded::Incomplete { need }) => {
                    if let Need::AtLeast(bytes) = need {
                        assert!(bytes > unread.len(), "it wants no more than there is");
                    }
                    seen = unread.len();
                    break;
                }
                Err(error) => return (found, unread.len() + arriving.len(), Some(error)),
            }
        }
    }
    (found, unread.len(), None)
}
