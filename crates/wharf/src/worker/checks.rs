//! What the simulator looks at after each turn: whether every limit has been kept.

use super::Worker;
use crate::session::{Session, Stage};

impl Worker {
    /// # Panics
    /// Something is beyond its limit.
    pub(crate) fn check_limits(&self) {
        let links = &self.shared.handle.0;
        assert!(links.sessions() <= links.max_sessions, "more sessions than the server may have");
        assert!(links.memory.is_kept(), "more memory is leased than there is");
        self.sessions.iter().for_each(|session| self.check_limits_of(session));
    }

    fn check_limits_of(&self, session: &Session) {
        let Session { id, limits, queue, .. } = session;
        let (control, all) = (queue.control_bytes(), queue.bytes());
        // What goes first has its own reserve, while it waits and while it is in flight.
        let line_max = limits.send_queue_bytes_max + limits.control_bytes_max;
        assert!(all - control <= line_max, "{id} has {all} bytes queued");
        assert!(control <= limits.control_bytes_max, "{id} has {control} bytes that go first");
        let topics = session.memberships.as_ref().map_or(0, |topics| topics.len());
        assert!(topics <= limits.topics_max, "{id} has {topics} topics");
        let framing = &self.shared.framings[usize::from(session.service)];
        let frame_max = framing.encoded_len(limits.frame_bytes_max);
        let unread = session.unread.as_ref().map_or(0, |unread| unread.len());
        assert!(unread <= frame_max, "{id} has {unread} bytes of a frame");
        let is_told = session.is_above || session.stage != Stage::Open || session.ending;
        let told = all <= limits.send_queue_bytes_soft || is_told;
        assert!(told, "{id} is above its soft mark, and nobody knows");
    }
}
