//! The starters of the chat.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
};

use wharf::{Server, framing::LengthField, packet::Packet, port::Config};

use crate::{
    guest::{ADDRESS, Guest, simulate},
    step08, step09, step10,
    tries::attempt,
};

#[test]
fn step_8_gives_a_name_to_one_user() {
    attempt(8, || {
        let router = step08::chat::router();
        let online = Arc::new(step08::online::Online::default());
        let chat = move || router.handler(step08::chat::Chat { online: Arc::clone(&online) });
        let server = Server::builder().listen(ADDRESS, LengthField::TUTORIAL, chat);
        let mut sim = simulate(server, 8);
        let [mut ann, mut bob] = [(); 2].map(|()| Guest::connect(&mut sim));
        assert_eq!(ann.login(&mut sim, "ann"), 0);
        assert_eq!(bob.login(&mut sim, "ann"), 31, "somebody has the name");
        ann.leave(&mut sim);
        assert_eq!(bob.login(&mut sim, "ann"), 0, "free again");
        sim.finish();
    });
}

/// Lets everybody in, and remembers on which threads it was asked.
#[derive(Default)]
struct Witness(Mutex<Vec<String>>);

impl step09::store::Store for Witness {
    fn check(&self, _: &str, _: &str) -> step09::store::Verdict {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push(thread);
        step09::store::Verdict::Right
    }
}

#[test]
fn step_9_asks_the_store_where_nobody_waits() {
    attempt(9, || {
        let router = step09::chat::router();
        let (online, witness) = (Arc::default(), Arc::new(Witness::default()));
        let store = Arc::clone(&witness);
        let chat = move || {
            router.handler(step09::chat::Chat { online: Arc::clone(&online), store: store.clone() })
        };
        let server = Server::builder().workers(1);
        let server = server
            .listen("127.0.0.1:0", LengthField::TUTORIAL, chat)
            .port(Config::from_env().unwrap())
            .start()
            .unwrap();
        let mut stream = TcpStream::connect(server.local_addrs()[0]).unwrap();
        stream.write_all(&login("ann")).unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [7, 0, 202, 0, 0, 0, 0]);
        let threads = witness.0.lock().unwrap().clone();
        assert_eq!(threads.len(), 1, "it is asked once");
        assert!(threads[0].starts_with("wharf-pool-"), "it was asked on the thread {}", threads[0]);
    });
}

/// A login, as it is on the wire.
fn login(name: &str) -> Vec<u8> {
    let [id, password] = [name, "pw"].map(|text| wharf::packet::TextRef::new(text).unwrap());
    let body = step09::packets::LoginRequest { id, password }.to_vec();
    [&[71, 0, 201, 0, 0][..], &body].concat()
}

#[test]
fn step_10_gives_a_seat_back_whose_user_is_gone() {
    attempt(10, || {
        let router = step10::chat::router();
        let online = Arc::new(step10::online::Online::default());
        let store: Arc<dyn step10::store::Store> = Arc::new(step10::store::Anybody);
        let chat = move || {
            let (online, store) = (Arc::clone(&online), Arc::clone(&store));
            router.handler(step10::chat::Chat { online, store })
        };
        let server = Server::builder().listen(ADDRESS, LengthField::TUTORIAL, chat);
        let mut sim = simulate(server, 10);
        let enter = step10::packets::EnterRequest { room: 0 };
        let mut guests: Vec<_> = (0..5).map(|_| Guest::connect(&mut sim)).collect();
        for (number, guest) in guests.iter_mut().enumerate() {
            assert_eq!(guest.login(&mut sim, &format!("user{number}")), 0);
            guest.say(&enter);
            sim.run();
        }
        let mut fifth = guests.pop().unwrap();
        assert_eq!(fifth.result(207), 54, "there are four seats");
        guests.remove(0).leave(&mut sim);
        fifth.say(&enter);
        sim.run();
        assert_eq!(fifth.heard()[0], (207, vec![0, 0]), "one seat is free");
        assert!(guests[0].heard().iter().any(|(id, _)| *id == 217), "who is left is told");
        sim.finish();
    });
}
