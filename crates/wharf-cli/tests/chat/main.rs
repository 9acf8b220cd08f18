//! The chat as a program: `wharf serve --chat`, `wharf user`, `wharf chat`.

#[cfg(unix)]
mod screen;
mod support;
mod users;

use std::io::BufRead as _;
use std::process::Stdio;
#[cfg(unix)]
use std::{
    io::{self, Write as _},
    process::Command,
};

use serde_json::Value;

use support::{Client, Server, wharf};

#[test]
fn two_piped_clients_talk_in_korean_and_emoji() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--demo"]);
    let mut one = Client::start(directory.path(), &server, "user0", "pw");
    let mut other = Client::start(directory.path(), &server, "jacking75", "jacking75");
    for client in [&mut one, &mut other] {
        assert_eq!(client.hears(202)["result"], 0);
    }
    one.say("/enter 3");
    assert_eq!(one.hears(207)["result"], 0);
    one.hears(209);
    other.say("/enter 3");
    assert_eq!(other.hears(207)["result"], 0);
    assert_eq!(other.hears(209)["users"].as_array().unwrap().len(), 2);
    assert_eq!(one.hears(208)["user"], "jacking75");
    for text in ["안녕하세요", "👋🏽 👨‍👩‍👧‍👦 🇰🇷", "각 NFD: \u{1112}\u{1161}\u{11ab}", "plain"]
    {
        one.say(text);
        assert_eq!(one.hears(222)["result"], 0);
        for client in [&mut one, &mut other] {
            let said = client.hears(223);
            assert_eq!((said["user"].as_str(), said["text"].as_str()), (Some("user0"), Some(text)));
        }
    }
    other.say("/leave");
    other.hears(216);
    one.hears(217);
    for client in [one, other] {
        let output = client.finish();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What is still to be answered when the input ends is answered.
#[test]
fn a_script_is_done_when_everything_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--demo", "2"]);
    let mut script = Client::start(directory.path(), &server, "user1", "pw");
    script.say("/enter 0");
    for number in 0..100 {
        script.say(&number.to_string());
    }
    drop(script.input);
    let lines: Vec<Value> =
        script.output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let said = lines.iter().filter(|line| line["id"] == 223).map(|line| line["text"].as_str());
    assert!(
        said.eq((0..100)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .iter()
            .map(|text| Some(&**text)))
    );
    assert!(script.process.wait_with_output().unwrap().status.success());
}

/// The server is gone for a while, and the client comes back to where it was by itself.
#[test]
fn a_client_comes_back_to_its_room() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--demo"]);
    let address = server.address;
    let mut client = Client::start(directory.path(), &server, "user0", "pw");
    client.hears(202);
    client.say("/enter 3");
    client.hears(207);
    client.hears(209);
    drop(server);
    assert_eq!(client.next()["note"], "lost");
    client.say("to nobody");
    assert_eq!(client.next()["text"], "not connected");
    let _server = Server::start_at(address, directory.path(), &["--demo"]);
    assert_eq!(client.next()["note"], "connected");
    assert_eq!(client.hears(202)["result"], 0);
    assert_eq!(client.hears(207)["result"], 0);
    assert_eq!(client.hears(209)["users"].as_array().unwrap().len(), 1);
    client.say("again");
    client.hears(222);
    assert_eq!(client.hears(223)["text"], "again");
    let output = client.finish();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Of two clients that come back by themselves, the one that was kicked does not.
#[test]
fn whoever_is_kicked_is_told_and_stays_away() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::start(directory.path(), &["--demo", "1", "--chat-duplicate-login", "kick"]);
    let mut first = Client::start(directory.path(), &server, "user0", "pw");
    assert_eq!(first.hears(202)["result"], 0);
    let mut second = Client::start(directory.path(), &server, "user0", "pw");
    assert_eq!(second.hears(202)["result"], 0);
    assert_eq!(first.hears(202)["result"], 31);
    // Its input has not ended: it ends by itself, and says nothing of having come back.
    assert_eq!(first.output.read_line(&mut String::new()).unwrap(), 0);
    let status = first.process.wait().unwrap();
    let error = String::from_utf8(first.finish().stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains("user0 has logged in elsewhere"), "{error}");
    second.say("/enter 3");
    assert_eq!(second.hears(207)["result"], 0);
    second.hears(209);
    assert!(second.finish().status.success());
}

#[test]
fn who_is_here_is_asked_where_somebody_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--demo", "1"]);
    let mut client = Client::start(directory.path(), &server, "user0", "pw");
    client.hears(202);
    client.say("/who");
    assert_eq!(client.next()["text"], "nobody is known to be here; /enter N enters a room");
    client.say("/enter 3");
    client.hears(207);
    client.hears(209);
    client.say("/who");
    assert_eq!(client.next(), serde_json::json!({ "note": "who", "text": "user0" }));
    assert!(client.finish().status.success());
}

#[test]
fn no_password_is_no_wrong_password() {
    let directory = tempfile::tempdir().unwrap();
    let output = wharf(directory.path())
        .args(["chat", "--user", "a"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("no password: standard input has ended"), "{error}");
}

#[test]
fn a_wrong_password_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--demo", "1"]);
    let output = Client::start(directory.path(), &server, "user0", "no").finish();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("not logged in as user0: unknown id or wrong password (33)"), "{error}");
}

#[test]
fn passwords_cross_no_network_unless_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    for (options, expected) in [
        (&["--chat", "0.0.0.0:0"][..], "--allow-plaintext-login"),
        (&["--chat", "0.0.0.0:0", "--demo"], "for loopback addresses"),
        (&["--chat", "0.0.0.0:0", "--store", "open", "--allow-plaintext-login"], "lets anybody in"),
        (&["--chat", "127.0.0.1:0", "--store", "sqlite:x"], "embedded:PATH"),
        (&["--chat", "here"], "`off`"),
    ] {
        let output = wharf(directory.path())
            .args(["serve", "--echo", "127.0.0.1:0"])
            .args(options)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(expected), "{options:?}: {error}");
    }
}

/// The clients of `docs/chat.md`, as they stand there.
#[cfg(unix)]
#[test]
fn the_clients_of_the_documentation_work() {
    let page = include_str!("../../../../docs/chat.md");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for file in ["client.py", "client.cs"] {
        let (_, rest) = page.split_once(&format!("<!-- tested: {file} -->\n```")).unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let (code, _) = rest.split_once("\n```").unwrap();
        std::fs::write(path.join(file), code).unwrap();
    }
    let server = Server::start(path, &["--demo", "1"]);
    let port = server.address.port().to_string();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(path).env("PYTHONIOENCODING", "utf-8").args(arguments);
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => {
                // Standard error itself: what is printed in a test that passes is not shown.
                let _ = writeln!(io::stderr(), "left out: {program} is not here ({error})");
                return None;
            }
        };
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program}: {error}");
        Some(String::from_utf8(output.stdout).unwrap())
    };
    if let Some(said) = run("python3", &["client.py", &port]) {
        assert_eq!(said, "user0 안녕하세요 👋\n");
    }
    if run("mcs", &["-out:client.exe", "client.cs"]).is_some() {
        // The name is free once the server has seen the other one go.
        let retried = (0..100).find_map(|_| {
            let output =
                Command::new("mono").current_dir(path).args(["client.exe", &port]).output();
            let output = output.unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        assert_eq!(retried.as_deref(), Some("user0 안녕하세요 👋\n"));
    }
}
