//! Keeping what waits to be sent within the memory that the process may use for it.

use std::cmp::Reverse;

use super::Worker;
use crate::{
    handler::{CloseReason, SessionId},
    memory::PIECE_BYTES,
    session::{Session, Shared, Stage},
};

impl Shared {
    /// Memory of waiting frames and of frames in the making: blocks, where a shared one counts once,
    /// and the places of frames in queues.
    #[inline]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pool.bytes_in_use() + self.places * size_of::<wharf_port::Frame>()
    }
}

/// Who is aborted before whom.
type Rank = (bool, wharf_port::Time, Reverse<usize>, SessionId);

impl Worker {
    #[inline]
    pub(super) fn check_memory(&mut self) {
        if self.shared.memory_bytes() > self.leased_pieces * PIECE_BYTES {
            self.lease_or_abort();
        }
    }

    /// Leases what is needed; where that is not to be had, aborts sessions until what is left fits:
    /// those that have been above their soft mark for longest first, then those with the most queued.
    #[cold]
    fn lease_or_abort(&mut self) {
        let needed = self.shared.memory_bytes().div_ceil(PIECE_BYTES);
        self.leased_pieces += self.shared.handle.0.memory.lease(needed - self.leased_pieces);
        if self.memory_fits() {
            return;
        }
        let mut ranks: Vec<Rank> = self.sessions.iter().filter_map(rank).collect();
        ranks.sort_unstable();
        tracing::warn!(
            bytes = self.shared.memory_bytes(),
            "more waits to be sent than memory is for"
        );
        for (.., id) in ranks {
            if self.memory_fits() {
                return;
            }
            self.shared.stats.memory_aborts += 1;
            self.fail(id, CloseReason::SlowConsumer);
        }
    }

    /// What sessions that were aborted have in flight is free as soon as that has ended.
    fn memory_fits(&self) -> bool {
        let used = self.shared.memory_bytes().saturating_sub(self.releasing_bytes);
        used <= self.leased_pieces * PIECE_BYTES
    }

    /// Gives back what is leased beyond one piece more than is used.
    #[inline]
    pub(super) fn return_memory(&mut self) {
        let kept = self.shared.memory_bytes().div_ceil(PIECE_BYTES) + 1;
        if self.leased_pieces > kept {
            self.shared.handle.0.memory.give_back(self.leased_pieces - kept);
            self.leased_pieces = kept;
        }
    }
}

fn rank(session: &Session) -> Option<Rank> {
    let bytes = session.queue.bytes();
    let ends = matches!(session.stage, Stage::Open | Stage::Flushing);
    (ends && bytes > 0).then(|| {
        let since = session.above_since().unwrap_or(wharf_port::Time::ZERO);
        (!session.is_above, since, Reverse(bytes), session.id)
    })
}

#[cfg(all(test, any(unix, windows)))]
mod tests {
    use crate::{
        Context, Frame, Handler, Result, Server,
        framing::Lines,
        testing::{Faults, Simulation},
    };

    struct Fill;

    impl Handler for Fill {
        type Session = ();

        fn on_frame(&mut self, cx: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
            (0..100).try_for_each(|_| cx.send(&[b'x'; 8000]))?;
            Ok(())
        }
    }

    fn leased(sim: &Simulation) -> usize {
        sim.handle().0.memory.leased()
    }

    /// Of what was leased a worker keeps one piece when nothing waits, and none when it has ended.
    #[test]
    fn what_is_not_used_is_given_back() {
        let server = Server::builder().workers(2).listen("10.0.0.1:1", Lines, || Fill);
        let mut sim = server.simulate(1, Faults::none()).unwrap();
        let clients: Vec<_> = (0..8).map(|_| sim.connect("10.0.0.1:1", Lines)).collect();
        for client in &clients {
            client.set_reading(false);
            client.send(b"fill");
        }
        sim.run();
        assert!((5..=10).contains(&leased(&sim)), "{}", leased(&sim));
        clients.iter().for_each(|client| client.set_reading(true));
        sim.run();
        assert!(clients.iter().all(|client| client.received().len() == 100));
        assert!(leased(&sim) <= 2, "{}", leased(&sim));
        let handle = sim.handle().clone();
        sim.finish();
        assert_eq!(handle.0.memory.leased(), 0);
    }
}
