//! `--metrics`: what a scraper and a probe get, and what hostile ones cost.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::support::*;

fn serving() -> (Serving, SocketAddr) {
    let serving = Serving::start(&["--metrics", "127.0.0.1:0", "--drain-timeout", "1h"]);
    let address = serving.told("metrics").parse().unwrap();
    (serving, address)
}

/// The whole answer to what is sent; empty where the connection is cut.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn page(address: SocketAddr) -> String {
    let answer = exchange(address, b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head and a body");
    check_contains(head, &["HTTP/1.1 200 OK", "openmetrics-text; version=1.0.0"]);
    assert!(head.contains(&format!("Content-Length: {}\r\n", page.len())), "{head}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    page.to_owned()
}

fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

#[test]
fn what_is_counted_is_shown() {
    let (serving, address) = serving();
    assert_eq!(value(&page(address), "wharf_sessions"), 0.0);
    let mut client = serving.connect();
    client.echo(&"x".repeat(99));
    let text = page(address);
    for (name, expected) in [
        ("wharf_sessions", 1.0),
        ("wharf_workers", 1.0),
        ("wharf_accepted_total", 1.0),
        ("wharf_frames_received_total", 2.0),
        ("wharf_frames_sent_total", 2.0),
        ("wharf_bytes_received_total", 106.0),
        ("wharf_queue_bytes", 0.0),
        ("wharf_closed_total{reason=\"peer_closed\"}", 0.0),
        ("wharf_frames_dropped_total{class=\"newest\"}", 0.0),
    ] {
        assert_eq!(value(&text, name), expected, "{name}");
    }
    // With the two before, one in 61.
    (0..59).for_each(|_| client.echo("again"));
    let of = format!("{{listener=\"{}\",packet=\"other\",name=\"\"}}", serving.address());
    assert_eq!(value(&page(address), &format!("wharf_handler_seconds_count{of}")), 1.0);
    let turns = value(&text, "wharf_turn_seconds_count");
    assert!(turns > 0.0 && value(&text, "wharf_turn_seconds_sum") > 0.0);
    assert_eq!(value(&text, "wharf_turn_seconds_bucket{le=\"+Inf\"}"), turns);
    check_contains(&text, &["wharf_build_info{version=", "wharf_engine_info{engine="]);
    drop(client);
    let closed = || value(&page(address), "wharf_closed_total{reason=\"peer_closed\"}") == 1.0;
    wait_until(closed, || "the end is not counted".to_owned());
}

/// What peers do wrong is on the page under its reason, and somebody else is answered all the while.
#[test]
fn bad_input_is_counted_under_its_reason() {
    let mut arguments = vec!["--metrics", "127.0.0.1:0", "--max-sessions", "20"];
    arguments.extend(["--echo", "u32be@127.0.0.1:0", "--echo", "tutorial@127.0.0.1:0"]);
    arguments.extend(["--limits-first-frame-timeout", "1s", "--limits-frame-timeout", "1s"]);
    arguments.extend(["--limits-idle-write-timeout", "1s"]);
    let serving = Serving::start(&arguments);
    let page = || page(serving.told("metrics").parse().unwrap());
    let echoes: Vec<SocketAddr> =
        serving.told("echo").split(',').map(|echo| echo.parse().unwrap()).collect();
    let [lines, counted, tutorial] = echoes[..] else { panic!("{echoes:?}") };
    let mut other = Client::to(lines);
    other.echo("before");
    let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    let peer_of = |address, sends: &[u8]| {
        let mut peer = Client::to(address);
        peer.0.write_all(sends).unwrap();
        peer
    };
    let peer = |sends: &[u8]| peer_of(counted, sends);
    let begun = [frame(b"whole"), frame(b"half")[..6].to_vec()].concat();
    let late = [peer(b""), peer(&[0, 0]), peer(&begun)];
    let broken = [8 * 1024 + 1, 1 << 31, u32::MAX].map(|length: u32| peer(&length.to_be_bytes()));
    // Shorter than the header that the length counts.
    let short = [0, 1, 4].map(|length| peer_of(tutorial, &[length, 0, 7, 0, 0]));
    let rude = peer(&frame(b"does not read what it asked for"));
    rude.0.peek(&mut [0; 1]).unwrap();
    drop(rude); // with something unread, which is a reset
    let ends = peer(&frame(b"the last"));
    ends.0.shutdown(std::net::Shutdown::Write).unwrap();
    let deaf = peer(&frame(b"never reads"));
    let mut writer = deaf.0.try_clone().unwrap();
    let floods = std::thread::spawn(move || {
        let chunk = frame(&[7; 8000]).repeat(100);
        // More than the systems on both sides take; then it is cut off.
        (0..100).any(|_| writer.write_all(&chunk).is_err())
    });
    for (reason, count) in [
        ("first_frame_timeout", 2.0),
        ("frame_timeout", 1.0),
        ("protocol", 6.0),
        ("peer_closed", 1.0),
        ("reset", 1.0),
        ("idle_write", 1.0),
    ] {
        let name = format!("wharf_closed_total{{reason=\"{reason}\"}}");
        let counted = || {
            other.echo("not affected");
            value(&page(), &name) == count
        };
        wait_until(counted, || format!("{count} of {reason} in\n{}", page()));
    }
    assert!(floods.join().unwrap(), "it is cut off");
    drop((late, broken, short, ends, deaf));
    wait_until(|| value(&page(), "wharf_sessions") == 1.0, page);
    let many: Vec<Client> = (0..25).map(|_| Client::to(lines)).collect();
    // Those who are in are in time.
    many.iter().for_each(|one| _ = (&one.0).write_all(b"a line\n"));
    let refused = || value(&page(), "wharf_refused_total{limit=\"sessions\"}") == 6.0;
    wait_until(refused, page);
    other.echo("not affected");
    drop(many);
}

/// The page for operators and what the program serves are one list, of metrics and of reasons.
#[test]
fn every_metric_is_in_the_documentation() {
    let (_serving, address) = serving();
    let text = page(address);
    let served: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next())
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let documented = std::fs::read_to_string(path).unwrap();
    let listed: BTreeSet<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `wharf_")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let served: BTreeSet<&str> =
        served.iter().map(|name| name.strip_prefix("wharf_").expect("ours")).collect();
    assert_eq!(listed, served, "docs/operations.md lists other metrics than are served");
    let reasons: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("wharf_closed_total{reason=\"")?.split('"').next())
        .collect();
    let (_, section) = documented.split_once("\n## Why sessions end\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows: BTreeSet<&str> = rows.collect();
    assert_eq!(rows, reasons, "docs/operations.md lists other reasons than are served");
}

#[test]
fn health_is_good_until_the_drain_begins() {
    let (serving, address) = serving();
    let _client = serving.connect();
    let health = || exchange(address, b"GET /healthz HTTP/1.1\r\n\r\n");
    check_contains(&health(), &["HTTP/1.1 200 OK", "\r\n\r\nok\n"]);
    // The client does not read on: the drain waits for it.
    let mut stays = Serving::start(&[
        "--metrics",
        "127.0.0.1:0",
        "--drain-timeout",
        "1h",
        "--limits-linger-timeout",
        "1h",
    ]);
    let other: SocketAddr = stays.told("metrics").parse().unwrap();
    let client = stays.connect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stays.ask(&["drain"]));
        stays.wait_for_log("draining by=");
        let answer = exchange(other, b"GET /healthz HTTP/1.1\r\n\r\n");
        check_contains(&answer, &["HTTP/1.1 503 ", "draining\n"]);
        assert_eq!(value(&page(other), "wharf_sessions"), 1.0, "it answers while it drains");
        drop(client);
        assert_eq!(waiting.join().unwrap().0, Some(0));
    });
    assert_eq!(stays.status(), Some(0));
    check_contains(&health(), &["HTTP/1.1 200 OK"]);
}

#[test]
fn strangers_get_an_answer_or_the_end_and_cost_nobody_anything() {
    let (serving, address) = serving();
    let mut client = serving.connect();
    for (request, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 404 "),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 "),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        (b"nonsense\r\n\r\n", "HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let answer = exchange(address, request);
        assert!(answer.starts_with(expected), "{answer:?}");
    }
    let endless =
        [b"GET /metrics HTTP/1.1\r\na: ".as_slice(), &[b'x'; 20_000], b"\r\n\r\n"].concat();
    assert_eq!(exchange(address, &endless), "", "a head that is too long");
    // Silent ones keep nobody away, not even from here, until there are too many of them.
    let silent: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address).unwrap()).collect();
    page(address);
    client.echo("not affected");
    drop(silent);
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_flag() {
    let (serving, address) = serving();
    let mut second = wharf(serving.directory.path());
    second.args(["--echo", "127.0.0.1:0", "--control", "off", "--metrics", &address.to_string()]);
    let (status, output, errors) = said(&second.output().unwrap());
    assert_eq!((status, output.as_str()), (Some(1), ""));
    check_contains(&errors, &["--metrics ADDR", &address.to_string()]);
}
