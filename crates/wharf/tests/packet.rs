//! The chat protocol of the tutorial as packets: its bytes, its bounds, and bytes that are no packet.

use std::fmt::Debug;

use proptest::prelude::*;
use wharf::{
    framing::{self, LengthField},
    packet::{
        Be, DecodeError, DecodeErrorKind, FromWire, List, OutputTooSmall, Packet, Rest, ShortText,
        Text, TextError, TextRef, TooMany,
    },
};

wharf::packet! {
    #[derive(Clone, Debug, PartialEq)]
    struct Echo<'wire> = 1 { bytes: Rest<'wire> }
    #[derive(Clone, Debug, PartialEq)]
    struct LoginRequest = 201 { id: Text<33>, password: Text<33> }
    #[derive(Clone, Debug, PartialEq)]
    struct LoginResponse = 202 { result: u16 }
    #[derive(Clone, Debug, PartialEq)]
    struct RoomEnterRequest = 206 { room: i32 }
    #[derive(Clone, Debug, PartialEq)]
    struct RoomEnterResponse = 207 { result: i16 }
    #[derive(Clone, Debug, PartialEq)]
    struct UserEntered<'a> = 208 { user: UserEntry<'a> }
    #[derive(Clone, Debug, PartialEq)]
    struct UserList<'a> = 209 { users: List<'a, i8, UserEntry<'a>, 24> }
    #[derive(Clone, Debug, PartialEq)]
    struct RoomLeaveRequest = 215 {}
    #[derive(Clone, Debug, PartialEq)]
    struct RoomLeaveResponse = 216 { result: i16 }
    #[derive(Clone, Debug, PartialEq)]
    struct UserLeft = 217 { unique_id: i64 }
    #[derive(Clone, Debug, PartialEq)]
    struct ChatRequest = 221 { text: Text<257> }
    #[derive(Clone, Debug, PartialEq)]
    struct ChatResponse = 222 { result: i16 }
    #[derive(Clone, Debug, PartialEq)]
    struct ChatNotify<'a> = 223 { id: Text<33>, text: TextRef<'a, 257> }

    #[derive(Clone, Debug, PartialEq)]
    struct UserEntry<'a> { unique_id: i64, id: ShortText<'a, 32> }
}

const ALL_KINDS: u32 = 70_000;

wharf::packet! {
    /// Every kind of field that the chat does not have.
    #[derive(Clone, Debug, PartialEq)]
    struct AllKinds<'a> = ALL_KINDS {
        unsigned: Unsigned,
        signed: [Signed; 2],
        single: f32,
        double: Be<f64>,
        yes: bool,
        big: Be<u32>,
        port: [Be<u16>; 3],
        texts: List<'a, Be<u16>, Text<3>, 300>,
        rest: Rest<'a>,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Unsigned { a: u8, b: u16, c: u32, d: u64 }
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Signed { a: i8, b: i16, c: i32, d: i64 }
}

/// The bytes of `packet` on the wire, written over what was there before.
fn wire<P: Packet>(packet: &P) -> Vec<u8> {
    let mut body = [0xaa; 2048];
    let len = packet.encode(&mut body).unwrap();
    assert_eq!(packet.to_vec(), body[..len]);
    let packet = framing::Packet { id: P::ID, session: 0, body: &body[..len] };
    let mut wire = Vec::new();
    framing::append(&LengthField::TUTORIAL, packet, &mut wire).unwrap();
    wire
}

/// `packet` is these bytes on the wire, and these bytes are `packet`.
#[track_caller]
fn golden<'b, P>(packet: &P, expected: &'b [u8])
where
    P: Packet + Debug + PartialEq<P::Received<'b>>,
    P::Received<'b>: Debug,
{
    assert_eq!(wire(packet), expected, "{packet:?}");
    let frame = framing::frames(&LengthField::TUTORIAL, expected).next().unwrap().unwrap();
    assert_eq!((frame.id(), frame.bytes().len()), (P::ID, expected.len()));
    assert_eq!(*packet, P::decode(frame.body()).unwrap());
}

fn padded(text: &[u8], len: usize) -> Vec<u8> {
    let mut field = text.to_vec();
    field.resize(len, 0);
    field
}

#[test]
fn every_packet_of_the_chat_is_its_golden_bytes() {
    golden(&Echo { bytes: Rest(b"any\0\xff") }, b"\x0a\0\x01\0\0any\0\xff");
    golden(&Echo { bytes: Rest(b"") }, b"\x05\0\x01\0\0");
    golden(
        &LoginRequest { id: Text::new("user0").unwrap(), password: Text::new("pw").unwrap() },
        &[b"\x47\0\xc9\0\0".to_vec(), padded(b"user0", 33), padded(b"pw", 33)].concat(),
    );
    golden(&LoginResponse { result: 0 }, b"\x07\0\xca\0\0\0\0");
    golden(&LoginResponse { result: 33 }, b"\x07\0\xca\0\0\x21\0");
    golden(&RoomEnterRequest { room: 0 }, b"\x09\0\xce\0\0\0\0\0\0");
    golden(&RoomEnterRequest { room: -2 }, b"\x09\0\xce\0\0\xfe\xff\xff\xff");
    golden(&RoomEnterResponse { result: 0 }, b"\x07\0\xcf\0\0\0\0");
    golden(&RoomLeaveRequest {}, b"\x05\0\xd7\0\0");
    golden(&RoomLeaveResponse { result: 61 }, b"\x07\0\xd8\0\0\x3d\0");
    golden(&UserLeft { unique_id: 0x0102 }, b"\x0d\0\xd9\0\0\x02\x01\0\0\0\0\0\0");
    golden(&ChatResponse { result: 0 }, b"\x07\0\xde\0\0\0\0");
    golden(
        &ChatRequest { text: Text::new("hi, 여러분").unwrap() },
        &[b"\x06\x01\xdd\0\0".to_vec(), padded("hi, 여러분".as_bytes(), 257)].concat(),
    );
    golden(
        &ChatNotify { id: Text::new("user0").unwrap(), text: TextRef::new("hi").unwrap() },
        &[b"\x27\x01\xdf\0\0".to_vec(), padded(b"user0", 33), padded(b"hi", 257)].concat(),
    );
}

#[test]
fn user_entries_are_not_padded() {
    let entry = |unique_id, id| UserEntry { unique_id, id: ShortText::new(id).unwrap() };
    golden(
        &UserEntered { user: entry(-1, "ab") },
        b"\x10\0\xd0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x02ab",
    );
    golden(&UserList { users: List::new(&[]).unwrap() }, b"\x06\0\xd1\0\0\0");
    golden(
        &UserList { users: List::new(&[entry(1, "ab"), entry(2, "")]).unwrap() },
        b"\x1a\0\xd1\0\0\x02\x01\0\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\0\0",
    );

    let full = vec![entry(i64::MIN, "0123456789abcdef0123456789abcdef"); 24];
    let list = UserList { users: List::new(&full).unwrap() };
    assert_eq!(wire(&list).len(), 5 + UserList::BODY_BYTES_MAX);
    assert_eq!(wire(&list).len(), 990, "what the client's parser was promised");
    let too_many = vec![entry(0, ""); 25];
    let refused = List::<i8, _, 24>::new(&too_many).unwrap_err();
    assert_eq!(refused, TooMany { count: 25, max: 24 });

    let body = list.to_vec();
    let received = UserList::decode(&body).unwrap();
    assert_eq!((received.users.len(), received.users.iter().len()), (24, 24));
    assert!(!received.users.is_empty());
    assert!(received.users.iter().eq(full));
    assert_eq!(received.to_vec(), body);
}

#[test]
fn the_bounds_are_those_of_the_protocol() {
    fn total<P: Packet>() -> (u32, usize, usize) {
        (P::ID, P::BODY_BYTES_MIN + 5, P::BODY_BYTES_MAX.saturating_add(5))
    }
    assert_eq!(total::<Echo>(), (1, 5, usize::MAX));
    assert_eq!(total::<LoginRequest>(), (201, 71, 71));
    assert_eq!(total::<LoginResponse>(), (202, 7, 7));
    assert_eq!(total::<RoomEnterRequest>(), (206, 9, 9));
    assert_eq!(total::<RoomEnterResponse>(), (207, 7, 7));
    assert_eq!(total::<UserEntered>(), (208, 14, 46));
    assert_eq!(total::<UserList>(), (209, 6, 990));
    assert_eq!(total::<RoomLeaveRequest>(), (215, 5, 5));
    assert_eq!(total::<RoomLeaveResponse>(), (216, 7, 7));
    assert_eq!(total::<UserLeft>(), (217, 13, 13));
    assert_eq!(total::<ChatRequest>(), (221, 262, 262));
    assert_eq!(total::<ChatResponse>(), (222, 7, 7));
    assert_eq!(total::<ChatNotify>(), (223, 295, 295));
    assert_eq!(total::<AllKinds>(), (70_000, 5 + 15 + 30 + 4 + 8 + 1 + 4 + 6 + 2, usize::MAX));
}

#[test]
fn every_kind_of_field_has_its_bytes() {
    let texts = [Text::new("a").unwrap(), Text::new("bc").unwrap()];
    let signed = Signed { a: -1, b: -2, c: -3, d: -4 };
    let packet = AllKinds {
        unsigned: Unsigned { a: 1, b: 2, c: 3, d: 4 },
        signed: [signed, Signed { a: 5, ..signed }],
        single: 1.0,
        double: Be(-2.0),
        yes: true,
        big: Be(0x0102_0304),
        port: [Be(1), Be(2), Be(0xff00)],
        texts: List::new(&texts).unwrap(),
        rest: Rest(b"rest"),
    };
    let signed = b"\xfe\xff\xfd\xff\xff\xff\xfc\xff\xff\xff\xff\xff\xff\xff";
    let expected = [
        b"\x01\x02\0\x03\0\0\0\x04\0\0\0\0\0\0\0\xff".as_slice(),
        signed,
        b"\x05",
        signed,
        b"\0\0\x80\x3f\xc0\0\0\0\0\0\0\0\x01\x01\x02\x03\x04\0\x01\0\x02\xff\0\0\x02a\0\0bc\0rest",
    ];
    assert_eq!(packet.to_vec(), expected.concat());
    assert_eq!(AllKinds::decode(&expected.concat()), Ok(packet));
}

#[track_caller]
fn refused<P: Packet>(body: &[u8]) -> (&'static str, usize, DecodeErrorKind) {
    let Err(error) = P::decode(body) else { panic!("{} took {body:?}", P::NAME) };
    assert_eq!((error.packet, error.id), (P::NAME, P::ID));
    (error.field, error.offset, error.kind)
}

#[test]
fn a_body_has_exactly_the_packets_length() {
    for got in (0..=70).filter(|len| *len != 66) {
        let kind = DecodeErrorKind::Length { min: 66, max: 66, got };
        assert_eq!(refused::<LoginRequest>(&vec![b'a'; got]), ("", 0, kind));
    }
    for got in [0, 256, 258, 8192] {
        let kind = DecodeErrorKind::Length { min: 257, max: 257, got };
        assert_eq!(refused::<ChatRequest>(&vec![0; got]), ("", 0, kind));
    }
    for got in [0, 3, 5] {
        let kind = DecodeErrorKind::Length { min: 4, max: 4, got };
        assert_eq!(refused::<RoomEnterRequest>(&vec![0; got]), ("", 0, kind));
    }
    let kind = DecodeErrorKind::Length { min: 0, max: 0, got: 1 };
    assert_eq!(refused::<RoomLeaveRequest>(b"\0"), ("", 0, kind));

    // Within the bounds, and still not what it says.
    let entered = b"\x01\0\0\0\0\0\0\0\x02ab";
    let kind = DecodeErrorKind::Ended { needed: 2, left: 1 };
    assert_eq!(refused::<UserEntered>(&entered[..10]), ("id", 9, kind));
    let kind = DecodeErrorKind::Trailing { bytes: 2 };
    assert_eq!(refused::<UserEntered>(&[entered.as_slice(), b"cd"].concat()), ("", 11, kind));
}

#[test]
fn fixed_text_may_fill_its_field_and_has_to_be_utf8() {
    let decode = |body: &[u8]| LoginRequest::decode(body).unwrap();
    let full = decode(&[b'x'; 66]);
    assert_eq!((full.id.as_str(), full.password.as_str()), (&*"x".repeat(33), &*"x".repeat(33)));
    assert_eq!(full.to_vec(), [b'x'; 66], "sent on as it came");
    let full = ChatRequest::decode(&[b'y'; 257]).unwrap();
    assert_eq!(full.text.as_str(), "y".repeat(257));
    assert_eq!(TextRef::from(&full.text).as_str(), full.text.as_str());

    // What hides behind the NUL is neither read nor passed on.
    let mut hiding = [0xff; 66];
    hiding[..5].copy_from_slice(b"user\0");
    hiding[33] = 0;
    let login = decode(&hiding);
    assert_eq!((login.id.as_str(), login.password.as_str()), ("user", ""));
    assert_eq!(login, LoginRequest { id: Text::new("user").unwrap(), password: Text::default() });
    assert_eq!(login.to_vec(), padded(b"user", 66));

    let mut wrong = padded(b"user", 66);
    wrong[40] = 0x80;
    assert_eq!(LoginRequest::decode(&wrong).map(|_| ()), Ok(()), "behind the NUL of `password`");
    wrong[33] = 0xc3;
    assert_eq!(refused::<LoginRequest>(&wrong), ("password", 33, DecodeErrorKind::NotUtf8));
    // A character that the field's end cuts in two.
    let cut = [vec![b'a'; 256], vec![0xc3]].concat();
    assert_eq!(refused::<ChatRequest>(&cut), ("text", 0, DecodeErrorKind::NotUtf8));
    let notify = [padded(b"id", 33), vec![0xff; 257]].concat();
    assert_eq!(refused::<ChatNotify>(&notify), ("text", 33, DecodeErrorKind::NotUtf8));
}

#[test]
fn text_that_is_sent_leaves_room_for_the_nul() {
    let longest = "가".repeat(10) + "ab";
    assert_eq!(longest.len(), 32);
    assert_eq!(Text::<33>::new(&longest).unwrap().as_str(), longest);
    let one_more = longest.clone() + "c";
    assert_eq!(Text::<33>::new(&one_more), Err(TextError::TooLong { bytes: 33, max: 32 }));
    assert_eq!(TextRef::<33>::new(&one_more), Err(TextError::TooLong { bytes: 33, max: 32 }));
    assert_eq!(Text::<33>::truncated(&one_more).as_str(), longest);
    assert_eq!(Text::<33>::new("a\0b"), Err(TextError::HasNul));
    assert_eq!(Text::<33>::truncated("a\0b").as_str(), "a");
    assert_eq!(Text::<33>::truncated(&"가".repeat(11)).as_str(), "가".repeat(10));
    assert_eq!(Text::<3>::truncated("가").as_str(), "");
    assert_eq!(Text::<0>::truncated("a").as_str(), "");
    assert_eq!(Text::<0>::new(""), Err(TextError::TooLong { bytes: 0, max: 0 }));

    let long = "가".repeat(11);
    assert_eq!(ShortText::<33>::new(&long).unwrap().as_str(), long);
    assert_eq!(ShortText::<32>::new(&long), Err(TextError::TooLong { bytes: 33, max: 32 }));
    assert_eq!(ShortText::<32>::truncated(&long).as_str(), "가".repeat(10));
    assert_eq!(ShortText::<255>::new(&"a".repeat(255)).unwrap().as_str().len(), 255);
}

#[test]
fn counts_and_lengths_are_held_to_their_maximum() {
    let body = |count: u8| [vec![count], vec![0; 9 * usize::from(count)]].concat();
    assert_eq!(UserList::decode(&body(24)).unwrap().users.len(), 24);
    let kind = DecodeErrorKind::CountTooLarge { count: 25, max: 24 };
    assert_eq!(refused::<UserList>(&body(25)), ("users", 0, kind));
    assert_eq!(refused::<UserList>(&[0xff]), ("users", 0, DecodeErrorKind::OutOfRange));
    let kind = DecodeErrorKind::Ended { needed: 8, left: 0 };
    assert_eq!(refused::<UserList>(&[24]), ("unique_id", 1, kind));
    let kind = DecodeErrorKind::Trailing { bytes: 1 };
    assert_eq!(refused::<UserList>(&[0, 0]), ("", 1, kind));

    let named = |len: u8| [vec![0; 8], vec![len], vec![b'n'; usize::from(len)]].concat();
    assert_eq!(UserEntered::decode(&named(32)).unwrap().user.id.as_str(), "n".repeat(32));
    let mut too_long = named(33);
    too_long.pop();
    let kind = DecodeErrorKind::TextTooLong { bytes: 33, max: 32 };
    assert_eq!(refused::<UserEntered>(&too_long), ("id", 8, kind));
    let mut not_text = named(4);
    not_text[10] = 0xe0;
    assert_eq!(refused::<UserEntered>(&not_text), ("id", 8, DecodeErrorKind::NotUtf8));
}

#[test]
fn an_output_that_is_too_small_is_told_what_it_takes() {
    let packet = ChatNotify { id: Text::default(), text: TextRef::default() };
    for bytes in [0, 1, 33, 289] {
        assert_eq!(packet.encode(&mut vec![0; bytes]), Err(OutputTooSmall { bytes: 290 }));
    }
    assert_eq!(packet.encode(&mut [1; 290]), Ok(290));
    assert_eq!(packet.encode(&mut [1; 291]), Ok(290));
}

#[test]
fn errors_name_packet_field_and_place() {
    let message = |error: DecodeError| error.to_string();
    let short = RoomEnterRequest::decode(b"abc").unwrap_err();
    assert_eq!(message(short), "RoomEnterRequest (206): body of 3 bytes, not 4");
    let long = UserEntered::decode(&[0; 42]).unwrap_err();
    assert_eq!(message(long), "UserEntered (208): body of 42 bytes, not 9 to 41");
    let wrong = UserList::decode(b"\x01\0\0\0\0\0\0\0\0\x01\xff").unwrap_err();
    assert_eq!(message(wrong), "UserList (209): field id at byte 9: text is not UTF-8");
    let many = UserList::decode(b"\x40").unwrap_err();
    let expected = "UserList (209): field users at byte 0: list of 64 values, 24 allowed";
    assert_eq!(message(many), expected);
    let no_bool = AllKinds::decode(&[2; 74]).unwrap_err();
    assert_eq!(message(no_bool), "AllKinds (70000): field yes at byte 57: value out of range");
}

/// Whatever is taken as a packet is the same packet after it was written and read again.
fn settles<P: Packet>(body: &[u8]) -> Result<bool, TestCaseError>
where
    for<'a> P::Received<'a>: Packet,
{
    let Ok(packet) = P::decode(body) else { return Ok(false) };
    let written = packet.to_vec();
    prop_assert_eq!(written.len(), body.len());
    let again = P::decode(&written).map(|packet| packet.to_vec());
    prop_assert_eq!(again, Ok(written));
    Ok(true)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        settles::<LoginRequest>(&body)?;
        settles::<UserEntered<'static>>(&body)?;
        settles::<UserList<'static>>(&body)?;
        settles::<ChatRequest>(&body)?;
        settles::<ChatNotify<'static>>(&body)?;
        settles::<AllKinds<'static>>(&body)?;
        prop_assert!(settles::<Echo<'static>>(&body)?);
    }

    /// Bytes of which most are small numbers and letters, so that many of them are packets.
    #[test]
    fn likely_bytes_never_panic(
        body in proptest::collection::vec(prop_oneof![0u8..4, b'a'..=b'c', any::<u8>()], 0..120),
        count in 0u8..26,
    ) {
        settles::<UserList<'static>>(&[&[count], body.as_slice()].concat())?;
        settles::<UserEntered<'static>>(&[&[0; 8], body.as_slice()].concat())?;
        settles::<AllKinds<'static>>(&body)?;
        settles::<LoginRequest>(&body)?;
    }

    #[test]
    fn what_is_written_is_read_back(
        users in proptest::collection::vec((any::<i64>(), "[a-z가-힣]{0,10}"), 0..=24),
        id in "[^\0]{0,40}",
        text in "[^\0]{0,90}",
        rest in proptest::collection::vec(any::<u8>(), 0..50),
        numbers in any::<(u64, i64, f32, f64, bool, u32)>(),
    ) {
        let users: Vec<_> = users
            .iter()
            .map(|(unique_id, id)| UserEntry { unique_id: *unique_id, id: ShortText::truncated(id) })
            .collect();
        let list = UserList { users: List::new(&users).unwrap() };
        let body = list.to_vec();
        prop_assert_eq!(UserList::decode(&body), Ok(list));

        let notify = ChatNotify { id: Text::truncated(&id), text: TextRef::truncated(&text) };
        prop_assert!(id.starts_with(notify.id.as_str()) && notify.id.as_str().len() <= 32);
        let body = notify.to_vec();
        prop_assert_eq!(ChatNotify::decode(&body), Ok(notify));

        let (unsigned, d, single, double, yes, big) = numbers;
        let signed = Signed { a: d as i8, b: d as i16, c: d as i32, d };
        let (b, c) = (unsigned as u16, unsigned as u32);
        let texts = vec![Text::truncated(&id); users.len() * 12];
        let all = AllKinds {
            unsigned: Unsigned { a: unsigned as u8, b, c, d: unsigned },
            signed: [signed, signed],
            single,
            double: Be(double),
            yes,
            big: Be(big),
            port: [Be(b), Be(1), Be(c as u16)],
            texts: List::new(&texts).unwrap(),
            rest: Rest(&rest),
        };
        prop_assert_eq!(AllKinds::decode(&all.to_vec()).unwrap().to_vec(), all.to_vec());
        prop_assert!(single.is_nan() || double.is_nan() || AllKinds::decode(&all.to_vec()) == Ok(all));
    }
}

/// A received list may outlive the packet that it was in, but not the bytes.
#[test]
fn borrowed_values_live_as_long_as_the_frame() {
    fn first_name(body: &[u8]) -> Option<&str> {
        let users = UserList::decode(body).ok()?.users;
        users.iter().next().map(|user| user.id.as_str())
    }
    fn is_borrowed<'a, T: FromWire<'a>>() {}
    is_borrowed::<UserList<'_>>();
    assert_eq!(first_name(b"\x01\0\0\0\0\0\0\0\0\x03abc"), Some("abc"));
}
