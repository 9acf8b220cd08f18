//! A router behind a server on real sockets: typed packets, malformed ones, unknown ones.
#![cfg(any(unix, windows))]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use wharf::{
    CloseReason, Context, Frame, Handle, Handler, Limits, Router, Server, Stats,
    framing::{self, LengthField},
    packet::{DecodeError, DecodeErrorKind, Packet, Rest, Text},
    port::Config,
    router::{Action, RouterBuilder},
};

wharf::packet! {
    struct Echo<'a> = 1 { bytes: Rest<'a> }
    struct Login = 201 { id: Text<33>, password: Text<33> }
    struct LoginAnswer = 202 { result: u16 }
    struct Enter = 206 { room: i32 }
    struct EnterAnswer = 207 { result: i16 }
    struct Leave = 215 {}
    struct LeaveAnswer = 216 { result: i16 }
    struct Chat = 221 { text: Text<257> }
    struct ChatAnswer = 222 { result: i16 }
    struct ChatNotify = 223 { id: Text<33>, text: Text<257> }
    struct State = 300 { opened: u32, closed: u32, id: Text<33>, room: i32 }
    struct Wide = 301 { pages: [[u8; 1000]; 3] }
}

#[derive(Default)]
struct User {
    id: Text<33>,
    room: Option<i32>,
}

#[derive(Default)]
struct Rooms {
    opened: u32,
    closed: u32,
}

type Cx<'a> = Context<'a, User>;

fn login(_: &mut Rooms, cx: &mut Cx<'_>, packet: Login) -> wharf::Result {
    let known = packet.password.as_str() == "pw";
    if known {
        cx.data().id = packet.id;
    }
    Ok(cx.send_typed(&LoginAnswer { result: if known { 0 } else { 33 } })?)
}

fn enter(_: &mut Rooms, cx: &mut Cx<'_>, packet: Enter) -> wharf::Result {
    cx.data().room = Some(packet.room);
    Ok(cx.send_typed(&EnterAnswer { result: 0 })?)
}

fn leave(_: &mut Rooms, cx: &mut Cx<'_>, _: Leave) -> wharf::Result {
    cx.data().room = None;
    Ok(cx.send_typed(&LeaveAnswer { result: 0 })?)
}

fn chat(_: &mut Rooms, cx: &mut Cx<'_>, packet: Chat) -> wharf::Result {
    let id = cx.data().id;
    cx.send_typed(&ChatAnswer { result: 0 })?;
    Ok(cx.send_typed(&ChatNotify { id, text: packet.text })?)
}

fn state(rooms: &mut Rooms, cx: &mut Cx<'_>, _: Frame<'_>) -> wharf::Result {
    let &mut Rooms { opened, closed } = rooms;
    let User { id, room } = *cx.data();
    let room = room.unwrap_or(-1);
    Ok(cx.send_typed(&State { opened, closed, id, room })?)
}

fn echo(_: &mut Rooms, cx: &mut Cx<'_>, packet: Echo<'_>) -> wharf::Result {
    Ok(cx.send_typed(&packet)?)
}

/// What is not UTF-8 is answered with another code than a wrong length.
fn not_login(
    _: &mut Rooms,
    cx: &mut Cx<'_>,
    frame: Frame<'_>,
    error: &DecodeError,
) -> wharf::Result {
    assert_eq!((frame.id(), error.id, error.packet), (201, 201, "Login"));
    let result = if error.kind == DecodeErrorKind::NotUtf8 { 33 } else { 12 };
    Ok(cx.send_typed(&LoginAnswer { result })?)
}

fn routes() -> RouterBuilder<Rooms, User> {
    Router::builder()
        .on::<Echo>(echo)
        .on::<Login>(login)
        .on::<Enter>(enter)
        .on::<Leave>(leave)
        .on::<Chat>(chat)
        .on::<Wide>(|_, cx, packet| Ok(cx.try_send_typed(&packet)?))
        .on_raw(State::ID, state)
        .malformed_for::<Login>(Action::Answer(not_login))
        .malformed_for::<Enter>(Action::Answer(|_, cx, _, _| {
            Ok(cx.send_typed(&EnterAnswer { result: 61 })?)
        }))
        .malformed_for::<Chat>(Action::Ignore)
        .on_open(|rooms, _| {
            rooms.opened += 1;
            Ok(())
        })
        .on_close(|rooms, _, _| rooms.closed += 1)
}

/// A server with one worker, whose handler is made by `factory`.
fn start<H: Handler>(factory: impl Fn() -> H + Send + Sync + 'static) -> Handle {
    Server::builder()
        .workers(1)
        .port(Config::from_env().unwrap())
        .limits(Limits { frame_bytes_max: 4096, ..Limits::default() })
        .listen("127.0.0.1:0", LengthField::TUTORIAL, factory)
        .start()
        .unwrap()
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, received: Vec::new() }
    }

    fn send_bytes(&mut self, id: u32, body: &[u8]) {
        let mut wire = Vec::new();
        let packet = framing::Packet { id, session: 0, body };
        framing::append(&LengthField::TUTORIAL, packet, &mut wire).unwrap();
        self.stream.write_all(&wire).unwrap();
    }

    fn send<P: Packet>(&mut self, packet: &P) {
        self.send_bytes(P::ID, &packet.to_vec());
    }

    /// The next frame's id and body; `None` at the end of the stream.
    fn receive_bytes(&mut self) -> Option<(u32, Vec<u8>)> {
        loop {
            let mut frames = framing::frames(&LengthField::TUTORIAL, &self.received);
            if let Some(frame) = frames.next() {
                let frame = frame.unwrap();
                let found = (frame.id(), frame.body().to_vec());
                self.received.drain(..5 + found.1.len());
                return Some(found);
            }
            let mut piece = [0; 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.received.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame is a `P` of this body.
    #[track_caller]
    fn expect<P: Packet>(&mut self, packet: &P) {
        assert_eq!(self.receive_bytes(), Some((P::ID, packet.to_vec())), "expected {}", P::NAME);
    }

    /// What the server thinks of this session.
    fn state(&mut self) -> (u32, u32, String, i32) {
        self.send_bytes(State::ID, b"");
        let (id, body) = self.receive_bytes().expect("the session is open");
        assert_eq!(id, State::ID);
        let State { opened, closed, id, room } = State::decode(&body).unwrap();
        (opened, closed, id.to_string(), room)
    }
}

fn login_as(id: &str, password: &str) -> Login {
    Login { id: Text::new(id).unwrap(), password: Text::new(password).unwrap() }
}

/// Ends the server, which says how many sessions ended for each reason.
fn end(handle: &Handle) -> Stats {
    handle.drain(Duration::from_secs(10));
    handle.join().unwrap().stats
}

#[expect(clippy::disallowed_methods, reason = "a test waits for a server on other threads")]
fn wait_until_empty(handle: &Handle) {
    while handle.count() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn packets_reach_their_functions_and_answers_come_back() {
    let router = routes().build();
    let counts = router.clone();
    let handle = start(move || router.handler(Rooms::default()));
    let mut client = Client::new(handle.local_addrs()[0]);

    client.send(&login_as("user0", "wrong"));
    client.expect(&LoginAnswer { result: 33 });
    client.send(&login_as("user0", "pw"));
    client.expect(&LoginAnswer { result: 0 });
    client.send(&Enter { room: 7 });
    client.expect(&EnterAnswer { result: 0 });
    assert_eq!(client.state(), (1, 0, "user0".to_owned(), 7));
    client.send(&Chat { text: Text::new("여러분").unwrap() });
    client.expect(&ChatAnswer { result: 0 });
    let id = Text::new("user0").unwrap();
    client.expect(&ChatNotify { id, text: Text::new("여러분").unwrap() });
    client.send(&Leave {});
    client.expect(&LeaveAnswer { result: 0 });
    assert_eq!(client.state().3, -1);

    // Of every size that a packet is encoded into: 64 bytes, 1 KiB, more with and without a bound.
    for len in [0, 64, 65, 1024, 1025, 4096] {
        let bytes: Vec<u8> = (0..len).map(|index| index as u8).collect();
        client.send(&Echo { bytes: Rest(&bytes) });
        client.expect(&Echo { bytes: Rest(&bytes) });
    }
    let wide = Wide { pages: [[1; 1000], [2; 1000], [3; 1000]] };
    client.send(&wide);
    client.expect(&wide);

    // From outside, to the same session.
    let session = handle.sessions().unwrap()[0].id;
    handle.send_typed(session, &EnterAnswer { result: 63 }).unwrap();
    client.expect(&EnterAnswer { result: 63 });

    let counts = counts.counts();
    let handled = counts.routes.iter().map(|route| (route.id, route.name, route.handled));
    let expected = [
        (1, "Echo", 6),
        (201, "Login", 2),
        (206, "Enter", 1),
        (215, "Leave", 1),
        (221, "Chat", 1),
        (300, "raw", 2),
        (301, "Wide", 1),
    ];
    assert!(handled.eq(expected), "{counts:?}");
    assert!(counts.routes.iter().all(|route| route.malformed == 0) && counts.unknown == 0);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.receive_bytes(), None);
    assert_eq!(end(&handle).closed_for(CloseReason::PeerClosed), 1);
}

#[test]
fn malformed_packets_are_answered_and_change_nothing() {
    let router = routes().build();
    let counts = router.clone();
    let handle = start(move || router.handler(Rooms::default()));
    let mut client = Client::new(handle.local_addrs()[0]);
    client.send(&login_as("user0", "pw"));
    client.expect(&LoginAnswer { result: 0 });
    client.send(&Enter { room: 3 });
    client.expect(&EnterAnswer { result: 0 });

    let good = login_as("user1", "pw").to_vec();
    for wrong in [&b""[..], &good[..65], &[&good, &b"\0"[..]].concat()] {
        client.send_bytes(Login::ID, wrong);
        client.expect(&LoginAnswer { result: 12 });
    }
    let not_utf8 = [&[0xff; 33], &good[33..]].concat();
    client.send_bytes(Login::ID, &not_utf8);
    client.expect(&LoginAnswer { result: 33 });
    for wrong in [&b""[..], b"\x01\0\0", b"\x01\0\0\0\0"] {
        client.send_bytes(Enter::ID, wrong);
        client.expect(&EnterAnswer { result: 61 });
    }
    client.send_bytes(Chat::ID, &[b'x'; 256]); // ignored: the next answer is that of the next frame
    assert_eq!(client.state(), (1, 0, "user0".to_owned(), 3));

    let full = [&[b'x'; 33], &good[33..]].concat();
    client.send_bytes(Login::ID, &full);
    client.expect(&LoginAnswer { result: 0 });
    assert_eq!(client.state().2, "x".repeat(33));

    // No action of its own: closed, with what was queued before.
    client.send(&Enter { room: 4 });
    client.send_bytes(Leave::ID, b"\0");
    client.send(&Enter { room: 5 });
    client.expect(&EnterAnswer { result: 0 });
    assert_eq!(client.receive_bytes(), None);

    let counts = counts.counts();
    let count = |id| counts.route(id).map(|route| (route.handled, route.malformed)).unwrap();
    assert_eq!((count(201), count(206), count(215), count(221)), ((2, 4), (2, 3), (0, 1), (0, 1)));
    assert_eq!(end(&handle).closed_for(CloseReason::Protocol), 1);
}

#[test]
fn unknown_ids_are_ignored_and_counted() {
    let router = routes().malformed(Action::Ignore).build();
    let counts = router.clone();
    let handle = start(move || router.handler(Rooms::default()));
    let mut client = Client::new(handle.local_addrs()[0]);
    for id in [0, 11, 12, 30, 199, 202, 999, 1001, 1002, 65535] {
        client.send_bytes(id, b"forged");
    }
    client.send_bytes(Leave::ID, b"\0");
    assert_eq!(client.state(), (1, 0, String::new(), -1));
    assert_eq!(counts.counts().unknown, 10);
    assert_eq!(counts.counts().route(Leave::ID).unwrap().malformed, 1);

    // The state is the worker's, the data the session's.
    drop(client);
    wait_until_empty(&handle);
    let mut next = Client::new(handle.local_addrs()[0]);
    assert_eq!(next.state(), (2, 1, String::new(), -1));
    drop(next);
    end(&handle);
    assert_eq!(counts.counts().unknown, 10, "also when the worker has ended");
}

#[test]
fn unknown_ids_close_or_are_answered_if_that_is_what_was_said() {
    let closing = routes().unknown(Action::Close).build();
    let handle = start(move || closing.handler(Rooms::default()));
    let mut client = Client::new(handle.local_addrs()[0]);
    client.send(&Enter { room: 1 });
    client.send_bytes(999, b"");
    client.expect(&EnterAnswer { result: 0 });
    assert_eq!(client.receive_bytes(), None);
    assert_eq!(end(&handle).closed_for(CloseReason::Protocol), 1);

    let answering = routes()
        .unknown(Action::Answer(|_, cx, frame| Ok(cx.send_packet(frame.id(), b"what?")?)))
        .build();
    let handle = start(move || answering.handler(Rooms::default()));
    let mut client = Client::new(handle.local_addrs()[0]);
    client.send_bytes(999, b"");
    assert_eq!(client.receive_bytes(), Some((999, b"what?".to_vec())));
    drop(client);
    end(&handle);
}

/// A handler of one's own, with a router inside.
struct Own {
    router: Router<Rooms, User>,
    rooms: Rooms,
}

impl Handler for Own {
    type Session = User;

    fn on_open(&mut self, cx: &mut Cx<'_>) -> wharf::Result {
        Ok(cx.send_typed(&LeaveAnswer { result: 0 })?)
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> wharf::Result {
        self.router.dispatch(&mut self.rooms, cx, frame)
    }
}

#[test]
fn a_handler_of_ones_own_dispatches_and_keeps_its_other_calls() {
    let router = routes().build();
    let handle = start(move || Own { router: router.clone(), rooms: Rooms::default() });
    let mut client = Client::new(handle.local_addrs()[0]);
    client.expect(&LeaveAnswer { result: 0 });
    client.send(&Enter { room: 1 });
    client.expect(&EnterAnswer { result: 0 });
    assert_eq!(
        client.state(),
        (0, 0, String::new(), 1),
        "the router's hooks are for `Routed` alone"
    );
    drop(client);
    end(&handle);
}
