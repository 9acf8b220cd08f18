//! `wharf bench arena` against the example `arena`, and against servers that go wrong.
//!
//! No test looks at how fast anything was: a run is right or wrong, however slow the machine is.

#[expect(dead_code, reason = "the example's own main and what it says of itself are not needed")]
#[path = "../../../examples/examples/arena.rs"]
mod arena;
#[expect(dead_code, reason = "the server here is another one")]
mod serving;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use wharf::packet::Packet;

use arena::{Entered, Position, Walk};

/// The result and whether the load found it right.
fn bench(addr: SocketAddr, options: &[&str]) -> (bool, Value) {
    let mut command = serving::wharf();
    command.args(["bench", "arena", "--json", "--warmup", "200ms", "--addr", &addr.to_string()]);
    let output = command.args(options).output().unwrap();
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), json)
}

#[test]
fn walkers_see_the_arena_as_it_is_and_many_positions_leave_in_one_send() {
    let handle = arena::start("127.0.0.1:0").unwrap();
    // Under Wine, beside other work, a walker may read so slowly that it is cut off: fewer see fewer.
    let walkers = if cfg!(windows) { 300 } else { 500 };
    let count = walkers.to_string();
    let options = ["--connections", &count, "--rate", "500", "--duration", "3s", "--grace", "30s"];
    let (is_right, json) = bench(handle.local_addrs()[0], &options);
    assert!(is_right, "{json:#}");
    handle.drain(Duration::from_secs(5));
    let stats = handle.join().unwrap().stats;
    assert_eq!(stats.accepted, walkers);
    assert!(stats.frames_sent > 2 * stats.sends, "{stats:?}");
    // Their own positions alone would be as many as there are ticks.
    let verified = json["answers_verified"].as_u64().unwrap();
    assert!(verified > 500, "{json:#}");
}

/// What a server does wrong in its fifth tick.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    GoesBack,
    Repeats,
    /// Somebody is seen in an area where the walker is not.
    ShowsAnotherArea,
    /// An area is seen before the walker is in it.
    ShowsTooEarly,
    KnowsTurnsThatNobodyMade,
    ForgetsTurns,
    CutsPositions,
    SendsSomethingElse,
}

/// A server that goes wrong, of one thread for each walker.
fn server(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (player, stream) in (0..).zip(listener.incoming().flatten()) {
            thread::spawn(move || serve(stream, player, fault));
        }
    });
    addr
}

fn frame<P: Packet>(packet: &P) -> Vec<u8> {
    raw(P::ID, &packet.to_vec())
}

fn raw(id: u32, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], &id.to_le_bytes(), &[0; 4], body].concat()
}

fn serve(mut stream: TcpStream, player: u32, fault: Fault) -> std::io::Result<()> {
    let known = Arc::new(AtomicU32::new(0));
    let (mut reading, turns) = (stream.try_clone()?, Arc::clone(&known));
    thread::spawn(move || {
        let mut walk = [0; 12 + Walk::BODY_BYTES_MAX];
        while reading.read_exact(&mut walk).is_ok() {
            turns.store(Walk::decode(&walk[12..]).unwrap().turn, Ordering::Relaxed);
        }
    });
    let enter = |tick, area| frame(&Entered { player, tick, area });
    stream.write_all(&enter(1, 7))?;
    for tick in 2.. {
        let turn = known.load(Ordering::Relaxed);
        let mut position = Position { player, turn, tick, area: 7, x: 0, y: 0 };
        let mut bytes = Vec::new();
        match fault {
            Fault::ForgetsTurns => position.turn = 0,
            _ if tick != 5 => {}
            Fault::None => {
                // Out and in again between two positions is no fault.
                bytes = [enter(3, 8), enter(4, 7)].concat();
            }
            Fault::GoesBack => position.tick = 3,
            Fault::Repeats => bytes = frame(&position),
            Fault::ShowsAnotherArea => {
                bytes = frame(&Position { player: player + 1000, area: 8, ..position });
            }
            Fault::ShowsTooEarly => {
                let late = Position { player: player + 1000, area: 8, tick: 4, ..position };
                bytes = [enter(5, 8), frame(&late), enter(6, 7)].concat();
                position.tick = 6;
            }
            Fault::KnowsTurnsThatNobodyMade => position.turn += 1_000_000,
            Fault::CutsPositions => bytes = raw(Position::ID, &position.to_vec()[1..]),
            Fault::SendsSomethingElse => bytes = raw(9, b"?"),
        }
        bytes.extend(frame(&position));
        stream.write_all(&bytes)?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Each against a server of its own, and all at the same time: most of a run is waiting.
#[test]
fn what_an_arena_does_wrong_is_told_apart() {
    let faults = [
        (Fault::None, None),
        (Fault::GoesBack, Some("reordered")),
        (Fault::Repeats, Some("repeated")),
        (Fault::ShowsAnotherArea, Some("unasked")),
        (Fault::ShowsTooEarly, Some("unasked")),
        (Fault::KnowsTurnsThatNobodyMade, Some("unasked")),
        (Fault::ForgetsTurns, Some("lost")),
        (Fault::CutsPositions, Some("wrong_length")),
        (Fault::SendsSomethingElse, Some("wrong_id")),
    ];
    thread::scope(|scope| {
        for (fault, expected) in faults {
            scope.spawn(move || is_found(fault, expected));
        }
    });
}

fn is_found(fault: Fault, expected: Option<&str>) {
    // What is lost is waited for so long; nobody waits for what is right, however busy the machine is.
    let grace = if expected.is_none() { "30s" } else { "1s" };
    let options = ["--connections", "3", "--rate", "30", "--duration", "500ms", "--grace", grace];
    let (is_right, json) = bench(server(fault), &options);
    assert_eq!(is_right, expected.is_none(), "{fault:?}: {json:#}");
    if let Some(expected) = expected {
        assert!(json["errors"][expected].as_u64() > Some(0), "{fault:?}: {:#}", json["errors"]);
    }
}
