//! More than there is room for: logins beyond the queue of hashes, rooms whose thread has too much to do,
//! connections that are gone before anybody took them, and a storm of logins beside an echo.
#![expect(clippy::disallowed_methods, reason = "a test may start threads and look at the clock")]

mod support;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use support::{Client, Running, accounts, login, start_with};
use wharf::{Context, Frame, Handler, framing::LengthField};
use wharf_chat::{Accounts, Memory, Scheme, Settings, Store, StoreError};

/// A store that answers when it is told to.
struct Slow {
    asked: Sender<()>,
    answers: Mutex<Receiver<()>>,
}

impl Store for Slow {
    fn secret(&self, _: &str) -> Result<Option<String>, StoreError> {
        self.asked.send(()).unwrap();
        self.answers.lock().unwrap().recv().unwrap();
        Ok(Some("pw".to_owned()))
    }

    fn scheme(&self) -> Scheme {
        Scheme::Plain
    }

    fn put(&self, _: &str, _: &str, _: bool) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn remove(&self, _: &str) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

#[test]
fn logins_beyond_the_queue_are_answered_63_at_once() {
    let (asked, waits) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let accounts = Accounts::new(Slow { asked, answers: Mutex::new(answers) });
    let server = start_with(Settings::default(), accounts, |builder| {
        // One worker takes requests in the order in which they come.
        builder.workers(1).offload_threads(1).offload_queue(1)
    });
    let mut clients: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    clients[0].send(&login("user0", "pw"));
    waits.recv().unwrap();
    clients[1].send(&login("user1", "pw"));
    let mut third = server.connect();
    for _ in 0..3 {
        assert_eq!(third.login("user2", "pw"), 63, "the store has not answered anybody");
    }
    third.assert_quiet();
    assert_eq!(server.chat.counts().logins_shed, 3);
    (0..3).for_each(|_| answer.send(()).unwrap());
    for client in &mut clients {
        assert_eq!(client.result(202), 0);
    }
    assert_eq!(third.login("user2", "pw"), 0, "there is room again");
    server.finish();
}

/// The key of a room's jobs: its letters, and its number.
fn key(room: u32) -> u64 {
    u64::from(u32::from_be_bytes(*b"room")) << 32 | u64::from(room)
}

/// Keeps the thread of room 0 busy until the value goes: which thread, and the way on.
fn hold_up(server: &Running) -> (usize, Sender<()>) {
    let (name, named) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let busy = move |_: &mut wharf::Job<'_>| {
        name.send(thread::current().name().unwrap().to_owned()).unwrap();
        let _ = wait.recv();
    };
    server.handle.post(key(0), busy).unwrap();
    let name: String = named.recv().unwrap();
    (name.strip_prefix("wharf-").unwrap().parse().unwrap(), go_on)
}

/// The worker that has the client's session.
fn worker_of(server: &Running, client: &Client) -> usize {
    let peer = client.stream.local_addr().unwrap();
    let sessions = server.handle.sessions().unwrap();
    let session = sessions.iter().find(|session| session.peer == peer).unwrap();
    session.id.to_string().split('.').next().unwrap().parse().unwrap()
}

/// Nobody waits for it: 63 for what was asked of it, and the seat of whoever went meanwhile is free.
#[test]
fn a_room_with_too_much_to_do_answers_63_and_keeps_no_seat() {
    // One worker accepts for both, and evenly.
    let server =
        start_with(Settings::default(), accounts(), |builder| builder.share_listeners(false));
    let (busy, go_on) = hold_up(&server);
    drop(go_on);
    let mut clients: Vec<(String, Client)> = (0..8)
        .map(|user| format!("user{user}"))
        .map(|name| (name.clone(), server.user(&name)))
        .collect();
    clients.retain(|(_, client)| worker_of(&server, client) != busy);
    let [(_, inside), (_, outside), (_, goes), ..] = &mut clients[..] else {
        panic!("sessions are spread over both workers")
    };
    for client in [&mut *inside, &mut *goes] {
        assert_eq!(client.enter(0), 0);
    }
    inside.expect(209);
    inside.expect(208);
    goes.expect(209);

    let (_, go_on) = hold_up(&server);
    let has_room = || server.handle.post(key(0), |_| {}).is_ok();
    assert!((0..1_000_000).any(|_| !has_room()), "its inbox has an end");
    outside.send(&support::enter(0));
    assert_eq!(outside.result(207), 63);
    inside.send(&support::chat("to nobody"));
    assert_eq!(inside.result(222), 63);
    inside.send(&support::leave());
    assert_eq!(inside.result(216), 63);
    outside.assert_quiet();
    let (_, goes) = clients.remove(2);
    let online = server.chat.counts().online;
    goes.end();
    server.until("gone", |chat| chat.counts().online < online);
    assert_eq!(server.chat.counts().seats, 2, "the room has not been told");

    drop(go_on);
    let (_, outside) = &mut clients[1];
    // What stood in the inbox may still stand there.
    let entered = (0..1_000).any(|_| {
        let result = outside.enter(0);
        assert!(result == 0 || result == 63, "{result}");
        if result == 63 {
            thread::sleep(Duration::from_millis(10));
        }
        result == 0
    });
    assert!(entered);
    assert_eq!(outside.expect(209)[0], 2, "who went has no seat any more");
    assert_eq!(server.chat.counts().seats, 2);
    drop(clients);
    server.finish();
}

/// They wait in the system's queue while the only worker is busy, and are gone when it comes to them.
#[test]
fn connections_that_are_reset_before_they_are_accepted_harm_nobody() {
    let server = start_with(Settings::default(), accounts(), |builder| builder.workers(1));
    for _ in 0..3 {
        let (_, go_on) = hold_up(&server);
        for number in 0..40 {
            let mut client = server.connect();
            if number % 2 == 0 {
                client.send(&login("user0", "pw"));
            }
            client.reset();
        }
        drop(go_on);
        let mut after = server.member("user1", 0);
        after.assert_quiet();
        assert_eq!(after.leave(), 0);
        after.end();
        server.until("empty", |chat| chat.counts().online == 0 && server.handle.count() == 0);
    }
    server.finish();
}

/// Returns frames.
struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        cx.send(frame.body())?;
        Ok(())
    }
}

const STORM: usize = 200;

/// Hashes as they cost in use: 200 logins at one moment are all let in, and an echo on the same workers
/// is answered all the while. How fast is printed, and for nobody to judge here.
#[test]
fn a_storm_of_logins_holds_up_no_echo() {
    // One hash for all of them: what is stored does not say whose it is.
    let users = Memory::new(Scheme::Argon2id);
    let secret = wharf_chat::Passwords::default().hash("pw");
    for user in 0..STORM {
        users.put(&format!("user{user}"), &secret, false).unwrap();
    }
    let server = start_with(Settings::default(), Accounts::new(users), |builder| {
        let echo = builder.max_sessions(2 * STORM).offload_threads(1).offload_queue(STORM);
        echo.listen("127.0.0.1:0", LengthField::u16_be(), || Echo)
    });
    let (echo, chat) = (server.handle.local_addrs()[0], server.handle.local_addrs()[1]);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let echoes = thread::spawn(move || echo_until(TcpStream::connect(echo).unwrap(), &over));
    let together = Arc::new(Barrier::new(STORM));
    let logins: Vec<_> = (0..STORM)
        .map(|user| {
            let together = Arc::clone(&together);
            thread::spawn(move || {
                let mut client = Client::connect(chat);
                // The last of them waits for all the hashes, on one thread.
                let patience = Some(Duration::from_mins(2));
                client.stream.set_read_timeout(patience).unwrap();
                together.wait();
                (client.login(&format!("user{user}"), "pw"), client)
            })
        })
        .collect();
    let logins: Vec<(u16, Client)> =
        logins.into_iter().map(|login| login.join().unwrap()).collect();
    is_over.store(true, Ordering::Relaxed);
    let mut nanoseconds = echoes.join().unwrap();
    let mut results = BTreeMap::new();
    logins.iter().for_each(|(result, _)| *results.entry(*result).or_insert(0) += 1);
    assert_eq!(results, BTreeMap::from([(0, STORM)]));
    assert!(nanoseconds.len() > 1, "echoes were answered meanwhile");
    nanoseconds.sort_unstable();
    let p99 = nanoseconds[nanoseconds.len() * 99 / 100];
    let _ = writeln!(
        std::io::stderr(),
        "a storm of {STORM} logins: {} echoes meanwhile, p50 {} us, p99 {} us",
        nanoseconds.len(),
        nanoseconds[nanoseconds.len() / 2] / 1000,
        p99 / 1000
    );
    drop(logins);
    server.finish();
}

/// One message after the other, each checked: how long each took.
fn echo_until(mut stream: TcpStream, is_over: &AtomicBool) -> Vec<u128> {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut took = Vec::new();
    for number in 0_u32.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let frame = [&4_u16.to_be_bytes()[..], &number.to_be_bytes()].concat();
        stream.write_all(&frame).unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, frame[..]);
        took.push(began.elapsed().as_nanos());
    }
    took
}
