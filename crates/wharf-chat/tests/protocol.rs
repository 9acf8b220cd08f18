//! The protocol over real sockets: what the tutorial's server gets wrong, and ours does not.
//!
//! What servers of this protocol get wrong, and where it is tested that this one does not. A test below
//! looks whether all of them are there.
//!
//! | what | test |
//! |---|---|
//! | several packets in one segment, one byte per segment | `protocol.rs: packets_are_found_wherever_they_are_cut` |
//! | lengths 0, 1 to 4, 5, the maximum and above | `protocol.rs: lengths_that_cannot_be_close_the_connection_and_nobody_elses` |
//! | short or long login, enter, chat | `protocol.rs: known_packets_of_a_wrong_length_are_answered_and_change_nothing` |
//! | internal and unknown ids from a client | `protocol.rs: internal_and_unknown_ids_are_ignored_and_counted` |
//! | fields without a NUL | `protocol.rs: full_fields_are_taken_and_what_is_behind_a_nul_is_not` |
//! | text that is not UTF-8 | `protocol.rs: what_is_not_utf8_is_refused_and_not_passed_on` |
//! | a reader that stops reading | `protocol.rs: a_reader_that_stops_holds_nobody_up` |
//! | a broadcast to a member whose slot is used again | `simulated.rs: a_slot_that_is_used_again_hears_nothing_of_the_room` |
//! | a login answered after the user has gone | `simulated.rs: an_answer_that_comes_too_late_is_nobodys` |
//! | two logins in flight for one id | `protocol.rs: logins_in_flight_for_one_name` |
//! | login, enter, leave twice; another room; chat after leaving | `protocol.rs: what_is_not_due_has_its_code` |
//! | a disconnect frees seat and id | `protocol.rs: resets_leave_nothing_behind` |
//! | a disconnect while the room has too much to do | `overload.rs: a_room_with_too_much_to_do_answers_63_and_keeps_no_seat` |
//! | the fifth user in a room | `protocol.rs: the_fifth_waits_for_a_seat` |
//! | more connections than the maximum, and back | `protocol.rs: more_connections_than_the_maximum_and_back` |
//! | a reset before the accept completes | `overload.rs: connections_that_are_reset_before_they_are_accepted_harm_nobody` |
//! | stop in the middle of everything | `protocol.rs: a_server_stops_with_clients_in_the_middle_of_everything` |
//! | partial sends (sends are cut at any byte) | `simulated.rs: also_where_connections_break` |
//! | the login store down at the start, and dying later | `redis.rs: logins_fail_while_redis_is_down_and_everything_else_goes_on` |
//! | more logins than can be judged | `overload.rs: logins_beyond_the_queue_are_answered_63_at_once` |
//! | logins that hold up everybody else | `overload.rs: a_storm_of_logins_holds_up_no_echo` |
//! | connected, received, closed out of order | `sim_tests.rs: with_every_fault_order_and_accounts_are_kept` |
//! | 222 after 223 | `protocol.rs: two_users_meet_talk_and_part` |
//! | another order of 223 for another member | `protocol.rs: all_members_see_one_order` |

mod support;

use support::{Client, chat, enter, leave, login, start, start_with, typed, wire};
use wharf::packet::{Packet as _, TextRef};
use wharf_chat::{
    Duplicate, Settings,
    packets::{ChatNotify, UserEntered, UserLeft, UserList},
};

fn text(number: usize) -> String {
    format!("message {number}")
}

#[test]
fn two_users_meet_talk_and_part() {
    let server = start(Settings::default());
    let mut one = server.user("user0");
    let mut other = server.user("user1");
    assert_eq!(one.enter(3), 0);
    let list = one.expect(209);
    let names = |body: &[u8]| {
        let list = UserList::decode(body).unwrap();
        list.users.iter().map(|user| user.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&list), ["user0"]);
    assert_eq!(other.enter(3), 0);
    assert_eq!(names(&other.expect(209)), ["user0", "user1"]);
    let entered = one.expect(208);
    let unique_id = UserEntered::decode(&entered).unwrap().user.unique_id;
    assert_eq!(UserEntered::decode(&entered).unwrap().user.id.as_str(), "user1");

    for said in ["hello", "안녕하세요 👋🏽", "", &"가".repeat(85)] {
        one.send(&chat(said));
        assert_eq!(one.result(222), 0, "222 comes before 223");
        for client in [&mut one, &mut other] {
            assert_eq!(client.heard(), ("user0".to_owned(), said.to_owned()));
        }
    }
    assert_eq!(other.leave(), 0);
    let left = one.expect(217);
    assert_eq!(UserLeft::decode(&left).unwrap().unique_id, unique_id);
    one.send(&chat("alone"));
    assert_eq!(one.result(222), 0);
    assert_eq!(one.heard().1, "alone");
    other.assert_quiet();
    one.assert_quiet();
    server.finish();
}

/// The whole way of a user, in writes of every length, and in one.
#[test]
fn packets_are_found_wherever_they_are_cut() {
    let server = start(Settings::default());
    let mut script = login("user0", "pw");
    for part in [enter(0), chat("a"), chat("b"), leave(), enter(1), leave(), wire(1, b"end")] {
        script.extend(part);
    }
    let lengths = (1..=8).chain([9, 70, 71, 72, 200, 262, 300, script.len() - 1, script.len()]);
    for length in lengths {
        let mut client = server.connect();
        for piece in script.chunks(length) {
            client.send(piece);
        }
        assert_eq!(client.result(202), 0, "{length}");
        assert_eq!(client.result(207), 0, "{length}");
        client.expect(209);
        for said in ["a", "b"] {
            assert_eq!(client.result(222), 0, "{length}");
            assert_eq!(client.heard().1, said, "{length}");
        }
        assert_eq!(client.result(216), 0, "{length}");
        assert_eq!(client.result(207), 0, "{length}");
        client.expect(209);
        assert_eq!(client.result(216), 0, "{length}");
        assert_eq!(client.receive(), (1, b"end".to_vec()), "{length}");
        client.end();
        server.until("gone", |chat| chat.counts().online == 0);
    }
    server.finish();
}

#[test]
fn lengths_that_cannot_be_close_the_connection_and_nobody_elses() {
    let server = start(Settings::default());
    let mut bystander = server.member("user0", 0);
    let max = 5 + 8 * 1024;
    for length in [0_u16, 1, 2, 3, 4, max + 1, 65_535] {
        let mut client = server.connect();
        client.send(&[length.to_le_bytes(), 1_u16.to_le_bytes()].concat());
        client.send(&[0]);
        client.assert_closed();
    }
    for length in [5_usize, usize::from(max)] {
        let mut client = server.connect();
        let echo = wire(1, &vec![7; length - 5]);
        client.send(&echo);
        assert_eq!(client.receive(), (1, vec![7; length - 5]));
    }
    bystander.assert_quiet();
    server.finish();
}

#[test]
fn known_packets_of_a_wrong_length_are_answered_and_change_nothing() {
    let server = start(Settings::default());
    let mut client = server.connect();
    for bytes in [0, 1, 65, 67] {
        client.send(&wire(201, &vec![b'u'; bytes]));
        assert_eq!(client.result(202), 33, "login of {bytes}");
        client.send(&wire(206, &vec![0; if bytes == 65 { 3 } else { bytes }]));
        assert_eq!(client.result(207), 61, "enter of {bytes}");
        client.send(&wire(221, &vec![0; bytes]));
        assert_eq!(client.result(222), 81, "chat of {bytes}");
        client.send(&wire(215, &[0]));
        assert_eq!(client.result(216), 61, "leave");
    }
    assert_eq!(client.login("user0", "pw"), 0);
    client.send(&wire(201, b"short"));
    assert_eq!(client.result(202), 31);
    client.send(&wire(206, &[0; 5]));
    assert_eq!(client.result(207), 61);
    assert_eq!(client.enter(0), 0, "still in no room");
    client.expect(209);
    client.send(&wire(221, &[b't'; 256]));
    assert_eq!(client.result(222), 81);
    client.send(&wire(215, &[1]));
    assert_eq!(client.result(216), 61);
    client.send(&chat("still here"));
    assert_eq!(client.result(222), 0);
    assert_eq!(client.heard().1, "still here");
    server.finish();
}

#[test]
fn internal_and_unknown_ids_are_ignored_and_counted() {
    let server = start(Settings::default());
    let mut client = server.connect();
    let ids = [11, 12, 30, 199, 1001, 1002, 999, 0, 202, 207, 208, 209, 216, 217, 222, 223, 65_535];
    for id in ids {
        // In the tutorial, 1002 with a result of 0 logs in.
        client.send(&wire(id, &[0; 66]));
    }
    client.assert_quiet();
    assert_eq!(server.chat.counts().packets_unknown, ids.len() as u64);
    assert_eq!(client.enter(0), 51, "nobody is logged in by it");
    server.finish();
}

#[test]
fn full_fields_are_taken_and_what_is_behind_a_nul_is_not() {
    let long = "n".repeat(33);
    let accounts = wharf_chat::Accounts::new(wharf_chat::Open);
    let server = start_with(Settings::default(), accounts, |builder| builder);
    let mut client = server.connect();
    client.send(&wire(201, &[b'n'; 66]));
    assert_eq!(client.result(202), 0);
    assert_eq!(client.enter(0), 0);
    let list = client.expect(209);
    let entered = UserList::decode(&list).unwrap().users.iter().next().unwrap();
    assert_eq!(entered.id.as_str(), long);
    client.send(&wire(221, &[b't'; 257]));
    assert_eq!(client.result(222), 0);
    assert_eq!(client.heard(), (long, "t".repeat(257)));
    // What a client leaves behind the NUL goes to nobody.
    let mut body = [0xEE; 257];
    body[..3].copy_from_slice(b"hi\0");
    client.send(&wire(221, &body));
    assert_eq!(client.result(222), 0);
    let notify = client.expect(223);
    assert_eq!(notify.len(), 290);
    assert_eq!(&notify[33..35], b"hi");
    assert_eq!(&notify[35..], [0; 255]);
    server.finish();
}

#[test]
fn what_is_not_utf8_is_refused_and_not_passed_on() {
    let server = start(Settings::default());
    let mut one = server.member("user0", 0);
    let mut other = server.member("user1", 0);
    one.expect(208);
    for bytes in [&[0xFF][..], &[0xEA, 0xB0], &[0xC0, 0x80], &[0xED, 0xA0, 0x80]] {
        let mut body = [0; 257];
        body[..bytes.len()].copy_from_slice(bytes);
        one.send(&wire(221, &body));
        assert_eq!(one.result(222), 81);
    }
    one.assert_quiet();
    other.assert_quiet();
    let mut stranger = server.connect();
    stranger.send(&wire(201, &[0xFF; 66]));
    assert_eq!(stranger.result(202), 33);
    server.finish();
}

#[test]
fn what_is_not_due_has_its_code() {
    let server = start(Settings::default());
    let mut client = server.connect();
    assert_eq!(client.enter(0), 51, "not logged in");
    assert_eq!(client.leave(), 61, "in no room");
    client.send(&chat("x"));
    assert_eq!(client.result(222), 81, "in no room");
    assert_eq!(client.login("user0", "wrong"), 33);
    assert_eq!(client.login("nobody", "pw"), 33);
    assert_eq!(client.login("user0", "pw"), 0);
    assert_eq!(client.login("user0", "pw"), 31, "this connection has");
    assert_eq!(client.login("user1", "pw"), 31, "this connection has");
    for room in [-1, 10, i32::MAX, i32::MIN] {
        assert_eq!(client.enter(room), 61, "{room}");
    }
    assert_eq!(client.enter(9), 0);
    client.expect(209);
    assert_eq!(client.enter(9), 52, "in it");
    assert_eq!(client.enter(1), 52, "in another one");
    assert_eq!(client.leave(), 0);
    assert_eq!(client.leave(), 61, "twice");
    client.send(&chat("x"));
    assert_eq!(client.result(222), 81, "after leaving");
    server.finish();
}

/// The answers are the same bytes, and cost the same: one hash.
#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let server = start(Settings::default());
    let mut client = server.connect();
    client.login("user0", "wrong");
    for (name, password) in [("user0", "wrong"), ("nobody", "pw"), ("", "")] {
        let before = server.chat.counts().hashes;
        client.send(&login(name, password));
        assert_eq!(client.receive(), (202, vec![33, 0]), "{name:?}");
        assert_eq!(server.chat.counts().hashes - before, 1, "{name:?}");
    }
    server.finish();
}

#[test]
fn a_name_is_online_once() {
    let server = start(Settings::default());
    let first = server.user("user0");
    assert_eq!(server.connect().login("user0", "pw"), 31);
    first.end();
    server.until("gone", |chat| chat.counts().online == 0);
    server.user("user0").end();
    server.finish();
}

#[test]
fn whoever_logs_in_later_may_kick() {
    let server = start(Settings { duplicate_login: Duplicate::Kick, ..Settings::default() });
    let mut bystander = server.member("user1", 0);
    let mut first = server.member("user0", 0);
    bystander.expect(208);
    let mut second = server.user("user0");
    assert_eq!(first.result(202), 31, "it is told why");
    first.assert_closed();
    bystander.expect(217);
    assert_eq!(second.enter(0), 0);
    second.expect(209);
    bystander.expect(208);
    assert_eq!(server.chat.counts().online, 2);
    server.finish();
}

/// Of many that log in at one moment under one name, one is let in.
#[test]
fn logins_in_flight_for_one_name() {
    for duplicate_login in [Duplicate::Refuse, Duplicate::Kick] {
        let server = start(Settings { duplicate_login, ..Settings::default() });
        let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(&login("user0", "pw"));
        }
        let results: Vec<u16> = clients.iter_mut().map(|client| client.result(202)).collect();
        let accepted = results.iter().filter(|result| **result == 0).count();
        match duplicate_login {
            Duplicate::Refuse => assert_eq!(accepted, 1, "{results:?}"),
            Duplicate::Kick => assert_eq!(accepted, 20, "{results:?}"),
        }
        server.until("one of them stays", |chat| chat.counts().online == 1);
        server.finish();
    }
}

#[test]
fn the_fifth_waits_for_a_seat() {
    let server = start(Settings::default());
    let mut members: Vec<Client> =
        (0..4).map(|user| server.member(&format!("user{user}"), 0)).collect();
    let mut fifth = server.user("user4");
    assert_eq!(fifth.enter(0), 54);
    assert_eq!(members[0].leave_through_notifications(), 0);
    assert_eq!(fifth.enter(0), 0);
    fifth.expect(209);
    // A disconnect frees a seat, too, however it comes about.
    let mut sixth = server.user("user5");
    assert_eq!(sixth.enter(0), 54);
    members.remove(1).end();
    server.until("the seat is free", |chat| chat.counts().seats == 3);
    assert_eq!(sixth.enter(0), 0);
    drop((members, fifth, sixth));
    server.until("nobody is left", |chat| {
        let counts = chat.counts();
        (counts.online, counts.seats) == (0, 0)
    });
    server.finish();
}

impl Client {
    fn leave_through_notifications(&mut self) -> u16 {
        self.send(&leave());
        loop {
            match self.receive() {
                (216, body) => return u16::from_le_bytes(body.try_into().unwrap()),
                (208 | 217, _) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// 24 users to a packet, and none in rooms where everybody would be told of everybody.
#[test]
fn long_lists_are_split_and_large_rooms_tell_nobody() {
    let server = start(Settings { room_seats: 64, ..Settings::default() });
    let mut members: Vec<Client> = Vec::new();
    for user in 0..50 {
        let mut client = server.user(&format!("user{user}"));
        assert_eq!(client.enter(0), 0);
        let mut listed = 0;
        while listed < user + 1 {
            let body = client.expect(209);
            assert!(body.len() + 5 <= 1024);
            let count = UserList::decode(&body).unwrap().users.len();
            assert_eq!(count, (user + 1 - listed).min(24));
            listed += count;
        }
        members.push(client);
    }
    for _ in 1..50 {
        members[0].expect(208);
    }
    members[0].assert_quiet();
    server.finish();

    let server = start(Settings { room_seats: 65, ..Settings::default() });
    let mut one = server.user("user0");
    let mut other = server.user("user1");
    for client in [&mut one, &mut other] {
        assert_eq!(client.enter(0), 0);
        client.assert_quiet();
    }
    other.end();
    server.until("gone", |chat| chat.counts().seats == 1);
    one.assert_quiet();
    server.finish();
}

/// Four members talk at once, each as fast as it can: all of them hear the same, in the same order.
#[test]
fn all_members_see_one_order() {
    const EACH: usize = 60;
    let server = start(Settings::default());
    let mut members: Vec<Client> =
        (0..4).map(|user| server.member(&format!("user{user}"), 0)).collect();
    for client in &mut members {
        for number in 0..EACH {
            client.send(&chat(&text(number)));
        }
    }
    let heard: Vec<Vec<(String, String)>> = (members.iter_mut())
        .map(|client| {
            let (mut heard, mut answers) = (Vec::new(), 0);
            while heard.len() < 4 * EACH || answers < EACH {
                match client.receive() {
                    (222, body) => {
                        assert_eq!(body, [0, 0]);
                        answers += 1;
                    }
                    (223, body) => {
                        let notify = ChatNotify::decode(&body).unwrap();
                        heard.push((notify.id.to_string(), notify.text.to_string()));
                    }
                    (208, _) => {}
                    other => panic!("{other:?}"),
                }
            }
            heard
        })
        .collect();
    for others in &heard[1..] {
        assert_eq!(others, &heard[0]);
    }
    for user in 0..4 {
        let of_one = heard[0].iter().filter(|(name, _)| *name == format!("user{user}"));
        assert!(
            of_one.map(|(_, said)| said.clone()).eq((0..EACH).map(text)),
            "each one's in order"
        );
    }
    server.finish();
}

#[test]
fn too_many_packets_are_refused_and_then_the_connection_is() {
    let rate = wharf_chat::Rate { per_second: 1, burst: 10 };
    let server = start(Settings { rate, ..Settings::default() });
    let mut client = server.member("user0", 0);
    let mut bystander = server.member("user1", 1);
    let mut results = Vec::new();
    for _ in 0..15 {
        client.send(&chat("spam"));
    }
    while results.len() < 15 {
        match client.receive() {
            (222, body) => results.push(u16::from_le_bytes(body.try_into().unwrap())),
            (223, _) => {}
            other => panic!("{other:?}"),
        }
    }
    // 10 less those for the login and the room, and one more for each second that this takes.
    let allowed = results.iter().filter(|result| **result == 0).count();
    let refused = results.iter().filter(|result| **result == 63).count();
    assert!(results.starts_with(&[0; 8]) && refused > 0, "{results:?}");
    assert_eq!(allowed + refused, 15, "{results:?}");
    // It goes on.
    for _ in 0..40 {
        if std::io::Write::write_all(&mut client.stream, &chat("spam")).is_err() {
            break;
        }
    }
    client.assert_closed();
    bystander.assert_quiet();
    server.finish();
}

/// A member that stops reading is cut off; the others hear everything.
#[test]
fn a_reader_that_stops_holds_nobody_up() {
    let rate = wharf_chat::Rate { per_second: 1_000_000, burst: 1_000_000 };
    let server = start(Settings { rate, ..Settings::default() });
    let stuck = server.member("user1", 0);
    let mut talker = server.member("user0", 0);
    let talk = "x".repeat(256);
    let mut gone = false;
    for round in 0..400 {
        for _ in 0..100 {
            talker.send(&chat(&talk));
        }
        let mut heard = 0;
        while heard < 100 {
            match talker.receive() {
                (223, _) => heard += 1,
                (217, _) => gone = true,
                (222, body) => assert_eq!(body, [0, 0]),
                other => panic!("{other:?}"),
            }
        }
        if gone {
            break;
        }
        assert!(round < 399, "the one that does not read is still there");
    }
    drop(stuck);
    talker.assert_quiet();
    server.finish();
}

#[test]
fn more_connections_than_the_maximum_and_back() {
    let server = start_with(Settings::default(), support::accounts(), |b| b.max_sessions(5));
    let mut clients: Vec<Client> = (0..5).map(|user| server.user(&format!("user{user}"))).collect();
    for _ in 0..5 {
        server.connect().assert_closed();
    }
    for client in &mut clients {
        client.assert_quiet();
    }
    drop(clients);
    server.until("gone", |chat| chat.counts().online == 0);
    for _ in 0..3_000 {
        let mut client = server.connect();
        client.send(&login("user9", "pw"));
        match client.try_receive() {
            Some((202, body)) => {
                assert_eq!(body, [0, 0]);
                return server.finish();
            }
            other => assert_eq!(other, None),
        }
        support::pause(std::time::Duration::from_millis(10));
    }
    panic!("it does not recover");
}

#[test]
fn a_full_chat_answers_32() {
    let server = start(Settings { users_max: 2, ..Settings::default() });
    let _both = (server.user("user0"), server.user("user1"));
    assert_eq!(server.connect().login("user2", "pw"), 32);
}

/// Resets while nothing, a login or an entry is under way: names and seats are free afterwards.
#[test]
fn resets_leave_nothing_behind() {
    let server = start(Settings::default());
    for round in 0..50 {
        let mut client = server.connect();
        let mut script = login("user0", "pw");
        script.extend(enter(0));
        script.extend(chat("x"));
        client.send(&script[..(round * 7) % script.len()]);
        // Unread answers make the end of the stream a reset.
        drop(client);
    }
    // One that still waits to be accepted would log in when all others have gone.
    server.until("all have come", |_| {
        let stats = server.handle.stats().unwrap();
        // Windows may say of one that was reset meanwhile that accepting it failed.
        stats.accepted + if cfg!(windows) { stats.accept_errors } else { 0 } >= 50
    });
    server.until("all gone", |_| server.handle.count() == 0);
    server.until("nobody is left", |chat| {
        let counts = chat.counts();
        (counts.online, counts.seats) == (0, 0)
    });
    server.member("user0", 0).assert_quiet();
    server.finish();
}

#[test]
fn a_server_stops_with_clients_in_the_middle_of_everything() {
    let server = start(Settings::default());
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for (user, client) in clients.iter_mut().enumerate() {
        client.send(&login(&format!("user{user}"), "pw"));
        client.send(&enter(user as i32 % 10));
        for _ in 0..20 {
            client.send(&chat("on and on"));
        }
    }
    server.finish();
}

#[test]
fn whoever_does_not_log_in_is_closed() {
    let login_timeout = Some(std::time::Duration::from_millis(200));
    let server = start(Settings { login_timeout, ..Settings::default() });
    let mut idle = server.connect();
    idle.assert_quiet();
    let mut user = server.user("user0");
    idle.assert_closed();
    support::pause(std::time::Duration::from_millis(300));
    user.assert_quiet();
    server.finish();
}

#[test]
fn the_request_of_a_text_too_long_is_never_sent() {
    assert!(TextRef::<257>::new(&"x".repeat(257)).is_err());
    let notify = ChatNotify { id: TextRef::default(), text: TextRef::default() };
    assert_eq!(typed(&notify).len(), 295);
}

/// The table at the top of this file names tests that there are.
#[test]
fn the_table_of_mistakes_names_tests() {
    let here = include_str!("protocol.rs");
    let rows = here.lines().filter_map(|line| line.strip_prefix("//! | ")?.split('`').nth(1));
    let mut count = 0;
    for row in rows {
        let (file, name) = row.split_once(": ").unwrap();
        let source = match file {
            "protocol.rs" => here,
            "simulated.rs" => include_str!("simulated.rs"),
            "overload.rs" => include_str!("overload.rs"),
            "redis.rs" => include_str!("redis.rs"),
            "sim_tests.rs" => include_str!("../../wharf/src/sim_tests.rs"),
            other => panic!("{other}"),
        };
        assert!(source.contains(&format!("#[test]\nfn {name}() {{")), "{row}");
        count += 1;
    }
    assert_eq!(count, 24);
}
