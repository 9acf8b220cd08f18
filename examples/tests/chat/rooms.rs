//! Step 10: rooms, their seats, and what their members see.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use wharf::{
    packet::{Packet, TextRef},
    port::Config,
    testing::{Simulation, for_seeds},
};

use crate::{
    guest::{ADDRESS, Guest, simulate},
    step10::{
        self,
        packets::{
            ChatNotify, ChatRequest, EnterRequest, LeaveRequest, LoginRequest, UserEntered,
            UserLeft, UserList,
        },
    },
    store::Anybody,
};

fn start(seed: u64) -> Simulation {
    simulate(step10::server(ADDRESS, Arc::new(Anybody)), seed)
}

fn user(sim: &mut Simulation, name: &str) -> Guest {
    let mut guest = Guest::connect(sim);
    assert_eq!(guest.login(sim, name), 0);
    guest
}

impl Guest {
    fn say_text(&self, text: &str) {
        self.say(&ChatRequest { text: TextRef::new(text).unwrap() });
    }

    /// Its answer, and the names in the list that comes with a seat.
    fn enter(&mut self, sim: &mut Simulation, room: i32) -> (u16, Vec<String>) {
        self.say(&EnterRequest { room });
        sim.run();
        match &self.heard()[..] {
            [(207, result)] => (u16::from_le_bytes(result[..].try_into().unwrap()), Vec::new()),
            [(207, result), (209, list)] if result[..] == [0, 0] => {
                let users = UserList::decode(list).unwrap().users.into_iter();
                (0, users.map(|user| user.id.as_str().to_owned()).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn step_10_the_way_into_a_room_and_back() {
    for_seeds(0..30, |seed| {
        let mut sim = start(seed);
        let mut ann = Guest::connect(&mut sim);
        assert_eq!(ann.enter(&mut sim, 0).0, 51, "not logged in");
        assert_eq!(ann.login(&mut sim, "ann"), 0);
        for room in [-1, 10, i32::MIN, i32::MAX] {
            assert_eq!(ann.enter(&mut sim, room).0, 61, "{room}");
        }
        for (request, answer, result) in [(215, 216, 61), (221, 222, 81)] {
            ann.client.send_packet(request, if request == 215 { &[] } else { &[b'x'; 257] });
            sim.run();
            assert_eq!(ann.result(answer), result, "outside a room");
        }
        assert_eq!(ann.enter(&mut sim, 9), (0, vec!["ann".to_owned()]));
        assert_eq!(ann.enter(&mut sim, 9).0, 52, "in a room already");
        assert_eq!(ann.enter(&mut sim, 8).0, 52, "in another room");
        assert_eq!(ann.login(&mut sim, "ann"), 31);
        for (id, body, answer, result) in [
            (206, &[0; 3][..], 207, 61),
            (215, &[0; 1], 216, 61),
            (221, &[0; 256], 222, 81),
            (221, &[0xff; 257], 222, 81),
        ] {
            ann.client.send_packet(id, body);
            sim.run();
            assert_eq!(ann.result(answer), result, "malformed, and nothing changes");
        }
        // All at once: each waits for the one before it.
        ann.say(&LeaveRequest {});
        ann.say(&EnterRequest { room: 3 });
        ann.say_text("hello");
        ann.say(&LeaveRequest {});
        ann.say(&LeaveRequest {});
        sim.run();
        let ids: Vec<u32> = ann.heard().iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [216, 207, 209, 222, 223, 216, 216]);
        sim.finish();
    });
}

#[test]
fn step_10_a_seat_is_free_at_once_however_its_user_has_gone() {
    for_seeds(0..50, |seed| {
        let mut sim = start(seed);
        let mut members: Vec<_> = (0..4)
            .map(|number| {
                let mut guest = user(&mut sim, &format!("user{number}"));
                assert_eq!(guest.enter(&mut sim, 0).1.len(), number + 1);
                guest
            })
            .collect();
        let mut late = user(&mut sim, "late");
        assert_eq!(late.enter(&mut sim, 0).0, 54, "the room is full");
        let entered: Vec<_> = members[0].heard();
        assert!(entered.iter().all(|(id, _)| *id == 208), "{entered:?}");
        let second = UserEntered::decode(&entered[0].1).unwrap().user;
        assert_eq!((second.id.as_str(), entered.len()), ("user1", 3));
        let (second, mut leaver) = (second.unique_id, members.remove(1));
        if seed % 2 == 0 {
            leaver.leave(&mut sim);
        } else {
            leaver.say(&LeaveRequest {});
            sim.run();
            assert_eq!(
                leaver.heard().last(),
                Some(&(216, vec![0, 0])),
                "he is not told of himself"
            );
        }
        let left = members[0].heard();
        assert_eq!(left, [(217, UserLeft { unique_id: second }.to_vec())]);
        assert_eq!(
            late.enter(&mut sim, 0),
            (0, ["user0", "user2", "user3", "late"].map(str::to_owned).to_vec())
        );
        sim.finish();
    });
}

/// Users that come and go at any moment leave no seat behind.
#[test]
fn step_10_who_goes_while_asking_for_a_seat_keeps_none() {
    for_seeds(0..100, |seed| {
        let mut sim = start(seed);
        for number in 0..6 {
            let guest = user(&mut sim, &format!("user{number}"));
            guest.say(&EnterRequest { room: 0 });
            guest.client.reset();
            for _ in 0..sim.random(30) {
                sim.step();
            }
        }
        sim.run_for(Duration::from_secs(1));
        let mut ann = user(&mut sim, "ann");
        assert_eq!(ann.enter(&mut sim, 0), (0, vec!["ann".to_owned()]));
        sim.finish();
    });
}

#[test]
fn step_10_all_members_see_what_is_said_in_one_order_and_nobody_else_does() {
    for_seeds(0..50, |seed| {
        let mut sim = start(seed);
        let mut members: Vec<_> =
            (0..4).map(|number| user(&mut sim, &format!("user{number}"))).collect();
        let mut other = user(&mut sim, "other");
        assert_eq!(other.enter(&mut sim, 1).0, 0);
        members.iter_mut().for_each(|member| assert_eq!(member.enter(&mut sim, 0).0, 0));
        members.iter_mut().for_each(|member| drop(member.heard()));
        for number in 0..20 {
            members.iter().for_each(|member| member.say_text(&format!("{number}")));
        }
        sim.run();
        let mut orders = Vec::new();
        for member in &mut members {
            let (mut answered, mut mine, mut order) = (0, 0, Vec::new());
            for (id, body) in member.heard() {
                if id == 222 {
                    assert_eq!(body, [0, 0]);
                    answered += 1;
                } else {
                    let notify = ChatNotify::decode(&body).unwrap();
                    let said = (notify.id.as_str().to_owned(), notify.text.as_str().to_owned());
                    mine += usize::from(said.0 == format!("user{}", orders.len()));
                    assert!(answered >= mine, "222 comes before one's own 223");
                    order.push(said);
                }
            }
            assert_eq!((answered, mine, order.len()), (20, 20, 80));
            orders.push(order);
        }
        assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "one order for all");
        let mut next = BTreeMap::<_, usize>::new();
        for (who, text) in &orders[0] {
            let next = next.entry(who).or_default();
            assert_eq!(*text, next.to_string(), "each user's own order");
            *next += 1;
        }
        assert_eq!(other.heard(), [], "another room hears nothing");
        sim.finish();
    });
}

#[test]
fn step_10_the_bytes_are_those_of_the_protocol() {
    let server = step10::server("127.0.0.1:0", Arc::new(Anybody))
        .workers(1)
        .port(Config::from_env().unwrap())
        .start()
        .unwrap();
    let mut stream = TcpStream::connect(server.local_addrs()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let [id, password] = ["user0", "pw"].map(|text| TextRef::new(text).unwrap());
    let login = LoginRequest { id, password }.to_vec();
    let mut chat = b"\x06\x01\xdd\0\0hello".to_vec();
    chat.resize(262, 0);
    let leave = b"\x05\0\xd7\0\0";
    let enter = b"\x09\0\xce\0\0\0\0\0\0";
    let all = [&[0x47, 0, 0xc9, 0, 0][..], &login, enter, &chat, leave].concat();
    stream.write_all(&all).unwrap();
    let mut answers = [0; 7 + 7 + (6 + 9 + 5) + 7 + 295 + 7];
    stream.read_exact(&mut answers).unwrap();
    assert_eq!(answers[..14], *b"\x07\0\xca\0\0\0\0\x07\0\xcf\0\0\0\0");
    assert_eq!(answers[14..20], *b"\x14\0\xd1\0\0\x01");
    assert_eq!(answers[28..34], *b"\x05user0");
    assert_eq!(answers[34..41], *b"\x07\0\xde\0\0\0\0");
    let mut notify = b"\x27\x01\xdf\0\0user0".to_vec();
    notify.resize(5 + 33, 0);
    notify.extend_from_slice(b"hello");
    notify.resize(295, 0);
    assert_eq!(answers[41..41 + 295], notify);
    assert_eq!(answers[41 + 295..], *b"\x07\0\xd8\0\0\0\0");
    drop(stream);
    server.drain(Duration::from_secs(5));
    assert!(server.join().unwrap().leftover.is_nothing());
}
