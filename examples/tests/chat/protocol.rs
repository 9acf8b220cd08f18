//! Step 8: the packets, byte for byte, and names. What it can do, those after it can, too.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use wharf::{Builder, port::Config, testing::for_seeds};

use crate::{
    guest::{ADDRESS, Guest, simulate},
    step08, step09, step10,
    store::Anybody,
};

type Server = fn(&str) -> Builder;
const SERVERS: [Server; 3] = [
    |address| step08::server(address.to_owned()),
    |address| step09::server(address.to_owned(), Arc::new(Anybody)),
    |address| step10::server(address.to_owned(), Arc::new(Anybody)),
];

/// On real sockets, so that nothing of this repository reads the bytes on the other side.
#[test]
fn step_8_the_bytes_are_those_of_the_protocol() {
    let mut login = vec![0x47, 0, 0xc9, 0, 0];
    login.extend_from_slice(b"user0");
    login.resize(5 + 33, 0);
    login.extend_from_slice(b"pw");
    login.resize(5 + 66, 0);
    for server in SERVERS {
        let server =
            server("127.0.0.1:0").workers(1).port(Config::from_env().unwrap()).start().unwrap();
        let mut stream = TcpStream::connect(server.local_addrs()[0]).unwrap();
        // An echo, whose type nobody looks at, and a login, in one segment.
        let both = [b"\x08\x00\x01\x00\x07abc".as_slice(), &login].concat();
        stream.write_all(&both).unwrap();
        let mut answers = [0; 8 + 7];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answers, *b"\x08\x00\x01\x00\x00abc\x07\x00\xca\x00\x00\x00\x00");
        drop(stream);
        server.drain(Duration::from_secs(5));
        assert!(server.join().unwrap().leftover.is_nothing());
    }
}

#[test]
fn step_8_a_name_is_of_one_user_and_free_once_he_is_gone() {
    for server in SERVERS {
        for_seeds(0..50, |seed| {
            let mut sim = simulate(server(ADDRESS), seed);
            let [mut ann, mut bob] = [(); 2].map(|()| Guest::connect(&mut sim));
            assert_eq!(ann.login(&mut sim, "ann"), 0);
            assert_eq!(bob.login(&mut sim, "ann"), 31, "somebody has the name");
            assert_eq!(ann.login(&mut sim, "anna"), 31, "this connection has logged in");
            assert_eq!(bob.login(&mut sim, ""), 33, "no name at all");
            ann.leave(&mut sim);
            assert_eq!(bob.login(&mut sim, "ann"), 0, "free at once");
            sim.finish();
        });
    }
}

#[test]
fn step_8_what_is_wrong_is_answered_or_ignored_and_changes_nothing() {
    for server in SERVERS {
        for_seeds(0..20, |seed| {
            let mut sim = simulate(server(ADDRESS), seed);
            let mut guest = Guest::connect(&mut sim);
            let mut no_text = [b'a'; 66];
            no_text[5] = 0xff;
            for login in [&[b'a'; 65][..], &[b'a'; 67], &no_text] {
                guest.client.send_packet(201, login);
                sim.run();
                assert_eq!(guest.result(202), 33);
            }
            // Ids that are somebody else's, or nobody's: 1002 once logged its sender in.
            for id in [11, 12, 30, 199, 202, 999, 1001, 1002] {
                guest.client.send_packet(id, b"forged");
            }
            // A field that is full has no NUL, and ends where it ends.
            let mut full = [b'a'; 66];
            full[33..].fill(0);
            full[33..35].copy_from_slice(b"pw");
            guest.client.send_packet(201, &full);
            sim.run();
            assert_eq!(guest.result(202), 0);
            sim.finish();
        });
    }
}

#[test]
fn step_8_an_impossible_length_ends_the_connection() {
    for server in SERVERS {
        for length in [0_u16, 1, 4, 65535] {
            let mut sim = simulate(server(ADDRESS), u64::from(length));
            let [mut bad, mut good] = [(); 2].map(|()| Guest::connect(&mut sim));
            bad.client.send_bytes(&length.to_le_bytes());
            bad.client.send_bytes(&[0xc9, 0, 0]);
            sim.run_for(Duration::from_secs(1));
            assert!(bad.client.is_closed() && bad.heard().is_empty(), "{length}");
            assert_eq!(good.login(&mut sim, "ann"), 0, "nobody else notices");
            sim.finish();
        }
    }
}
