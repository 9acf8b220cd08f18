//! The load generator notices what it is there to notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

/// Serves every connection on a thread of its own until the test ends.
fn serve(handle: fn(TcpStream) -> std::io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
    addr
}

fn load(addr: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wharf-bench"))
        .args(["load", "--addr", &addr.to_string(), "--connections", "3", "--depth", "2"])
        .args(["--duration", "0.3", "--warmup", "0.1", "--core", "0"])
        .args(arguments)
        .output()
        .unwrap()
}

fn report(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A server as wharf is in `study`: the session field is its own.
fn study_echo(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut header = [0; 12];
        stream.read_exact(&mut header)?;
        let length = u32::from_le_bytes(header[..4].try_into().unwrap());
        let id = u32::from_le_bytes(header[4..8].try_into().unwrap());
        assert_eq!(id, 1);
        let mut frame = header.to_vec();
        frame.resize(12 + length as usize, 0);
        stream.read_exact(&mut frame[12..])?;
        frame[8..12].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
        stream.write_all(&frame)?;
    }
}

#[test]
fn a_study_server_may_overwrite_the_session_field() {
    let output = load(serve(study_echo), &["--framing", "study", "--size", "700"]);
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["errors"], 0);
    assert_eq!(report["wire_bytes_per_message"], 712);
    assert!(report["messages"].as_u64().unwrap() > 0);
}

#[test]
fn one_wrong_byte_is_noticed() {
    let flips_a_bit = serve(|mut stream| {
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            buffer[read / 2] ^= 0x10;
            stream.write_all(&buffer[..read])?;
        }
    });
    let output = load(flips_a_bit, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("wrong bytes in the answer"), "{text}");
}

#[test]
fn one_bad_connection_among_good_ones_is_an_error() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static FIRST: AtomicBool = AtomicBool::new(true);
    let addr = serve(|mut stream| {
        let mut left = if FIRST.swap(false, Ordering::Relaxed) { 10 } else { usize::MAX };
        let mut buffer = [0; 4096];
        while left > 0 {
            let read = stream.read(&mut buffer)?;
            stream.write_all(&buffer[..read])?;
            left -= 1;
        }
        Ok(())
    });
    let output = load(addr, &[]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["errors"], 1);
    assert_eq!(report["starved_connections"], 1);
}

#[test]
fn more_bytes_than_were_asked_for_are_an_error() {
    let addr = serve(|mut stream| {
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer)?;
            stream.write_all(&buffer[..read])?;
            stream.write_all(&[0; 1000])?;
        }
    });
    let output = load(addr, &[]);
    assert!(!output.status.success());
}
