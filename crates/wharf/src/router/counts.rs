//! How often each route was taken: counted by one router at a time, read from anywhere.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Frames by route, over all clones of a [`Router`](super::Router).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Each registered packet, by rising id.
    pub routes: Vec<RouteCount>,
    /// Frames whose id is not registered.
    pub unknown: u64,
}

impl Counts {
    /// The count of a registered packet id.
    #[must_use]
    pub fn route(&self, id: u32) -> Option<&RouteCount> {
        self.routes.iter().find(|route| route.id == id)
    }
}

/// Frames of one registered packet id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteCount {
    /// The packet id.
    pub id: u32,
    /// The packet's name; `raw` for [`on_raw`](super::RouterBuilder::on_raw).
    pub name: &'static str,
    /// Frames that were decoded and handed to the handler function.
    pub handled: u64,
    /// Frames that are not such a packet.
    pub malformed: u64,
}

/// The lanes of all clones of a router, and the sum of those that are gone.
#[derive(Debug)]
pub(super) struct Lanes {
    all: Mutex<All>,
}

#[derive(Debug)]
struct All {
    gone: Vec<[u64; 2]>,
    open: Vec<Arc<Lane>>,
}

/// What one router counts. It alone writes, so that a load and a store count: no locked instruction.
#[derive(Debug)]
pub(super) struct Lane {
    /// One for each route; the last one is for unknown ids.
    slots: Box<[Slot]>,
}

/// On a cache line of its own: the lanes of two workers may lie beside each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    handled: AtomicU64,
    malformed: AtomicU64,
}

impl Lanes {
    pub(super) fn new(routes: usize) -> Arc<Self> {
        let all = All { gone: vec![[0; 2]; routes + 1], open: Vec::new() };
        Arc::new(Self { all: Mutex::new(all) })
    }

    pub(super) fn open(&self) -> Arc<Lane> {
        let mut all = self.all.lock().expect("nothing panics under it");
        let slots = all.gone.iter().map(|_| Slot::default()).collect();
        let lane = Arc::new(Lane { slots });
        all.open.push(Arc::clone(&lane));
        lane
    }

    pub(super) fn close(&self, lane: &Arc<Lane>) {
        let mut all = self.all.lock().expect("nothing panics under it");
        all.open.retain(|open| !Arc::ptr_eq(open, lane));
        lane.add_to(&mut all.gone);
    }

    /// Handled and malformed of each route, then of the unknown ids.
    pub(super) fn sum(&self) -> Vec<[u64; 2]> {
        let all = self.all.lock().expect("nothing panics under it");
        let mut sum = all.gone.clone();
        for lane in &all.open {
            lane.add_to(&mut sum);
        }
        sum
    }
}

impl Lane {
    #[inline]
    pub(super) fn handled(&self, route: usize) {
        count(&self.slots[route].handled);
    }

    #[inline]
    pub(super) fn malformed(&self, route: usize) {
        count(&self.slots[route].malformed);
    }

    pub(super) fn unknown(&self) {
        self.handled(self.slots.len() - 1);
    }

    fn add_to(&self, sum: &mut [[u64; 2]]) {
        for (sum, slot) in sum.iter_mut().zip(&self.slots) {
            sum[0] += slot.handled.load(Ordering::Relaxed);
            sum[1] += slot.malformed.load(Ordering::Relaxed);
        }
    }
}

#[inline]
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
