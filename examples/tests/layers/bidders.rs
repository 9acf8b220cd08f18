//! Bidders on a simulated network, for the auction of step 12 and for its starter.

use std::{collections::BTreeSet, time::Duration};

use wharf::{
    Builder,
    framing::LengthField,
    testing::{Client, Faults, Simulation},
};

pub(crate) const AUCTION: &str = "127.0.0.1:11022";

struct Bidder(Client<LengthField>);

impl Bidder {
    fn connect(sim: &mut Simulation) -> Self {
        Self(sim.connect(AUCTION, LengthField::TUTORIAL))
    }

    fn bid(&self, amount: u32) {
        self.0.send_packet(301, &amount.to_le_bytes());
    }

    /// Results of 302, and amounts of 303, in order.
    fn heard(&self) -> (Vec<u16>, Vec<u32>) {
        let (mut results, mut amounts) = (Vec::new(), Vec::new());
        for (id, body) in self.0.received_packets() {
            match (id, &body[..]) {
                (302, &[a, b]) => results.push(u16::from_le_bytes([a, b])),
                (303, &[a, b, c, d]) => amounts.push(u32::from_le_bytes([a, b, c, d])),
                other => panic!("{other:?}"),
            }
        }
        (results, amounts)
    }
}

/// Four bid at the same time, some of them as much as others.
pub(crate) fn check(server: Builder, seed: u64) {
    let cuts = Faults { short_send: 0.5, short_receive: 0.5, reorder: 0.5, ..Faults::none() };
    let mut sim = server.workers(1 + (seed % 3) as usize).simulate(seed, cuts).unwrap();
    let bids: [Vec<u32>; 4] = [0, 1, 2, 3].map(|n| (1..=10).map(|i| n % 2 + 5 * i).collect());
    let bidders = bids.each_ref().map(|_| Bidder::connect(&mut sim));
    for (bidder, amounts) in bidders.iter().zip(&bids) {
        amounts.iter().for_each(|amount| bidder.bid(*amount));
    }
    sim.run_for(Duration::from_secs(1));
    let mut taken = BTreeSet::new();
    for (bidder, bids) in bidders.iter().zip(&bids) {
        let (results, amounts) = bidder.heard();
        assert_eq!(results.len(), bids.len(), "each bid is answered");
        assert!(amounts.is_sorted(), "never less than before: {amounts:?}");
        assert_eq!(amounts.last(), Some(&51), "all are told the highest");
        for (_, bid) in results.iter().zip(bids).filter(|(result, _)| **result == 0) {
            assert!(taken.insert(*bid), "two were told that the lot is theirs for {bid}");
        }
    }
    assert_eq!(taken.last(), Some(&51));
    let late = Bidder::connect(&mut sim);
    late.bid(51);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(late.heard(), (vec![1], vec![51]), "told at once, and too late for as much");
    sim.finish();
}
