//! One test per starter, and one that they are the steps' programs but for their gaps.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use wharf::{Server, framing::LengthField};
use wharf_examples::LOST;
use wharf_port::{Config, inbox, sim::Faults};

use crate::{
    bidders::{self, AUCTION},
    circle::circle,
    lab::{Net, TURN, lab, lines},
    step01,
    step03::{self, application::Application},
    step07::accept::Acceptor,
    step11, step12,
};

lab!(lab04, step04);
lab!(
    #[expect(dead_code, reason = "not all of the lab is needed")]
    lab05,
    step05
);
lab!(
    #[expect(dead_code, reason = "not all of the lab is needed")]
    lab06,
    step06
);
lab!(
    #[expect(dead_code, reason = "not all of the lab is needed")]
    lab07,
    step07
);

/// Runs the check if the reader tries this step; otherwise the gap has to be open.
pub(crate) fn attempt(step: u32, check: impl FnOnce()) {
    if env::var("WHARF_TRY").is_ok_and(|tried| tried == step.to_string()) {
        check();
    } else {
        let failed = catch_unwind(AssertUnwindSafe(check)).is_err();
        assert!(failed, "this gap is filled: cargo xtask steps try {step}");
    }
}

#[test]
fn step_1_answers_and_closes() {
    attempt(1, || {
        let mut net = Net::new(1);
        let port = net.net.open(&Config::default());
        let (post, newcomers) = inbox(port.waker(), 1);
        let mut worker = step01::Worker::new(port, newcomers);
        let (mut peer, socket) = net.connect();
        let seat = Arc::new(());
        post.post(step01::Newcomer { socket, seat: Arc::clone(&seat) }).ok().unwrap();
        let mut got = Vec::new();
        for _ in 0..3 {
            peer.write(b"hello");
            (0..50).for_each(|_| worker.turn(TURN).unwrap());
            got.extend(peer.read_arrived());
        }
        assert_eq!(got, b"hellohellohello", "the answers");
        peer.shutdown_write();
        (0..50).for_each(|_| worker.turn(TURN).unwrap());
        assert_eq!(Arc::strong_count(&seat), 1, "the client is closed");
        assert_eq!(worker.port.counts().sockets, 0);
    });
}

/// Remembers who is connected.
#[derive(Default)]
struct Present(Vec<u64>);

impl Application for Present {
    fn connected(&mut self, client: u64) {
        self.0.push(client);
    }

    fn received(&mut self, _: u64, _: &[u8], _: &mut Vec<u8>) {}

    fn closed(&mut self, client: u64) {
        self.0.retain(|present| *present != client);
    }
}

#[test]
fn step_3_tells_who_has_left() {
    attempt(3, || {
        let mut net = Net::new(3);
        let port = net.net.open(&Config::default());
        let (post, newcomers) = inbox(port.waker(), 1);
        let mut worker = step03::network::Worker::new(port, newcomers, Present::default());
        let (peer, socket) = net.connect();
        let newcomer = step03::network::Newcomer { number: 7, socket, seat: Arc::new(()) };
        post.post(newcomer).ok().unwrap();
        (0..50).for_each(|_| worker.turn(TURN).unwrap());
        assert_eq!(worker.application.0, [7]);
        drop(peer);
        (0..50).for_each(|_| worker.turn(TURN).unwrap());
        assert_eq!(worker.application.0, [], "the application still thinks that it is there");
    });
}

#[test]
fn step_4_counts_what_is_lost() {
    attempt(4, || {
        let before = LOST.total();
        let got = lab04::Lab::new(4).echo(&lines(10));
        let came = got.split_inclusive(|byte| *byte == b'\n').count();
        let counted = LOST.total() - before;
        assert_eq!(came as u64 + counted, 10, "{came} of 10 came back, {counted} are counted");
    });
}

#[test]
fn step_5_sends_what_has_gathered() {
    attempt(5, || {
        let mut lab = lab05::Lab::new(5);
        lab.net.net.set_window(1000);
        let (bytes, mut sent, mut peer) = (lines(500), 0, lab.connect());
        // The second packet is answered while the answers to the first are being sent.
        for _ in 0..200 {
            sent += peer.write(&bytes[sent..]);
            lab.turn();
        }
        let sent = &bytes[..sent];
        let mut got = Vec::new();
        lab.turn_until("all of it comes back", || {
            got.extend(peer.read_arrived());
            got == sent
        });
    });
}

#[test]
fn step_6_closes_whose_send_has_failed() {
    attempt(6, || {
        let mut lab = lab06::Lab::new(6);
        lab.net.net.set_window(1000);
        let mut peer = lab.connect();
        for _ in 0..200 {
            peer.write(&lines(50));
            lab.turn();
        }
        peer.reset();
        let seats = Arc::downgrade(&lab.seats);
        lab.turn_until("the seat is free", || seats.strong_count() == 1);
        assert_eq!(lab.worker.port.counts().blocks_in_use, 0, "what waited is let go");
    });
}

#[test]
fn step_7_accepts_again() {
    attempt(7, || {
        let mut lab = lab07::Lab::new(7);
        let address = "10.0.0.2:9000".parse().unwrap();
        let listener = lab.net.net.listen(address).unwrap();
        let workers = vec![lab.newcomers.clone()];
        let acceptor = Acceptor::start(&mut *lab.worker.port, listener, workers).unwrap();
        lab.worker.acceptor = Some(acceptor);
        lab.net.net.set_faults(Faults { descriptors_exhausted: 1.0, ..Faults::none() });
        let mut peer = lab.net.net.connect(address);
        peer.write(b"hello\n");
        (0..300).for_each(|_| lab.turn());
        lab.net.net.stop_faults();
        let mut got = Vec::new();
        lab.turn_until("the client is served", || {
            got.extend(peer.read_arrived());
            got == b"hello\n"
        });
    });
}

#[test]
fn step_11_takes_what_there_is_room_for() {
    attempt(11, || circle!(step11::ring::Ring));
}

#[test]
fn step_12_tells_who_has_the_lot() {
    attempt(12, || {
        let router = step12::auction::router();
        let handler = move || router.handler(step12::auction::Auction);
        let server = Server::builder().listen(AUCTION, LengthField::TUTORIAL, handler);
        bidders::check(server, 12);
    });
}

/// The lines of a file without what lies between `from` and `to`, both left out too.
fn without<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        inside |= line.trim().starts_with(from);
        if !inside {
            lines.push(line);
        }
        inside &= !line.trim().starts_with(to);
    }
    lines
}

#[test]
fn a_starter_is_its_step_but_for_the_gap() {
    let starters = [
        ("step01_echo.rs", "step01_echo.rs"),
        ("step02_buffers.rs", "step02_buffers.rs"),
        ("step03_network.rs", "step03_application/network.rs"),
        ("step04_network.rs", "step04_logic_thread/network.rs"),
        ("step05_network.rs", "step05_accumulate/network.rs"),
        ("step06_network.rs", "step06_queue/network.rs"),
        ("step07_accept.rs", "step07_async_accept/accept.rs"),
        ("step08_chat.rs", "step08_login/chat.rs"),
        ("step09_chat.rs", "step09_redis/chat.rs"),
        ("step10_room.rs", "step10_rooms/room.rs"),
        ("step11_ring.rs", "step11_measure/ring.rs"),
        ("step12_auction.rs", "step12_layers/auction.rs"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (starter, step) in starters {
        let read = |path| fs::read_to_string(folder.join(path)).unwrap();
        let (starter, step) =
            (read(format!("starters/{starter}")), read(format!("examples/{step}")));
        let frame = without(&starter, "// --- your turn", "// --- until here");
        let mut lines = step.lines();
        let all_there = frame.iter().all(|line| lines.any(|of_step| of_step == *line));
        assert!(all_there, "a line outside the gap is not the step's");
        assert!(frame.len() < step.lines().count() && frame.len() + 12 > step.lines().count());
    }
}
