//! The sessions of one worker: slots with generations.

use std::collections::VecDeque;

use super::Session;
use crate::handler::SessionId;

/// The sessions of one worker. A free slot is used again as late as possible, under its next
/// generation; one whose generations are spent is retired (I10).
///
/// A session lies in its slot, and the table grows by a chunk at a time: it takes no more than it has
/// had sessions, never moves one, and making one allocates nothing in a warm server.
pub(crate) struct SessionTable {
    chunks: Vec<Box<Chunk>>,
    /// Slots that have been used; the others are at the end of the last chunk.
    slots: usize,
    free: VecDeque<u32>,
    worker: u8,
    slots_max: usize,
    len: usize,
}

type Chunk = [Slot; CHUNK_SLOTS];

#[expect(clippy::large_enum_variant, reason = "that is the room that a slot has")]
enum Slot {
    Used(Session),
    Free {
        /// Of the session that comes next.
        generation: u32,
    },
}

impl Slot {
    #[inline]
    fn session(&self) -> Option<&Session> {
        match self {
            Slot::Used(session) => Some(session),
            Slot::Free { .. } => None,
        }
    }

    #[inline]
    fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Slot::Used(session) => Some(session),
            Slot::Free { .. } => None,
        }
    }
}

impl SessionTable {
    /// A table of at most `slots_max` sessions; a retired slot counts.
    pub(crate) fn new(worker: u8, slots_max: usize) -> Self {
        debug_assert!(slots_max <= SessionId::SLOT_MAX as usize + 1);
        Self { chunks: Vec::new(), slots: 0, free: VecDeque::new(), worker, slots_max, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes a session under a new id; `None` if every slot is taken.
    pub(crate) fn insert(
        &mut self,
        make: impl FnOnce(SessionId) -> Session,
    ) -> Option<&mut Session> {
        let number = match self.free.pop_front() {
            Some(number) => number,
            None if self.slots >= self.slots_max => return None,
            None => {
                if self.slots == self.chunks.len() * CHUNK_SLOTS {
                    let chunk = [const { Slot::Free { generation: 0 } }; CHUNK_SLOTS];
                    self.chunks.push(Box::new(chunk));
                }
                self.slots += 1;
                (self.slots - 1) as u32
            }
        };
        let worker = self.worker;
        let slot = self.slot(number).expect("one of the table's");
        let Slot::Free { generation } = *slot else { unreachable!("the slot is free") };
        *slot = Slot::Used(make(SessionId::new(worker, number, generation)));
        self.len += 1;
        self.at(number)
    }

    #[inline]
    fn slot(&mut self, number: u32) -> Option<&mut Slot> {
        let chunk = self.chunks.get_mut(number as usize / CHUNK_SLOTS)?;
        Some(&mut chunk[number as usize % CHUNK_SLOTS])
    }

    /// The session in this slot, whichever it is.
    #[inline]
    pub(crate) fn at(&mut self, slot: u32) -> Option<&mut Session> {
        self.slot(slot)?.session_mut()
    }

    /// The session with this id, if it still is.
    #[inline]
    pub(crate) fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        self.at(id.slot()).filter(|session| session.id == id)
    }

    /// Frees the slot of this session.
    pub(crate) fn remove(&mut self, id: SessionId) {
        debug_assert!(self.get(id).is_some(), "removed once");
        let generation = id.generation() + 1;
        *self.slot(id.slot()).expect("a session's") = Slot::Free { generation };
        self.len -= 1;
        if generation <= SessionId::GENERATION_MAX {
            self.free.push_back(id.slot());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(Slot::session)
    }

    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.iter().map(|session| session.id).collect()
    }
}

/// Slots that the table grows by: some pages.
const CHUNK_SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::some_sessions;

    /// Idle sessions are what a server has most of. Beside this each has a timer (timer.rs) and its
    /// port's record of the socket, and nothing else.
    #[test]
    fn a_session_is_small() {
        let bytes = size_of::<Slot>();
        assert!(bytes <= SESSION_BYTES_MAX, "{bytes}");
        assert_eq!(bytes, size_of::<Session>(), "a slot says by its bytes that it is free");
    }

    const SESSION_BYTES_MAX: usize = 208;

    /// A slot is used again as late as possible; a stale id never finds who has it now; a slot whose
    /// generations are spent is retired (I10).
    #[test]
    fn ids_are_not_used_again_and_stale_ones_find_nobody() {
        let make = some_sessions();
        let mut table = SessionTable::new(3, 3);
        let first = table.insert(&make).unwrap().id;
        let second = table.insert(&make).unwrap().id;
        table.remove(first);
        table.remove(second);
        let again: Vec<_> = (0..2).map(|_| table.insert(&make).unwrap().id).collect();
        assert_eq!(
            again.iter().map(|id| id.slot()).collect::<Vec<_>>(),
            [0, 1],
            "first freed first"
        );
        assert!(again.iter().all(|id| *id != first && *id != second && id.worker() == 3));
        assert!(table.get(first).is_none() && table.get(second).is_none());
        assert!(again.iter().all(|id| table.get(*id).is_some()));

        table.remove(again[0]);
        *table.slot(0).unwrap() = Slot::Free { generation: SessionId::GENERATION_MAX };
        let last = table.insert(&make).unwrap().id;
        assert_eq!((last.slot(), last.generation()), (0, SessionId::GENERATION_MAX));
        table.remove(last);
        assert_eq!(table.insert(&make).unwrap().id.slot(), 2, "slot 0 is retired");
        assert!(table.get(last).is_none());
        assert_eq!(table.len(), 2);
        assert!(table.insert(&make).is_none(), "no slot beyond those that there may be");
    }

    /// Over several chunks each id finds its own session, and all are seen in the order of their slots.
    #[test]
    fn sessions_stay_where_they_are_while_the_table_grows() {
        let make = some_sessions();
        let mut table = SessionTable::new(0, 3 * CHUNK_SLOTS);
        let first: *const Session = table.insert(&make).unwrap();
        (1..3 * CHUNK_SLOTS).for_each(|_| _ = table.insert(&make).unwrap());
        assert!(table.insert(&make).is_none());
        let ids = table.ids();
        assert!(ids.iter().map(|id| id.slot()).eq(0..3 * CHUNK_SLOTS as u32));
        assert!(ids.iter().all(|id| table.get(*id).unwrap().id == *id));
        assert!(std::ptr::eq(first, table.get(ids[0]).unwrap()));
        ids.iter().for_each(|id| table.remove(*id));
        assert_eq!((table.len(), table.ids()), (0, vec![]));
    }
}
