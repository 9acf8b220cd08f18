//! `wharf user`, with a server that has the users and without one.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::support::{Client, Server, user, wharf};

#[test]
fn users_are_added_listed_changed_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let server = Server::start(path, &[]);
    // The server is there before its first user, who can log in at once.
    let added = user(path, &["add", "김철수", "--password-stdin"], "비밀");
    assert_eq!(added, (0, "added 김철수\n".to_owned(), String::new()));
    let mut client = Client::start(path, &server, "김철수", "비밀");
    assert_eq!(client.hears(202)["result"], 0);
    assert!(client.finish().status.success());
    drop(server);
    assert_eq!(user(path, &["add", "a"], "1").0, 0);
    let (status, _, error) = user(path, &["add", "a"], "1");
    assert!(status == 1 && error.contains("there is a user \"a\" already"), "{error}");
    assert_eq!(user(path, &["list"], "").1, "a\n김철수\n");
    assert_eq!(user(path, &["set-password", "a"], "2").0, 0);
    assert_eq!(user(path, &["remove", "a"], "").0, 0);
    let (status, _, error) = user(path, &["remove", "a"], "");
    assert!(status == 1 && error.contains("there is no user \"a\""), "{error}");
    let (status, _, error) = user(path, &["add", "x", "--store", "open"], "1");
    assert!(status == 1 && error.contains("knows no users"), "{error}");
    let (status, _, error) = user(path, &["add", &"n".repeat(40)], "1");
    assert!(status == 1 && error.contains("at most 32 bytes"), "{error}");
}

/// Neither of a store that does not answer, nor of what is none, nor in a configuration.
#[test]
fn the_password_of_a_store_is_told_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for (arguments, expected) in [
        (&["list", "--store", "redis:redis://kim:secret@127.0.0.1:1"][..], 1),
        (&["--store", "redis:redis://kim:secret@127.0.0.1:1", "add", "a"], 1),
        (&["list", "--store", "redis:redis://kim:secret@127.0.0.1:1:1"], 1),
        (&["list", "--store", "redi:redis://kim:secret@127.0.0.1:1"], 2),
    ] {
        let (status, said, error) = user(path, arguments, "1");
        assert_eq!((status, &*said), (expected, ""), "{arguments:?}: {error}");
        assert!(error.contains("redis://kim:***@127.0.0.1:1"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let printed = wharf(path)
        .args(["serve", "--print-config", "--store", "redis:kim:secret@127.0.0.1:1"])
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("\"redis:redis://kim:***@127.0.0.1:1\""), "{printed}");
}

/// What `wharf user import` has reported is there, whenever it is killed.
#[test]
fn a_user_that_was_reported_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let users: Vec<String> = (0..5_000).map(|user| format!("user{user},pw{user}")).collect();
    std::fs::write(path.join("users.csv"), users.join("\n")).unwrap();
    let mut reported = Vec::new();
    for round in 1..=4 {
        let mut import = wharf(path)
            .args(["user", "import", "users.csv"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(import.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok).take(5 * round) {
            reported.push(line.strip_prefix("added ").unwrap().to_owned());
        }
        import.kill().unwrap();
        import.wait().unwrap();
        let names = user(path, &["list"], "").1;
        for name in &reported {
            assert!(names.lines().any(|there| there == name), "{name} is lost");
        }
    }
    assert_eq!(reported.len(), 50, "each round goes on where the one before was killed");
}

/// The server has had the store open since its first login, and goes on having it.
#[test]
fn a_server_that_has_the_users_changes_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert_eq!(user(path, &["add", "first"], "1").0, 0);
    let server = Server::start(path, &["--workers", "1"]);
    let login = |name, password| {
        let mut client = Client::start(path, &server, name, password);
        let result = client.hears(202)["result"].as_u64().unwrap();
        drop(client.finish());
        result
    };
    // 31: the server has yet to see that the one before is gone.
    let logs_in = |name, password| {
        (0..100).map(|_| login(name, password)).find(|result| *result != 31).unwrap()
    };
    assert_eq!(logs_in("first", "1"), 0);
    let added = user(path, &["add", "김철수"], "비밀");
    assert_eq!(added, (0, "added 김철수\n".to_owned(), String::new()));
    assert_eq!(logs_in("김철수", "비밀"), 0, "at once");
    assert_eq!(user(path, &["set-password", "김철수"], "other").0, 0);
    assert_eq!((logs_in("김철수", "비밀"), logs_in("김철수", "other")), (33, 0));
    std::fs::write(path.join("users.csv"), "a,1\nfirst,1\nb,2\n").unwrap();
    let (status, imported, error) = user(path, &["import", "users.csv"], "");
    assert_eq!((status, &*imported), (1, "added a\nadded b\n"), "{error}");
    assert!(error.contains("first: there is a user \"first\" already"), "{error}");
    assert!(error.contains("2 added, 1 not"), "{error}");
    assert_eq!(logs_in("b", "2"), 0);
    assert_eq!(user(path, &["remove", "b"], "").0, 0);
    assert_eq!(logs_in("b", "2"), 33);
    let store = path.join("wharf-users.redb");
    let named = ["list", "--store", &format!("embedded:{}", store.display())];
    assert_eq!(user(path, &named, "").1, "a\nfirst\n김철수\n", "by its other name");
    for (arguments, expected) in [
        (&["add", "first"][..], "there is a user \"first\" already"),
        (&["remove", "nobody"], "there is no user \"nobody\""),
        (&["set-password", "nobody"], "there is no user \"nobody\""),
        // It is not asked for what it does not have.
        (&["list", "--control", "off"], "is held by another process, a running server probably"),
        (&["list", "--control", "nowhere.sock"], "is held by another process"),
    ] {
        let (status, _, error) = user(path, arguments, "x");
        assert!(status == 1 && error.contains(expected), "{arguments:?}: {error}");
    }
    let other = user(path, &["add", "elsewhere", "--store", "embedded:other.redb"], "1");
    assert_eq!(other.0, 0, "{}", other.2);
    assert!(path.join("other.redb").exists() && !user(path, &["list"], "").1.contains("elsewhere"));
    drop(server);
    assert_eq!(user(path, &["list"], "").1, "a\nfirst\n김철수\n", "what it did is there");
}

/// A demonstration's users are forgotten with it: the file is not its own.
#[test]
fn a_demonstration_has_no_users_to_manage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let server = Server::start(path, &["--demo", "1"]);
    assert_eq!(user(path, &["add", "a"], "1").0, 0);
    let output = Client::start(path, &server, "a", "1").finish();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(user(path, &["list"], "").1, "a\n");
}

/// Who names a server means its users: others are not changed in its place, and nothing is made.
#[test]
fn a_server_that_was_named_and_has_other_users_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let name = path.file_name().unwrap().to_string_lossy();
    let channel =
        if cfg!(windows) { format!(r"\\.\pipe\wharf-test{name}") } else { "here.sock".to_owned() };
    let _server = Server::start(path, &["--workers", "1", "--control", &channel]);
    let there = ["add", "kim", "--control", &channel];
    let elsewhere = [&there[..], &["--store", "embedded:other.redb"]].concat();
    let (status, said, error) = user(path, &elsewhere, "1");
    assert_eq!((status, &*said), (1, ""), "{error}");
    let expected = format!("{channel} has embedded:");
    assert!(error.contains(&expected) && error.contains("and not"), "{error}");
    assert!(!path.join("other.redb").exists());
    assert_eq!(user(path, &there, "1").1, "added kim\n");
}
