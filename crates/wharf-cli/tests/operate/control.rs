//! `wharf sessions`, `kick`, `drain` and `reload`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
};

use crate::support::*;

#[test]
fn sessions_are_listed_for_people_and_for_programs() {
    let serving = Serving::start(&[]);
    assert_eq!(serving.sessions(), Vec::<serde_json::Value>::new());
    let clients: Vec<Client> = (0..2).map(|_| serving.connect()).collect();
    let sessions = serving.sessions();
    let mut peers: Vec<&str> =
        sessions.iter().map(|session| session["peer"].as_str().unwrap()).collect();
    let mut expected: Vec<String> =
        clients.iter().map(|client| client.0.local_addr().unwrap().to_string()).collect();
    peers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(peers, expected);
    let (status, table, _) = serving.ask(&["sessions"]);
    assert_eq!(status, Some(0));
    check_contains(&table, &["ID ", "PEER ", "ROUND TRIP", "2 sessions\n"]);
    for session in &sessions {
        assert_eq!(session["listener"], serving.told("echo"));
        assert_eq!(session["queued_bytes"], 0);
        assert_eq!(session["closing"], false);
        assert!(session["age_ms"].is_u64(), "{session}");
        let [id, peer] = ["id", "peer"].map(|key| session[key].as_str().unwrap());
        let row = table.lines().find(|line| line.contains(peer));
        assert_eq!(row.and_then(|row| row.split_whitespace().next()), Some(id), "{table}");
    }
}

/// The study echo asks with packet id 2, and whoever sends that back is measured.
#[test]
fn round_trips_are_shown_where_there_is_a_heartbeat() {
    let heartbeat = ["--limits-heartbeat-interval", "20ms", "--limits-heartbeat-timeout", "0"];
    let serving = Serving::start(&[&["--echo", "study@127.0.0.1:0"][..], &heartbeat].concat());
    let (lines, study) = serving.told("echo").split_once(',').unwrap();
    let mut other = Client::to(lines.parse().unwrap());
    other.echo("hello");
    let mut client = Client::to(study.parse().unwrap());
    let round_trip = |listener: &str| {
        let sessions = serving.sessions();
        let found = sessions.iter().find(|session| session["listener"] == listener);
        found.expect("it is connected")["round_trip_us"].clone()
    };
    while round_trip(study).is_null() {
        let mut question = [0; 12];
        client.0.read_exact(&mut question).unwrap();
        assert_eq!(question[..8], [0, 0, 0, 0, 2, 0, 0, 0]);
        client.0.write_all(&question).unwrap();
    }
    assert!(round_trip(study).is_u64());
    assert!(round_trip(lines).is_null(), "lines have no frame for it");
    other.echo("still here");
}

#[test]
fn a_kicked_session_ends_and_no_other_does() {
    let serving = Serving::start(&[]);
    let (mut one, mut other) = (serving.connect(), serving.connect());
    let peer = one.0.local_addr().unwrap().to_string();
    let sessions = serving.sessions();
    let found = sessions.iter().find(|session| session["peer"] == peer.as_str()).unwrap();
    let id = found["id"].as_str().unwrap();
    let reason = "was rude\nINFO all is well";
    let (status, output, errors) = serving.ask(&["kick", id, "--reason", reason]);
    assert_eq!(status, Some(0), "{errors}");
    check_contains(&output, &[id, &peer]);
    assert_eq!(one.end(), b"");
    drop(one);
    serving.wait_for_log("was rude\\nINFO all is well");
    other.echo("not affected");
    for (id, expected) in [
        (id, "there is no session"),
        ("7.7.7", "there is no session 7.7.7"),
        ("0.0.4294967295", "not a session's id"),
        ("nobody", "not a session's id"),
    ] {
        wait_until(
            || {
                let (status, _, errors) = serving.ask(&["kick", id]);
                // Until the first one has gone to its end, it is asked to go again.
                assert!(status == Some(0) || errors.contains(expected), "{id}: {errors}");
                status == Some(1)
            },
            || format!("{id} can be kicked for ever"),
        );
    }
    other.echo("not affected");
    assert_eq!(serving.sessions().len(), 1);
}

#[test]
fn a_reload_changes_what_can_change_and_says_what_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wharf.toml");
    fs::write(&file, "[limits]\nframe_bytes_max = 100\n").unwrap();
    let serving = Serving::start_in(directory, &[]);
    let mut before = serving.connect();
    before.echo(&"a".repeat(90));

    let (status, output, _) = serving.ask(&["reload"]);
    assert_eq!((status, output.as_str()), (Some(0), "nothing has changed\n"));

    fs::write(&file, "[limits]\nframe_bytes_max = \"many\"\n").unwrap();
    let (status, _, errors) = serving.ask(&["reload"]);
    assert_eq!(status, Some(1));
    check_contains(&errors, &["nothing was changed", "wharf.toml:2", "expected a size"]);
    serving.connect().echo(&"b".repeat(90));

    fs::write(&file, "[limits]\nframe_bytes_max = 50\n[server]\nworkers = 7\nspin_us = 9\n")
        .unwrap();
    let (status, output, _) = serving.ask(&["reload"]);
    assert_eq!(status, Some(0));
    let expected = "changed, for sessions that open from now on:\n  \
                    limits.frame_bytes_max = 50 (wharf.toml:2), was 100\n\
                    not changed, these need a restart:\n  \
                    server.spin_us = 9 (wharf.toml:5), was 0\n";
    assert_eq!(output, expected, "workers is a flag, which wins over the file");
    let mut after = serving.connect();
    after.echo(&"c".repeat(49));
    let line = [&[b'd'; 90][..], b"\n"].concat();
    std::io::Write::write_all(&mut after.0, &line).unwrap();
    assert_eq!(after.end(), b"");
    before.echo(&"e".repeat(90));
    let (_, output, _) = serving.ask(&["reload"]);
    check_contains(&output, &["not changed", "server.spin_us"]);
    assert!(!output.contains("frame_bytes_max"), "{output}");
}

#[test]
fn a_drain_by_command_ends_the_server() {
    let mut serving = Serving::start(&["--drain-timeout", "1h"]);
    let mut client = serving.connect();
    let (status, _, errors) = serving.ask(&["drain"]);
    assert_eq!(status, Some(0), "{errors}");
    assert_eq!(client.end(), b"");
    assert_eq!(serving.status(), Some(0));
    check_contains(&serving.log(), &["draining by=\"the control channel\"", "drained"]);
    for command in [&["sessions"][..], &["drain"], &["reload"], &["kick", "0.0.0"]] {
        let (status, output, errors) = serving.ask(command);
        assert_eq!((status, output.as_str()), (Some(1), ""));
        check_contains(&errors, &["no server answers at"]);
    }
    if cfg!(unix) {
        assert!(!serving.control.exists(), "the socket goes with the server");
    }
}

/// Nothing is named: the server has a place by its port, and who asks finds it.
#[test]
fn servers_are_found_where_they_are_by_default() {
    let runtime = tempfile::tempdir().unwrap();
    let at_home = |serving: &Serving, arguments: &[&str]| {
        let mut command = wharf(serving.directory.path());
        lives_in(&mut command, runtime.path()).args(arguments);
        said(&command.output().unwrap())
    };
    let start = |control: &str| {
        let mut command = wharf(runtime.path());
        lives_in(&mut command, runtime.path());
        command.args(["--workers", "1", "--echo", "lines@127.0.0.1:0", "--control", control]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let address = ready.split_whitespace().find_map(|pair| pair.strip_prefix("echo="));
        let port = address.and_then(|it| it.rsplit(':').next()).expect("a port").to_owned();
        (process, port)
    };
    let serving = Serving::start(&[]); // elsewhere, and never found
    let (status, _, errors) = at_home(&serving, &["sessions"]);
    assert_eq!(status, Some(1));
    check_contains(&errors, &["no running server of this user", "--control PATH"]);

    let (mut silent, _) = start("off");
    let (mut one, port) = start("auto");
    let folder = runtime.path().join("wharf");
    #[cfg(unix)]
    assert_eq!(unix::mode(&folder), 0o700);
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name()).collect();
    let (name, end) = (names[0].to_string_lossy(), if cfg!(windows) { "pipe" } else { "sock" });
    assert!(names.len() == 1 && name.ends_with(&format!("{port}.{end}")), "{names:?}");
    let (status, output, errors) = at_home(&serving, &["sessions"]);
    assert_eq!((status, output.contains("0 sessions")), (Some(0), true), "{errors}");

    let (mut two, other) = start("auto");
    let (status, _, errors) = at_home(&serving, &["drain"]);
    assert_eq!(status, Some(1));
    check_contains(&errors, &["2 servers are running", &port, &other]);
    two.kill().unwrap();
    two.wait().unwrap();
    let (status, _, errors) = at_home(&serving, &["drain"]);
    assert_eq!(status, Some(0), "{errors}");
    assert!(one.wait().unwrap().success());
    silent.kill().unwrap();
    silent.wait().unwrap();
}

#[cfg(unix)]
mod unix {
    use std::{
        fs,
        io::{Read as _, Write as _},
        os::unix::{fs::PermissionsExt as _, net::UnixStream},
        path::Path,
        process::Stdio,
    };

    use crate::support::*;

    pub(crate) fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn exchange(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that refuses early may have closed already.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn what_is_no_request_is_answered_with_what_is_wrong() {
        let serving = Serving::start(&[]);
        let mut client = serving.connect();
        for (request, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "not a line of this protocol"),
            (b"{\"version\":9,\"command\":\"sessions\"}\n", "version 9 of the protocol"),
            (b"{\"version\":1,\"command\":\"explode\"}\n", "unknown variant"),
            (b"{\"version\":1", "without an end"),
            (&[b'['; 100_000], "more than 4096 bytes"),
            (&[0; 4095], "without an end"),
        ] {
            let answer = exchange(&serving.control, request);
            // What was sent beyond the limit may reset the connection before the answer is read.
            let is_cut = answer.is_empty() && request.len() > 4096;
            assert!(is_cut || answer.contains(expected), "{answer:?}");
            assert!(is_cut || answer.contains("\"answer\":\"error\""), "{answer:?}");
        }
        client.echo("not affected");
        let answer = exchange(&serving.control, b"{\"version\":1,\"command\":\"sessions\"}\n");
        let lines: Vec<serde_json::Value> =
            answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{answer}");
        assert_eq!((&lines[0]["answer"], &lines[1]["answer"]), (&"session".into(), &"done".into()));
    }

    /// Connections that say nothing hold a place each, and only for a while.
    #[test]
    fn silent_clients_are_few_and_are_let_go() {
        let serving = Serving::start(&[]);
        let silent: Vec<UnixStream> =
            (0..8).map(|_| UnixStream::connect(&serving.control).unwrap()).collect();
        let (status, _, errors) = serving.ask(&["sessions"]);
        assert_eq!(status, Some(1));
        check_contains(&errors, &["8 others are being answered: try again"]);
        serving.connect().echo("not affected");
        wait_until(
            || serving.ask(&["sessions"]).0 == Some(0),
            || "silent clients hold their places for ever".to_owned(),
        );
        drop(silent);
    }

    #[test]
    fn a_place_is_taken_over_from_the_dead_and_not_from_the_living() {
        let mut serving = Serving::start(&[]);
        assert_eq!(mode(&serving.control), 0o600);
        let mut second = wharf(serving.directory.path());
        second.args(["--echo", "127.0.0.1:0", "--control"]).arg(&serving.control);
        let (status, output, errors) = said(&second.output().unwrap());
        assert_eq!((status, output.as_str()), (Some(1), ""));
        check_contains(&errors, &["a running server has the control socket", "--control off"]);
        assert_eq!(serving.sessions().len(), 0, "the first one still has it");

        serving.process.kill().unwrap();
        serving.process.wait().unwrap();
        assert!(serving.control.exists(), "left behind");
        let (status, _, errors) = serving.ask(&["sessions"]);
        assert_eq!(status, Some(1));
        check_contains(&errors, &["no server answers at"]);
        let mut second = second.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let answers = || serving.ask(&["sessions"]).0 == Some(0);
        wait_until(answers, || "what was left behind is not replaced".to_owned());
        second.kill().unwrap();
        second.wait().unwrap();
    }
}
