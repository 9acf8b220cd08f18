//! The receives that wait for a buffer, first come first served.

use std::collections::VecDeque;

use crate::contract::Socket;

/// A queue whose members can leave from the middle.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    /// In the order of their tickets; `None` has left.
    queue: VecDeque<(Ticket, Option<Socket>)>,
    next: u64,
    waiting: usize,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Parked {
    /// Puts the socket at the end.
    pub(crate) fn push(&mut self, socket: Socket) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.queue.push_back((ticket, Some(socket)));
        self.waiting += 1;
        ticket
    }

    /// Takes the first out.
    pub(crate) fn pop(&mut self) -> Option<Socket> {
        loop {
            if let (_, Some(socket)) = self.queue.pop_front()? {
                self.waiting -= 1;
                return Some(socket);
            }
        }
    }

    /// Takes the one with this ticket out; it must still be waiting.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        let index = self.queue.binary_search_by_key(&ticket, |(ticket, _)| *ticket);
        self.queue[index.expect("a ticket is valid until it is served")].1 = None;
        self.waiting -= 1;
        // Whoever parks and leaves again and again must not make the queue grow.
        if self.queue.len() > 2 * self.waiting + GAPS_MAX {
            self.queue.retain(|(_, socket)| socket.is_some());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

/// Empty places that the queue may have before it is tidied.
const GAPS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(slot: u32) -> Socket {
        Socket { slot, generation: 0 }
    }

    #[test]
    fn the_first_to_come_is_the_first_to_go_and_the_middle_can_leave() {
        let mut parked = Parked::default();
        let tickets: Vec<_> = (0..4).map(|slot| parked.push(socket(slot))).collect();
        parked.withdraw(tickets[1]);
        assert_eq!(parked.len(), 3);
        let order: Vec<_> = std::iter::from_fn(|| parked.pop()).map(|s| s.slot).collect();
        assert_eq!(order, [0, 2, 3]);
        assert!(parked.is_empty());
    }

    #[test]
    fn leaving_again_and_again_does_not_make_it_grow() {
        let mut parked = Parked::default();
        parked.push(socket(0));
        for _ in 0..1000 {
            let ticket = parked.push(socket(1));
            parked.withdraw(ticket);
        }
        assert!(parked.queue.len() <= 2 + GAPS_MAX, "{} places", parked.queue.len());
        assert_eq!(parked.pop(), Some(socket(0)));
        assert_eq!(parked.pop(), None);
    }
}
