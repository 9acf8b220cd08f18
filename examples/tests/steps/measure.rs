//! Step 11 on the simulator: whatever is switched on, nothing is lost, and a client that sends
//! nonsense costs nobody else anything.

use wharf_port::{
    Config, Counts,
    sim::{Fault, Faults, PeerState},
};

use crate::{
    circle::circle,
    lab::{Net, TURNS},
    step11::{
        ring::Ring,
        server::{Server, Tuning},
        stages,
    },
};

#[test]
fn a_ring_of_step_11_overwrites_nothing_and_tells_full_from_empty() {
    circle!(Ring);
}

fn server(net: &Net, tuning: Tuning, buffer_bytes: u32) -> Server {
    let config = Config { receive_buffer_bytes: buffer_bytes, ..Config::default() };
    Server::new(net.net.open(&config), tuning)
}

fn packets(count: usize) -> Vec<u8> {
    let packet = |i: usize| [&[0, 5][..], format!("{i:05}").as_bytes()].concat();
    (0..count).flat_map(packet).collect()
}

#[test]
fn step_11_answers_every_packet_in_order_whatever_is_switched_on() {
    for (name, tuning, buffer_bytes) in stages() {
        for seed in 0..5 {
            let mut net = Net::new(seed);
            let mut server = server(&net, tuning, buffer_bytes);
            let (mut peer, socket) = net.connect();
            server.greet(0, socket).unwrap();
            net.net.set_window(1000);
            let cuts = Faults { short_send: 0.5, short_receive: 0.5, ..Faults::none() };
            net.net.set_faults(Faults { reorder: 0.5, ..cuts });
            let bytes = packets(3000);
            let (mut sent, mut got) = (0, Vec::new());
            for _ in 0..50 * TURNS {
                sent += peer.write(&bytes[sent..]);
                if sent == bytes.len() {
                    peer.shutdown_write();
                }
                server.turn(std::time::Duration::from_millis(1)).unwrap();
                got.extend(peer.read_arrived());
                if peer.state() == PeerState::Ended {
                    break;
                }
            }
            assert!(got == bytes, "{name}, seed {seed}: {} of {}", got.len(), bytes.len());
            assert_eq!(peer.state(), PeerState::Ended, "{name}: answers, then the end");
            assert!(net.net.applied(Fault::ShortSend) > 0);
            let left = Counts { system_calls: 0, buffer_shortages: 0, ..server.port.counts() };
            assert_eq!(left, Counts::default(), "{name}, seed {seed}");
        }
    }
}

#[test]
fn step_11_closes_who_announces_too_long_a_packet_and_serves_the_others() {
    for (name, tuning, buffer_bytes) in stages() {
        let mut net = Net::new(11);
        let mut server = server(&net, tuning, buffer_bytes);
        let ((mut bad, one), (mut good, other)) = (net.connect(), net.connect());
        server.greet(0, one).unwrap();
        server.greet(1, other).unwrap();
        bad.write(&[0xff, 0xff, 1, 2, 3]);
        good.write(&packets(1));
        let mut got = Vec::new();
        for _ in 0..TURNS {
            server.turn(std::time::Duration::from_millis(1)).unwrap();
            got.extend(good.read_arrived());
        }
        assert_eq!(got, packets(1), "{name}");
        assert_eq!(server.port.counts().sockets, 1, "{name}: the other is closed");
        assert_ne!(bad.state(), PeerState::Open, "{name}");
    }
}
