//! A session that its handler closes while the peer goes on sending.

use wharf::{
    CloseReason, Context, Frame, Handler, Limits, Result, Server,
    testing::{Faults, for_seeds},
};

use crate::support::*;

/// Answers the first frame at length, and closes.
struct Ends;

const ANSWERS: usize = 50;

impl Handler for Ends {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
        (0..ANSWERS).try_for_each(|_| cx.send(&[7; 1000]))?;
        cx.close();
        Ok(())
    }
}

/// All of the answer arrives, and the end of the stream behind it; of what the peer sends meanwhile the
/// server reads so much and no more.
#[test]
fn who_goes_on_sending_has_its_answer_and_is_read_no_further_than_the_limit() {
    let limits = Limits { linger_bytes_max: 10_000, ..Limits::default() };
    // One receive is under way when the handler closes, and one when the limit is reached.
    let read_bytes_max = limits.linger_bytes_max + 2 * limits.receive_credit_bytes as usize;
    for_seeds(0..50, |seed| {
        let server = Server::builder().workers(1).limits(limits.clone());
        let server = server.listen(ADDRESS, FRAMING, || Ends);
        let mut sim = server.simulate(seed, Faults::none()).unwrap();
        let client = sim.connect(ADDRESS, FRAMING);
        client.set_reading(false);
        (0..300).for_each(|_| client.send(&[b'x'; 1000]));
        sim.run();
        client.set_reading(true);
        sim.run_for(seconds(10));
        assert_eq!((client.received().len(), client.is_closed()), (ANSWERS, true));
        let stats = sim.finish().stats;
        assert_eq!((stats.closed_for(CloseReason::Handler), stats.bytes_lost), (1, 0));
        let read_bytes = stats.bytes_received as usize;
        assert!(read_bytes <= read_bytes_max, "{read_bytes} bytes");
    });
}
