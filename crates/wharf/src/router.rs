//! Typed packets by id to handler functions.
//!
//! A [`Router`] is a table that is built once: which function takes which [packet](mod@crate::packet), and
//! what becomes of frames that are none. [`Router::handler`] makes it a [`Handler`]; a handler of
//! one's own calls [`Router::dispatch`] in its `on_frame` instead.
//!
//! ```
//! use wharf::{Context, Router, Server, framing::LengthField, packet::Rest, router::Action};
//!
//! wharf::packet! {
//!     struct Echo<'a> = 1 { bytes: Rest<'a> }
//!     struct RoomEnter = 206 { room: i32 }
//!     struct RoomEntered = 207 { result: i16 }
//! }
//!
//! #[derive(Default)]
//! struct User { room: Option<i32> } // one per connection
//!
//! struct Rooms { rooms: i32 } // one per worker
//!
//! fn enter(rooms: &mut Rooms, cx: &mut Context<'_, User>, packet: RoomEnter) -> wharf::Result {
//!     let known = (0..rooms.rooms).contains(&packet.room);
//!     if known {
//!         cx.data().room = Some(packet.room);
//!     }
//!     cx.send_typed(&RoomEntered { result: if known { 0 } else { 61 } })?;
//!     Ok(())
//! }
//!
//! fn echo(_: &mut Rooms, cx: &mut Context<'_, User>, packet: Echo<'_>) -> wharf::Result {
//!     cx.send_typed(&packet)?;
//!     Ok(())
//! }
//!
//! let router = Router::builder()
//!     .on::<RoomEnter>(enter)
//!     .on::<Echo>(echo)
//!     .malformed_for::<RoomEnter>(Action::Answer(|_, cx, _, _| {
//!         cx.send_typed(&RoomEntered { result: 61 })?;
//!         Ok(())
//!     }))
//!     .build();
//! let server = Server::builder()
//!     .listen("127.0.0.1:0", LengthField::TUTORIAL, move || router.handler(Rooms { rooms: 10 }));
//! ```
//!
//! Hot path: [`Router::dispatch`] once per frame, which looks the id up in an array (or in a sorted
//! one, where there are ids of [`DIRECT_IDS`] and above), counts, decodes and calls. It allocates
//! nothing.

mod builder;
mod counts;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use self::counts::{Lane, Lanes};
pub use self::{
    builder::RouterBuilder,
    counts::{Counts, RouteCount},
};
use crate::{
    error::Result,
    framing::Frame,
    handler::{CloseReason, Context, Handler},
    packet::{DecodeError, Packet},
};

/// Hands each frame to the function that is registered for its packet id. `H` is the state that the
/// functions share, `S` the data of a session.
///
/// A clone shares the table and has counters of its own, so that workers do not share any: one clone
/// for each worker, as [`handler`](Self::handler) makes it.
pub struct Router<H, S> {
    table: Arc<Table<H, S>>,
    lanes: Arc<Lanes>,
    lane: Arc<Lane>,
}

/// What becomes of a frame that is unknown or malformed. All such frames are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<F> {
    /// Nothing more: the session stays.
    Ignore,
    /// The session is closed with [`CloseReason::Protocol`]; what is queued is sent first.
    Close,
    /// This function is called, and the session stays unless it says otherwise.
    Answer(F),
}

/// Called with the frame, for an unknown id or for one registered with
/// [`on_raw`](RouterBuilder::on_raw).
pub type FrameFn<H, S> = fn(&mut H, &mut Context<'_, S>, Frame<'_>) -> Result;
/// Called with a packet as it was received.
pub type PacketFn<H, S, P> =
    for<'a> fn(&mut H, &mut Context<'_, S>, <P as Packet>::Received<'a>) -> Result;
/// Called with a frame of a registered packet that could not be decoded, and why.
pub type MalformedFn<H, S> = fn(&mut H, &mut Context<'_, S>, Frame<'_>, &DecodeError) -> Result;

/// With ids below this alone, a packet's function is found with one load from an array.
pub const DIRECT_IDS: u32 = 4096;

impl<H: 'static, S: 'static> Router<H, S> {
    /// Hands a frame to the function of its packet id.
    ///
    /// # Errors
    /// What that function returned.
    #[inline]
    pub fn dispatch(&mut self, state: &mut H, cx: &mut Context<'_, S>, frame: Frame<'_>) -> Result {
        let Some(index) = self.table.find(frame.id()) else {
            self.lane.unknown();
            return self.table.unknown(state, cx, frame);
        };
        let route = &self.table.routes[index];
        match route.call.call(state, cx, frame, &self.lane, index) {
            Ok(result) => result,
            Err(error) => {
                self.lane.malformed(index);
                malformed(route.malformed, state, cx, frame, &error)
            }
        }
    }

    /// A [`Handler`] that calls this router's functions with `state`.
    #[must_use]
    pub fn handler(&self, state: H) -> Routed<H, S> {
        Routed { router: self.clone(), state }
    }

    /// What was counted so far, by this router and all its clones.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = self.lanes.sum();
        let [unknown, _] = sum.pop().expect("the last one is for unknown ids");
        let count = |(route, [handled, malformed]): (&Route<H, S>, [u64; 2])| RouteCount {
            id: route.id,
            name: route.name,
            handled,
            malformed,
        };
        Counts { routes: self.table.routes.iter().zip(sum).map(count).collect(), unknown }
    }
}

impl<H, S> Clone for Router<H, S> {
    fn clone(&self) -> Self {
        let (table, lanes) = (Arc::clone(&self.table), Arc::clone(&self.lanes));
        let lane = lanes.open();
        Self { table, lanes, lane }
    }
}

impl<H, S> Drop for Router<H, S> {
    fn drop(&mut self) {
        self.lanes.close(&self.lane);
    }
}

/// A router and its state as a [`Handler`], made by [`Router::handler`].
pub struct Routed<H, S> {
    router: Router<H, S>,
    state: H,
}

impl<H: 'static, S: Default + 'static> Handler for Routed<H, S> {
    type Session = S;

    fn requires_login(&self) -> bool {
        self.router.table.hooks.requires_login
    }

    fn packets(&self) -> Vec<(u32, &'static str)> {
        self.router.table.routes.iter().map(|route| (route.id, route.name)).collect()
    }

    fn on_open(&mut self, cx: &mut Context<'_, S>) -> Result {
        self.router.table.hooks.open.map_or(Ok(()), |hook| hook(&mut self.state, cx))
    }

    #[inline]
    fn on_frame(&mut self, cx: &mut Context<'_, S>, frame: Frame<'_>) -> Result {
        self.router.dispatch(&mut self.state, cx, frame)
    }

    fn on_backpressure(&mut self, cx: &mut Context<'_, S>) -> Result {
        self.router.table.hooks.backpressure.map_or(Ok(()), |hook| hook(&mut self.state, cx))
    }

    fn on_writable(&mut self, cx: &mut Context<'_, S>) -> Result {
        self.router.table.hooks.writable.map_or(Ok(()), |hook| hook(&mut self.state, cx))
    }

    fn on_drain(&mut self, cx: &mut Context<'_, S>) -> Result {
        self.router.table.hooks.drain.map_or(Ok(()), |hook| hook(&mut self.state, cx))
    }

    fn on_timer(&mut self, cx: &mut Context<'_, S>, key: u64) -> Result {
        self.router.table.hooks.timer.map_or(Ok(()), |hook| hook(&mut self.state, cx, key))
    }

    fn on_heartbeat(&mut self, cx: &mut Context<'_, S>) -> Result<bool> {
        self.router.table.hooks.heartbeat.map_or(Ok(false), |hook| hook(&mut self.state, cx))
    }

    fn on_close(&mut self, cx: &mut Context<'_, S>, reason: CloseReason) {
        if let Some(hook) = self.router.table.hooks.close {
            hook(&mut self.state, cx, reason);
        }
    }

    fn on_connect_failed(
        &mut self,
        address: SocketAddr,
        error: &io::Error,
        retry_in: Option<Duration>,
    ) {
        if let Some(hook) = self.router.table.hooks.connect_failed {
            hook(&mut self.state, address, error, retry_in);
        }
    }
}

/// What all clones of a router share.
struct Table<H, S> {
    /// By rising id.
    routes: Vec<Route<H, S>>,
    /// Where each id's route is, one more than that, 0 for none; empty if there are larger ids.
    direct: Vec<u16>,
    unknown: Action<FrameFn<H, S>>,
    hooks: Hooks<H, S>,
}

impl<H, S> Table<H, S> {
    #[inline]
    fn find(&self, id: u32) -> Option<usize> {
        if self.direct.is_empty() {
            return self.routes.binary_search_by_key(&id, |route| route.id).ok();
        }
        let entry = self.direct.get(id as usize)?;
        usize::from(*entry).checked_sub(1)
    }

    #[cold]
    fn unknown(&self, state: &mut H, cx: &mut Context<'_, S>, frame: Frame<'_>) -> Result {
        tracing::debug!(session = %cx.id(), id = frame.id(), "unknown packet id");
        match self.unknown {
            Action::Ignore => Ok(()),
            Action::Close => {
                cx.request(CloseReason::Protocol);
                Ok(())
            }
            Action::Answer(answer) => answer(state, cx, frame),
        }
    }
}

#[cold]
fn malformed<H, S>(
    action: Action<MalformedFn<H, S>>,
    state: &mut H,
    cx: &mut Context<'_, S>,
    frame: Frame<'_>,
    error: &DecodeError,
) -> Result {
    tracing::debug!(session = %cx.id(), %error, "malformed packet");
    match action {
        Action::Ignore => Ok(()),
        Action::Close => {
            cx.request(CloseReason::Protocol);
            Ok(())
        }
        Action::Answer(answer) => answer(state, cx, frame, error),
    }
}

struct Route<H, S> {
    id: u32,
    name: &'static str,
    call: Box<dyn Call<H, S>>,
    malformed: Action<MalformedFn<H, S>>,
}

/// Decodes and calls, whatever the packet's type. Outside: whether it could be decoded; inside: what
/// the function returned.
trait Call<H, S>: Send + Sync {
    fn call(
        &self,
        state: &mut H,
        cx: &mut Context<'_, S>,
        frame: Frame<'_>,
        lane: &Lane,
        route: usize,
    ) -> std::result::Result<Result, DecodeError>;
}

struct Typed<H, S, P: Packet>(PacketFn<H, S, P>);

impl<H, S, P: Packet> Call<H, S> for Typed<H, S, P> {
    fn call(
        &self,
        state: &mut H,
        cx: &mut Context<'_, S>,
        frame: Frame<'_>,
        lane: &Lane,
        route: usize,
    ) -> std::result::Result<Result, DecodeError> {
        let packet = P::decode(frame.body())?;
        // Before the call, so that it counts although the function panics.
        lane.handled(route);
        Ok((self.0)(state, cx, packet))
    }
}

struct Raw<H, S>(FrameFn<H, S>);

impl<H, S> Call<H, S> for Raw<H, S> {
    fn call(
        &self,
        state: &mut H,
        cx: &mut Context<'_, S>,
        frame: Frame<'_>,
        lane: &Lane,
        route: usize,
    ) -> std::result::Result<Result, DecodeError> {
        lane.handled(route);
        Ok((self.0)(state, cx, frame))
    }
}

/// What [`Routed`] calls for events that are no frames.
struct Hooks<H, S> {
    requires_login: bool,
    open: Option<OpenFn<H, S>>,
    backpressure: Option<OpenFn<H, S>>,
    writable: Option<OpenFn<H, S>>,
    drain: Option<OpenFn<H, S>>,
    timer: Option<TimerFn<H, S>>,
    heartbeat: Option<HeartbeatFn<H, S>>,
    close: Option<CloseFn<H, S>>,
    connect_failed: Option<ConnectFailedFn<H>>,
}

type OpenFn<H, S> = fn(&mut H, &mut Context<'_, S>) -> Result;
type TimerFn<H, S> = fn(&mut H, &mut Context<'_, S>, u64) -> Result;
type HeartbeatFn<H, S> = fn(&mut H, &mut Context<'_, S>) -> Result<bool>;
type CloseFn<H, S> = fn(&mut H, &mut Context<'_, S>, CloseReason);
type ConnectFailedFn<H> = fn(&mut H, SocketAddr, &io::Error, Option<Duration>);

impl<H, S> Default for Hooks<H, S> {
    fn default() -> Self {
        Self {
            requires_login: false,
            open: None,
            backpressure: None,
            writable: None,
            drain: None,
            timer: None,
            heartbeat: None,
            close: None,
            connect_failed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Builder = RouterBuilder<(), ()>;

    crate::packet! {
        struct Low = 206 { room: i32 }
        struct High = 4096 {}
    }

    fn with_ids(ids: &[u32]) -> Router<(), ()> {
        let add = |builder: Builder, id: &u32| builder.on_raw(*id, |_, _, _| Ok(()));
        ids.iter().fold(Router::builder(), add).build()
    }

    #[test]
    fn every_id_is_found_and_no_other_one() {
        for (ids, is_direct) in [
            (vec![], false),
            (vec![0], true),
            (vec![4095, 0, 7, 6], true),
            (vec![7, 4096, 0], false),
            (vec![u32::MAX, 3, 0x1_0003, 1], false),
        ] {
            let router = with_ids(&ids);
            assert_eq!(!router.table.direct.is_empty(), is_direct, "{ids:?}");
            let near = ids.iter().flat_map(|id| [id.wrapping_sub(1), *id, id.wrapping_add(1)]);
            for id in near.chain([0, 1, 8, 4094, 4097, 0x1_0000, 1 << 31]) {
                let found = router.table.find(id).map(|index| router.table.routes[index].id);
                assert_eq!(found, ids.contains(&id).then_some(id), "{id} of {ids:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "packet id 206 has two routes: raw and Low")]
    fn two_routes_for_one_id_are_refused() {
        let _ =
            Builder::on_raw(Router::builder(), 206, |_, _, _| Ok(())).on::<Low>(|_, _, packet| {
                let _ = packet.room;
                Ok(())
            });
    }

    #[test]
    #[should_panic(expected = "packet High (4096) has an action for malformed frames and no route")]
    fn an_action_for_a_packet_without_a_route_is_refused() {
        let _ = Builder::malformed_for::<High>(Router::builder(), Action::Ignore).build();
    }

    #[test]
    fn counts_are_of_all_clones_also_of_those_that_are_gone() {
        let router = with_ids(&[9, 2]);
        let counted = |id| router.counts().route(id).map(|count| (count.handled, count.malformed));
        router.lane.handled(0);
        let clone = router.clone();
        clone.lane.handled(0);
        clone.lane.malformed(1);
        clone.lane.unknown();
        assert_eq!((counted(2), counted(9), counted(3)), (Some((2, 0)), Some((0, 1)), None));
        drop(clone);
        assert_eq!(
            (counted(2), counted(9), router.counts().unknown),
            (Some((2, 0)), Some((0, 1)), 1)
        );
        assert!(router.counts().routes.iter().map(|route| route.id).eq([2, 9]));
    }
}
