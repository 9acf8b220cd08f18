//! Any body as any packet: a decoder answers or refuses, never panics, never takes memory that the
//! bytes do not justify, and what it accepts is said again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::packet::{Be, List, Packet, Rest, ShortText, Text, TextRef};
use wharf_fuzz::within_memory;

wharf::packet! {
    #[derive(Clone, Debug)]
    struct Numbers = 1 { a: u8, b: i16, c: Be<u32>, d: f64, e: bool, f: [u16; 3] }

    #[derive(Clone, Debug)]
    struct Login = 2 { id: Text<33>, password: Text<33> }

    #[derive(Clone, Debug)]
    struct Borrowed<'a> = 3 { name: TextRef<'a, 8>, rest: Rest<'a> }

    #[derive(Clone, Debug)]
    struct User<'a> { unique_id: i64, id: ShortText<'a, 32> }

    #[derive(Clone, Debug)]
    struct Users<'a> = 4 { users: List<'a, i8, User<'a>, 24> }

    #[derive(Clone, Debug)]
    struct Nested<'a> = 5 { first: User<'a>, many: List<'a, u16, u32, 1000>, last: ShortText<'a, 5> }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => check::<Numbers>(body, |packet| packet.to_vec()),
        1 => check::<Login>(body, |packet| packet.to_vec()),
        2 => check::<Borrowed<'_>>(body, |packet| packet.to_vec()),
        3 => check::<Users<'_>>(body, |packet| {
            assert!(packet.users.iter().count() <= 24, "a list has its bound");
            packet.to_vec()
        }),
        _ => check::<Nested<'_>>(body, |packet| packet.to_vec()),
    }
});

fn check<'a, P: Packet>(body: &'a [u8], encode: impl FnOnce(P::Received<'a>) -> Vec<u8>) {
    // Nothing is allocated to decode, whatever a count in the bytes announces.
    match within_memory(0, 0, || P::decode(body)) {
        Ok(packet) => {
            assert!((P::BODY_BYTES_MIN..=P::BODY_BYTES_MAX).contains(&body.len()));
            // What stood behind the first NUL of a text is not kept: it is zero now.
            let again = encode(packet);
            assert_eq!(again.len(), body.len());
            let differs = again.iter().zip(body).find(|(new, old)| new != old);
            assert!(differs.is_none_or(|(new, _)| *new == 0), "{again:?} is not {body:?}");
        }
        Err(error) => assert!(error.to_string().len() < 300, "an error is one line"),
    }
}
