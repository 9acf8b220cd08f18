//! `wharf attack`: every kind against a server that stands it, and a server that does not.
//!
//! No test looks at how long anybody waited: only at whether honest users were served.

mod serving;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use serving::{Server, wharf};

/// A server of one worker.
fn start(framing: &str, settings: &[&str]) -> Server {
    Server::start(framing, &[&["--workers", "1"], settings].concat())
}

fn attack(harm: &str, addr: SocketAddr, options: &str) -> (i32, Value) {
    let mut command = wharf();
    command.args(["attack", harm, "--addr", &addr.to_string(), "--json", "--p99-max", "1h"]);
    command.args(["--connections", "20"]);
    if !options.contains("--duration") {
        command.args(["--duration", "500ms"]);
    }
    command.args(options.split_whitespace());
    let output = command.output().expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict = serde_json::from_slice(&output.stdout).unwrap_or(Value::String(errors));
    (output.status.code().expect("no signal"), verdict)
}

/// The server stands it; gives what became of the attackers.
fn check_stands(harm: &str, framing: &str, settings: &[&str]) -> Value {
    let server = start(framing, settings);
    let (status, verdict) = attack(harm, server.addr, &format!("--framing {framing}"));
    assert_eq!((status, &verdict["served"]), (0, &true.into()), "{harm}: {verdict:#}");
    for phase in verdict["honest"].as_array().unwrap() {
        assert_eq!(phase["errors"], 0, "{harm}: {verdict:#}");
        assert!(phase["answers"].as_u64() > Some(0), "{harm}: {verdict:#}");
    }
    let attackers = verdict["attackers"].clone();
    assert!(attackers["begun"].as_u64() >= Some(20), "{harm}: {verdict:#}");
    assert_eq!(attackers["other_errors"].as_object().unwrap().len(), 0, "{harm}: {verdict:#}");
    attackers
}

fn count(attackers: &Value, name: &str) -> u64 {
    attackers[name].as_u64().unwrap_or_else(|| panic!("no {name} in {attackers:#}"))
}

/// One test for each, so that they run at the same time.
macro_rules! stands {
    ($($name:ident($harm:literal, $framing:literal, $settings:expr, $check:expr);)+) => {$(
        #[test]
        fn $name() {
            let check: fn(&Value) -> bool = $check;
            let attackers = check_stands($harm, $framing, &$settings);
            assert!(check(&attackers), "{attackers:#}");
        }
    )+};
}

mod a_server_stands {
    use super::{Value, check_stands, count};

    stands! {
        slow_readers("slow-reader", "study", [], |all| count(all, "bytes_sent") > 100_000);
        slowloris("slowloris", "study", [], |all| count(all, "held") == 20);
        half_open("half-open", "study", ["--limits-first-frame-timeout", "100ms"],
            |all| count(all, "closed_by_server") + count(all, "reset_by_server") > 0);
        reset_storm("reset-storm", "study", [], |all| count(all, "left") > 0);
        garbage("garbage", "study", [],
            |all| count(all, "closed_by_server") + count(all, "reset_by_server") > 0);
        oversize("oversize", "tutorial", [],
            |all| count(all, "closed_by_server") + count(all, "reset_by_server") > 0);
        oversize_lines("oversize", "lines", [],
            |all| count(all, "closed_by_server") + count(all, "reset_by_server") > 0);
        zero_length("zero-length", "u32be", [], |all| count(all, "bytes_sent") > 10_000);
        fragments("fragments", "study", [], |all| count(all, "bytes_received") > 0);
        login_cut("login-cut", "tutorial", [], |all| count(all, "left") > 0);
        churn("churn", "study", [], |all| count(all, "left") > 20);
        connect_flood("connect-flood", "study", [], |all| count(all, "held") == 20);
    }
}

/// Echoes in the `study` format until one client breaks it. Then it serves nobody any more, or, if it
/// lies, alters every tenth answer.
fn fragile_server(lies: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let is_broken = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let is_broken = Arc::clone(&is_broken);
            thread::spawn(move || echo(&stream, &is_broken, lies));
        }
    });
    addr
}

fn echo(mut stream: &TcpStream, is_broken: &AtomicBool, lies: bool) -> std::io::Result<()> {
    for count in 1.. {
        let mut frame = vec![0; 12];
        stream.read_exact(&mut frame)?;
        let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        if len > 8192 {
            is_broken.store(true, Ordering::Relaxed);
            break;
        }
        frame.resize(12 + len, 0);
        stream.read_exact(&mut frame[12..])?;
        match is_broken.load(Ordering::Relaxed) {
            true if !lies => break,
            true if count % 10 == 0 => frame[20] ^= 1,
            _ => {}
        }
        stream.write_all(&frame)?;
    }
    Ok(())
}

#[test]
fn a_server_that_falls_is_seen_to_fall() {
    let (status, verdict) = attack("garbage", fragile_server(false), "");
    assert_eq!((status, &verdict["served"]), (1, &false.into()), "{verdict:#}");
    let during = &verdict["honest"][1];
    assert!(during["errors"].as_u64() > Some(0) || during["failed"].is_string(), "{verdict:#}");
    // Where it does not fall, the same attackers are no reason.
    let (status, verdict) = attack("fragments", fragile_server(false), "");
    assert_eq!((status, &verdict["served"]), (0, &true.into()), "{verdict:#}");
}

#[test]
fn one_wrong_answer_is_harm() {
    let (status, verdict) = attack("garbage", fragile_server(true), "--duration 2s");
    assert_eq!((status, &verdict["served"]), (1, &false.into()), "{verdict:#}");
    let during = &verdict["honest"][1];
    assert!(during["errors"].as_u64() > Some(0) && during["failed"].is_null(), "{verdict:#}");
    assert!(during["users"]["p99"].is_u64() && during["newcomers"]["p99"].is_u64(), "{verdict:#}");
}

#[test]
fn waiting_that_an_attack_did_not_bring_is_not_blamed_on_it() {
    let server = start("study", &[]);
    let mut command = wharf();
    let addr = server.addr.to_string();
    command.args(["attack", "half-open", "--addr", &addr, "--duration", "300ms"]);
    // Nobody answers within nothing.
    let output = command.args(["--p99-max", "0"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expected in ["Nothing is told of the attack", "waited longer", "before", "during", "after"]
    {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}");
    }
}

#[test]
fn what_is_not_to_be_attacked_is_not() {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let stranger = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    for (harm, addr, options, expected) in [
        ("garbage", stranger, "", "--i-own-this-server"),
        ("login-cut", nowhere, "--framing study", "only tutorial framing has a login"),
        ("oversize", nowhere, "--framing raw", "raw framing has no messages"),
        ("flood", nowhere, "", "connect-flood"),
        ("churn", nowhere, "--rate 1000000", "--rate"),
    ] {
        let (status, told) = attack(harm, addr, options);
        assert_eq!(status, 2, "{harm}: {told:#}");
        let told = told.as_str().unwrap_or_default();
        assert!(told.contains(expected), "{harm}: {told}");
    }
    let mut command = wharf();
    let output = command.args(["attack", "churn", "--duration", "11m"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let (status, told) = attack("churn", nowhere, "");
    assert_eq!(status, 1);
    assert_eq!(told["served"], false, "{told:#}");
    assert!(told["error"].as_str().unwrap().contains("even without an attack"), "{told:#}");
}
