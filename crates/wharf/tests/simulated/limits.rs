//! Sessions near every limit at once: that each is kept, the simulation looks after each turn.

use wharf::{
    Class, Context, Dispatch, Frame, Handler, Limits, Result, SendError, Server, Topic,
    framing::Lines,
    testing::{Client, Faults, for_seeds},
};

use crate::support::*;

fn narrow() -> Limits {
    Limits {
        frame_bytes_max: 200,
        send_queue_bytes_soft: 8_000,
        send_queue_bytes_max: 16_000,
        control_bytes_max: 300,
        topics_max: 2,
        first_frame_timeout: None,
        ..Limits::default()
    }
}

/// Sends, and subscribes to, whatever a line says, in every class.
struct Greedy;

impl Handler for Greedy {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, line: Frame<'_>) -> Result {
        let (kind, number) = (line.body()[0], u64::from(line.body()[1]));
        let answer = vec![kind; 100 * line.body().len()];
        let classes = [Class::DropNewest, Class::DropOldest, Class::Latest(number), Class::Control];
        let class = classes[number as usize % 4];
        let asked = match kind {
            b's' => cx.subscribe(Topic(number % 5)),
            b'u' => {
                cx.unsubscribe(Topic(number % 5));
                Ok(())
            }
            b'p' => cx.publish(Topic(number % 5), Class::Reliable, 0, &answer),
            b'f' => {
                let published = cx.publish(Topic(number % 5), Class::Reliable, 0, &answer);
                cx.flush_now();
                published
            }
            b'q' => cx.publish(Topic(number % 5), class, 0, &answer),
            b'c' => cx.send_as(class, 0, &answer[..answer.len() / 10]).map(drop),
            b't' => cx.try_send(&answer),
            _ => cx.send_as(class, 0, &answer).map(drop),
        };
        assert!(matches!(asked, Ok(()) | Err(SendError::WouldExceed | SendError::Closed)));
        Ok(())
    }
}

#[test]
fn limits_hold_at_every_step() {
    for_seeds(0..40, |seed| {
        let server = Server::builder().workers(2).max_sessions(9).limits(narrow());
        let threads = (seed % 3) as usize;
        let dispatch = if threads == 0 { Dispatch::Inline } else { Dispatch::Threads(threads) };
        let server = server.dispatch(dispatch).listen(ADDRESS, Lines, || Greedy);
        let rough = seed % 2 == 1;
        let faults = if rough { Faults::rough() } else { Faults::none() };
        let mut sim = server.simulate(seed, faults).unwrap();
        let mut clients: Vec<Client<Lines>> = Vec::new();
        for _ in 0..400 {
            if clients.len() < 12 || sim.random(20) == 0 {
                clients.push(sim.connect(ADDRESS, Lines));
            }
            let who = &clients[sim.random(clients.len() as u64) as usize];
            let kind = b"supfqctr"[sim.random(8) as usize];
            let body = vec![b'0' + sim.random(70) as u8; 1 + sim.random(60) as usize];
            // Now and then a line that is too long, and never whole.
            let pad = if sim.random(80) == 0 { vec![b'x'; 300] } else { b"\n".to_vec() };
            who.send_bytes(&[&[kind][..], &body, &pad].concat());
            who.set_reading(sim.random(3) > 0);
            (0..sim.random(40)).for_each(|_| _ = sim.step());
        }
        clients.iter().for_each(|client| client.set_reading(true));
        let stats = sim.finish().stats;
        // Where everything goes wrong, sessions may be over too soon.
        let reached = stats.soft_marks_crossed + stats.hard_marks_reached + stats.refused;
        assert!(rough || reached > 0, "near its limits");
    });
}
