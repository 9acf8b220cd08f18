//! Building the table of a router: what is refused is refused here, before there is any session.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    Action, Call, DIRECT_IDS, FrameFn, Hooks, MalformedFn, PacketFn, Raw, Route, Router, Table,
    Typed, counts::Lanes,
};
use crate::{
    error::Result,
    handler::{CloseReason, Context},
    packet::Packet,
};

impl<H: 'static, S: 'static> Router<H, S> {
    /// A router without any route.
    pub fn builder() -> RouterBuilder<H, S> {
        RouterBuilder {
            routes: Vec::new(),
            overrides: Vec::new(),
            unknown: Action::Ignore,
            malformed: Action::Close,
            hooks: Hooks::default(),
        }
    }
}

/// Collects routes; made by [`Router::builder`].
#[must_use = "routes nothing until `build`"]
pub struct RouterBuilder<H, S> {
    routes: Vec<Route<H, S>>,
    overrides: Vec<Override<H, S>>,
    unknown: Action<FrameFn<H, S>>,
    malformed: Action<MalformedFn<H, S>>,
    hooks: Hooks<H, S>,
}

impl<H: 'static, S: 'static> RouterBuilder<H, S> {
    /// Packets of type `P` go to `handler`.
    ///
    /// # Panics
    /// The id has a route already.
    #[track_caller]
    pub fn on<P: Packet + 'static>(self, handler: PacketFn<H, S, P>) -> Self {
        self.route(P::ID, P::NAME, Box::new(Typed::<H, S, P>(handler)))
    }

    /// Frames with this id go to `handler`, whatever is in them.
    ///
    /// # Panics
    /// The id has a route already.
    #[track_caller]
    pub fn on_raw(self, id: u32, handler: FrameFn<H, S>) -> Self {
        self.route(id, "raw", Box::new(Raw(handler)))
    }

    #[track_caller]
    fn route(mut self, id: u32, name: &'static str, call: Box<dyn Call<H, S>>) -> Self {
        if let Some(other) = self.routes.iter().find(|route| route.id == id) {
            panic!("packet id {id} has two routes: {} and {name}", other.name);
        }
        self.routes.push(Route { id, name, call, malformed: Action::Close });
        self
    }

    /// What becomes of a frame whose id has no route ([`Action::Ignore`]).
    pub fn unknown(mut self, action: Action<FrameFn<H, S>>) -> Self {
        self.unknown = action;
        self
    }

    /// What becomes of a frame that is not the packet its id says ([`Action::Close`]).
    pub fn malformed(mut self, action: Action<MalformedFn<H, S>>) -> Self {
        self.malformed = action;
        self
    }

    /// As [`malformed`](Self::malformed), for this packet alone.
    pub fn malformed_for<P: Packet>(mut self, action: Action<MalformedFn<H, S>>) -> Self {
        self.overrides.push((P::ID, P::NAME, action));
        self
    }

    /// A session is a stranger's until [`Context::authenticated`] is called, as
    /// [`Handler::requires_login`](crate::Handler::requires_login) says.
    pub fn requires_login(mut self) -> Self {
        self.hooks.requires_login = true;
        self
    }

    /// Called as [`Handler::on_open`](crate::Handler::on_open) by [`Routed`](super::Routed).
    pub fn on_open(mut self, hook: fn(&mut H, &mut Context<'_, S>) -> Result) -> Self {
        self.hooks.open = Some(hook);
        self
    }

    /// Called as [`Handler::on_timer`](crate::Handler::on_timer) by [`Routed`](super::Routed).
    pub fn on_timer(mut self, hook: fn(&mut H, &mut Context<'_, S>, u64) -> Result) -> Self {
        self.hooks.timer = Some(hook);
        self
    }

    /// Called as [`Handler::on_heartbeat`](crate::Handler::on_heartbeat) by
    /// [`Routed`](super::Routed).
    pub fn on_heartbeat(mut self, hook: fn(&mut H, &mut Context<'_, S>) -> Result<bool>) -> Self {
        self.hooks.heartbeat = Some(hook);
        self
    }

    /// Called as [`Handler::on_backpressure`](crate::Handler::on_backpressure) by
    /// [`Routed`](super::Routed).
    pub fn on_backpressure(mut self, hook: fn(&mut H, &mut Context<'_, S>) -> Result) -> Self {
        self.hooks.backpressure = Some(hook);
        self
    }

    /// Called as [`Handler::on_writable`](crate::Handler::on_writable) by [`Routed`](super::Routed).
    pub fn on_writable(mut self, hook: fn(&mut H, &mut Context<'_, S>) -> Result) -> Self {
        self.hooks.writable = Some(hook);
        self
    }

    /// Called as [`Handler::on_drain`](crate::Handler::on_drain) by [`Routed`](super::Routed).
    pub fn on_drain(mut self, hook: fn(&mut H, &mut Context<'_, S>) -> Result) -> Self {
        self.hooks.drain = Some(hook);
        self
    }

    /// Called as [`Handler::on_close`](crate::Handler::on_close) by [`Routed`](super::Routed).
    pub fn on_close(mut self, hook: fn(&mut H, &mut Context<'_, S>, CloseReason)) -> Self {
        self.hooks.close = Some(hook);
        self
    }

    /// Called as [`Handler::on_connect_failed`](crate::Handler::on_connect_failed) by [`Routed`](super::Routed).
    pub fn on_connect_failed(
        mut self,
        hook: fn(&mut H, SocketAddr, &io::Error, Option<Duration>),
    ) -> Self {
        self.hooks.connect_failed = Some(hook);
        self
    }

    /// The table is complete.
    ///
    /// # Panics
    /// [`malformed_for`](Self::malformed_for) names a packet that has no route.
    #[track_caller]
    pub fn build(self) -> Router<H, S> {
        let Self { mut routes, overrides, unknown, malformed, hooks } = self;
        for route in &mut routes {
            route.malformed = malformed;
        }
        for (id, name, action) in overrides {
            let Some(route) = routes.iter_mut().find(|route| route.id == id) else {
                panic!("packet {name} ({id}) has an action for malformed frames and no route");
            };
            route.malformed = action;
        }
        routes.sort_unstable_by_key(|route| route.id);
        let direct = direct(&routes.iter().map(|route| route.id).collect::<Vec<_>>());
        let lanes = Lanes::new(routes.len());
        let lane = lanes.open();
        Router { table: Arc::new(Table { routes, direct, unknown, hooks }), lanes, lane }
    }
}

/// A packet's own action for malformed frames: id, name, action.
type Override<H, S> = (u32, &'static str, Action<MalformedFn<H, S>>);

/// The index for [`Table::direct`] of these rising ids.
fn direct(ids: &[u32]) -> Vec<u16> {
    let Some(&last) = ids.last() else { return Vec::new() };
    if last >= DIRECT_IDS {
        return Vec::new();
    }
    let mut direct = vec![0; last as usize + 1];
    for (entry, id) in (1..).zip(ids) {
        direct[*id as usize] = entry;
    }
    direct
}
