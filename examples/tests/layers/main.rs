//! Step 12: which layer may know which, and one content under several networks and hosts.

#![cfg(any(unix, windows))]

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step12_layers/main.rs"]
mod step12;

mod bidders;

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use wharf::{Builder, Dispatch, testing::for_seeds};

fn compose(chat: &str, auction: &str) -> Builder {
    step12::compose(chat.parse().unwrap(), auction.parse().unwrap()).unwrap().0
}

#[test]
fn step_12_the_auction_is_right_on_workers_and_on_logic_threads() {
    for dispatch in [Dispatch::Inline, Dispatch::Threads(2)] {
        for_seeds(0..50, |seed| {
            let server = compose("127.0.0.1:11021", bidders::AUCTION);
            bidders::check(server.dispatch(dispatch), seed);
        });
    }
}

/// On real sockets, so that nothing of this repository reads the bytes on the other side.
#[test]
fn step_12_one_server_has_a_chat_and_an_auction() {
    let server = compose("127.0.0.1:0", "127.0.0.1:0").workers(2).start().unwrap();
    let [chat, auction] = server.local_addrs()[..] else { panic!("two listeners") };
    let connect = |address| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let read = |stream: &mut TcpStream, bytes: usize| {
        let mut answer = vec![0; bytes];
        stream.read_exact(&mut answer).unwrap();
        answer
    };
    let mut login = b"\x47\0\xc9\0\0user0".to_vec();
    login.resize(5 + 33, 0);
    login.extend_from_slice(b"pw");
    login.resize(5 + 66, 0);
    let mut stream = connect(chat);
    stream.write_all(&login).unwrap();
    assert_eq!(read(&mut stream, 7), b"\x07\0\xca\0\0\0\0", "logged in");

    let mut stream = connect(auction);
    assert_eq!(read(&mut stream, 9), b"\x09\0\x2f\x01\0\0\0\0\0", "nobody has bid");
    stream.write_all(b"\x09\0\x2d\x01\0\x07\0\0\0").unwrap();
    let told = b"\x07\0\x2e\x01\0\0\0\x09\0\x2f\x01\0\x07\0\0\0";
    assert_eq!(read(&mut stream, told.len()), told, "it is ours, for seven");
    // The auction's own limit: the chat takes frames of this length.
    stream.write_all(b"\x00\x01\x2d\x01\0").unwrap();
    let (mut rest, patience) = (Vec::new(), [ErrorKind::WouldBlock, ErrorKind::TimedOut]);
    let ended = stream.read_to_end(&mut rest).map_err(|error| error.kind());
    assert!(!ended.is_err_and(|kind| patience.contains(&kind)), "it goes on");
    server.drain(Duration::from_secs(5));
    assert!(server.join().unwrap().leftover.is_nothing());
}

/// The project's own crates that a crate needs to run.
fn needs(package: &str) -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(package);
    let text = fs::read_to_string(manifest.join("Cargo.toml")).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).expect("a table of dependencies");
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| Some(line.split_once([' ', '.', '='])?.0.to_owned()));
    names.filter(|name| name.starts_with("wharf")).collect()
}

#[test]
fn step_12_each_layer_knows_those_below_it_alone() {
    let layers: [(&str, &[&str]); 4] = [
        ("wharf-port", &[]),
        ("wharf", &["wharf-port"]),
        ("wharf-chat", &["wharf"]),
        ("wharf-cli", &["wharf", "wharf-chat"]),
    ];
    for (package, below) in layers {
        let below: BTreeSet<String> = below.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(needs(package), below, "{package}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let content = folder.join("examples/step12_layers/auction.rs");
    let content = fs::read_to_string(content).unwrap();
    for stranger in ["std::net", "std::thread", "std::sync", "wharf::port", "wharf_port", "Server"]
    {
        assert!(!content.contains(stranger), "a content that knows of {stranger}");
    }
}
