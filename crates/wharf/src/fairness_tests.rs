//! Fairness in the simulator: of many sessions that all send as much as they can, none waits for long.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use wharf_port::sim::{Faults, SimNet, SimPeer};

use crate::{
    Context, Frame, Handler, Result, Server,
    framing::{LengthField, Packet, append},
    testing::for_seeds,
};

const FRAMING: LengthField = LengthField::u16_be();
const ADDRESS: ([u8; 4], u16) = ([10, 0, 0, 1], 9000);
const SESSIONS: usize = 1000;
/// In every so many completions a frame of each session is handled.
const COMPLETIONS_MAX: usize = 4000;

/// Notes whose frames come.
struct Noting {
    opened: AtomicUsize,
    handled: Arc<Mutex<Vec<usize>>>,
}

impl Handler for Noting {
    /// Its number.
    type Session = usize;

    fn on_open(&mut self, cx: &mut Context<'_, usize>) -> Result {
        *cx.data() = self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, usize>, _: Frame<'_>) -> Result {
        let number = *cx.data();
        self.handled.lock().unwrap().push(number);
        Ok(())
    }
}

/// The longest that a session had to wait, in completions, while all had something to say.
fn longest_wait(seed: u64) -> usize {
    let net = SimNet::new(seed, Faults::none());
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&handled);
    let make = move || Noting { opened: AtomicUsize::new(0), handled: Arc::clone(&noted) };
    let builder = Server::builder().workers(1);
    let builder = builder.listen(std::net::SocketAddr::from(ADDRESS), FRAMING, make);
    let (mut workers, _, handle) = builder.assemble(&net, seed).unwrap();
    let worker = &mut workers[0];
    let mut peers: Vec<SimPeer> = (0..SESSIONS).map(|_| net.connect(ADDRESS.into())).collect();
    while net.step() || handle.count() < SESSIONS {
        let now = worker.poll().unwrap();
        worker.turn(now);
    }
    // All of it is there before the first is received: what follows is the server's choice alone.
    let mut frames = Vec::new();
    while frames.len() < 60_000 {
        append(&FRAMING, Packet { id: 0, session: 0, body: &[7; 98] }, &mut frames).unwrap();
    }
    for peer in &mut peers {
        assert_eq!(peer.write(&frames), frames.len());
    }
    let mut left = vec![frames.len() / 100; SESSIONS];
    let (mut last, mut completions, mut longest) = (vec![0; SESSIONS], 0, 0);
    while left.iter().all(|left| *left > 0) {
        net.step();
        let now = worker.poll().unwrap();
        completions += worker.completed();
        worker.turn(now);
        for number in handled.lock().unwrap().drain(..) {
            longest = longest.max(completions - last[number]);
            last[number] = completions;
            left[number] -= 1;
        }
        longest = last.iter().map(|last| completions - last).max().unwrap().max(longest);
    }
    longest
}

#[test]
fn of_a_thousand_that_send_none_waits_for_more_than_four_thousand_completions() {
    for_seeds(0..2, |seed| {
        let waited = longest_wait(seed);
        assert!(waited <= COMPLETIONS_MAX, "{waited}");
    });
}
