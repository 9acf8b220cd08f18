//! The table of sockets and of what is in flight on them.
//!
//! A [`Socket`] is slot and generation: when a slot is freed its generation changes, so that a
//! completion or a handle from before names nothing. Free slots are used again first in, first out,
//! which keeps an old number away as long as possible.

use std::collections::VecDeque;

use crate::contract::Socket;

/// Slots with generations. `T` is what a backend keeps per socket.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: VecDeque<u32>,
    used: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    /// What each socket takes, idle or not.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn slot_bytes() -> usize {
        size_of::<Slot<T>>()
    }

    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: VecDeque::new(), used: 0 }
    }

    /// Puts a value into a free slot.
    pub(crate) fn insert(&mut self, value: T) -> Socket {
        let slot = self.free.pop_front().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 sockets")
        });
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        self.used += 1;
        Socket { slot, generation: entry.generation }
    }

    #[inline]
    pub(crate) fn get(&self, socket: Socket) -> Option<&T> {
        let slot = self.slots.get(socket.slot as usize)?;
        if slot.generation == socket.generation { slot.value.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, socket: Socket) -> Option<&mut T> {
        let slot = self.slots.get_mut(socket.slot as usize)?;
        if slot.generation == socket.generation { slot.value.as_mut() } else { None }
    }

    /// The socket that has this slot at present.
    #[cfg(unix)]
    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<Socket> {
        let entry = self.slots.get(slot as usize)?;
        entry.value.as_ref().map(|_| Socket { slot, generation: entry.generation })
    }

    /// Takes the value out; the slot's generation changes. A slot whose generations are spent is
    /// not used again.
    pub(crate) fn remove(&mut self, socket: Socket) -> Option<T> {
        let slot = self.slots.get_mut(socket.slot as usize)?;
        if slot.generation != socket.generation {
            return None;
        }
        let value = slot.value.take()?;
        self.used -= 1;
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push_back(socket.slot);
        }
        Some(value)
    }

    /// How many are in use.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Socket, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let socket = Socket { slot: index as u32, generation: slot.generation };
            slot.value.as_ref().map(|value| (socket, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_is_used_again_last_and_under_a_new_generation() {
        let mut slots = Slots::new();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.remove(b), Some('b'));
        let c = slots.insert('c');
        assert_eq!((c.slot, c.generation), (a.slot, 1));
        assert_eq!((slots.get(a), slots.get(c)), (None, Some(&'c')));
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn a_slot_with_no_generation_left_is_retired() {
        let mut slots = Slots::new();
        let first = slots.insert(1);
        slots.slots[0].generation = u32::MAX;
        let last = Socket { generation: u32::MAX, ..first };
        assert_eq!(slots.remove(last), Some(1));
        assert_eq!(slots.insert(2).slot, 1);
    }
}
