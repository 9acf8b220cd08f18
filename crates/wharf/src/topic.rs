//! Topics: what is published once reaches every subscriber.
//!
//! A worker writes what is published in one turn to a topic one behind the other into a block, and at
//! the end of the turn puts that one block, shared, into the queue of each subscriber: so many
//! messages of so many senders are one entry and one send for each receiver. Where the order could be
//! seen, the block is cut: before a frame of another topic, if the two have a subscriber in common. A
//! frame for one subscriber alone cuts nothing: before it, that one shares what is written so far, and
//! the rest of the block later.
//!
//! Hot path: [`Topics::publish`] once per message, [`Topics::take_pending`] once per turn.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
};

use wharf_port::{BufferPool, Frame, FrameBuf};

use crate::{
    error::SendError,
    framing::{Framing, Packet},
    sending::{Class, encode},
};

/// Names what sessions subscribe to. What the numbers mean is the server's own business; a topic is
/// there as long as somebody has subscribed to it, and costs nothing otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(pub u64);

/// The topics that sessions of one worker have subscribed to, and what was published this turn.
#[derive(Default)]
pub(crate) struct Topics {
    /// By topic and service: one encoding serves all sessions of a framing.
    index: BTreeMap<(Topic, u16), u32>,
    groups: Vec<Group>,
    free: Vec<u32>,
    /// Groups with something to deliver.
    pending: Vec<u32>,
    /// The group that was published to last.
    last: Option<u32>,
    /// The number of the next piece.
    next_piece: u64,
}

/// The subscribers of one topic that have the same framing.
struct Group {
    topic: Topic,
    service: u16,
    framing: Rc<dyn Framing>,
    members: Vec<Member>,
    /// Free places among the members.
    holes: Vec<u32>,
    /// Members that are in other groups as well: they would see if pieces changed places.
    mixed: usize,
    /// What is to be delivered, in order.
    pieces: Vec<Piece>,
    /// The piece being written, behind all the others.
    open: Option<Open>,
    /// Where what is to be delivered ends.
    end: Mark,
    /// Some member has had a part of it already.
    marked: bool,
    /// It is in the list of those with something to deliver.
    pending: bool,
}

/// A subscriber.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    /// Its slot in the session table; `HOLE` if nobody is there.
    slot: u32,
    /// Up to where it has had what is to be delivered, or had not yet subscribed.
    from: Mark,
}

/// A place in what is to be delivered to a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    bytes: u32,
    frames: u32,
}

struct Open {
    number: u64,
    bytes: FrameBuf,
    start: Mark,
}

/// Whole frames that stand together and go to each member of a group.
pub(crate) struct Piece {
    /// In the order in which pieces were begun, over all groups.
    number: u64,
    pub(crate) group: u32,
    pub(crate) class: Class,
    frame: Frame,
    start: Mark,
    end: Mark,
}

/// A session's place in a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    group: u32,
    member: u32,
}

impl Membership {
    pub(crate) fn is_in_group_of(self, other: Self) -> bool {
        self.group == other.group
    }
}

impl Topics {
    /// Whether nothing is to be delivered.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes a frame for every member of the topic on this worker.
    ///
    /// # Errors
    /// [`SendError::WouldExceed`] if more is to be delivered than may be before the turn ends;
    /// [`SendError::Framing`] if the framing of some members cannot say it. They get nothing then.
    pub(crate) fn publish(
        &mut self,
        pool: &BufferPool,
        topic: Topic,
        class: Class,
        packet: Packet<'_>,
    ) -> Result<(), SendError> {
        let mut answer = Ok(());
        for &index in self.index.range((topic, 0)..=(topic, u16::MAX)).map(|(_, index)| index) {
            let group = &mut self.groups[index as usize];
            if group.mixed > 0 && self.last.replace(index) != Some(index) {
                group.end_piece(index);
            }
            let written = group.publish(pool, index, &mut self.next_piece, class, packet);
            if !group.pending && !group.is_settled() {
                group.pending = true;
                self.pending.push(index);
            }
            answer = answer.and(written);
        }
        answer
    }

    /// Makes the session in `slot` a member, behind what was published before. `others` are the
    /// session's memberships so far; `None` if this would be one of them.
    pub(crate) fn join(
        &mut self,
        topic: Topic,
        service: u16,
        framing: &Rc<dyn Framing>,
        slot: u32,
        others: &[Membership],
    ) -> Option<Membership> {
        let index = match self.index.get(&(topic, service)) {
            Some(index) if others.iter().any(|other| other.group == *index) => return None,
            Some(index) => *index,
            None => self.add_group(topic, service, framing),
        };
        if let [first, ..] = others {
            // It will see the order of pieces of both.
            for pending in &self.pending {
                self.groups[*pending as usize].end_piece(*pending);
            }
            self.groups[index as usize].mixed += 1;
            if others.len() == 1 {
                self.groups[first.group as usize].mixed += 1;
            }
        }
        let group = &mut self.groups[index as usize];
        let member = Member { slot, from: group.end };
        group.marked |= group.end != Mark::default();
        let place = match group.holes.pop() {
            Some(place) => {
                group.members[place as usize] = member;
                place
            }
            None => {
                group.members.push(member);
                (group.members.len() - 1) as u32
            }
        };
        Some(Membership { group: index, member: place })
    }

    /// Which of these memberships is in the topic.
    pub(crate) fn position(&self, topic: Topic, memberships: &[Membership]) -> Option<usize> {
        memberships.iter().position(|one| self.topic(*one) == topic)
    }

    pub(crate) fn topic(&self, membership: Membership) -> Topic {
        self.groups[membership.group as usize].topic
    }

    /// Ends a membership. `rest` are those that the session keeps.
    pub(crate) fn leave(&mut self, membership: Membership, rest: &[Membership]) {
        let index = membership.group as usize;
        let group = &mut self.groups[index];
        group.members[membership.member as usize].slot = HOLE;
        group.holes.push(membership.member);
        if let [first, ..] = rest {
            group.mixed -= 1;
            if rest.len() == 1 {
                self.groups[first.group as usize].mixed -= 1;
            }
        }
        if self.groups[index].holes.len() == self.groups[index].members.len() {
            self.remove_group(membership.group);
        }
    }

    fn add_group(&mut self, topic: Topic, service: u16, framing: &Rc<dyn Framing>) -> u32 {
        let group = Group {
            topic,
            service,
            framing: Rc::clone(framing),
            members: Vec::new(),
            holes: Vec::new(),
            mixed: 0,
            pieces: Vec::new(),
            open: None,
            end: Mark::default(),
            marked: false,
            pending: false,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.groups[index as usize] = group;
                index
            }
            None => {
                self.groups.push(group);
                (self.groups.len() - 1) as u32
            }
        };
        self.index.insert((topic, service), index);
        index
    }

    /// Nobody is left in it: what was to be delivered goes to nobody.
    fn remove_group(&mut self, index: u32) {
        let group = &mut self.groups[index as usize];
        self.index.remove(&(group.topic, group.service));
        if std::mem::take(&mut group.pending) {
            self.pending.retain(|pending| *pending != index);
        }
        group.forget();
        self.free.push(index);
        self.last = self.last.filter(|last| *last != index);
    }

    /// Moves what is to be delivered into `pieces`, in the order in which it was published.
    pub(crate) fn take_pending(&mut self, pieces: &mut Vec<Piece>) {
        for &index in &self.pending {
            let group = &mut self.groups[index as usize];
            group.end_piece(index);
            group.end = Mark::default();
            group.pending = false;
            pieces.append(&mut group.pieces);
        }
        if self.pending.len() > 1 {
            pieces.sort_unstable_by_key(|piece| piece.number);
        }
        self.pending.clear();
        self.last = None;
    }

    /// How many places the group has, with holes.
    pub(crate) fn places(&self, group: u32) -> usize {
        self.groups[group as usize].members.len()
    }

    #[inline]
    pub(crate) fn member(&self, group: u32, place: usize) -> Member {
        self.groups[group as usize].members[place]
    }

    /// The pieces of a group were delivered to each of its members.
    pub(crate) fn delivered(&mut self, group: u32) {
        let group = &mut self.groups[group as usize];
        if std::mem::take(&mut group.marked) {
            group.members.iter_mut().for_each(|member| member.from = Mark::default());
        }
    }

    /// Whether so many of the group's places are free that it should close its ranks.
    pub(crate) fn has_many_holes(&self, group: u32) -> bool {
        let group = &self.groups[group as usize];
        group.holes.len() > HOLES_KEPT_MAX && group.holes.len() > group.members.len() / 2
    }

    /// Takes the free places out of a group; `moved` is told who is in which place now.
    pub(crate) fn close_ranks(&mut self, index: u32, mut moved: impl FnMut(u32, Membership)) {
        let group = &mut self.groups[index as usize];
        group.members.retain(|member| member.slot != HOLE);
        group.members.shrink_to(group.members.len() * 2);
        group.holes = Vec::new();
        for (place, member) in group.members.iter().enumerate() {
            moved(member.slot, Membership { group: index, member: place as u32 });
        }
    }

    /// Moves what is to be delivered to one session into `parts`, in order: a frame for it alone comes
    /// next. For all others what follows stands in the same piece.
    pub(crate) fn take_for(&mut self, memberships: &[Membership], parts: &mut Vec<Part>) {
        for membership in memberships {
            let group = &mut self.groups[membership.group as usize];
            let member = &mut group.members[membership.member as usize];
            let from = std::mem::replace(&mut member.from, group.end);
            if from == group.end {
                continue;
            }
            group.marked = true;
            parts.extend(group.pieces.iter().filter_map(|piece| piece.part(from)));
            parts.extend(group.open.as_ref().and_then(|open| open.part(from, group.end)));
        }
        if memberships.len() > 1 {
            parts.sort_unstable_by_key(|part| part.number);
        }
    }
}

/// Where other threads see whether a worker has subscribers of a topic. Topics share places, so that it
/// may have none although there seem to be some; what is published then is for nobody there.
pub(crate) struct Subscribed(Box<[AtomicU32]>);

impl Default for Subscribed {
    fn default() -> Self {
        Self((0..SUBSCRIBED_PLACES).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Subscribed {
    fn place(&self, topic: Topic) -> &AtomicU32 {
        // Spreads numbers that are near each other; two that share a place cost time and nothing else.
        let mixed = topic.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.0[(mixed >> 48) as usize % SUBSCRIBED_PLACES]
    }

    /// One session more has subscribed, or is about to.
    pub(crate) fn add(&self, topic: Topic) {
        self.place(topic).fetch_add(1, Ordering::AcqRel);
    }

    /// Takes an [`add`](Self::add) back.
    pub(crate) fn remove(&self, topic: Topic) {
        let before = self.place(topic).fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "every removal follows an addition");
    }

    pub(crate) fn may_have(&self, topic: Topic) -> bool {
        self.place(topic).load(Ordering::Acquire) > 0
    }
}

const SUBSCRIBED_PLACES: usize = 4096;

/// What one session gets of a piece.
pub(crate) struct Part {
    number: u64,
    pub(crate) class: Class,
    pub(crate) frame: Frame,
    pub(crate) frames: u32,
}

impl Open {
    /// What has been written of it behind `from`, up to `end`.
    fn part(&self, from: Mark, end: Mark) -> Option<Part> {
        let skipped = from.bytes.saturating_sub(self.start.bytes) as usize;
        let frame = self.bytes.share(skipped.min(self.bytes.len())..self.bytes.len());
        let frames = end.frames - from.frames.max(self.start.frames);
        let (number, class) = (self.number, Class::Reliable);
        (!frame.is_empty()).then_some(Part { number, class, frame, frames })
    }
}

impl Piece {
    /// What of it lies behind `from`.
    #[inline]
    fn part(&self, from: Mark) -> Option<Part> {
        if from.bytes >= self.end.bytes {
            return None;
        }
        let (number, class) = (self.number, self.class);
        if from.bytes <= self.start.bytes {
            let frames = self.end.frames - self.start.frames;
            return Some(Part { number, class, frame: self.frame.clone(), frames });
        }
        let skipped = (from.bytes - self.start.bytes) as usize;
        let frame = self.frame.slice(skipped..self.frame.len());
        Some(Part { number, class, frame, frames: self.end.frames - from.frames })
    }

    /// The slot of a member and what it gets; `None` for a hole, or if it gets nothing.
    #[inline]
    pub(crate) fn part_for(&self, member: Member) -> Option<(u32, Part)> {
        if member.slot == HOLE {
            return None;
        }
        Some((member.slot, self.part(member.from)?))
    }
}

impl Group {
    fn is_settled(&self) -> bool {
        self.pieces.is_empty() && self.open.is_none()
    }

    fn publish(
        &mut self,
        pool: &BufferPool,
        index: u32,
        next_piece: &mut u64,
        class: Class,
        packet: Packet<'_>,
    ) -> Result<(), SendError> {
        let len = self.framing.encoded_len(packet.body.len());
        if (self.end.bytes as usize).saturating_add(len) > PENDING_BYTES_MAX {
            return Err(SendError::WouldExceed);
        }
        if class != Class::Reliable {
            self.end_piece(index);
        }
        self.make_room(pool, index, next_piece, len);
        let open = self.open.as_mut().expect("made above");
        let written = open.bytes.append_with(len, |room| encode(&*self.framing, packet, room));
        let written = written.expect("there is room, as seen to above");
        if open.bytes.is_empty() {
            self.open = None;
        }
        if written? > 0 {
            self.end.bytes += written? as u32;
            self.end.frames += 1;
            if class != Class::Reliable {
                self.end_piece(index);
                self.pieces.last_mut().expect("just ended").class = class;
            }
        }
        Ok(())
    }

    /// Sees to it that the open piece has room for `len` bytes: in a larger block while that is small
    /// enough to copy into, in another one beyond.
    fn make_room(&mut self, pool: &BufferPool, index: u32, next_piece: &mut u64, len: usize) {
        let written = match &self.open {
            Some(open) if open.bytes.capacity() - open.bytes.len() >= len => return,
            Some(open) => open.bytes.len(),
            None => 0,
        };
        if written > 0 && written + len <= PIECE_BYTES_MAX {
            let open = self.open.as_mut().expect("something is written in it");
            let mut larger = pool.take((2 * written + len).min(PIECE_BYTES_MAX));
            larger.append(&open.bytes);
            open.bytes = larger;
            return;
        }
        self.end_piece(index);
        let wanted = if written > 0 { len.max(PIECE_BYTES_MAX) } else { len };
        self.open = Some(Open { number: *next_piece, bytes: pool.take(wanted), start: self.end });
        *next_piece += 1;
    }

    /// What comes next is another piece.
    fn end_piece(&mut self, index: u32) {
        let Some(Open { number, bytes, start }) = self.open.take() else { return };
        if bytes.is_empty() {
            return; // a framing panicked before it had written anything
        }
        self.pieces.push(Piece {
            number,
            group: index,
            class: Class::Reliable,
            frame: bytes.freeze(),
            start,
            end: self.end,
        });
    }

    fn forget(&mut self) {
        (self.members, self.holes) = (Vec::new(), Vec::new());
        (self.pieces, self.open) = (Vec::new(), None);
        (self.end, self.marked, self.mixed) = (Mark::default(), false, 0);
    }
}

const HOLE: u32 = u32::MAX;

/// Free places that a group keeps for those who come.
const HOLES_KEPT_MAX: usize = 32;

/// Bytes that may be published to one topic on one worker before the end of the turn: as much as a
/// session may have queued by default. More would abort those whom it is for.
const PENDING_BYTES_MAX: usize = 1024 * 1024;

/// A piece grows up to this size; beyond it another block is cheaper than copying on.
const PIECE_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::Lines;

    /// Topics with sessions that do nothing but count as members.
    struct Hall {
        topics: Topics,
        pool: BufferPool,
        framing: Rc<dyn Framing>,
        memberships: Vec<Vec<Membership>>,
    }

    impl Hall {
        fn new(sessions: usize) -> Self {
            Self {
                topics: Topics::default(),
                pool: BufferPool::new(false),
                framing: Rc::new(Lines),
                memberships: vec![Vec::new(); sessions],
            }
        }

        fn join(&mut self, slot: usize, topic: u64) {
            let mine = &mut self.memberships[slot];
            mine.extend(self.topics.join(Topic(topic), 0, &self.framing, slot as u32, mine));
        }

        fn leave(&mut self, slot: usize, topic: u64) {
            let mine = &mut self.memberships[slot];
            let position = self.topics.position(Topic(topic), mine).expect("a member");
            let left = mine.swap_remove(position);
            self.topics.leave(left, mine);
        }

        fn publish(&mut self, topic: u64, body: &str) -> Result<(), SendError> {
            let packet = Packet { id: 0, session: 0, body: body.as_bytes() };
            self.topics.publish(&self.pool, Topic(topic), Class::Reliable, packet)
        }

        /// What each session gets at the end of the turn, and in how many frames.
        fn settle(&mut self) -> Vec<(String, usize)> {
            let mut received = vec![(String::new(), 0); self.memberships.len()];
            let mut pieces = Vec::new();
            self.topics.take_pending(&mut pieces);
            for piece in &pieces {
                for place in 0..self.topics.places(piece.group) {
                    let member = self.topics.member(piece.group, place);
                    if let Some((slot, part)) = piece.part_for(member) {
                        let (text, frames) = &mut received[slot as usize];
                        text.push_str(std::str::from_utf8(&part.frame).unwrap());
                        *frames += 1;
                    }
                }
            }
            for piece in pieces {
                self.topics.delivered(piece.group);
            }
            received
        }
    }

    #[test]
    fn what_is_published_in_a_turn_is_one_frame_for_those_who_see_no_other_order() {
        let mut hall = Hall::new(3);
        [(0, 1), (1, 2), (2, 3)].into_iter().for_each(|(slot, topic)| hall.join(slot, topic));
        for n in 0..100 {
            (1..=2).for_each(|topic| hall.publish(topic, &format!("{topic} {n}")).unwrap());
        }
        hall.publish(4, "nobody").unwrap();
        let received = hall.settle();
        let frames: Vec<_> = received.iter().map(|(_, frames)| *frames).collect();
        assert_eq!(frames, [1, 1, 0], "topics of different sessions do not cut each other");
        assert!(received[0].0.starts_with("1 0\n1 1\n") && received[0].0.ends_with("1 99\n"));
        // One session in both: now everybody's are cut.
        hall.join(2, 1);
        hall.join(2, 2);
        ["a", "b"].iter().for_each(|n| hall.publish(1, n).unwrap());
        ["c", "d"].iter().for_each(|n| hall.publish(2, n).unwrap());
        hall.publish(1, "e").unwrap();
        let frames = |text: &str, frames| (text.to_owned(), frames);
        let expected = [frames("a\nb\ne\n", 2), frames("c\nd\n", 1), frames("a\nb\nc\nd\ne\n", 3)];
        assert_eq!(hall.settle(), expected);
        // And it has left again.
        hall.leave(2, 2);
        hall.leave(2, 3);
        for topic in [1, 2, 1, 2] {
            hall.publish(topic, "x").unwrap();
        }
        let expected = [frames("x\nx\n", 1), frames("x\nx\n", 1), frames("x\nx\n", 1)];
        assert_eq!(hall.settle(), expected);
        assert_eq!(hall.pool.blocks_in_use(), 0);
    }

    /// Subscribing makes an order visible that nobody saw before: blocks written so far end there.
    #[test]
    fn a_second_topic_comes_behind_what_the_first_had() {
        let mut hall = Hall::new(3);
        [(0, 2), (0, 3), (1, 1)].into_iter().for_each(|(slot, topic)| hall.join(slot, topic));
        hall.publish(2, "before").unwrap();
        hall.publish(1, "first").unwrap();
        hall.join(1, 2);
        hall.publish(2, "second").unwrap();
        assert_eq!(hall.settle()[1].0, "first\nsecond\n");
    }

    /// Who gets frames of its own in between has the same bytes in parts.
    #[test]
    fn a_frame_for_one_alone_cuts_nothing_for_the_others() {
        let mut hall = Hall::new(2);
        (0..2).for_each(|slot| hall.join(slot, 1));
        let (body, mut own) = ("x".repeat(500), String::new());
        for n in 0..20 {
            hall.publish(1, &format!("{n} {body}")).unwrap();
            let mut parts = Vec::new();
            hall.topics.take_for(&hall.memberships[0], &mut parts);
            assert_eq!((parts.len(), parts[0].frames), (1, 1));
            own.push_str(std::str::from_utf8(&parts[0].frame).unwrap());
        }
        hall.publish(1, "last").unwrap();
        own.push_str("last\n");
        assert_eq!(hall.settle(), [("last\n".to_owned(), 1), (own, 1)]);
        assert_eq!(hall.pool.blocks_in_use(), 0);
    }

    #[test]
    fn a_turn_takes_so_many_bytes_of_a_topic_and_no_more() {
        let mut hall = Hall::new(1);
        hall.join(0, 1);
        let body = "x".repeat(1023);
        let accepted = (0..2000).take_while(|_| hall.publish(1, &body).is_ok()).count();
        // The last one would fit if it were certain that it needs no more than one byte for its end.
        assert_eq!(accepted, PENDING_BYTES_MAX / 1024 - 1);
        assert_eq!(hall.publish(1, &body), Err(SendError::WouldExceed));
        assert_eq!(hall.settle()[0].0.len(), accepted * 1024);
        hall.publish(1, &body).unwrap();
        hall.leave(0, 1);
        assert!(hall.topics.is_settled(), "nobody is left");
        assert_eq!(hall.pool.blocks_in_use(), 0);
    }

    /// Places are used again, and given up where many have left.
    #[test]
    fn those_who_have_left_leave_no_trace() {
        let mut hall = Hall::new(200);
        (0..200).for_each(|slot| hall.join(slot, 1));
        (0..150).for_each(|slot| hall.leave(slot, 1));
        let group = hall.memberships[199][0].group;
        assert!(hall.topics.has_many_holes(group));
        let mut moved = Vec::new();
        hall.topics.close_ranks(group, |slot, now| moved.push((slot, now)));
        assert_eq!(hall.topics.places(group), 50);
        for (slot, now) in moved {
            hall.memberships[slot as usize] = vec![now];
        }
        (0..10).for_each(|slot| hall.join(slot, 1));
        hall.leave(199, 1);
        hall.join(11, 1);
        assert_eq!(hall.topics.places(group), 60, "the free place is taken first");
        hall.publish(1, "x").unwrap();
        let received = hall.settle();
        let whom: Vec<_> = (0..200).filter(|slot| received[*slot].1 == 1).collect();
        let expected: Vec<_> = (0..10).chain([11]).chain(150..199).collect();
        assert_eq!(whom, expected);
        (0..200).filter(|slot| expected.contains(slot)).for_each(|slot| hall.leave(slot, 1));
        assert!(hall.topics.index.is_empty() && hall.topics.free == [group]);
    }
}
