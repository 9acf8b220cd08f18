//! `wharf bench echo` against a right server and against wrong ones.
//!
//! No test looks at how fast anything was: a run is right or wrong, however slow the machine is.

mod serving;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
#[cfg(unix)]
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::Value;
use serving::{Server, wharf};
use socket2::{Domain, Socket, Type};

/// Runs the load to its end and gives exit status, standard output, standard error.
fn bench(addr: SocketAddr, options: &str) -> (i32, String, String) {
    bench_kind("echo", addr, options)
}

fn bench_kind(kind: &str, addr: SocketAddr, options: &str) -> (i32, String, String) {
    let mut command = wharf();
    command.args(["bench", kind, "--addr", &addr.to_string(), "--warmup", "0"]);
    if !options.contains("--duration") {
        command.args(["--duration", "50ms"]);
    }
    command.args(options.split_whitespace());
    let output = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

/// Runs the load with `--json`; the exit status and the result.
fn bench_json(addr: SocketAddr, options: &str) -> (i32, Value) {
    bench_kind_json("echo", addr, options)
}

fn bench_kind_json(kind: &str, addr: SocketAddr, options: &str) -> (i32, Value) {
    let (status, output, errors) = bench_kind(kind, addr, &format!("{options} --json"));
    let result = serde_json::from_str(&output);
    (status, result.unwrap_or_else(|error| panic!("{error} in {output:?}, {errors:?}")))
}

// ---- a right server -----------------------------------------------------------------------------

/// Every answer is right, and there are at least as many as every connection begins with.
fn check_right(framing: &str, sizes: &[usize]) {
    let server = Server::start(framing, &["--workers", "2"]);
    for connections in [1, 50] {
        for depth in [1, 16] {
            for size in sizes {
                let options = format!(
                    "--framing {framing} --connections {connections} --depth {depth} --size {size}"
                );
                let (status, result) = bench_json(server.addr, &options);
                assert_eq!(status, 0, "{options}: {result:#}");
                assert_eq!(result["right"], true, "{options}: {result:#}");
                assert_eq!(result["errors_total"], 0, "{options}: {result:#}");
                assert_eq!(result["connections_opened"], connections, "{options}");
                assert_eq!(result["settings"]["size_bytes"], *size, "{options}");
                let verified = result["answers_verified"].as_u64().expect("a number");
                assert!(verified > 0, "{options}: a busy machine answers few, but some");
            }
        }
    }
}

/// One test for each framing, so that they run at the same time.
macro_rules! right {
    ($($framing:ident $sizes:expr;)+) => {$(
        #[test]
        fn $framing() {
            check_right(stringify!($framing), &$sizes);
        }
    )+};
}

mod every_byte_is_right_in {
    use super::check_right;

    right! {
        study [0, 1, 64, 4096, 8192];
        tutorial [0, 1, 64, 4096, 8192];
        u16be [0, 1, 64, 4096, 8192];
        u32be [0, 1, 64, 4096, 8192];
        u16le [0, 1, 64, 4096, 8192];
        u32le [0, 1, 64, 4096, 8192];
        lines [0, 1, 64, 4096, 8192];
        raw [1, 64, 4096, 8192];
    }
}

#[test]
fn more_may_be_under_way_than_the_server_queues() {
    let server = Server::start("study", &["--limits-frame-bytes-max", "256KiB"]);
    let (status, result) =
        bench_json(server.addr, "--connections 3 --depth 16 --size 200KiB --grace 60s");
    assert_eq!(status, 0, "{result:#}");
}

#[test]
fn an_open_loop_sends_what_was_asked_for() {
    let server = Server::start("study", &["--workers", "2"]);
    for (rate, arrival, depth) in [
        ("500", "poisson", 1),
        ("500", "even", 64),
        ("200..800", "even", 64),
        ("300,700", "even", 9),
    ] {
        let options = format!(
            "--rate {rate} --arrival {arrival} --depth {depth} --size 1..2KiB --connections 5 \
             --duration 1s --grace 60s"
        );
        let (status, result) = bench_json(server.addr, &options);
        assert_eq!(status, 0, "{options}: {result:#}");
        assert_eq!(result["closed_loop"], false, "{options}");
        // What was meant for the measured time has a latency, whether it was answered in it or not.
        let count = |name: &str| result[name].as_u64().expect("a number");
        let sent = count("answers_verified") + count("unsent");
        assert!((350..=700).contains(&sent), "{options}: {result:#}");
        assert!(result["latency_ns"]["p50"].as_u64() > Some(0), "{options}: {result:#}");
        let steps = result["steps"].as_array().unwrap();
        assert_eq!(steps.len(), if rate.contains(',') { 2 } else { 0 }, "{options}");
        if let [first, second] = &steps[..] {
            let asked = |step: &Value| step["asked_per_second"].as_f64().unwrap();
            assert!((asked(first) - 300.0).abs() < 40.0, "{result:#}");
            assert!((asked(second) - 700.0).abs() < 60.0, "{result:#}");
        }
    }
}

/// Takes the connection and everything that comes on it, and answers nothing.
fn mute_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    addr
}

#[test]
fn messages_that_could_not_be_sent_count_as_slow() {
    // One under way each; what is meant to follow waits until the end.
    let options = "--rate 2000 --arrival even --depth 1 --connections 4 --duration 1s --grace 50ms";
    let (status, result) = bench_json(mute_server(), options);
    assert_eq!((status, &result["errors"]["lost"]), (1, &4.into()), "{result:#}");
    let unsent = result["unsent"].as_u64().unwrap();
    assert!((1900..=2000).contains(&unsent), "{result:#}");
    let median = result["latency_ns"]["p50"].as_u64().unwrap();
    assert!((400_000_000..600_000_000).contains(&median), "half of a second: {result:#}");
}

#[test]
fn visits_come_and_go() {
    let server = Server::start("study", &["--workers", "2"]);
    let several = "--messages 3 --duration 1s"; // Wine's first fifty take a while
    for options in [several, "--messages 0", "--rate 100 --connections 7", "--sources 3"] {
        if options == "--sources 3" && !cfg!(target_os = "linux") {
            continue; // other systems do not have all of 127.0.0.0/8
        }
        let (status, result) = bench_kind_json("connect", server.addr, options);
        assert_eq!(status, 0, "{options}: {result:#}");
        let opened = result["connections_opened"].as_u64().unwrap();
        assert!(opened > 0, "{options}: {result:#}");
        if options == several {
            assert!(opened > 50, "more than at one time: {result:#}");
            assert!(result["answers_verified"].as_u64().unwrap() <= 3 * opened, "{result:#}");
        }
    }
    let addr = wrong_server(Fault::Alters, 1);
    let (status, result) = bench_kind_json("connect", addr, "--messages 3 --connections 2");
    assert_eq!(status, 1, "{result:#}");
    assert!(result["errors"]["altered"].as_u64() > Some(0), "{result:#}");
}

/// A visit that is still on its way in when the load ends is nobody's fault: a queue of accepted
/// connections that is full lets the first two in and leaves the others waiting.
#[test]
#[cfg(target_os = "linux")]
fn visits_that_the_end_finds_under_way_are_no_errors() {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    full.listen(1).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let (status, result) = bench_kind_json("connect", addr, "--messages 0 --connections 6");
    assert_eq!((status, &result["errors_total"]), (0, &0.into()), "{result:#}");
    assert!((1..6).contains(&result["connections_opened"].as_u64().unwrap()), "{result:#}");
}

/// Answers the first message of each connection and closes it.
fn closing_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut frame = [0; 12 + 64];
            let _ = stream.read_exact(&mut frame).and_then(|()| stream.write_all(&frame));
        }
    });
    addr
}

#[test]
fn idle_connections_are_held_and_missed_when_they_end() {
    let server = Server::start("study", &["--limits-first-frame-timeout", "10s"]);
    let (status, result) = bench_kind_json("idle", server.addr, "--connections 300");
    assert_eq!((status, &result["answers_verified"]), (0, &300.into()), "{result:#}");
    if cfg!(target_os = "linux") {
        assert_eq!(result["server"]["pid"], server.process.id(), "found by its port");
        assert!(result["server"]["resident_bytes"].as_u64() > Some(0), "{result:#}");
    }
    let (status, result) = bench_kind_json("idle", server.addr, "--connections 5 --messages 0");
    assert_eq!((status, &result["answers_verified"]), (0, &0.into()), "{result:#}");
    assert_eq!(result["connections_opened"], 5, "{result:#}");
    // Answers one message and closes: an hour ends as soon as nothing is left to hold.
    let addr = closing_server();
    let (status, result) = bench_kind_json("idle", addr, "--connections 3 --duration 1h");
    assert_eq!((status, &result["errors"]["connection_lost"]), (1, &3.into()), "{result:#}");
}

#[test]
fn repeats_have_medians_and_a_spread() {
    let server = Server::start("study", &["--workers", "2"]);
    let (status, result) = bench_json(server.addr, "--repeats 3 --connections 2 --duration 200ms");
    assert_eq!(status, 0, "{result:#}");
    assert_eq!(result["repeats"].as_array().unwrap().len(), 3);
    let rate = &result["medians"]["rate"];
    let [min, median, max] = ["min", "median", "max"].map(|name| rate[name].as_f64().unwrap());
    // A busy machine may not answer at all in so short a time as one of them has.
    assert!(0.0 < max && min <= median && median <= max, "{rate}");
    assert_eq!(result["messages_per_second"], median, "the run in the middle is shown");
}

#[test]
fn a_page_and_a_log_are_written() {
    let server = Server::start("study", &["--workers", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let (page, log) = (folder.path().join("page.html"), folder.path().join("latency.hdr"));
    let options = format!(
        "--rate 300,900 --duration 1s --repeats 2 --report {} --hdr {}",
        page.display(),
        log.display()
    );
    let (status, result) = bench_json(server.addr, &options);
    assert_eq!(status, 0, "{result:#}");
    let page = std::fs::read_to_string(page).unwrap();
    for expected in [
        "<!DOCTYPE html>",
        "prefers-color-scheme:dark",
        "latency by percentile",
        "Steps of the rate",
        "open connections",
        "2 runs",
        "drain",
        "Settings and machine",
        "name=\"viewport\"",
    ] {
        assert!(page.contains(expected), "{expected:?} is missing");
    }
    assert!(page.matches("<svg").count() >= 4, "a picture for each curve");
    for request in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(request), "{request:?}: the page would ask somebody else");
    }
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.lines().any(|line| line.starts_with("#[BaseTime: ")), "{log}");
    assert!(log.lines().any(|line| line.contains(",HISTFAAAA")), "{log}");
}

#[test]
fn a_result_is_held_against_an_earlier_one() {
    let server = Server::start("study", &["--workers", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, options: &str| {
        let (status, output, _) = bench(server.addr, &format!("{options} --json"));
        assert_eq!(status, 0);
        let path = folder.path().join(name);
        std::fs::write(&path, output).unwrap();
        path.display().to_string()
    };
    let closed = file("closed.json", "--connections 2");
    let open = file("open.json", "--connections 2 --rate 200 --arrival even --duration 500ms");
    let options = format!("--connections 2 --baseline {closed} --fail-on rate=-100%,p99=+1e9%");
    let (status, output, errors) = bench(server.addr, &options);
    assert_eq!(status, 0, "{output}{errors}");
    assert!(output.contains("B - A"), "{output}");
    let rates =
        format!("--rate 20 --arrival even --duration 500ms --connections 2 --baseline {open}");
    let (status, _, errors) = bench(server.addr, &format!("{rates} --fail-on rate=-50%"));
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("worse: rate went from "), "{errors}");
    let (status, _, errors) = bench(server.addr, &format!("--connections 2 --baseline {open}"));
    assert_eq!(status, 1);
    assert!(errors.contains("cannot be compared"), "{errors}");
    let mut compare = wharf();
    let output = compare.args(["bench", "compare", &closed, &closed]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("+0.0 %"));
}

#[test]
fn a_file_says_what_several_groups_do() {
    let server = Server::start("study", &["--workers", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mix.toml");
    let text = "duration = \"400ms\"\n\
                [[group]]\nname = \"busy\"\nkind = \"echo\"\nrate = 400\nconnections = 4\n\
                [[group]]\nkind = \"connect\"\nconnections = 2\n\
                [[group]]\nkind = \"idle\"\nconnections = 30\n";
    std::fs::write(&file, text).unwrap();
    let (status, result) = bench_kind_json("mix", server.addr, &file.display().to_string());
    assert_eq!(status, 0, "{result:#}");
    let groups = result["groups"].as_array().unwrap();
    assert_eq!((groups.len(), &groups[0]["settings"]["name"]), (3, &"busy".into()));
    let verified = |group: usize| groups[group]["figures"]["answers_verified"].as_u64().unwrap();
    assert!(verified(0) > 50 && verified(1) > 0 && verified(2) == 30, "{result:#}");
    std::fs::write(&file, "[[group]]\nkind = \"echo\"\nspeed = 5\n").unwrap();
    let (status, _, errors) = bench_kind("mix", server.addr, &file.display().to_string());
    assert_eq!(status, 2);
    assert!(errors.contains("mix.toml: group 1: `echo` has no key `speed`"), "{errors}");
}

#[test]
fn the_table_says_what_was_measured_and_how() {
    let server = Server::start("study", &["--workers", "2"]);
    let (status, output, _) = bench(server.addr, "--connections 2");
    assert_eq!(status, 0);
    for expected in [
        "study framing",
        "2 connections x 1 message under way, 64 bytes each",
        "p99.9",
        "MB/s each way",
        "every byte right",
        "Closed loop",
    ] {
        assert!(output.contains(expected), "{expected:?} is missing in:\n{output}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_load_tells_what_it_has() {
    let server = Server::start("study", &["--workers", "2"]);
    let mut command = wharf();
    command.args(["dummy", "--duration", "1h", "--json", "--addr", &server.addr.to_string()]);
    let mut load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(load.stderr.take().expect("piped"));
    let mut line = String::new();
    errors.read_line(&mut line).expect("a line of progress");
    assert!(line.contains("messages/s"), "{line:?}");
    let pid = i32::try_from(load.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(thread::spawn(move || errors.read_to_string(&mut line)));
    let output = load.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&result["interrupted"], &result["right"]), (&true.into(), &true.into()));
    let count = |name: &str| result[name].as_u64().expect("a number");
    assert!(count("connections_opened") > 0, "{result:#}");
    assert!(count("answers_verified") >= count("connections_opened"), "{result:#}");
}

// ---- wrong usage, no server ---------------------------------------------------------------------

#[test]
fn sizes_that_a_framing_cannot_carry_are_wrong_usage() {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    for (options, expected) in [
        ("--framing raw --size 0", "--size 0 cannot be sent in raw framing"),
        ("--framing u16be --size 65536", "u16be framing, which takes up to 65,535 bytes"),
        ("--framing u16le --size 1GiB", "u16le framing, which takes up to 65,535 bytes"),
        ("--framing tutorial --size 65531", "tutorial framing, which takes up to 65,530 bytes"),
        ("--size 1MiB --depth 65536", "more than 1 GiB under way on each connection"),
        ("--size 1TiB", "more than 1 GiB"),
        ("--rate 0", "--rate"),
        ("--rate 1 --connections 1000", "fewer --connections, or a higher --rate"),
        ("--size 9..8", "--size"),
        ("--arrival even", "--rate"),
    ] {
        let (status, output, errors) = bench(nowhere, options);
        assert_eq!((status, output.as_str()), (2, ""), "{options}: {errors}");
        assert!(errors.contains(expected), "{expected:?} is missing in:\n{errors}");
    }
}

#[test]
fn where_nobody_listens_the_address_is_named() {
    // Bound and not listening: refused, and nobody else's meanwhile.
    let taken = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let addr = taken.local_addr().unwrap().as_socket().unwrap();
    for options in ["", "--json --connections 1", "--connections 500"] {
        let (status, output, errors) = bench(addr, options);
        assert_eq!(status, 1, "{errors}");
        let expected = format!("cannot connect to {addr}: ");
        assert!(errors.starts_with(&format!("error: {expected}")), "{errors}");
        if options.contains("--json") {
            let result: serde_json::Value = serde_json::from_str(&output).unwrap();
            assert_eq!(result["right"], false);
            assert!(result["error"].as_str().unwrap().starts_with(&expected), "{output}");
        } else {
            assert_eq!(output, "");
        }
    }
}

// ---- wrong servers ------------------------------------------------------------------------------

/// What a server does wrong, once on each connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Alters,
    Drops,
    Repeats,
    Swaps,
    Shortens,
    ChangesId,
    Closes,
}

/// An echo server in the `study` format that goes wrong with the frame of this number, for as long
/// as the tests run. A number below the depth is sent in any case, however short the load is.
fn wrong_server(fault: Fault, wrong: u64) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || drop(answer_wrongly(&stream, fault, wrong)));
        }
    });
    addr
}

fn answer_wrongly(mut stream: &TcpStream, fault: Fault, wrong: u64) -> std::io::Result<()> {
    let mut held_back = Vec::new();
    for count in 0.. {
        let mut frame = vec![0; 12];
        stream.read_exact(&mut frame)?;
        let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        frame.resize(12 + len, 0);
        stream.read_exact(&mut frame[12..])?;
        match fault {
            _ if count != wrong => {}
            Fault::Alters => frame[12 + 40] ^= 0x01,
            Fault::Drops => continue,
            Fault::Repeats => frame.extend_from_within(..),
            Fault::Swaps => {
                held_back = frame;
                continue;
            }
            Fault::Shortens => {
                frame.pop();
                frame[0] -= 1;
            }
            Fault::ChangesId => frame[4] = 3, // 2 is a heartbeat, which is no answer
            Fault::Closes => break,
        }
        frame.append(&mut held_back);
        stream.write_all(&frame)?;
    }
    Ok(())
}

#[test]
fn each_fault_is_found_and_named() {
    for (fault, depth, kind) in [
        (Fault::Alters, 1, "altered"),
        (Fault::Alters, 4, "altered"),
        (Fault::Drops, 1, "lost"),
        (Fault::Drops, 4, "lost"),
        (Fault::Repeats, 1, "repeated"),
        (Fault::Repeats, 4, "repeated"),
        (Fault::Swaps, 4, "reordered"),
        (Fault::Shortens, 1, "wrong_length"),
        (Fault::ChangesId, 4, "wrong_id"),
    ] {
        let wrong = depth / 2;
        let addr = wrong_server(fault, wrong);
        for connections in [1, 3] {
            let options = format!("--connections {connections} --depth {depth} --grace 500ms");
            let (status, result) = bench_json(addr, &options);
            let case = format!("{fault:?} {options}: {result:#}");
            assert_eq!((status, &result["right"]), (1, &false.into()), "{case}");
            assert_eq!(result["errors"][kind], connections, "{case}");
            assert_eq!(result["errors_total"], connections, "{case}");
            assert_eq!(result["first_error"]["kind"], kind, "{case}");
            assert_eq!(result["first_error"]["sequence"], wrong, "{case}");
        }
    }
}

#[test]
fn an_altered_byte_is_shown_with_its_place() {
    let (status, output, _) = bench(wrong_server(Fault::Alters, 0), "--connections 1");
    assert_eq!(status, 1);
    for expected in ["first error", "message 0", "from byte 40: expected ", "got      "] {
        assert!(output.contains(expected), "{expected:?} is missing in:\n{output}");
    }
}

#[test]
fn a_stream_of_raw_bytes_is_verified_too() {
    // Answers in pieces that have nothing to do with the messages, and alters byte 1,000.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let (mut bytes, mut passed) = ([0; 777], 0);
        loop {
            let len = stream.read(&mut bytes)?;
            if (passed..passed + len).contains(&1000) {
                bytes[1000 - passed] ^= 0x80;
            }
            passed += len;
            if len == 0 {
                return std::io::Result::Ok(());
            }
            stream.write_all(&bytes[..len])?;
        }
    });
    let (status, result) = bench_json(addr, "--framing raw --size 300 --depth 4 --connections 1");
    assert_eq!(status, 1, "{result:#}");
    assert_eq!(result["errors"]["altered"], 1, "{result:#}");
    assert_eq!(result["errors_total"], 1, "{result:#}");
    let first = &result["first_error"];
    assert_eq!((&first["sequence"], &first["bytes"]["offset"]), (&3.into(), &100.into()));
}

#[test]
fn a_connection_that_ends_is_an_error_and_ends_the_load_if_it_was_the_last() {
    // An hour: this test ends because the load notices that nothing is left to do.
    let (status, result) =
        bench_json(wrong_server(Fault::Closes, 0), "--connections 2 --duration 1h");
    assert_eq!(status, 1, "{result:#}");
    assert_eq!(result["errors"]["connection_lost"], 2, "{result:#}");
    assert_eq!(result["errors"]["lost"], 2, "{result:#}");
    assert_eq!(result["connections_opened"], 2, "{result:#}");
}

#[test]
fn connections_that_a_full_server_refuses_are_counted() {
    let server = Server::start("study", &["--workers", "1", "--max-sessions", "10"]);
    let (status, result) = bench_json(server.addr, "--connections 15");
    assert_eq!(status, 1, "{result:#}");
    assert_eq!(result["errors"]["connection_lost"], 5, "{result:#}");
    assert_eq!(result["errors"]["altered"], 0, "{result:#}");
}
