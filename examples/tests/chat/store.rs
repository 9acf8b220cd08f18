//! Step 9: asking a store that takes its time, that is down, that dies.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use redis::Commands;
use wharf::{Handle, packet::Packet, port::Config, testing::for_seeds};

use crate::{
    guest::{ADDRESS, Guest, simulate},
    step09::{
        self,
        packets::LoginRequest,
        store::{Redis, Store, Verdict},
    },
    step10,
};

/// Lets anybody in whose password is `pw`.
pub(crate) struct Anybody;

impl Store for Anybody {
    fn check(&self, _: &str, password: &str) -> Verdict {
        if password == "pw" { Verdict::Right } else { Verdict::Wrong }
    }
}

impl step10::store::Store for Anybody {
    fn check(&self, _: &str, password: &str) -> step10::store::Verdict {
        if password == "pw" { step10::store::Verdict::Right } else { step10::store::Verdict::Wrong }
    }
}

/// Answers when the test says so.
struct Slow(Mutex<Receiver<Verdict>>);

impl Store for Slow {
    fn check(&self, _: &str, _: &str) -> Verdict {
        self.0.lock().unwrap().recv().unwrap_or(Verdict::Unknown)
    }
}

/// A client on a real socket. What has not come after 20 s never will.
struct Client(TcpStream);

impl Client {
    fn connect(server: &Handle) -> Self {
        let stream = TcpStream::connect::<SocketAddr>(server.local_addrs()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn say_login(&mut self, name: &str, password: &str) {
        let [id, password] =
            [name, password].map(|text| wharf::packet::TextRef::new(text).unwrap());
        self.0.write_all(&[71, 0, 201, 0, 0]).unwrap();
        self.0.write_all(&LoginRequest { id, password }.to_vec()).unwrap();
    }

    fn say_echo(&mut self) {
        self.0.write_all(b"\x06\0\x01\0\0x").unwrap();
    }

    fn hear_echo(&mut self) {
        let mut echo = [0; 6];
        self.0.read_exact(&mut echo).unwrap();
        assert_eq!(echo, *b"\x06\0\x01\0\0x");
    }

    fn result(&mut self) -> u8 {
        let mut answer = [0; 7];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!((&answer[..5], answer[6]), (&[7, 0, 202, 0, 0][..], 0));
        answer[5]
    }

    fn login(&mut self, name: &str, password: &str) -> u8 {
        self.say_login(name, password);
        self.result()
    }
}

fn finish(server: &Handle) {
    server.drain(Duration::from_secs(5));
    assert!(server.join().unwrap().leftover.is_nothing());
}

#[test]
fn step_9_while_the_store_thinks_everybody_else_is_served() {
    let (verdicts, store) = mpsc::channel();
    let server = step09::server("127.0.0.1:0", Arc::new(Slow(Mutex::new(store))));
    let server = server
        .workers(1)
        .offload_threads(1)
        .offload_queue(1)
        .port(Config::from_env().unwrap())
        .start()
        .unwrap();
    let [mut ann, mut bob, mut cyd] = [(); 3].map(|()| Client::connect(&server));
    ann.say_login("ann", "pw");
    ann.say_echo();
    bob.say_echo();
    bob.hear_echo();
    bob.say_login("bob", "pw");
    // One login is with the store, one waits; whoever comes third is told so at once.
    assert!(eventually(|| server.stats().unwrap().frames_received == 3), "bob's login is there");
    assert_eq!(cyd.login("cyd", "pw"), 63);
    verdicts.send(Verdict::Right).unwrap();
    verdicts.send(Verdict::Wrong).unwrap();
    assert_eq!((ann.result(), bob.result()), (0, 33));
    ann.hear_echo(); // it waited behind the login
    drop((ann, bob, cyd));
    finish(&server);
}

#[test]
fn step_9_of_two_logins_in_flight_for_one_name_one_gets_it() {
    for_seeds(0..50, |seed| {
        let mut sim = simulate(step09::server(ADDRESS, Arc::new(Anybody)), seed);
        let [mut ann, mut bob, mut eve] = [(); 3].map(|()| Guest::connect(&mut sim));
        ann.say_login("ann", "pw");
        bob.say_login("ann", "pw");
        eve.say_login("ann", "guess");
        sim.run();
        let mut results = [ann.result(202), bob.result(202)];
        results.sort_unstable();
        assert_eq!(results, [0, 31]);
        assert_eq!(eve.result(202), 33);
        sim.finish();
    });
}

/// The answer to somebody who is gone is for nobody: it takes no name, and tells no one else.
#[test]
fn step_9_who_leaves_during_a_login_has_not_logged_in() {
    for_seeds(0..100, |seed| {
        let mut sim = simulate(step09::server(ADDRESS, Arc::new(Anybody)), seed);
        let gone = Guest::connect(&mut sim);
        gone.say_login("ann", "pw");
        gone.leave(&mut sim);
        let mut next = Guest::connect(&mut sim);
        sim.run();
        assert_eq!(next.heard(), []);
        assert_eq!(next.login(&mut sim, "ann"), 0);
        sim.finish();
    });
}

/// A Redis that forgets everything with its process.
struct RedisServer(Child);

impl RedisServer {
    fn start(port: u16) -> Option<Self> {
        let options = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""];
        match Command::new("redis-server").args(options).stdout(Stdio::null()).spawn() {
            Ok(process) => Some(Self(process)),
            Err(error) => {
                eprintln!("left out: a Redis that comes and dies: no redis-server ({error})");
                None
            }
        }
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tries until it works: a packet takes a while to arrive, and a Redis to begin.
fn eventually(mut works: impl FnMut() -> bool) -> bool {
    (0..1000).any(|_| {
        let worked = works();
        if !worked {
            thread::sleep(Duration::from_millis(20));
        }
        worked
    })
}

#[test]
fn step_9_redis_down_at_the_start_up_killed_up_again_and_stopped() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("redis://127.0.0.1:{port}");
    let server = step09::server("127.0.0.1:0", Arc::new(Redis::new(&url).unwrap()));
    let server = server.workers(1).port(Config::from_env().unwrap()).start().unwrap();
    let [mut ann, mut bob] = [(); 2].map(|()| Client::connect(&server));
    assert_eq!(ann.login("ann", "pw"), 63, "down at the start");
    ann.say_echo();
    ann.hear_echo();

    let Some(redis) = RedisServer::start(port) else { return finish(&server) };
    let client = redis::Client::open(url).unwrap();
    let set = || client.get_connection()?.set::<_, _, ()>("ann", "pw");
    assert!(eventually(|| set().is_ok()));
    client.get_connection().unwrap().lpush::<_, _, ()>("list", "pw").unwrap();
    assert_eq!(bob.login("ann", "guess"), 33);
    assert_eq!(bob.login("nobody", "pw"), 33);
    assert_eq!(bob.login("list", "pw"), 33, "a key that is no user's");
    assert_eq!(ann.login("ann", "pw"), 0);

    drop(redis);
    assert_eq!(bob.login("ann", "pw"), 63, "killed");
    ann.say_echo();
    ann.hear_echo();

    let redis = RedisServer::start(port).unwrap();
    assert!(eventually(|| set().is_ok()));
    assert_eq!(bob.login("ann", "pw"), 31, "up again: ann is online");

    #[cfg(unix)]
    {
        redis.signal("-STOP");
        bob.say_login("ann", "pw");
        ann.say_echo();
        ann.hear_echo();
        assert_eq!(bob.result(), 63, "stopped: the time-out has passed");
        redis.signal("-CONT");
        assert!(eventually(|| bob.login("ann", "pw") == 31), "going on");
    }
    drop(redis);
    finish(&server);
}
