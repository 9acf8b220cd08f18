//! `wharf bench chat` and `wharf bench fanout` against a small chat server that is right, and against
//! the same one when it goes wrong.
//!
//! No test looks at how fast anything was: a run is right or wrong, however slow the machine is.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// What the server does wrong with the text of this number in each room, once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// One member does not get it.
    Loses,
    /// One member gets it twice.
    Repeats,
    /// One member gets it before the text that came before it.
    Swaps,
    /// One member gets another byte.
    Alters,
    /// It comes under another's name.
    Renames,
    /// It comes to its own user before the answer.
    AnswersLate,
    /// A login is answered with this.
    RefusesLogin(u16),
    /// A login is not answered, or the connection ended.
    IgnoresLogin,
    EndsAtLogin,
    RefusesText,
    /// No text is answered, and nothing read once there is one.
    StallsAtText,
}

const WRONG_TEXT: u64 = 3;

#[derive(Default)]
struct Room {
    members: Vec<(u64, TcpStream)>,
    texts: u64,
    held_back: Option<Vec<u8>>,
}

type Rooms = Arc<Mutex<HashMap<i32, Room>>>;

fn chat_server(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let rooms = Rooms::default();
    thread::spawn(move || {
        for (id, stream) in (0..).zip(listener.incoming().flatten()) {
            let rooms = Arc::clone(&rooms);
            thread::spawn(move || {
                let _ = serve(&stream, id, &rooms, fault);
                for room in rooms.lock().unwrap().values_mut() {
                    room.members.retain(|member| member.0 != id);
                }
            });
        }
    });
    addr
}

fn packet(id: u16, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(5 + body.len()).unwrap();
    [&len.to_le_bytes()[..], &id.to_le_bytes(), &[0], body].concat()
}

fn serve(mut stream: &TcpStream, id: u64, rooms: &Rooms, fault: Fault) -> std::io::Result<()> {
    let (mut name, mut place) = (Vec::new(), 0);
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let len = u16::from_le_bytes([header[0], header[1]]);
        let mut body = vec![0; usize::from(len) - 5];
        stream.read_exact(&mut body)?;
        match u16::from_le_bytes([header[2], header[3]]) {
            201 => {
                name = body[..33].to_vec();
                let result = match fault {
                    Fault::IgnoresLogin => continue,
                    Fault::EndsAtLogin => return Ok(()),
                    Fault::RefusesLogin(result) => result,
                    _ => 0,
                };
                stream.write_all(&packet(202, &result.to_le_bytes()))?;
            }
            206 => {
                place = i32::from_le_bytes(body.try_into().unwrap());
                let mut rooms = rooms.lock().unwrap();
                stream.write_all(&packet(207, &[0, 0]))?;
                stream.write_all(&packet(209, &[0]))?;
                rooms.entry(place).or_default().members.push((id, stream.try_clone()?));
            }
            215 => {
                let mut rooms = rooms.lock().unwrap();
                rooms.get_mut(&place).unwrap().members.retain(|member| member.0 != id);
                stream.write_all(&packet(216, &[0, 0]))?;
            }
            221 if fault == Fault::StallsAtText => loop {
                thread::park();
            },
            221 => {
                let mut rooms = rooms.lock().unwrap();
                let room = rooms.get_mut(&place).unwrap();
                tell(room, stream, &name, &body, fault)?;
            }
            other => panic!("packet {other}"),
        }
    }
}

/// Answers a text and tells it to every member of the room, more or less.
fn tell(
    room: &mut Room,
    mut from: &TcpStream,
    name: &[u8],
    text: &[u8],
    fault: Fault,
) -> std::io::Result<()> {
    let number = room.texts;
    room.texts += 1;
    let is_wrong = number == WRONG_TEXT;
    let right = packet(223, &[name, text].concat());
    if fault == Fault::RefusesText && is_wrong {
        return from.write_all(&packet(222, &81_u16.to_le_bytes()));
    }
    let answers_late = fault == Fault::AnswersLate && is_wrong;
    if !answers_late {
        from.write_all(&packet(222, &[0, 0]))?;
    }
    let last = room.members.len() - 1;
    for (index, (_, member)) in room.members.iter().enumerate() {
        let mut frame = right.clone();
        if index == last {
            match fault {
                Fault::Swaps if number + 1 == WRONG_TEXT => {
                    room.held_back = Some(frame);
                    continue;
                }
                Fault::Swaps if is_wrong => frame.extend(room.held_back.take().unwrap()),
                Fault::Loses if is_wrong => continue,
                Fault::Repeats if is_wrong => frame.extend_from_within(..),
                Fault::Alters if is_wrong => frame[5 + 33 + 50] ^= 0x01,
                Fault::Renames if is_wrong => frame[5] = b'X',
                _ => {}
            }
        }
        let mut member: &TcpStream = member;
        let _ = member.write_all(&frame);
    }
    if answers_late {
        from.write_all(&packet(222, &[0, 0]))?;
    }
    Ok(())
}

fn bench(kind: &str, addr: SocketAddr, options: &str) -> (i32, Value) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wharf"));
    command.current_dir(std::env::temp_dir());
    command.args(["bench", kind, "--addr", &addr.to_string(), "--warmup", "0", "--json"]);
    command.args(["--size", "60..256"]);
    for (option, usual) in [("--rate", "400"), ("--duration", "300ms"), ("--grace", "20s")] {
        if !options.contains(option) {
            command.args([option, usual]);
        }
    }
    command.args(options.split_whitespace());
    let output = command.output().expect("the program runs");
    let result = serde_json::from_slice(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("no signal"), result.unwrap_or(Value::String(errors)))
}

#[test]
fn a_right_chat_is_right() {
    for (kind, options, users) in [
        ("chat", "--connections 12 --rooms 3", 12),
        ("chat", "--connections 13 --rooms 4 --first-room 7 --arrival even", 13),
        ("fanout", "--connections 20 --talkers 2", 20),
    ] {
        let (status, result) = bench(kind, chat_server(Fault::None), options);
        assert_eq!((status, &result["errors_total"]), (0, &0.into()), "{options}: {result:#}");
        assert_eq!(result["connections_opened"], users, "{options}");
        let verified = result["answers_verified"].as_u64().unwrap();
        // How many is up to the machine.
        assert!(verified > 0, "{options}: {verified}");
        if kind == "fanout" {
            assert_eq!(verified % 20, 0, "each text reaches all");
        }
    }
}

#[test]
fn the_chat_server_is_right() {
    use wharf_chat::{Accounts, Chat, Open, Rate, Settings};
    let settings = Settings {
        rooms: 4,
        room_seats: 60,
        rate: Rate { per_second: 100_000, burst: 100_000 },
        ..Settings::default()
    };
    let chat = Chat::new(settings, Accounts::new(Open));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let builder = wharf::Server::builder().workers(2);
    let server = chat.listen(builder, any, wharf::Limits::default()).unwrap().start().unwrap();
    let addr = server.local_addrs()[0];
    for (kind, options) in [
        ("chat", "--connections 40 --rooms 4"),
        ("chat", "--connections 12 --rooms 3 --stay 50ms --duration 1s"),
        ("fanout", "--connections 50 --talkers 3 --first-room 2"),
    ] {
        let (status, result) = bench(kind, addr, options);
        assert_eq!((status, &result["errors_total"]), (0, &0.into()), "{options}: {result:#}");
        assert!(result["answers_verified"].as_u64() > Some(0), "{options}: {result:#}");
    }
    server.drain(std::time::Duration::from_secs(1));
    assert!(server.join().unwrap().leftover.is_nothing());
}

#[test]
fn users_come_and_go() {
    let options = "--connections 8 --rooms 2 --stay 40ms --duration 1s";
    let (status, result) = bench("chat", chat_server(Fault::None), options);
    assert_eq!((status, &result["errors_total"]), (0, &0.into()), "{result:#}");
}

#[test]
fn each_fault_is_found_and_named() {
    for (fault, kind) in [
        (Fault::Loses, "lost"),
        (Fault::Repeats, "repeated"),
        (Fault::Swaps, "reordered"),
        (Fault::Alters, "altered"),
        (Fault::Renames, "altered"),
        (Fault::AnswersLate, "reordered"),
        (Fault::RefusesText, "refused"),
    ] {
        // Two talkers: order is wrong between users, too, and not only within one.
        let (status, result) =
            bench("chat", chat_server(fault), "--connections 4 --rooms 1 --grace 1s");
        let case = format!("{fault:?}: {result:#}");
        assert_eq!((status, &result["right"]), (1, &false.into()), "{case}");
        assert!(result["errors"][kind].as_u64() > Some(0), "{case}");
        assert!(!result["first_error"].is_null(), "{case}");
    }
}

/// What the load itself cannot put anywhere is no fault of the connection.
#[test]
fn texts_that_a_server_does_not_take_wait_and_count_as_slow() {
    let options = "--connections 2 --rooms 1 --rate 40000 --duration 1s --grace 1s";
    let (status, result) = bench("chat", chat_server(Fault::StallsAtText), options);
    assert_eq!(status, 1, "{result:#}");
    assert!(result["unsent"].as_u64() > Some(1000), "{result:#}");
    assert_eq!(result["errors"]["connection_lost"], 0, "{result:#}");
}

#[test]
fn users_who_may_not_log_in_are_told() {
    for (fault, expected) in [
        (Fault::RefusesLogin(33), "the login was refused: unknown id or wrong password (33)"),
        (Fault::RefusesLogin(63), "the login was refused: too many logins at this time"),
        (Fault::RefusesLogin(99), "the login was refused: a code that the protocol lacks (99)"),
        (Fault::IgnoresLogin, "does not answer: 3 connections wait to be let in"),
        (Fault::EndsAtLogin, "before its login was answered"),
    ] {
        let options = "--connections 3 --rooms 1 --grace 1s";
        let (status, result) = bench("chat", chat_server(fault), options);
        let told = result["error"].as_str().unwrap_or_default();
        assert!(status == 1 && told.contains(expected), "{fault:?}: {result:#}");
        assert!(!told.contains("is a server running"), "{fault:?}: {told}");
    }
}
