//! The whole chat in the simulator: a seed decides who is next, what is cut where, and when the store
//! answers. What has to hold is checked from outside, by what the clients were told.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use wharf::{
    Limits, Server,
    framing::LengthField,
    packet::{Packet, TextRef},
    testing::{Client, Faults, Simulation, for_seeds},
};
use wharf_chat::{
    Accounts, Chat, Duplicate, Memory, Rate, Scheme, Settings,
    packets::{
        ChatNotify, ChatRequest, EnterRequest, EnterResponse, LeaveRequest, LeaveResponse,
        LoginRequest, LoginResponse, UserEntered, UserLeft, UserList,
    },
};

const ADDRESS: &str = "127.0.0.1:11021";

struct Player {
    client: Client<LengthField>,
    /// How many of the packets it was sent have been checked.
    seen: usize,
    said: usize,
    gone: bool,
}

fn chat_with(settings: Settings) -> Chat {
    // Plain: the simulator has no use for the time that a hash takes.
    let accounts = Accounts::new(Memory::new(Scheme::Plain));
    for user in 0..8 {
        accounts.add(&format!("user{user}"), "pw").unwrap();
    }
    Chat::new(settings, accounts)
}

fn simulate(chat: &Chat, seed: u64, faults: Faults) -> Simulation {
    let builder = Server::builder().workers(1 + (seed % 3) as usize);
    let builder = chat.listen(builder, ADDRESS.parse().unwrap(), Limits::default()).unwrap();
    builder.simulate(seed, faults).unwrap()
}

fn send<P: Packet>(client: &Client<LengthField>, packet: &P) {
    client.send_packet(P::ID, &packet.to_vec());
}

/// One of the things that clients do, in and out of turn.
fn act(sim: &mut Simulation, players: &mut Vec<Player>, number: usize) {
    let pick = sim.random(players.len() as u64 + 1) as usize;
    if pick == players.len() {
        if players.iter().filter(|player| !player.gone).count() < 8 {
            let client = sim.connect(ADDRESS, LengthField::TUTORIAL);
            players.push(Player { client, seen: 0, said: 0, gone: false });
        }
        return;
    }
    let what = sim.random(12);
    let other = sim.random(8);
    let player = &mut players[pick];
    if player.gone {
        return;
    }
    let name = format!("user{other}");
    match what {
        0..=2 => send(
            &player.client,
            &LoginRequest {
                id: TextRef::new(&name).unwrap(),
                password: TextRef::new(if other == 7 { "no" } else { "pw" }).unwrap(),
            },
        ),
        3..=5 => send(&player.client, &EnterRequest { room: (other % 3) as i32 }),
        6 => send(&player.client, &LeaveRequest {}),
        7..=9 => {
            player.said += 1;
            let text = format!("{pick}.{}.{number}", player.said);
            send(&player.client, &ChatRequest { text: TextRef::new(&text).unwrap() });
        }
        10 => {
            player.client.end();
            player.gone = true;
        }
        _ => {
            player.client.reset();
            player.gone = true;
        }
    }
}

/// What a client knows from what it was told, checked packet by packet.
#[derive(Default)]
struct View {
    logged_in: bool,
    in_room: bool,
    /// For each stay in a room: what was heard there, in order.
    stays: Vec<Vec<(String, String)>>,
    present: BTreeMap<i64, String>,
    answers_owed_to_self: usize,
}

impl View {
    fn take(&mut self, id: u32, body: &[u8]) {
        match id {
            202 => {
                let result = LoginResponse::decode(body).unwrap().result;
                assert!([0, 31, 33, 63].contains(&result), "{result}");
                assert!(!(result == 0 && self.logged_in), "logged in twice");
                assert!(result == 31 || !self.logged_in, "a login was tried in a room: {result}");
                self.logged_in |= result == 0;
            }
            207 => {
                let result = EnterResponse::decode(body).unwrap().result;
                match result {
                    0 => assert!(self.logged_in && !self.in_room, "entered out of turn"),
                    51 => assert!(!self.logged_in),
                    52 => assert!(self.in_room),
                    54 => assert!(self.logged_in && !self.in_room),
                    other => panic!("entering gave {other}"),
                }
                if result == 0 {
                    self.in_room = true;
                    self.stays.push(Vec::new());
                    self.present.clear();
                }
            }
            209 => {
                assert!(self.in_room && self.present.is_empty());
                for user in UserList::decode(body).unwrap().users {
                    assert!(
                        self.present.insert(user.unique_id, user.id.as_str().to_owned()).is_none()
                    );
                }
                assert!(self.present.len() <= 4, "more than there are seats: {:?}", self.present);
            }
            208 => {
                assert!(self.in_room, "told of a room outside it");
                let user = UserEntered::decode(body).unwrap().user;
                assert!(self.present.insert(user.unique_id, user.id.as_str().to_owned()).is_none());
                assert!(self.present.len() <= 4, "more than there are seats: {:?}", self.present);
            }
            217 => {
                assert!(self.in_room, "told of a room outside it");
                let left = UserLeft::decode(body).unwrap().unique_id;
                assert!(self.present.remove(&left).is_some(), "{left} was not there");
            }
            216 => match LeaveResponse::decode(body).unwrap().result {
                0 => {
                    assert!(self.in_room);
                    self.in_room = false;
                }
                61 => assert!(!self.in_room),
                other => panic!("leaving gave {other}"),
            },
            222 => {
                let result = i16::from_le_bytes(body.try_into().unwrap());
                match result {
                    0 => {
                        assert!(self.in_room);
                        self.answers_owed_to_self += 1;
                    }
                    81 => assert!(!self.in_room),
                    other => panic!("chat gave {other}"),
                }
            }
            223 => {
                assert!(self.in_room, "heard a room outside it");
                let notify = ChatNotify::decode(body).unwrap();
                let id = notify.id.as_str().to_owned();
                assert!(self.present.values().any(|name| *name == id), "{id} is not in the room");
                self.stays.last_mut().unwrap().push((id, notify.text.as_str().to_owned()));
            }
            other => panic!("packet {other} came from the server"),
        }
    }
}

fn packets(client: &Client<LengthField>) -> Vec<(u32, Vec<u8>)> {
    client.received_packets()
}

fn run(seed: u64, settings: Settings, breaks: Option<Faults>) {
    let faults = breaks.clone().unwrap_or_else(Faults::none);
    let chat = chat_with(settings);
    let mut sim = simulate(&chat, seed, faults);
    let mut players: Vec<Player> = Vec::new();
    for number in 0..150 {
        act(&mut sim, &mut players, number);
        for _ in 0..sim.random(12) {
            sim.step();
        }
        if sim.random(10) == 0 {
            sim.run();
        }
    }
    sim.run();
    let mut stays = Vec::new();
    for player in &mut players {
        let mut view = View::default();
        for (id, body) in packets(&player.client) {
            player.seen += 1;
            view.take(id, &body);
        }
        stays.extend(view.stays);
    }
    check_order(&stays);
    for player in &mut players {
        if !player.gone {
            player.client.end();
        }
    }
    sim.run_for(Duration::from_secs(5));
    let left = |chat: &Chat| (chat.counts().online, chat.counts().seats);
    // A network that loses the end of a stream leaves the server a session, until it drains.
    if breaks.is_none() {
        assert_eq!(left(&chat), (0, 0));
    }
    sim.finish();
    assert_eq!(left(&chat), (0, 0));
}

/// Each message was said once, so it names a place in its room's order: in any two stays the messages
/// that both have are in the same order, with none between them that only one has.
fn check_order(stays: &[Vec<(String, String)>]) {
    for (index, stay) in stays.iter().enumerate() {
        let places: BTreeMap<&str, usize> =
            stay.iter().enumerate().map(|(place, (_, text))| (text.as_str(), place)).collect();
        assert_eq!(places.len(), stay.len(), "a message came twice: {stay:?}");
        for other in &stays[index + 1..] {
            let common: Vec<(usize, usize)> = (other.iter().enumerate())
                .filter_map(|(there, (_, text))| Some((*places.get(text.as_str())?, there)))
                .collect();
            for pair in common.windows(2) {
                assert_eq!(pair[1].0, pair[0].0 + 1, "{stay:?}\n{other:?}");
                assert_eq!(pair[1].1, pair[0].1 + 1, "{stay:?}\n{other:?}");
            }
        }
    }
}

fn generous() -> Settings {
    Settings { rate: Rate { per_second: 10_000, burst: 10_000 }, ..Settings::default() }
}

#[test]
fn users_come_talk_and_go_in_any_order() {
    for_seeds(0..300, |seed| run(seed, generous(), None));
}

#[test]
fn also_where_connections_break() {
    for_seeds(0..300, |seed| run(seed, generous(), Some(Faults::rough())));
}

#[test]
fn also_where_a_second_login_kicks_the_first() {
    let settings = Settings { duplicate_login: Duplicate::Kick, ..generous() };
    for_seeds(0..300, |seed| run(seed, settings.clone(), Some(Faults::rough())));
}

/// While the store is asked, the packets behind the login wait; they are not answered as if it had
/// failed.
#[test]
fn what_is_sent_behind_a_login_waits_for_it() {
    for_seeds(0..300, |seed| {
        let chat = chat_with(Settings::default());
        let mut sim = simulate(&chat, seed, Faults::none());
        let client = sim.connect(ADDRESS, LengthField::TUTORIAL);
        send(
            &client,
            &LoginRequest {
                id: TextRef::new("user0").unwrap(),
                password: TextRef::new("pw").unwrap(),
            },
        );
        send(&client, &EnterRequest { room: 1 });
        send(&client, &ChatRequest { text: TextRef::new("안녕").unwrap() });
        send(&client, &LeaveRequest {});
        send(&client, &EnterRequest { room: 2 });
        client.end();
        sim.run();
        let ids: Vec<u32> = packets(&client).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [202, 207, 209, 222, 223, 216, 207, 209]);
        assert!(client.is_closed());
        assert_eq!((chat.counts().online, chat.counts().seats), (0, 0));
        sim.finish();
    });
}

/// A store's answer for somebody who has gone takes no name, whoever has the slot by then.
#[test]
fn an_answer_that_comes_too_late_is_nobodys() {
    for_seeds(0..300, |seed| {
        let chat = chat_with(Settings::default());
        let mut sim = simulate(&chat, seed, Faults::none());
        let request = LoginRequest {
            id: TextRef::new("user0").unwrap(),
            password: TextRef::new("pw").unwrap(),
        };
        let first = sim.connect(ADDRESS, LengthField::TUTORIAL);
        send(&first, &request);
        first.reset();
        for _ in 0..sim.random(40) {
            sim.step();
        }
        let second = sim.connect(ADDRESS, LengthField::TUTORIAL);
        sim.run();
        assert_eq!(packets(&second), [], "an answer for somebody else");
        send(&second, &request);
        sim.run();
        assert_eq!(packets(&second), [(202, vec![0, 0])]);
        drop(second);
        sim.finish();
        assert_eq!(chat.counts().online, 0);
    });
}

/// A member is gone and another connection has its slot before the room knows of either: what is said
/// there reaches the members, and nobody else.
#[test]
fn a_slot_that_is_used_again_hears_nothing_of_the_room() {
    let has_the_slot = AtomicUsize::new(0);
    for_seeds(0..300, |seed| {
        let chat = chat_with(Settings::default());
        let builder = Server::builder().workers(1).max_sessions(2);
        let builder = chat.listen(builder, ADDRESS.parse().unwrap(), Limits::default()).unwrap();
        let mut sim = builder.simulate(seed, Faults::none()).unwrap();
        let member = |sim: &mut Simulation, user| {
            let client = sim.connect(ADDRESS, LengthField::TUTORIAL);
            let (id, password) = (TextRef::new(user).unwrap(), TextRef::new("pw").unwrap());
            send(&client, &LoginRequest { id, password });
            send(&client, &EnterRequest { room: 0 });
            sim.run();
            assert!(packets(&client).contains(&(207, vec![0, 0])), "{user}");
            client
        };
        let (stays, goes) = (member(&mut sim, "user0"), member(&mut sim, "user1"));
        goes.reset();
        let mut comes = Vec::new();
        for _ in 0..20 {
            send(&stays, &ChatRequest { text: TextRef::new("who hears this?").unwrap() });
            comes.push(sim.connect(ADDRESS, LengthField::TUTORIAL));
            for _ in 0..sim.random(6) {
                sim.step();
            }
        }
        sim.run();
        for client in &comes {
            if !client.is_closed() {
                has_the_slot.fetch_add(1, Ordering::Relaxed);
            }
            assert_eq!(packets(client), [], "what is said in a room where it is not");
        }
        let said = packets(&stays).iter().filter(|(id, _)| *id == ChatNotify::ID).count();
        assert_eq!(said, 20);
        sim.finish();
    });
    // Others find the server full: the slot is not free yet.
    assert!(has_the_slot.into_inner() > 0);
}

#[test]
fn whoever_does_not_log_in_is_closed_after_two_minutes_of_virtual_time() {
    let chat = chat_with(Settings::default());
    let mut sim = simulate(&chat, 1, Faults::none());
    let silent = sim.connect(ADDRESS, LengthField::TUTORIAL);
    let undecided = sim.connect(ADDRESS, LengthField::TUTORIAL);
    let user = sim.connect(ADDRESS, LengthField::TUTORIAL);
    undecided.send_packet(1, b"hm");
    send(
        &user,
        &LoginRequest { id: TextRef::new("user0").unwrap(), password: TextRef::new("pw").unwrap() },
    );
    sim.run_for(Duration::from_secs(59));
    assert!(!silent.is_closed());
    sim.run_for(Duration::from_secs(2));
    assert!(silent.is_closed(), "no packet for 60 s");
    assert!(!undecided.is_closed());
    sim.run_for(Duration::from_secs(61));
    assert!(undecided.is_closed(), "no login for 120 s");
    sim.run_for(Duration::from_secs(3600));
    assert!(!user.is_closed(), "whoever is logged in may be silent");
    sim.finish();
}
