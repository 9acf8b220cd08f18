//! Timers: a hierarchical wheel that holds a deadline for each of a million sessions.
//!
//! Insert, cancel and expiry cost the same however many timers there are, and allocate nothing once
//! the slab has grown. There is no clock here: times are nanoseconds handed in by the caller, and
//! the same calls always give the same answers. Hot path: only [`Wheel::next_deadline_ns`] and
//! [`Wheel::expire`] run once per turn; a session re-arms its timer lazily.
//!
//! Time is cut into ticks (of 10 ms unless told otherwise), numbered from nanosecond 0. A deadline
//! belongs to the first tick that starts at or after it, so that a timer is never early and at most
//! one tick late. A tick's number is read as nine digits of six bits, and a timer lies in the level
//! of the highest digit in which its tick differs from the current one, in the slot which that digit
//! names. Nine digits hold every tick of 10 us and more that 64 bits of nanoseconds can name, so
//! that no deadline is too far away.
//!
//! What all of this rests on: level and slot are a function of the timer's tick and the current one.
//! It holds because the current tick only moves past slots that are empty, and empties a slot into
//! lower levels on entering it. So timers of one tick are always in one list, in the order of their
//! insertion; a lower level's timers all come before a higher level's; and the next slot is found by
//! counting zeros in a bitmap.

use std::num::NonZeroU32;

/// Timers by deadline. `K` is what the caller gets back when one expires.
pub(crate) struct Wheel<K: Copy> {
    /// Length of a tick.
    tick_ns: u64,
    /// The latest time seen.
    now_ns: u64,
    /// The latest tick that was expired: `now_ns` in ticks.
    current_tick: u64,
    levels: [Level; LEVELS],
    /// Bit n is set where level n holds a timer.
    levels_occupied: u16,
    entries: Vec<Entry<K>>,
    /// First free entry, or NIL; the others follow by `next`.
    free: u32,
    len: usize,
}

/// Names one timer. After it has expired or was cancelled the id is stale, and stays so: ids are
/// not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    slot: u32,
    generation: NonZeroU32,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel; ticks last at least [`TICK_NS_MIN`].
    pub(crate) fn new(now_ns: u64, tick_ns: u64) -> Self {
        debug_assert!(tick_ns >= TICK_NS_MIN);
        Self {
            tick_ns,
            now_ns,
            current_tick: tick_started(now_ns, tick_ns),
            levels: [Level::EMPTY; LEVELS],
            levels_occupied: 0,
            entries: Vec::new(),
            free: NIL,
            len: 0,
        }
    }

    /// How many timers have neither expired nor been cancelled.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a timer. One whose deadline has passed already counts as due in the current tick, and
    /// expires at the next [`expire`](Self::expire).
    ///
    /// # Panics
    /// There are 2^32 - 1 timers already.
    pub(crate) fn insert(&mut self, deadline_ns: u64, key: K) -> TimerId {
        let tick = if deadline_ns <= self.now_ns {
            self.current_tick
        } else {
            deadline_ns.div_ceil(self.tick_ns)
        };
        let slot = self.take_entry(tick, key);
        self.push_back(slot);
        self.len += 1;
        self.id(slot)
    }

    /// The id of the timer that has this entry.
    fn id(&self, slot: u32) -> TimerId {
        let generation = NonZeroU32::new(self.entries[slot as usize].generation);
        TimerId { slot, generation: generation.expect("the generation of a timer is odd") }
    }

    /// Whether the timer has neither expired nor been cancelled.
    fn contains(&self, id: TimerId) -> bool {
        let entry = self.entries.get(id.slot as usize);
        entry.is_some_and(|entry| entry.generation == id.generation.get())
    }

    /// Takes a timer away before it expires. False if it is no longer there.
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let there = self.contains(id);
        if there {
            self.unlink(id.slot);
            self.give_back_entry(id.slot);
        }
        there
    }

    /// Moves the time on to `now_ns` and appends all timers that are due by then to `due`: by tick,
    /// and in the order of insertion within one. A time before the latest one seen counts as that.
    /// Their ids are stale by then, and say which of somebody's timers this was.
    ///
    /// Costs as much as there are occupied slots on the way, however long the way is.
    #[inline]
    pub(crate) fn expire(&mut self, now_ns: u64, due: &mut Vec<(TimerId, K)>) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.has_to_move() {
            self.move_on(due);
        }
    }

    #[inline(never)]
    fn move_on(&mut self, due: &mut Vec<(TimerId, K)>) {
        let target_tick = tick_started(self.now_ns, self.tick_ns);
        while let Some((level, slot, start_tick)) = self.next_slot() {
            if start_tick > target_tick {
                break;
            }
            // From here on the timers of this slot belong to lower levels, or are due.
            let mut entry = self.take_slot(level, slot);
            self.current_tick = start_tick;
            while entry != NIL {
                let Entry { next, key, .. } = self.entries[entry as usize];
                if level == 0 {
                    due.push((self.id(entry), key));
                    self.give_back_entry(entry);
                } else {
                    self.push_back(entry);
                }
                entry = next;
            }
        }
        self.current_tick = target_tick;
    }

    /// When [`expire`](Self::expire) has to be called again, `None` without timers.
    ///
    /// Never later than the first tick in which a timer is due. For a timer that is far away it may
    /// be earlier: `expire` then only moves it to a lower level, at most eight times for one timer.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, start_tick)| start_tick.saturating_mul(self.tick_ns))
    }

    /// Whether a tick has begun since the last one, or a timer was inserted after it was due.
    #[inline]
    fn has_to_move(&self) -> bool {
        let next_tick_ns = (self.current_tick + 1).saturating_mul(self.tick_ns);
        let current_slot = self.current_tick & (SLOTS as u64 - 1);
        self.now_ns >= next_tick_ns || self.levels[0].occupied & 1 << current_slot != 0
    }

    /// The occupied slot that comes first, as level, slot and the tick with which it starts.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        if self.levels_occupied == 0 {
            return None;
        }
        let level = self.levels_occupied.trailing_zeros() as usize;
        let slot = self.levels[level].occupied.trailing_zeros() as usize;
        let shift = level as u32 * DIGIT_BITS;
        let digits_above = self.current_tick >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
        Some((level, slot, digits_above | (slot as u64) << shift))
    }

    /// Level and slot of a timer that is due in `tick`, which has not passed.
    fn place(&self, tick: u64) -> (usize, usize) {
        debug_assert!(tick >= self.current_tick, "the tick of a timer was passed over");
        let differing = (tick ^ self.current_tick) | 1;
        let level = differing.ilog2() / DIGIT_BITS;
        let slot = tick >> (level * DIGIT_BITS) & (SLOTS as u64 - 1);
        (level as usize, slot as usize)
    }

    fn push_back(&mut self, entry: u32) {
        let (level, slot) = self.place(self.entries[entry as usize].tick);
        let list = &mut self.levels[level].lists[slot];
        let last = list.last;
        list.last = entry;
        match last {
            NIL => list.first = entry,
            _ => self.entries[last as usize].next = entry,
        }
        self.entries[entry as usize].previous = last;
        self.entries[entry as usize].next = NIL;
        self.levels[level].occupied |= 1 << slot;
        self.levels_occupied |= 1 << level;
    }

    fn unlink(&mut self, entry: u32) {
        let Entry { tick, previous, next, .. } = self.entries[entry as usize];
        let (level, slot) = self.place(tick);
        let list = &mut self.levels[level].lists[slot];
        match previous {
            NIL => list.first = next,
            _ => self.entries[previous as usize].next = next,
        }
        match next {
            NIL => list.last = previous,
            _ => self.entries[next as usize].previous = previous,
        }
        if list.first == NIL {
            self.mark_empty(level, slot);
        }
    }

    /// Empties a slot and returns the first entry of its list.
    fn take_slot(&mut self, level: usize, slot: usize) -> u32 {
        let list = std::mem::replace(&mut self.levels[level].lists[slot], List::EMPTY);
        self.mark_empty(level, slot);
        list.first
    }

    fn mark_empty(&mut self, level: usize, slot: usize) {
        self.levels[level].occupied &= !(1 << slot);
        if self.levels[level].occupied == 0 {
            self.levels_occupied &= !(1 << level);
        }
    }

    /// An entry for a new timer, in no list yet.
    fn take_entry(&mut self, tick: u64, key: K) -> u32 {
        let slot = self.free;
        if slot == NIL {
            let slot = u32::try_from(self.entries.len()).ok().filter(|slot| *slot != NIL);
            let slot = slot.expect("fewer than 2^32 - 1 timers");
            self.entries.push(Entry { tick, key, previous: NIL, next: NIL, generation: 1 });
            return slot;
        }
        let entry = &mut self.entries[slot as usize];
        self.free = entry.next;
        entry.tick = tick;
        entry.key = key;
        entry.generation += 1;
        slot
    }

    fn give_back_entry(&mut self, slot: u32) {
        self.len -= 1;
        let entry = &mut self.entries[slot as usize];
        match entry.generation.checked_add(1) {
            Some(generation) => {
                entry.generation = generation;
                entry.next = self.free;
                self.free = slot;
            }
            // Spent: never used again, or an id from long ago would name a timer of today.
            None => entry.generation = 0,
        }
    }
}

/// A slot of the slab. Every session has one, so that it is packed: none of it is ever borrowed.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct Entry<K> {
    /// The tick in which the timer is due.
    tick: u64,
    key: K,
    previous: u32,
    next: u32,
    /// Odd while the entry is a timer, even while it is free.
    generation: u32,
}

struct Level {
    /// Bit n is set where slot n holds a timer.
    occupied: u64,
    lists: [List; SLOTS],
}

impl Level {
    const EMPTY: Self = Self { occupied: 0, lists: [List::EMPTY; SLOTS] };
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: Self = Self { first: NIL, last: NIL };
}

/// The last tick that has started by `now_ns`.
fn tick_started(now_ns: u64, tick_ns: u64) -> u64 {
    // The last tick begins after the end of time: at the end, let it have begun.
    if now_ns == u64::MAX { now_ns.div_ceil(tick_ns) } else { now_ns / tick_ns }
}

/// Length of a tick unless told otherwise: what a server's deadlines need, and 100 wake-ups a
/// second at most.
pub(crate) const TICK_NS: u64 = 10_000_000;
/// The shortest tick. Systems wake a thread no more exactly than this, and shorter ticks would need
/// more levels.
pub(crate) const TICK_NS_MIN: u64 = 10_000;
/// Bits of one digit of a tick's number.
const DIGIT_BITS: u32 = 6;
/// Slots in a level, one for each value of a digit.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Digits that the last tick has.
const LEVELS: usize = 9;
/// No entry.
const NIL: u32 = u32::MAX;

const _: () = assert!(u64::MAX.div_ceil(TICK_NS_MIN) < 1 << (DIGIT_BITS * LEVELS as u32));

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn expired<K: Copy>(wheel: &mut Wheel<K>, now_ns: u64) -> Vec<K> {
        let mut due = Vec::new();
        wheel.expire(now_ns, &mut due);
        assert!(due.iter().all(|(id, _)| !wheel.cancel(*id)), "stale once it has expired");
        due.into_iter().map(|(_, key)| key).collect()
    }

    #[test]
    fn never_early_and_at_most_one_tick_late() {
        for start_ns in [0, 1, TICK_NS - 1, 5 * TICK_NS, 63 * TICK_NS, 123_456_789_012_345] {
            for after_ns in
                [1, TICK_NS - 1, TICK_NS, TICK_NS + 1, 64 * TICK_NS, 4096 * TICK_NS + 7, 1 << 62]
            {
                let mut wheel = Wheel::new(start_ns, TICK_NS);
                let deadline_ns = start_ns + after_ns;
                wheel.insert(deadline_ns, ());
                assert!(expired(&mut wheel, deadline_ns - 1).is_empty(), "{start_ns} {after_ns}");
                assert_eq!(expired(&mut wheel, deadline_ns + TICK_NS).len(), 1);
            }
        }
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_at_once() {
        let now_ns = 7 * TICK_NS + 5;
        let mut wheel = Wheel::new(now_ns, TICK_NS);
        for deadline_ns in [now_ns, 0, now_ns - 1] {
            wheel.insert(deadline_ns, deadline_ns);
        }
        assert!(wheel.next_deadline_ns().unwrap() <= now_ns);
        assert_eq!(expired(&mut wheel, now_ns), [now_ns, 0, now_ns - 1]);
        assert_eq!(wheel.next_deadline_ns(), None);
    }

    #[test]
    fn order_is_by_tick_and_then_by_insertion_whatever_the_level() {
        let mut wheel = Wheel::new(0, TICK_NS);
        let far = 5000;
        wheel.insert(far * TICK_NS, 'a');
        wheel.insert((far + 1) * TICK_NS, 'x');
        expired(&mut wheel, (far - 70) * TICK_NS);
        wheel.insert(far * TICK_NS, 'b');
        expired(&mut wheel, (far - 1) * TICK_NS);
        wheel.insert(far * TICK_NS - 1, 'c');
        assert_eq!(expired(&mut wheel, u64::MAX / 2), ['a', 'b', 'c', 'x']);
    }

    #[test]
    fn the_end_of_time_is_reached() {
        let mut wheel = Wheel::new(0, TICK_NS);
        wheel.insert(u64::MAX, ());
        assert!(expired(&mut wheel, u64::MAX - 1).is_empty());
        assert_eq!(wheel.next_deadline_ns(), Some(u64::MAX));
        assert_eq!(expired(&mut wheel, u64::MAX).len(), 1);
    }

    #[test]
    fn time_does_not_run_backwards() {
        let mut wheel = Wheel::new(100 * TICK_NS, TICK_NS);
        wheel.insert(101 * TICK_NS, ());
        for now_tick in [3, 50, 100] {
            assert!(expired(&mut wheel, now_tick * TICK_NS).is_empty(), "{now_tick}");
        }
        assert_eq!(expired(&mut wheel, 101 * TICK_NS).len(), 1);
    }

    #[test]
    fn what_expires_says_which_timer_it_was() {
        let mut wheel = Wheel::new(0, TICK_NS);
        let ids: Vec<_> = [3, 1, 2].map(|tick| wheel.insert(tick * TICK_NS, ())).into();
        assert!(wheel.cancel(ids[2]));
        let again = wheel.insert(2 * TICK_NS, ());
        let mut due = Vec::new();
        wheel.expire(3 * TICK_NS, &mut due);
        assert_eq!(due, [(ids[1], ()), (again, ()), (ids[0], ())]);
    }

    /// Every session has a timer.
    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry<[u64; 2]>>() <= 36);
    }

    #[test]
    fn cancel_takes_out_the_first_the_middle_and_the_last_of_a_list() {
        for cancelled in 0..4 {
            let mut wheel = Wheel::new(0, TICK_NS);
            let ids: Vec<_> = (0..4).map(|key| wheel.insert(99 * TICK_NS, key)).collect();
            assert!(wheel.cancel(ids[cancelled]));
            assert!(!wheel.cancel(ids[cancelled]));
            let left: Vec<_> = (0..4).filter(|key| *key != cancelled).collect();
            assert_eq!(expired(&mut wheel, 99 * TICK_NS), left);
            assert!(ids.iter().all(|id| !wheel.cancel(*id)));
        }
    }

    #[test]
    fn a_stale_id_does_not_reach_the_timer_that_has_its_entry_now() {
        let mut wheel = Wheel::new(0, TICK_NS);
        let old = wheel.insert(TICK_NS, 'a');
        assert!(wheel.cancel(old));
        let new = wheel.insert(TICK_NS, 'b');
        assert_eq!((old.slot, wheel.entries.len()), (new.slot, 1));
        assert!(!wheel.cancel(old));
        assert_eq!(expired(&mut wheel, TICK_NS), ['b']);
    }

    #[test]
    fn an_entry_whose_generations_are_spent_is_retired() {
        let mut wheel = Wheel::new(0, TICK_NS);
        wheel.insert(TICK_NS, ());
        wheel.entries[0].generation = u32::MAX;
        let last = TimerId { slot: 0, generation: NonZeroU32::MAX };
        assert!(wheel.cancel(last) && !wheel.cancel(last));
        assert_eq!(wheel.insert(TICK_NS, ()).slot, 1);
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn a_million_timers_in_a_warm_wheel_allocate_nothing() {
        const TIMERS: u64 = 1_000_000;
        let mut wheel = Wheel::new(0, TICK_NS);
        let mut due = Vec::with_capacity(TIMERS as usize);
        let mut now_ns = 0;
        let mut capacity = None;
        for _ in 0..3 {
            // A step that shares no factor with the span spreads them over an hour.
            let deadline = |n: u64| now_ns + 1 + n * 7_919_000_003 % 3_600_000_000_000;
            let ids: Vec<_> = (0..TIMERS).map(|n| wheel.insert(deadline(n), n)).collect();
            assert_eq!(wheel.entries.capacity(), *capacity.get_or_insert(wheel.entries.capacity()));
            for id in ids.iter().step_by(2) {
                assert!(wheel.cancel(*id));
            }
            assert_eq!(wheel.len() as u64, TIMERS / 2);
            let ticks: Vec<_> = (0..TIMERS).map(|n| deadline(n).div_ceil(TICK_NS)).collect();
            now_ns += 3_600_000_000_000 + TICK_NS;
            wheel.expire(now_ns, &mut due);
            assert!(due.iter().all(|(_, n)| n % 2 == 1));
            assert!(due.is_sorted_by_key(|(_, n)| (ticks[*n as usize], *n)));
            assert_eq!(due.len() as u64, TIMERS / 2);
            assert!(wheel.is_empty());
            due.clear();
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert {
            after_ns: i64,
        },
        Cancel {
            nth: usize,
        },
        Advance {
            by_ns: u64,
        },
        /// To the next deadline, as a worker does.
        Next,
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = (0u32..62).prop_flat_map(|bits| 0u64..1 << bits);
        prop_oneof![
            5 => span.clone().prop_map(|ns| Step::Insert { after_ns: ns as i64 }),
            1 => (0i64..1 << 40).prop_map(|ns| Step::Insert { after_ns: -ns }),
            2 => (0i64..200).prop_map(|ticks| Step::Insert { after_ns: ticks * TICK_NS as i64 }),
            3 => any::<usize>().prop_map(|nth| Step::Cancel { nth }),
            2 => span.prop_map(|by_ns| Step::Advance { by_ns }),
            2 => (0u64..200 * TICK_NS).prop_map(|by_ns| Step::Advance { by_ns }),
            3 => Just(Step::Next),
        ]
    }

    /// The wheel, and beside it the same timers in a map ordered by tick and insertion.
    struct Pair {
        wheel: Wheel<u64>,
        model: BTreeMap<(u64, u64), ()>,
        ids: Vec<(TimerId, (u64, u64))>,
        now_ns: u64,
    }

    impl Pair {
        fn tick_ns(&self) -> u64 {
            self.wheel.tick_ns
        }

        fn apply(&mut self, step: &Step) {
            match *step {
                Step::Insert { after_ns } => {
                    let deadline_ns = self.now_ns.saturating_add_signed(after_ns);
                    let now_tick = self.now_ns / self.tick_ns();
                    let past = deadline_ns <= self.now_ns;
                    let tick = if past { now_tick } else { deadline_ns.div_ceil(self.tick_ns()) };
                    let key = self.ids.len() as u64;
                    let id = self.wheel.insert(deadline_ns, key);
                    self.model.insert((tick, key), ());
                    self.ids.push((id, (tick, key)));
                }
                Step::Cancel { nth } if !self.ids.is_empty() => {
                    let (id, at) = self.ids[nth % self.ids.len()];
                    assert_eq!(self.wheel.cancel(id), self.model.remove(&at).is_some());
                }
                Step::Cancel { .. } => {}
                Step::Advance { by_ns } => self.advance(self.now_ns.saturating_add(by_ns)),
                Step::Next => {
                    if let Some(next_ns) = self.wheel.next_deadline_ns() {
                        self.advance(next_ns.max(self.now_ns));
                    }
                }
            }
            assert_eq!(self.wheel.len(), self.model.len());
            let tick_ns = self.tick_ns();
            let first = self.model.first_key_value().map(|((tick, _), ())| tick * tick_ns);
            let next = self.wheel.next_deadline_ns();
            assert_eq!(next.is_some(), first.is_some());
            assert!(next <= first, "{next:?} is later than {first:?}");
        }

        fn advance(&mut self, now_ns: u64) {
            self.now_ns = now_ns;
            let later = self.model.split_off(&(now_ns / self.tick_ns() + 1, 0));
            let expected: Vec<_> = self.model.keys().map(|(_, key)| *key).collect();
            self.model = later;
            assert_eq!(expired(&mut self.wheel, now_ns), expected);
        }
    }

    proptest! {
        #[test]
        fn behaves_like_an_ordered_map(
            start_ns in 0u64..1 << 62,
            tick_ns in prop_oneof![Just(TICK_NS_MIN), Just(TICK_NS), TICK_NS_MIN..1_000_000_000],
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let wheel = Wheel::new(start_ns, tick_ns);
            let mut pair = Pair { wheel, model: BTreeMap::new(), ids: vec![], now_ns: start_ns };
            for step in &steps {
                // Far enough from the end of time for the model's sums.
                if pair.now_ns < 1 << 63 {
                    pair.apply(step);
                }
            }
            // Deadline by deadline every timer comes out, within its levels.
            for _ in 0..LEVELS * steps.len() {
                pair.apply(&Step::Next);
            }
            prop_assert!(pair.wheel.is_empty());
        }
    }
}
