//! 1-Send: one send in flight per session, everything queued meanwhile leaves in the next.
//!
//! Hot path: [`SendQueue::append`] writes a frame behind the others, [`SendQueue::fill`] makes the
//! gather for the next send. Small frames are copied together into one pooled block, so that sixteen
//! answers cost one buffer and one system call.
//!
//! What is not plainly in order (frames that may be dropped or replaced, and those that go first) is
//! looked after in a box of its own, which most sessions never need.

use std::collections::VecDeque;

use wharf_port::{BufferPool, Frame, FrameBuf, Gather};

/// What waits to be sent on one session, in order.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// The block being written, behind all of the line.
    tail: Option<FrameBuf>,
    /// Bytes in `line` and `tail`.
    waiting_bytes: usize,
    /// Bytes that the port has.
    in_flight_bytes: u32,
    /// Bytes of frames that go first.
    control_bytes: u32,
    /// Made with the first frame in it: who only answers needs none.
    line: Option<Box<Line>>,
}

#[derive(Debug, Default)]
struct Line {
    /// Blocks that are full and frames that stand alone. An empty frame is one that was dropped.
    frames: VecDeque<Frame>,
    special: Option<Box<Special>>,
}

/// What is known of frames that are not plainly in order. A frame of the line has a number that stays
/// the same while frames before it leave.
#[derive(Debug, Default)]
struct Special {
    /// Go next after the gather in flight.
    control: VecDeque<Frame>,
    /// The number of the first frame in line.
    line_start: u64,
    /// Keys and numbers of frames that a newer one of that key replaces.
    latest: Vec<(u64, u64)>,
    /// Numbers of frames that may be dropped, oldest first.
    oldest: VecDeque<u64>,
    /// Dropped frames that are still in line.
    dropped: usize,
}

/// What became of a frame that is the latest of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Latest {
    /// It has the place of the one before.
    Replaced,
    /// It is the first of its key in line.
    Queued,
    /// It would have gone beyond the limit; the one before stays.
    TooLarge,
    /// It would have been one key too many.
    TooManyKeys,
}

impl SendQueue {
    /// Everything that has not been handed to the system: waiting and in flight.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.waiting_bytes + (self.in_flight_bytes + self.control_bytes) as usize
    }

    /// Whether another `len` bytes in line keep it within `limit`. Frames that go first have their
    /// own.
    #[inline]
    pub(crate) fn fits(&self, len: usize, limit: usize) -> bool {
        (self.waiting_bytes + self.in_flight_bytes as usize).saturating_add(len) <= limit
    }

    /// Frames in line, whose places take memory beside their bytes.
    #[inline]
    pub(crate) fn places(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.frames.len())
    }

    /// Bytes that the port has.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes as usize
    }

    /// Bytes of waiting frames that go first.
    pub(crate) fn control_bytes(&self) -> usize {
        self.control_bytes as usize
    }

    /// Whether nothing waits to be sent.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting_bytes + self.control_bytes as usize == 0
    }

    /// Whether what waits is as much as leaves in one send.
    pub(crate) fn fills_a_gather(&self) -> bool {
        self.waiting_bytes >= GATHER_BYTES_MAX || self.places() >= Gather::FRAMES_MAX
    }

    /// Whether `len` bytes fit behind the others in the block being written.
    #[inline]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.capacity() - tail.len() >= len)
    }

    /// Appends one frame behind the others: `write` gets room for `len` bytes, in which may be what
    /// is left over from other sessions, and says how many it has written.
    ///
    /// # Errors
    /// What `write` answers; nothing is appended then.
    ///
    /// # Panics
    /// If there is [no room](Self::has_room).
    #[inline]
    pub(crate) fn append<E>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let written = self.tail.as_mut().and_then(|tail| tail.append_with(len, write));
        match written.expect("there is room") {
            Ok(bytes) if bytes > 0 => {
                self.waiting_bytes += bytes;
                Ok(bytes)
            }
            nothing => {
                // One that has nothing to send keeps no block.
                self.tail.take_if(|_| self.waiting_bytes == 0);
                nothing
            }
        }
    }

    /// Makes room for `len` bytes behind the others: in a larger block while that is small enough to
    /// copy into, in another one beyond. `hint` says how many bytes are likely to follow in all; it
    /// saves copies and never costs correctness. Answers how many places in line that has taken.
    #[cold]
    pub(crate) fn make_room(&mut self, pool: &BufferPool, len: usize, hint: usize) -> usize {
        let mut places = 0;
        let wanted = len.max(hint.min(ACCUMULATE_BYTES_MAX));
        let next = match self.tail.take() {
            None => pool.take(wanted),
            Some(old) if old.len() + len <= ACCUMULATE_BYTES_MAX => {
                let mut larger = pool.take((old.len() + wanted).min(ACCUMULATE_BYTES_MAX));
                larger.append(&old);
                larger
            }
            Some(old) => {
                if !old.is_empty() {
                    self.line().frames.push_back(old.freeze());
                    places = 1;
                }
                pool.take(wanted)
            }
        };
        self.tail = Some(next);
        places
    }

    /// Ends the block being written: what comes next stands in a block of its own. Answers how many
    /// places in line that has taken.
    pub(crate) fn end_block(&mut self) -> usize {
        let Some(tail) = self.tail.take_if(|tail| !tail.is_empty()) else { return 0 };
        self.line().frames.push_back(tail.freeze());
        1
    }

    #[inline]
    fn line(&mut self) -> &mut Line {
        self.line.get_or_insert_default()
    }

    fn special(&mut self) -> &mut Special {
        self.line().special.get_or_insert_default()
    }

    /// Whether `len` bytes could be copied behind what is written already.
    #[inline]
    pub(crate) fn has_room_behind(&self, len: usize) -> bool {
        self.has_room(len) && self.tail.as_ref().is_some_and(|tail| !tail.is_empty())
    }

    /// Puts a frame behind the others without copying it. It may be shared with other sessions.
    pub(crate) fn push(&mut self, frame: Frame) {
        debug_assert!(!frame.is_empty());
        self.end_block();
        self.waiting_bytes += frame.len();
        self.line().frames.push_back(frame);
    }

    /// As [`push`](Self::push), a frame that [`drop_oldest`](Self::drop_oldest) may drop.
    pub(crate) fn push_droppable(&mut self, frame: Frame) {
        self.push(frame);
        let number = self.last_number();
        self.special().oldest.push_back(number);
    }

    /// Drops the oldest frame that may be; false if there is none.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let Some(line) = &mut self.line else { return false };
        let Some(special) = &mut line.special else { return false };
        let Some(number) = special.oldest.pop_front() else { return false };
        let frame = std::mem::take(&mut line.frames[(number - special.line_start) as usize]);
        self.waiting_bytes -= frame.len();
        special.dropped += 1;
        if special.dropped > DROPPED_KEPT_MAX && special.dropped > line.frames.len() / 2 {
            line.close_ranks();
        }
        true
    }

    /// Puts a frame into the place of the one of its key that waits, or behind the others, if that
    /// keeps the line within `limit`. At most [`LATEST_KEYS_MAX`] keys wait at one time.
    pub(crate) fn put_latest(&mut self, key: u64, frame: Frame, limit: usize) -> Latest {
        debug_assert!(!frame.is_empty());
        let line = self.line.get_or_insert_default();
        let special = line.special.get_or_insert_default();
        if let Some((_, number)) = special.latest.iter().find(|(other, _)| *other == key) {
            let old = &mut line.frames[(number - special.line_start) as usize];
            let others = self.waiting_bytes - old.len();
            if others + self.in_flight_bytes as usize + frame.len() > limit {
                return Latest::TooLarge;
            }
            self.waiting_bytes = others + frame.len();
            *old = frame;
            return Latest::Replaced;
        }
        if special.latest.len() >= LATEST_KEYS_MAX {
            return Latest::TooManyKeys;
        }
        if !self.fits(frame.len(), limit) {
            return Latest::TooLarge;
        }
        self.push(frame);
        let number = self.last_number();
        self.special().latest.push((key, number));
        Latest::Queued
    }

    /// Puts a frame before all that waits, behind others put so.
    pub(crate) fn push_control(&mut self, frame: Frame) {
        debug_assert!(!frame.is_empty());
        self.control_bytes += frame.len() as u32;
        self.special().control.push_back(frame);
    }

    /// The number of the last frame in line.
    fn last_number(&mut self) -> u64 {
        let start = self.special().line_start;
        start + self.places() as u64 - 1
    }

    /// Moves what comes next into an empty `gather`: in order, at most 64 frames, and 64 KiB unless
    /// the first frame alone is larger.
    pub(crate) fn fill(&mut self, gather: &mut Gather) {
        debug_assert!(gather.is_empty() && self.in_flight_bytes == 0);
        if self.control_bytes > 0 {
            self.fill_with_control(gather);
        }
        let control_bytes = gather.bytes();
        if let Some(line) = &mut self.line {
            line.fill(gather);
        }
        if self.places() == 0
            && !gather.is_full()
            && let Some(tail) = self.tail.take_if(|tail| fits(gather, tail.len()))
            && !tail.is_empty()
        {
            gather.push(tail.freeze());
        }
        self.waiting_bytes -= gather.bytes() - control_bytes;
        self.in_flight_bytes = gather.bytes() as u32;
    }

    #[cold]
    fn fill_with_control(&mut self, gather: &mut Gather) {
        let control = &mut self.special().control;
        while !gather.is_full()
            && let Some(frame) = control.pop_front_if(|frame| fits(gather, frame.len()))
        {
            gather.push(frame);
        }
        self.control_bytes -= gather.bytes() as u32;
    }

    /// The send is over: everything that was in flight has been handed to the system.
    #[inline]
    pub(crate) fn on_sent(&mut self) {
        self.in_flight_bytes = 0;
    }

    /// Throws away what waits; returns how many bytes that was.
    pub(crate) fn clear(&mut self) -> usize {
        let lost = self.waiting_bytes + self.control_bytes as usize;
        *self = Self { in_flight_bytes: self.in_flight_bytes, ..Self::default() };
        lost
    }

    /// Gives up the room that the queue keeps; call it when nothing waits, so that an idle session
    /// holds none.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.tail = None;
        if let Some(line) = &mut self.line
            && (line.frames.capacity() > KEPT_FRAMES_MAX || !line.frames.is_empty())
        {
            line.release();
        }
    }
}

impl Line {
    /// Moves frames into `gather` while they fit.
    fn fill(&mut self, gather: &mut Gather) {
        let (mut left, mut dropped) = (0, 0);
        while !gather.is_full()
            && let Some(frame) = self.frames.pop_front_if(|frame| fits(gather, frame.len()))
        {
            left += 1;
            if frame.is_empty() {
                dropped += 1;
            } else {
                gather.push(frame);
            }
        }
        if let Some(special) = &mut self.special {
            special.on_left(left, dropped);
        }
    }

    /// Takes dropped frames out and numbers the others again.
    fn close_ranks(&mut self) {
        let special = self.special.as_mut().expect("something was dropped");
        let start = special.line_start;
        // How far each moves up. Those that are looked for by number are all in line.
        let mut gone = 0;
        let moved: Vec<u64> = (self.frames.iter())
            .map(|frame| {
                gone += u64::from(frame.is_empty());
                gone
            })
            .collect();
        let up = |number: &mut u64| *number -= moved[(*number - start) as usize];
        special.oldest.iter_mut().for_each(up);
        special.latest.iter_mut().map(|(_, number)| number).for_each(up);
        special.dropped = 0;
        self.frames.retain(|frame| !frame.is_empty());
    }

    #[cold]
    fn release(&mut self) {
        if let Some(special) = &mut self.special {
            // Nothing waits: what is there was dropped.
            special.on_left(self.frames.len(), self.frames.len());
        }
        self.frames.clear();
        self.frames.shrink_to(KEPT_FRAMES_MAX);
    }
}

impl Special {
    /// So many frames have left the line at its front, some of which had been dropped.
    fn on_left(&mut self, frames: usize, dropped: usize) {
        self.dropped -= dropped;
        self.line_start += frames as u64;
        let start = self.line_start;
        self.latest.retain(|(_, number)| *number >= start);
        while self.oldest.pop_front_if(|number| *number < start).is_some() {}
    }
}

/// Whether so many bytes may leave with what is in `gather`.
#[inline]
fn fits(gather: &Gather, bytes: usize) -> bool {
    gather.is_empty() || gather.bytes() + bytes <= GATHER_BYTES_MAX
}

/// Frames are copied together into blocks of at most this size; beyond it another block is cheaper
/// than copying on.
const ACCUMULATE_BYTES_MAX: usize = 16 * 1024;

/// What leaves in one send, in bytes.
pub(crate) const GATHER_BYTES_MAX: usize = 64 * 1024;

/// Room for frames that a drained queue keeps.
const KEPT_FRAMES_MAX: usize = 8;

/// How many keys of one session may wait, each with its latest frame. Looking for one is looking at
/// all of them.
pub(crate) const LATEST_KEYS_MAX: usize = 64;

/// As many dropped frames may stay in a line before it closes its ranks.
const DROPPED_KEPT_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn append(queue: &mut SendQueue, pool: &BufferPool, bytes: &[u8], hint: usize) {
        let write = |room: &mut [u8]| {
            room[..bytes.len()].copy_from_slice(bytes);
            Ok::<_, ()>(bytes.len())
        };
        let len = bytes.len() + 2;
        if !queue.has_room(len) {
            queue.make_room(pool, len, hint);
        }
        queue.append(len, write).unwrap();
    }

    proptest! {
        /// Whatever is appended, and whenever a send takes and finishes: the same bytes leave in the
        /// same order, no gather is too long, and nothing is left over.
        #[test]
        fn bytes_leave_in_order(steps in proptest::collection::vec((0..5000_usize, 0..9000_usize, any::<bool>()), 1..80)) {
            let pool = BufferPool::new(false);
            let (mut queue, mut gather) = (SendQueue::default(), Gather::new());
            let (mut expected, mut sent, mut next) = (Vec::new(), Vec::new(), 0_u8);
            let mut send = |queue: &mut SendQueue, sent: &mut Vec<u8>| {
                queue.fill(&mut gather);
                prop_assert!(gather.frames().len() <= Gather::FRAMES_MAX);
                prop_assert!(gather.bytes() <= GATHER_BYTES_MAX);
                gather.frames().iter().for_each(|frame| sent.extend_from_slice(frame));
                gather.clear();
                queue.on_sent();
                Ok(())
            };
            for (len, hint, flush) in steps {
                let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                append(&mut queue, &pool, &bytes, hint);
                expected.extend_from_slice(&bytes);
                prop_assert_eq!(queue.bytes(), expected.len() - sent.len());
                if flush { send(&mut queue, &mut sent)?; }
            }
            while !queue.is_empty() { send(&mut queue, &mut sent)?; }
            queue.release();
            prop_assert!(sent == expected);
            prop_assert_eq!(pool.blocks_in_use(), 0);
        }
    }

    #[test]
    fn small_frames_leave_as_one_buffer_and_large_ones_are_not_copied_together() {
        let pool = BufferPool::new(false);
        let (mut queue, mut gather) = (SendQueue::default(), Gather::new());
        (0..100).for_each(|_| append(&mut queue, &pool, &[1; 100], 0));
        queue.fill(&mut gather);
        assert_eq!((gather.frames().len(), gather.bytes()), (1, 10_000));
        queue.on_sent();
        gather.clear();
        (0..6).for_each(|_| append(&mut queue, &pool, &[1; 14_000], 0));
        queue.fill(&mut gather);
        assert_eq!((gather.frames().len(), queue.bytes()), (4, 6 * 14_000));
        assert_eq!(queue.clear(), 2 * 14_000);
        assert_eq!(queue.bytes(), 4 * 14_000, "what is in flight is still counted");
    }

    #[test]
    fn a_frame_larger_than_a_gather_leaves_alone() {
        let pool = BufferPool::new(false);
        let (mut queue, mut gather) = (SendQueue::default(), Gather::new());
        append(&mut queue, &pool, &[7; 200_000], 0);
        append(&mut queue, &pool, &[8; 10], 0);
        queue.fill(&mut gather);
        assert_eq!(gather.bytes(), 200_000);
    }

    fn frame(pool: &BufferPool, bytes: &[u8]) -> Frame {
        let mut block = pool.take(bytes.len());
        block.append(bytes);
        block.freeze()
    }

    /// What the model below knows of a waiting frame.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Kind {
        Plain,
        Droppable,
        Latest(u64),
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(u16),
        Push(u16),
        PushDroppable(u16),
        DropOldest,
        PutLatest(u64, u16),
        Control(u16),
        Send,
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = || prop_oneof![10 => 1..40_u16, 1 => 1..9000_u16];
        prop_oneof![
            20 => len().prop_map(Step::Append),
            10 => len().prop_map(Step::Push),
            60 => len().prop_map(Step::PushDroppable),
            60 => Just(Step::DropOldest),
            20 => (0..80_u64, len()).prop_map(|(key, len)| Step::PutLatest(key, len)),
            5 => len().prop_map(Step::Control),
            // Seldom, so that many wait and many are dropped.
            3 => Just(Step::Send),
            1 => prop_oneof![10 => Just(Step::Send), 1 => Just(Step::Clear)],
        ]
    }

    /// A list of frames, searched and shifted as if that cost nothing.
    #[derive(Default)]
    struct Model {
        line: Vec<(Kind, Vec<u8>)>,
        control: Vec<Vec<u8>>,
    }

    impl Model {
        fn line_bytes(&self) -> usize {
            self.line.iter().map(|(_, bytes)| bytes.len()).sum()
        }

        fn put_latest(&mut self, key: u64, bytes: Vec<u8>) -> Latest {
            let waits = |(kind, _): &(Kind, _)| matches!(kind, Kind::Latest(_));
            let old = self.line.iter().position(|(kind, _)| *kind == Kind::Latest(key));
            let replaced = old.map_or(0, |old| self.line[old].1.len());
            let fits = self.line_bytes() - replaced + bytes.len() <= LIMIT;
            match old {
                Some(_) if !fits => Latest::TooLarge,
                Some(old) => {
                    self.line[old].1 = bytes;
                    Latest::Replaced
                }
                None if self.line.iter().filter(|one| waits(one)).count() >= LATEST_KEYS_MAX => {
                    Latest::TooManyKeys
                }
                None if !fits => Latest::TooLarge,
                None => {
                    self.line.push((Kind::Latest(key), bytes));
                    Latest::Queued
                }
            }
        }

        /// What leaves, given how many bytes do: whole frames, those that go first before all others.
        fn leave(&mut self, mut bytes: usize) -> Vec<u8> {
            let mut left = Vec::new();
            while bytes > 0 {
                let frame = if self.control.is_empty() {
                    self.line.remove(0).1
                } else {
                    self.control.remove(0)
                };
                bytes = bytes.checked_sub(frame.len()).expect("whole frames leave");
                left.extend(frame);
            }
            left
        }
    }

    const LIMIT: usize = 100_000;

    proptest! {
        /// Whatever is queued as whatever: what leaves, and what is counted, is what the list says.
        #[test]
        fn every_kind_of_frame_behaves_like_a_list(steps in proptest::collection::vec(step(), 1..400)) {
            let pool = BufferPool::new(false);
            let (mut queue, mut gather, mut model) = (SendQueue::default(), Gather::new(), Model::default());
            let mut next = 0_u64;
            let mut bytes = |len: u16| {
                next += 1;
                next.to_be_bytes().into_iter().cycle().take(usize::from(len)).collect::<Vec<u8>>()
            };
            for step in steps {
                match step {
                    Step::Append(len) => {
                        let bytes = bytes(len);
                        append(&mut queue, &pool, &bytes, 0);
                        model.line.push((Kind::Plain, bytes));
                    }
                    Step::Push(len) => {
                        let bytes = bytes(len);
                        queue.push(frame(&pool, &bytes));
                        model.line.push((Kind::Plain, bytes));
                    }
                    Step::PushDroppable(len) => {
                        let bytes = bytes(len);
                        queue.push_droppable(frame(&pool, &bytes));
                        model.line.push((Kind::Droppable, bytes));
                    }
                    Step::DropOldest => {
                        let oldest = model.line.iter().position(|(kind, _)| *kind == Kind::Droppable);
                        prop_assert_eq!(queue.drop_oldest(), oldest.is_some());
                        oldest.map(|oldest| model.line.remove(oldest));
                    }
                    Step::PutLatest(key, len) => {
                        let bytes = bytes(len);
                        let put = queue.put_latest(key, frame(&pool, &bytes), LIMIT);
                        prop_assert_eq!(put, model.put_latest(key, bytes));
                    }
                    Step::Control(len) => {
                        let bytes = bytes(len);
                        queue.push_control(frame(&pool, &bytes));
                        model.control.push(bytes);
                    }
                    Step::Send if queue.is_empty() => queue.release(),
                    Step::Send => {
                        queue.fill(&mut gather);
                        prop_assert!(gather.bytes() <= GATHER_BYTES_MAX && !gather.is_empty());
                        let left: Vec<u8> = gather.frames().iter().flat_map(|f| f.to_vec()).collect();
                        prop_assert!(left == model.leave(left.len()));
                        gather.clear();
                        queue.on_sent();
                    }
                    Step::Clear => {
                        let control: usize = model.control.iter().map(Vec::len).sum();
                        prop_assert_eq!(queue.clear(), model.line_bytes() + control);
                        model = Model::default();
                    }
                }
                let control: usize = model.control.iter().map(Vec::len).sum();
                prop_assert_eq!(queue.control_bytes(), control);
                prop_assert_eq!(queue.bytes(), model.line_bytes() + control);
                prop_assert_eq!(queue.is_empty(), model.line.is_empty() && model.control.is_empty());
                let frames = queue.places();
                let most = model.line.len() + DROPPED_KEPT_MAX.max(frames / 2);
                prop_assert!(frames <= most, "{} frames, {} wait", frames, model.line.len());
            }
            queue.clear();
            prop_assert_eq!(pool.blocks_in_use(), 0);
        }
    }
}
