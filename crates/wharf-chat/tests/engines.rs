//! 40 users in 10 rooms over real sockets, on every engine that this machine has.

mod support;

use std::collections::BTreeMap;

use support::{Client, accounts, chat, enter, login, start_on};
use wharf::{packet::Packet as _, port};
use wharf_chat::{Settings, packets::ChatNotify};

const SAID: usize = 20;

fn forty_users(engine: port::EngineChoice) {
    let server = start_on(engine, Settings::default(), accounts(), |builder| builder);
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    for (user, client) in clients.iter_mut().enumerate() {
        let mut script = login(&format!("user{user}"), "pw");
        script.extend(enter(user as i32 % 10));
        // Each in pieces of another length, one in a single write.
        let length = if user == 39 { script.len() } else { user + 1 };
        script.chunks(length).for_each(|piece| client.send(piece));
    }
    for client in &mut clients {
        assert_eq!(client.result(202), 0);
        assert_eq!(client.result(207), 0);
        client.expect(209);
    }
    for (user, client) in clients.iter_mut().enumerate() {
        let script: Vec<u8> =
            (0..SAID).flat_map(|number| chat(&format!("{user}.{number}"))).collect();
        script.chunks(user * 37 + 1).for_each(|piece| client.send(piece));
    }
    let mut rooms: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (user, client) in clients.iter_mut().enumerate() {
        let (mut heard, mut answers) = (Vec::new(), 0);
        while heard.len() < 4 * SAID || answers < SAID {
            match client.receive() {
                (222, body) => {
                    assert_eq!(body, [0, 0]);
                    answers += 1;
                }
                (223, body) => {
                    heard.push(ChatNotify::decode(&body).unwrap().text.as_str().to_owned());
                }
                (208, _) => {}
                other => panic!("{other:?}"),
            }
        }
        let room = rooms.entry(user % 10).or_insert_with(|| heard.clone());
        assert_eq!(*room, heard, "all members see one order");
        for text in &heard {
            let speaker: usize = text.split('.').next().unwrap().parse().unwrap();
            assert_eq!(speaker % 10, user % 10, "nobody hears another room");
        }
        client.assert_quiet();
    }
    drop(clients);
    server.until("nobody is left", |chat| {
        let counts = chat.counts();
        (counts.online, counts.seats) == (0, 0)
    });
    server.finish();
}

#[test]
fn forty_users_in_ten_rooms_on_every_engine() {
    let mut tried = 0;
    for (engine, probed) in port::probe() {
        match probed {
            Ok(_) => {
                forty_users(engine.to_string().parse().unwrap());
                tried += 1;
            }
            Err(error) => eprintln!("left out: {engine} ({error})"),
        }
    }
    assert!(tried > 0);
}
