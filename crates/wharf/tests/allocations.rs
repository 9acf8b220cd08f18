//! What a server allocates, counted over the whole process: nothing for a message once it is warm,
//! or for a visit, nothing on the word of a peer, and little for a session that is idle. One test in a process of its own, so that nobody else
//! allocates beside it.

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use wharf::{
    Class, CloseReason, Context, Dispatch, Frame, Handle, Handler, Limits, Server, Topic,
    framing::LengthField,
    port::{self, Config, Engine, EngineChoice},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Sends every frame back by one way or another: the second time in its own block, then to a topic.
struct Echo;

const ROOM: Topic = Topic(1);

impl Handler for Echo {
    type Session = usize;

    fn on_open(&mut self, cx: &mut Context<'_, usize>) -> wharf::Result {
        cx.subscribe(ROOM)?;
        cx.subscribe(Topic(2))?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, usize>, frame: Frame<'_>) -> wharf::Result {
        *cx.data() += 1;
        match *cx.data() % 4 {
            0 => cx.send(frame.body())?,
            1 => _ = cx.send_as(Class::Latest(u64::from(frame.body()[0])), 0, frame.body())?,
            2 => cx.publish(ROOM, Class::Reliable, 0, frame.body())?,
            _ => cx.publish(ROOM, Class::DropOldest, 0, frame.body())?,
        }
        Ok(())
    }
}

/// Answers each frame with `send` alone.
struct PlainEcho;

impl Handler for PlainEcho {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        cx.send(frame.body())?;
        Ok(())
    }
}

/// Handlers on a logic thread answer plainly.
fn start(engine: Engine, dispatch: Dispatch) -> (Handle, SocketAddr) {
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    // A frame that is never whole may declare as much as this.
    let hour = Some(std::time::Duration::from_secs(3600));
    // Who only listens is not let go, however long that takes here.
    let limits = Limits {
        frame_bytes_max: 64 << 20,
        heartbeat_interval: hour,
        first_frame_timeout: None,
        idle_read_timeout: None,
        ..Limits::default()
    };
    let builder = Server::builder().workers(1).port(config).limits(limits).dispatch(dispatch);
    let (any, framing) = ("127.0.0.1:0", LengthField::u32_be());
    let server = match dispatch {
        Dispatch::Inline => builder.listen(any, framing, || Echo),
        Dispatch::Threads(_) => builder.listen(any, framing, || PlainEcho),
    };
    let handle = server.start().unwrap();
    let address = handle.local_addrs()[0];
    (handle, address)
}

#[test]
fn a_warm_server_allocates_nothing_for_a_message_and_nothing_for_a_declared_length() {
    let wanted = Config::from_env().unwrap().engine;
    let engines: Vec<Engine> = port::probe()
        .into_iter()
        .filter(|(engine, found)| match wanted {
            EngineChoice::Named(named) => named == *engine,
            EngineChoice::Auto => found.is_ok(),
        })
        .map(|(engine, _)| engine)
        .collect();
    assert!(!engines.is_empty(), "no engine works here");
    for engine in engines {
        messages(engine, Dispatch::Inline);
        messages(engine, Dispatch::Threads(1));
        sends_from_outside(engine);
        declared_lengths(engine);
        idle_sessions(engine);
        // What a connection takes of Windows' port is made with it.
        if engine != Engine::Iocp {
            visits(engine);
        }
    }
}

fn messages(engine: Engine, dispatch: Dispatch) {
    let (handle, address) = start(engine, dispatch);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    // One frame alone, several together, and one that is split over two receive buffers. Each is sent
    // in each way in turn, and has a key of its own where the latest replaces others.
    let mut sent = Vec::new();
    for (len, byte) in [(10_u32, 1), (100, 2), (1000, 3), (5000, 4), (20, 5)] {
        sent.extend_from_slice(&len.to_be_bytes());
        sent.resize(sent.len() + len as usize, byte);
    }
    let mut received = vec![0; sent.len()];
    let mut round = |client: &mut TcpStream| {
        for cut in [sent.len(), 14, 118, 2000] {
            client.write_all(&sent[..cut]).unwrap();
            client.write_all(&sent[cut..]).unwrap();
            client.read_exact(&mut received).unwrap();
            assert!(received == sent);
        }
    };
    assert_quiet(&format!("{engine} {dispatch:?}"), || round(&mut client));
    drop(client);
    finish(&handle);
}

/// What another thread sends, one frame alone and several that its worker may find together.
fn sends_from_outside(engine: Engine) {
    let (handle, address) = start(engine, Dispatch::Inline);
    let mut client = TcpStream::connect(address).unwrap();
    let id = loop {
        if let Some(session) = handle.sessions().unwrap().first() {
            break session.id;
        }
    };
    let body = vec![7; 5000];
    let mut received = vec![0; 4 + body.len()];
    assert_quiet(&format!("{engine}, sent by another thread"), || {
        for lens in [&[10][..], &[5000], &[100, 1000, 0, 20]] {
            lens.iter().for_each(|len| handle.send(id, &body[..*len]).unwrap());
            for len in lens {
                client.read_exact(&mut received[..4 + len]).unwrap();
                assert_eq!(received[..4], (*len as u32).to_be_bytes());
                assert!(received[4..4 + len] == body[..*len]);
            }
        }
    });
    drop(client);
    finish(&handle);
}

/// How the bytes are cut is the system's doing: a cut that has not come up before may still need a block
/// more than the pools have, and on a busy machine new ones come up for long. What a message costs, or
/// every hundredth, every stretch of messages would show.
fn assert_quiet(what: &str, mut round: impl FnMut()) {
    let mut stretch = || {
        let region = Region::new(ALLOCATOR);
        (0..500).for_each(|_| round());
        let change = region.change();
        change.allocations + change.reallocations
    };
    let counts: Vec<usize> = (0..10).map(|_| stretch()).collect();
    let quiet = counts.iter().filter(|count| **count == 0).count();
    assert!(quiet >= 2, "{what}: allocations in stretches of 500 rounds: {counts:?}");
}

/// A header is all that they send; the memory of the process follows what has come, not what was
/// announced.
fn declared_lengths(engine: Engine) {
    let (handle, address) = start(engine, Dispatch::Inline);
    let lengths = [65_535, 60 << 20, (64 << 20) + 1, 1 << 31, u32::MAX];
    let region = Region::new(ALLOCATOR);
    let mut clients = Vec::new();
    for len in lengths {
        for _ in 0..10 {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(&u32::to_be_bytes(len)).unwrap();
            client.write_all(b"a few bytes").unwrap();
            clients.push(client);
        }
    }
    // Frames that are too long end their sessions; the others wait for the rest.
    let seen = || {
        let stats = handle.stats().unwrap();
        (stats.accepted, stats.closed_for(CloseReason::Protocol), stats.bytes_received >= 20 * 15)
    };
    while seen() != (50, 30, true) {
        std::hint::spin_loop();
    }
    let bytes = region.change().bytes_allocated;
    assert!(bytes < 4 << 20, "{engine}: {bytes} bytes for 50 headers");
    drop(clients);
    finish(&handle);
}

/// What the server keeps for each connection that has had one frame answered and is silent since. Tables
/// that double have as many slots for as many sessions more, from one power of two to the next: some slots
/// are for others.
fn idle_sessions(engine: Engine) {
    let (handle, address) = start_with_default_limits(engine);
    let mut clients = Vec::with_capacity(250);
    let mut open_up_to = |count: usize| {
        while clients.len() < count {
            clients.push(visit(address));
        }
    };
    open_up_to(122);
    let region = Region::new(ALLOCATOR);
    open_up_to(250);
    let change = region.change();
    let each = change.bytes_allocated.wrapping_sub(change.bytes_deallocated) as isize / 128;
    let most = match engine {
        Engine::Uring => 310,
        // What the system writes to until the receive that waits has ended belongs to the port there.
        Engine::Iocp => 850,
        _ => 420,
    };
    assert!((1..=most).contains(&each), "{engine}: {each} bytes for an idle session");
    drop(clients);
    finish(&handle);
}

/// Who comes, has one frame answered and goes.
fn visits(engine: Engine) {
    let (handle, address) = start_with_default_limits(engine);
    assert_quiet(&format!("{engine}, visits"), || drop(visit(address)));
    finish(&handle);
}

fn start_with_default_limits(engine: Engine) -> (Handle, SocketAddr) {
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    let builder = Server::builder().workers(1).port(config);
    let server = builder.listen("127.0.0.1:0", LengthField::u32_be(), || PlainEcho);
    let handle = server.start().unwrap();
    let address = handle.local_addrs()[0];
    (handle, address)
}

fn visit(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"\0\0\0\x04body").unwrap();
    let mut received = [0; 8];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, *b"\0\0\0\x04body");
    client
}

fn finish(handle: &Handle) {
    handle.drain(std::time::Duration::from_secs(30));
    let report = handle.join().unwrap();
    assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
}
