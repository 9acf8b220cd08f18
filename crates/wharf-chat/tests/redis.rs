//! The login stores in a real Redis, which is killed, started again, and stopped. Where there is no
//! `redis-server`, that is said, and nothing is tested.

#![expect(clippy::disallowed_methods, reason = "a test may start threads")]

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use support::{Client, pause, start_with};
use wharf_chat::{Accounts, Cost, Format, Passwords, Redis, Settings};

/// A Redis that forgets everything with its process.
struct RedisServer {
    process: Child,
    port: u16,
}

impl RedisServer {
    fn start(port: u16) -> Option<Self> {
        let options = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""];
        let command = Command::new("redis-server").args(options).stdout(Stdio::null()).spawn();
        match command {
            Ok(process) => Some(Self { process, port }),
            Err(error) => {
                eprintln!("left out: redis-server is not here ({error})");
                None
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn accounts(port: u16, format: Format) -> Accounts {
    let url = format!("redis://127.0.0.1:{port}").parse().unwrap();
    let store = Redis::new(&url, format).unwrap();
    Accounts::with(store, Passwords::new(Cost::LEAST))
}

/// Tries until it works: the store is tried again in its own time.
fn eventually(mut works: impl FnMut() -> bool) -> bool {
    (0..1_000).any(|_| {
        let worked = works();
        if !worked {
            pause(Duration::from_millis(20));
        }
        worked
    })
}

#[test]
fn users_in_redis() {
    let Some(redis) = RedisServer::start(free_port()) else { return };
    for format in [Format::Hashes, Format::Tutorial] {
        let accounts = accounts(redis.port, format);
        assert!(eventually(|| accounts.add("김철수", "비밀").is_ok()));
        assert!(accounts.add("김철수", "x").is_err(), "there already");
        assert!(accounts.set_password("nobody", "x").is_err());
        accounts.set_password("김철수", "pw").unwrap();
        match format {
            Format::Hashes => assert_eq!(accounts.names().unwrap(), ["김철수"]),
            Format::Tutorial => assert!(accounts.names().is_err()),
        }
        let server = start_with(Settings::default(), accounts, |builder| builder);
        let mut client = server.connect();
        assert_eq!(client.login("김철수", "비밀"), 33);
        assert_eq!(client.login("nobody", "pw"), 33);
        assert_eq!(client.login("김철수", "pw"), 0);
        server.chat.accounts().remove("김철수").unwrap();
        server.finish();
    }
}

/// Down at the start, up, killed, up again with the same users, stopped, going on.
#[test]
fn logins_fail_while_redis_is_down_and_everything_else_goes_on() {
    let port = free_port();
    let accounts = accounts(port, Format::Tutorial);
    let server = start_with(Settings::default(), accounts.clone(), |builder| builder);
    let mut client = server.connect();
    assert_eq!(client.login("user0", "pw"), 63, "down at the start");
    client.assert_quiet();

    let Some(redis) = RedisServer::start(port) else { return };
    assert!(eventually(|| accounts.add("user0", "pw").is_ok()));
    assert!(eventually(|| client.login("user0", "pw") == 0), "it comes back by itself");
    assert_eq!(client.enter(0), 0);
    client.expect(209);

    drop(redis);
    let mut other = server.connect();
    for _ in 0..20 {
        assert_eq!(other.login("user0", "pw"), 63, "killed");
    }
    says_and_hears(&mut client, "while it is down");

    let redis = RedisServer::start(port).unwrap();
    assert!(eventually(|| accounts.add("user1", "pw").is_ok()));
    assert!(eventually(|| other.login("user1", "pw") == 0));

    redis.signal("-STOP");
    let mut third = server.connect();
    for _ in 0..20 {
        assert_eq!(third.login("user1", "pw"), 63, "stopped");
    }
    says_and_hears(&mut client, "while it is stopped");
    redis.signal("-CONT");
    assert!(eventually(|| third.login("user1", "pw") == 31), "it judges again: that id is online");
    server.finish();
}

/// What logins came to that several connections try on and on.
#[derive(Default)]
struct Logins {
    are_over: AtomicBool,
    let_in: AtomicU64,
    put_off: AtomicU64,
}

impl Logins {
    fn go_on(&self, address: SocketAddr, name: &str) {
        while !self.are_over.load(Ordering::Relaxed) {
            let mut client = Client::connect(address);
            match client.login(name, "pw") {
                0 => _ = self.let_in.fetch_add(1, Ordering::Relaxed),
                63 => _ = self.put_off.fetch_add(1, Ordering::Relaxed),
                // The name is not free again yet; or the Redis does not know it yet.
                31 | 33 => {}
                other => panic!("{name}: {other}"),
            }
            // An orderly end would use up the machine's ports.
            client.reset();
            pause(Duration::from_millis(2));
        }
    }

    /// Whether so many more come to this.
    fn more(count: &AtomicU64, logins: u64) -> bool {
        let wanted = count.load(Ordering::Relaxed) + logins;
        eventually(|| count.load(Ordering::Relaxed) >= wanted)
    }
}

/// Every login is answered, also those that are under way when the Redis goes, and a room goes on.
#[test]
fn a_redis_is_killed_started_and_stopped_while_many_log_in() {
    let Some(redis) = RedisServer::start(free_port()) else { return };
    let port = redis.port;
    let accounts = accounts(port, Format::Hashes);
    let names: Vec<String> = (0..8).map(|user| format!("user{user}")).collect();
    let add_all = || {
        names.iter().all(|name| {
            let is_there = || accounts.names().is_ok_and(|names| names.contains(name));
            eventually(|| accounts.add(name, "pw").is_ok() || is_there())
        })
    };
    assert!(add_all());
    let server = start_with(Settings::default(), accounts.clone(), |builder| builder);
    let mut member = server.member("user0", 0);
    let logins = Logins::default();
    thread::scope(|scope| {
        // They end with the test, also where it fails.
        let _over = OnDrop(&logins.are_over);
        for name in &names[1..] {
            scope.spawn(|| logins.go_on(server.address, name));
        }
        assert!(Logins::more(&logins.let_in, 50));
        drop(redis);
        assert!(Logins::more(&logins.put_off, 50), "killed");
        says_and_hears(&mut member, "while it is down");
        let redis = RedisServer::start(port).unwrap();
        assert!(add_all());
        assert!(Logins::more(&logins.let_in, 50), "started again");
        redis.signal("-STOP");
        // Those that it has been asked for first wait for as long as it may take.
        for second in 1..=10 {
            assert!(Logins::more(&logins.put_off, 1), "stopped for {second} s");
            says_and_hears(&mut member, "while it is stopped");
            pause(Duration::from_secs(1));
        }
        redis.signal("-CONT");
        assert!(Logins::more(&logins.let_in, 50), "it goes on");
    });
    drop(member);
    server.until("nobody is left", |chat| chat.counts().online == 0);
    server.finish();
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn says_and_hears(client: &mut Client, text: &str) {
    client.send(&support::chat(text));
    assert_eq!(client.result(222), 0);
    assert_eq!(client.heard(), ("user0".to_owned(), text.to_owned()));
}
