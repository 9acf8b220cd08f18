//! An echo in the study format on the simulated port, for counting instructions: the same work each
//! time, so that `cargo xtask instructions` prints the same number each time. As tests they see to it
//! that what is counted is right.

use super::{Faults, Simulation};
use crate::{
    Context, Frame, Handler, Result, Server,
    framing::{self, LengthField, Packet},
};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        cx.send_packet(frame.id(), frame.body())?;
        Ok(())
    }
}

/// `rounds` times `depth` frames arrive at once and are answered in one send.
fn echo(rounds: usize, depth: usize) {
    let address = "10.0.0.1:1";
    let server = Server::builder().workers(1).listen(address, LengthField::STUDY, || Echo);
    let mut sim = server.simulate(1, Faults::none()).unwrap();
    let mut peer = sim.net.connect(address.parse().unwrap());
    let mut batch = Vec::new();
    for number in 0..depth {
        let body = [number as u8; BODY_BYTES];
        let packet = Packet { id: 1, session: 0, body: &body };
        framing::append(&LengthField::STUDY, packet, &mut batch).unwrap();
    }
    settle(&mut sim);
    for _ in 0..rounds {
        assert_eq!(peer.write(&batch), batch.len());
        settle(&mut sim);
        assert!(peer.read_arrived() == batch);
    }
    let stats = sim.workers[0].stats();
    let frames = (rounds * depth) as u64;
    assert_eq!(stats.frames_sent, frames);
    // A receive's credit ends within a batch now and then.
    assert!(stats.sends < rounds as u64 * 21 / 20, "{} sends", stats.sends);
    peer.shutdown_write();
    sim.finish();
}

/// Until nothing moves. The worker has no turn in which nothing has come up: on a system's port it
/// would sleep.
fn settle(sim: &mut Simulation) {
    loop {
        let moved = sim.net.step();
        let worker = &mut sim.workers[0];
        let now = worker.poll().unwrap();
        if worker.completed() > 0 {
            worker.turn(now);
        } else if !moved {
            return;
        }
    }
}

const BODY_BYTES: usize = 32;

// One more thousand rounds each: the difference is theirs alone.

#[test]
fn echo_1000_rounds_of_1() {
    echo(1000, 1);
}

#[test]
fn echo_2000_rounds_of_1() {
    echo(2000, 1);
}

#[test]
fn echo_1000_rounds_of_16() {
    echo(1000, 16);
}

#[test]
fn echo_2000_rounds_of_16() {
    echo(2000, 16);
}
