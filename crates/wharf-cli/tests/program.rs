//! The program as a user meets it: flags, files, environment, exit status.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// `wharf` in an empty directory, with nothing of the caller's settings in its environment.
fn wharf(directory: &TempDir) -> Command {
    let mut command = Command::cargo_bin("wharf").expect("the program was built");
    command.current_dir(directory.path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WHARF_") {
            command.env_remove(name);
        }
    }
    // Its port is one for all servers that do not say otherwise.
    command.env("WHARF_CHAT", "off");
    command
}

fn empty() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Runs to the end and gives exit status, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status.code().expect("no signal");
    (status, text(output.stdout), text(output.stderr))
}

fn check_contains(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}");
    }
}

/// The line of `--print-config` for this name, with runs of spaces made one.
fn printed(page: &str, name: &str) -> String {
    let line = page.lines().find(|line| line.starts_with(&format!("{name} =")));
    let line = line.unwrap_or_else(|| panic!("{name} is missing in:\n{page}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn print_config_says_where_each_value_came_from() {
    let directory = empty();
    let file = "# mine\n\n[server]\nworkers = 3\nspin_us = 4\n\n[limits]\nframe_bytes_max = 4096\n";
    fs::write(directory.path().join("wharf.toml"), file).unwrap();
    let mut command = wharf(&directory);
    command.args(["serve", "--print-config", "--workers", "2", "--sockets-nodelay", "false"]);
    command.args(["--echo", "[::1]:0", "--echo", "lines@127.0.0.1:0"]);
    command.env("WHARF_SPIN_US", "9").env("WHARF_SOCKETS_USER_TIMEOUT", "500ms");
    let (status, page, errors) = run(&mut command);
    assert_eq!((status, errors.as_str()), (0, ""));
    for (name, expected) in [
        ("workers", "workers = 2 # flag --workers"),
        ("echo", "echo = [\"study@[::1]:0\", \"lines@127.0.0.1:0\"] # flag --echo"),
        ("spin_us", "spin_us = 9 # env WHARF_SPIN_US"),
        ("user_timeout", "user_timeout = \"500ms\" # env WHARF_SOCKETS_USER_TIMEOUT"),
        ("frame_bytes_max", "frame_bytes_max = \"4KiB\" # wharf.toml:8"),
        ("nodelay", "nodelay = false # flag --sockets-nodelay"),
        ("engine", "engine = \"auto\" # default"),
        ("max_sessions", "max_sessions = 50000 # default"),
    ] {
        assert_eq!(printed(&page, name), expected);
    }
}

#[test]
fn flags_of_serve_work_without_the_word_serve() {
    let directory = empty();
    let (status, page, _) = run(wharf(&directory).args(["--print-config", "--engine", "io_uring"]));
    assert_eq!(status, 0);
    assert_eq!(printed(&page, "engine"), "engine = \"uring\" # flag --engine");
}

#[test]
fn a_named_file_takes_the_place_of_wharf_toml() {
    let directory = empty();
    fs::write(directory.path().join("wharf.toml"), "server.workers = 3\n").unwrap();
    fs::write(directory.path().join("other.toml"), "server.spin_us = 4\n").unwrap();
    let (_, by_flag, _) = run(wharf(&directory).args(["--print-config", "--config", "other.toml"]));
    let (_, by_variable, _) =
        run(wharf(&directory).arg("--print-config").env("WHARF_CONFIG", "other.toml"));
    assert_eq!(by_flag, by_variable);
    assert_eq!(printed(&by_flag, "spin_us"), "spin_us = 4 # other.toml:1");
    assert_eq!(printed(&by_flag, "workers"), "workers = \"auto\" # default");
}

#[test]
fn print_config_prints_a_file_that_gives_the_same_settings() {
    let directory = empty();
    let arguments = ["--print-config", "--echo", "raw@[::1]:1,127.0.0.1:2", "--engine", "epoll"];
    let (_, first, _) = run(wharf(&directory).args(arguments));
    fs::write(directory.path().join("wharf.toml"), &first).unwrap();
    let (status, second, errors) = run(wharf(&directory).arg("--print-config"));
    assert_eq!(status, 0, "{errors}");
    let values = |page: &str| -> Vec<String> {
        page.lines().map(|line| line.split('#').next().unwrap_or("").trim().to_owned()).collect()
    };
    assert_eq!(values(&first), values(&second));
}

#[test]
fn mistakes_in_a_file_name_the_line_and_a_suggestion() {
    let directory = empty();
    let path = directory.path().join("wharf.toml");
    for (file, expected) in [
        (
            "[server]\n\nworkes = 2\n",
            &["error: wharf.toml:3: unknown setting", "did you mean `server.workers`?"][..],
        ),
        ("[limit]\n", &["wharf.toml:1: unknown section `[limit]`", "did you mean `[limits]`?"]),
        ("[server]\nworkers = \"many\"\n", &["wharf.toml:2: `server.workers`: expected a number"]),
        ("[server]\nengine = \"sim\"\n", &["wharf.toml:2: ", "`sim` is not one of `auto`"]),
        ("[server\n", &["wharf.toml:1: "]),
        ("[limits]\nsend_queue_bytes_soft = \"2MiB\"\n", &["(wharf.toml:2)", "must not be above"]),
    ] {
        fs::write(&path, file).unwrap();
        let (status, output, errors) = run(wharf(&directory).arg("serve"));
        assert_eq!((status, output.as_str()), (2, ""), "{file:?}: {errors}");
        check_contains(&errors, expected);
    }
}

#[test]
fn mistakes_elsewhere_are_wrong_usage_too() {
    let directory = empty();
    for (arguments, variable, expected) in [
        (&["--worker", "2"][..], None, &["--worker", "--workers"][..]),
        (&["--workers", "0"], None, &["--workers", "must be from 1 to 256"]),
        (&["--engine", "sim"], None, &["--engine", "auto"]),
        (&["--echo", "line@127.0.0.1:1"], None, &["did you mean `lines`?"]),
        (&["--config", "none.toml"], None, &["none.toml: cannot be read"]),
        (&["serv"], None, &["serve"]),
        (&["bench"], None, &["Usage: wharf", " bench <COMMAND>"]),
        (&["bench", "echo", "--depth", "0"], None, &["--depth"]),
        (&["completions"], None, &["<shell>"]),
        (&[], Some(("WHARF_WORKES", "2")), &["`WHARF_WORKES`", "did you mean `WHARF_WORKERS`?"]),
        (&[], Some(("WHARF_WORKERS", "x")), &["WHARF_WORKERS=\"x\": expected a number"]),
    ] {
        let mut command = wharf(&directory);
        command.args(arguments).envs(variable);
        let (status, output, errors) = run(&mut command);
        assert_eq!((status, output.as_str()), (2, ""), "{arguments:?} {variable:?}: {errors}");
        check_contains(&errors, expected);
    }
}

#[test]
fn help_fits_a_screen_and_the_long_one_has_every_section() {
    let directory = empty();
    let (status, short, errors) = run(wharf(&directory).arg("-h"));
    assert_eq!((status, errors.as_str()), (0, ""));
    check_contains(&short, &["Commands:", "bench", "doctor", "--echo", "--workers", "Examples:"]);
    assert!(!short.contains("--limits-"), "{short}");
    let (status, long, _) = run(wharf(&directory).args(["serve", "--help"]));
    assert_eq!(status, 0);
    check_contains(&long, &["Server:", "Sockets:", "Limits:", "Port:", "[env: WHARF_ECHO]"]);
    let (status, dummy, _) = run(wharf(&directory).args(["dummy", "--help"]));
    assert_eq!(status, 0);
    check_contains(&dummy, &["--connections", "--duration", "--json"]);
    let (status, version, _) = run(wharf(&directory).arg("--version"));
    assert_eq!((status, version), (0, format!("wharf {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn completions_and_man_page_know_the_flags() {
    let directory = empty();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (status, script, errors) = run(wharf(&directory).args(["completions", shell]));
        assert_eq!((status, errors.as_str()), (0, ""), "{shell}");
        check_contains(&script, &["limits-frame-bytes-max", "doctor"]);
    }
    let (status, page, _) = run(wharf(&directory).arg("man"));
    assert_eq!(status, 0);
    check_contains(&page, &[".TH wharf 1", "WHARF_LIMITS_FRAME_BYTES_MAX"]);
}

#[test]
fn doctor_tells_people_and_programs_the_same() {
    let directory = empty();
    // The usual ports may be anybody's.
    let doctor = || {
        let mut command = wharf(&directory);
        command.arg("doctor").env("WHARF_ECHO", "127.0.0.1:0");
        command
    };
    let (status, page, _) = run(&mut doctor());
    assert_eq!(status, 0, "{page}");
    let (status, json, _) = run(doctor().arg("--json"));
    assert_eq!(status, 0, "{json}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(!checks.is_empty());
    for check in checks {
        check_contains(&page, &[check["name"].as_str().unwrap()]);
        assert!(check["found"].is_string() && check["status"].is_string(), "{check}");
    }
}

/// On Windows it is the system's own text and number, as in its documentation.
#[test]
fn an_address_in_use_is_told_in_the_systems_words_and_with_its_number() {
    let directory = empty();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = wharf(&directory);
    command.args(["--echo", &address.to_string(), "--control", "off"]);
    command.timeout(Duration::from_secs(60));
    let (status, output, errors) = run(&mut command);
    assert_eq!((status, output.as_str()), (1, ""), "{errors}");
    let number = errors.split_once("(os error ").expect("a number").1;
    let number: i32 = number.split(')').next().unwrap().parse().expect("a number");
    let words = std::io::Error::from_raw_os_error(number).to_string();
    assert!(words.len() > format!("(os error {number})").len() + 10, "no words: {words}");
    check_contains(&errors, &[&format!("cannot listen on {address}"), &words]);
    // WSAEADDRINUSE.
    assert!(!cfg!(windows) || number == 10048, "{errors}");
}

/// Number 2 on every system, with words of its own on each; Wine has words for it, and none for sockets.
#[test]
fn a_file_that_is_not_there_is_told_in_the_systems_words_and_with_its_number() {
    let directory = empty();
    let (status, _, errors) = run(wharf(&directory).args(["--config", "none.toml"]));
    assert_eq!(status, 2, "{errors}");
    let words = std::io::Error::from_raw_os_error(2).to_string();
    assert!(words.ends_with(" (os error 2)") && !words.contains("FormatMessage"), "{words}");
    check_contains(&errors, &["none.toml", &words]);
}

#[test]
fn doctor_names_a_taken_port_and_who_has_it() {
    let directory = empty();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let file = format!("server.echo = \"{address}\"\n");
    fs::write(directory.path().join("wharf.toml"), file).unwrap();
    let (status, page, _) = run(wharf(&directory).arg("doctor"));
    assert_eq!(status, 1, "{page}");
    check_contains(&page, &[&format!("FAIL  port {address}"), "--echo"]);
    if cfg!(target_os = "linux") {
        check_contains(&page, &[&format!("(pid {})", std::process::id())]);
    }
    let (status, json, _) = run(wharf(&directory).args(["doctor", "--json"]));
    assert_eq!(status, 1);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let name = format!("port {address}");
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == *name).expect("the port");
    assert_eq!(check["status"], "fail");
}

#[test]
fn doctor_fails_on_a_broken_configuration_and_still_answers() {
    let directory = empty();
    fs::write(directory.path().join("wharf.toml"), "[server]\nworkes = 2\n").unwrap();
    let (status, page, _) = run(wharf(&directory).arg("doctor"));
    assert_eq!(status, 1);
    check_contains(&page, &["FAIL  configuration", "wharf.toml:2: ", "`server.workers`?"]);
}

#[test]
fn a_cap_on_memory_that_has_too_little_for_the_workers_is_refused() {
    let directory = empty();
    let arguments = ["--workers", "2", "--send-memory-max", "1MiB", "--echo", "127.0.0.1:0"];
    let mut command = wharf(&directory);
    command.args(arguments).timeout(Duration::from_secs(60));
    let (status, output, errors) = run(&mut command);
    assert_eq!((status, output.as_str()), (1, ""), "{errors}");
    check_contains(&errors, &["send_memory_max must be 1 MiB or more for each of 2 workers"]);
}

#[test]
fn the_configuration_page_is_in_step_with_the_settings() {
    let directory = empty();
    let (status, expected, _) = run(wharf(&directory).arg("print-configuration-docs"));
    assert_eq!(status, 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed.replace("\r\n", "\n") == expected,
        "docs/configuration.md is stale; renew it from the workspace's root with:\n  \
         cargo run -q -p wharf-cli -- print-configuration-docs > docs/configuration.md"
    );
}
