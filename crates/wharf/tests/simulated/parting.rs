//! A close, as a peer knows it that has more to say: what it was told before must reach it, whatever it
//! sends meanwhile.

use wharf::{
    CloseReason, Context, Frame, Handler, Result,
    framing::LengthField,
    testing::{Client, Faults, Simulation, for_seeds},
};

use crate::support::*;

/// Echoes, and closes behind the answer to a goodbye.
struct Parting;

impl Handler for Parting {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        cx.send(frame.body())?;
        if frame.body() == GOODBYE {
            cx.close();
        }
        Ok(())
    }
}

/// Asks, says goodbye, and does not stop talking.
struct Talker {
    client: Client<LengthField>,
    /// What is to be answered.
    asked: Vec<Vec<u8>>,
}

impl Talker {
    fn new(sim: &mut Simulation) -> Self {
        let client = sim.connect(ADDRESS, FRAMING);
        let questions = sim.random(8);
        let mut asked: Vec<Vec<u8>> =
            (0..questions).map(|n| vec![n as u8; 1 + sim.random(1500) as usize]).collect();
        asked.push(GOODBYE.to_vec());
        asked.iter().for_each(|body| client.send(body));
        for _ in 0..1 + sim.random(MORE_FRAMES_MAX) {
            client.send(&vec![b'.'; 1 + sim.random(1500) as usize]);
        }
        if sim.random(2) == 0 {
            client.end();
        }
        Self { client, asked }
    }
}

#[test]
fn what_was_said_before_a_close_arrives_although_the_peer_goes_on_talking() {
    for_seeds(0..60, |seed| {
        let server = wharf::Server::builder().workers(2).listen(ADDRESS, FRAMING, || Parting);
        let mut sim = server.simulate(seed, faults(seed)).expect("a server");
        let talkers: Vec<_> = (0..TALKERS).map(|_| Talker::new(&mut sim)).collect();
        // Longer than a session lingers whose peer does not end its stream.
        sim.run_for(seconds(10));
        for Talker { client, asked } in &talkers {
            let answers = client.received();
            assert!(answers == *asked, "{} answers of {}", answers.len(), asked.len());
            assert!(client.is_closed());
        }
        let closed = sim.stats().closed_for(CloseReason::Handler);
        assert_eq!(closed, TALKERS as u64);
        sim.finish();
    });
}

/// What goes wrong where no connection is lost by it; a reset costs whatever it may.
fn faults(seed: u64) -> Faults {
    let all = if seed.is_multiple_of(2) { Faults::rough() } else { Faults::none() };
    Faults {
        unread_lost: 1.0,
        reset: 0.0,
        early_end: 0.0,
        connect_refused: 0.0,
        connect_timed_out: 0.0,
        accept_aborted: 0.0,
        descriptors_exhausted: 0.0,
        silent_until_cancel: 0.0,
        ..all
    }
}

const GOODBYE: &[u8] = b"goodbye";
const TALKERS: usize = 6;

/// With 1500 bytes each less than a closing session reads of a peer, 64 KiB.
const MORE_FRAMES_MAX: u64 = 30;
