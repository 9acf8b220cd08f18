//! Every peer of the fan-out is a room that works, and the members notice one that does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

const TEXT_BYTES: usize = 256;

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_wharf-bench"))
}

struct Peer {
    child: Child,
    addr: SocketAddr,
}

impl Peer {
    fn start(name: &str) -> Peer {
        let mut command = bench();
        command.args(["fan-peer", name, "127.0.0.1:0", "0"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("ready ").unwrap().parse().unwrap();
        Peer { child, addr }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(addr: SocketAddr, members: usize, talkers: usize, depth: usize) -> Value {
    let output = bench()
        .args(["fan-load", "--addr", &addr.to_string(), "--duration", "0.2", "--warmup", "0.1"])
        .args(["--members", &members.to_string(), "--talkers", &talkers.to_string()])
        .args(["--depth", &depth.to_string(), "--core", "0"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.success(), report["errors"] == 0, "{report}");
    report
}

#[test]
fn every_peer_delivers_every_text_to_everybody_in_order() {
    for name in ["floor", "tokio-channels", "tokio-broadcast"] {
        let peer = Peer::start(name);
        for (members, talkers, depth) in [(1, 1, 1), (30, 1, 16), (40, 16, 1), (300, 16, 4)] {
            let report = load(peer.addr, members, talkers, depth);
            assert_eq!(report["errors"], 0, "{name}: {report}");
            let all = report["deliveries_in_all"].as_u64().unwrap();
            assert!(all > 0 && all.is_multiple_of(members as u64), "{name}: {report}");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// One member gets another byte.
    Alters,
    /// One member gets a text twice.
    Repeats,
    /// One member does not get a text.
    Loses,
    /// One member gets two texts in the other order.
    Swaps,
    Closes,
}

/// A room of one thread for each member, which goes wrong with its tenth text.
fn room(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let members: Arc<Mutex<(Vec<TcpStream>, Vec<u8>)>> = Arc::default();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let members = Arc::clone(&members);
            members.lock().unwrap().0.push(stream.try_clone().unwrap());
            stream.write_all(b"+").unwrap();
            thread::spawn(move || {
                let mut text = vec![0; TEXT_BYTES];
                for number in 0.. {
                    if stream.read_exact(&mut text).is_err() {
                        return;
                    }
                    relay(&mut members.lock().unwrap(), number, &text, fault);
                }
            });
        }
    });
    addr
}

fn relay(room: &mut (Vec<TcpStream>, Vec<u8>), number: usize, text: &[u8], fault: Fault) {
    let (members, held_back) = room;
    for (member, mut stream) in members.iter().enumerate() {
        let mut bytes = text.to_vec();
        match fault {
            Fault::Swaps if (member, number) == (2, 11) => bytes.append(held_back),
            _ if (member, number) != (2, 10) => {}
            Fault::None => {}
            Fault::Alters => bytes[100] ^= 1,
            Fault::Repeats => bytes.extend_from_slice(text),
            Fault::Loses => bytes.clear(),
            Fault::Swaps => held_back.append(&mut bytes),
            Fault::Closes => drop(stream.shutdown(std::net::Shutdown::Both)),
        }
        let _ = stream.write_all(&bytes);
    }
}

#[test]
fn a_delivery_that_is_wrong_or_missing_is_noticed() {
    for (fault, expected) in [
        (Fault::None, None),
        (Fault::Alters, Some("was due")),
        (Fault::Repeats, Some("was due")),
        (Fault::Loses, Some("was due")),
        (Fault::Swaps, Some("was due")),
        (Fault::Closes, Some("member 2")),
    ] {
        let report = load(room(fault), 4, 1, 4);
        assert_eq!(report["errors"], u64::from(expected.is_some()), "{fault:?}: {report}");
        if let Some(expected) = expected {
            let error = report["first_error"].as_str().unwrap();
            assert!(error.contains(expected), "{fault:?}: {error}");
        }
    }
}

/// The last of all is lost: nothing comes behind it that would show that.
#[test]
fn what_never_comes_is_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let streams: Vec<TcpStream> = (0..2)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"+").unwrap();
                stream
            })
            .collect();
        thread::park();
        drop(streams);
    });
    let report = load(addr, 2, 1, 1);
    let error = report["first_error"].as_str().unwrap();
    assert!(error.contains("2 deliveries have not come"), "{error}");
}
