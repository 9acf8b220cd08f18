//! What no load, attack or client can do is told: wrong usage at once and with status 2, a server that
//! is none with status 1. Nothing hangs and nothing panics.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

/// Exit status, standard output, standard error; what is typed is the password of a chat.
fn run(line: &str) -> (i32, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wharf"));
    command.current_dir(std::env::temp_dir()).env_remove("WHARF_CONFIG");
    command.args(line.split_whitespace());
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = piped.spawn().expect("the program runs");
    // Whoever refuses the options reads nothing.
    let _ = program.stdin.take().unwrap().write_all(b"pw\n");
    let output = program.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status.code().expect("no signal");
    (status, text(output.stdout), text(output.stderr))
}

#[test]
fn absurd_numbers_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let nan = file("nan.toml", "[[group]]\nkind = \"connect\"\nrate = nan\n");
    let nobody = file("nobody.toml", "[[group]]\nkind = \"chat\"\ntalkers = 0\n");
    let endless = file("endless.toml", "duration = \"1e9days\"\n[[group]]\nkind = \"idle\"\n");
    let mix = |file: &str| format!("bench mix {file}");
    for (line, expected) in [
        ("bench echo --connections 0", "from 1 to 1,000,000"),
        ("bench echo --connections 18446744073709551616", "from 1 to 1,000,000"),
        ("bench echo --connections=-1", "--connections"),
        ("bench echo --connections NaN", "from 1 to 1,000,000"),
        ("bench echo --duration 0", "--duration must be above 0"),
        ("bench echo --duration=-5s", "--duration"),
        ("bench echo --duration 18446744073709551615", "30 days at most"),
        ("bench echo --duration NaN", "a duration such as"),
        ("bench echo --warmup 500000years", "30 days at most"),
        ("bench echo --grace 18446744073709551615s", "30 days at most"),
        ("bench echo --repeats 0", "--repeats"),
        ("bench echo --workers 0", "--workers"),
        ("bench echo --sources 0", "--sources"),
        ("bench echo --pid 4294967295", "--pid 4294967295: "),
        ("bench echo --depth 0", "from 1 to 65,536"),
        ("bench echo --size 18446744073709551616", "a size such as"),
        ("bench echo --size 1GiB --connections 100", "more than 8 GiB under way"),
        ("bench echo --rate NaN", "messages per second"),
        ("bench echo --rate 0..5", "messages per second"),
        ("bench echo --rate 1e9", "messages per second"),
        ("bench echo --framing morse", "invalid value 'morse'"),
        ("bench echo --addr nowhere", "not a host and a port"),
        ("bench echo --fail-on p99=+NaN% --baseline x", "--fail-on"),
        ("bench connect --rate NaN", "a number above 0"),
        ("bench connect --rate 0", "a number above 0"),
        ("bench connect --messages 65537", "from 0 to 65,536"),
        ("bench chat --rooms 0", "--rooms"),
        ("bench chat --rooms 51", "50 users cannot be in 51 rooms"),
        ("bench chat --first-room 2147483647", "no numbers for 10 rooms"),
        ("bench chat --stay 0", "--stay must be above 0"),
        ("bench chat --size 16", "a text has 32 to 256 bytes"),
        ("bench chat --framing study", "the chat speaks tutorial framing"),
        ("bench fanout --talkers 51", "--talkers 51 of 50 users"),
        ("bench arena --framing lines", "the arena speaks study framing"),
        (&mix(&nan), "`rate`: expected a number above 0"),
        (&mix(&nobody), "--talkers 0 of 50 users"),
        (&mix(&endless), "duration: expected"),
        (&mix("nowhere.toml"), "cannot read nowhere.toml"),
        ("attack garbage --connections 0", "--connections"),
        ("attack garbage --rate 0", "--rate"),
        ("attack garbage --duration 0", "a time above 0"),
        ("attack garbage --duration 18446744073709551615", "10 minutes at most"),
        ("attack garbage --p99-max NaN", "a duration such as"),
        ("attack garbage --p99-max 500000years", "1 hour at most"),
        ("attack garbage --sources 0", "--sources"),
        ("attack garbage --framing morse", "invalid value 'morse'"),
        ("attack garbage --addr 9000", "not a host and a port"),
        ("chat", "--user"),
        ("chat --user=", "at least one character"),
        ("chat --user a-name-that-is-longer-than-a-login-can-say", "field for 32"),
        ("chat --user a --addr 127.0.0.1:65536", "not a host and a port"),
    ] {
        let (status, output, error) = run(line);
        assert_eq!((status, &*output), (2, ""), "{line}: {error}");
        assert!(error.contains(expected), "{line}: {expected:?} is missing in\n{error}");
        assert!(!error.contains("panicked"), "{line}: {error}");
    }
}

#[test]
fn a_result_that_nobody_could_read_is_not_begun() {
    for option in ["--report", "--hdr"] {
        let line = format!("bench echo --duration 1h {option} no/such/folder/file");
        let (status, output, error) = run(&line);
        assert_eq!((status, &*output), (1, ""), "{error}");
        assert!(error.contains("cannot write no/such/folder/file"), "{error}");
    }
}

/// What somebody does who is no server for this.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    ClosesAtOnce,
    SendsGarbage,
    SaysNothing,
}

fn stranger(kind: Stranger) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let meet = move |mut stream: TcpStream| match kind {
        Stranger::ClosesAtOnce => {}
        Stranger::SaysNothing => drop(std::io::copy(&mut stream, &mut std::io::sink())),
        Stranger::SendsGarbage => {
            let mut bytes = [0; 4096];
            while stream.write_all(&[0xA5; 4096]).is_ok() {
                if stream.read(&mut bytes).is_ok_and(|read| read == 0) {
                    break;
                }
            }
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || meet(stream));
        }
    });
    addr
}

#[test]
fn whoever_is_no_server_is_told_from_one() {
    let loads = "--connections 3 --warmup 0 --grace 300ms --json --duration";
    thread::scope(|scope| {
        for kind in [Stranger::ClosesAtOnce, Stranger::SendsGarbage, Stranger::SaysNothing] {
            for what in ["echo", "echo --rate 1e8", "connect", "idle", "chat --rooms 1", "arena"] {
                let line = format!("bench {what} --addr {} {loads} 300ms", stranger(kind));
                scope.spawn(move || {
                    let (status, output, error) = run(&line);
                    assert_eq!(status, 1, "{kind:?}, {line}: {output}{error}");
                    assert!(!error.contains("panicked"), "{kind:?}, {line}: {error}");
                    let result: serde_json::Value = serde_json::from_str(&output).unwrap();
                    assert_eq!(result["right"], false, "{kind:?}, {line}: {result:#}");
                });
            }
            let line = format!("attack churn --addr {} --duration 300ms", stranger(kind));
            scope.spawn(move || {
                let (status, output, error) = run(&line);
                assert_eq!((status, &*output), (1, ""), "{kind:?}: {error}");
                assert!(error.contains("even without an attack"), "{kind:?}: {error}");
            });
        }
        for kind in [Stranger::ClosesAtOnce, Stranger::SendsGarbage] {
            let line = format!("chat --user a --addr {}", stranger(kind));
            scope.spawn(move || {
                let (status, output, error) = run(&line);
                assert_eq!((status, &*output), (1, ""), "{kind:?}: {error}");
                assert!(error.contains("no chat at 127.0.0.1:"), "{kind:?}: {error}");
            });
        }
    });
}
