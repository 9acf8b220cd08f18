//! Walkers of an arena, the example of wharf that has a game's tick: they turn at a rate and check what
//! they see. The scenario `arena`.
//!
//! What counts is each turn, from when it was meant to the first position of the walker that knows of
//! it. Of all positions, one's own and others', it is checked that a player's only go forward, and that
//! nobody sees an area while it is not there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wharf::packet::Packet;
use wharf::{CloseReason, Context, Frame, Handler};

use super::control::Control;
use super::meter::Meter;
use super::pattern::mix;
use super::schedule::{Arrival, Arrivals, Rate, Schedule};
use super::tally::ErrorKind;

wharf::packet! {
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Walk = 1 {
        turn: u32,
        right: i16,
        down: i16,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Entered = 2 {
        player: u32,
        tick: u32,
        area: u32,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Position = 3 {
        player: u32,
        turn: u32,
        tick: u32,
        area: u32,
        x: i16,
        y: i16,
    }
}

/// What the walkers do.
#[derive(Clone, Debug)]
pub(crate) struct Walking {
    /// Turns per second of all walkers together.
    pub(crate) rate: Rate,
    pub(crate) arrival: Arrival,
}

/// What every worker's client is made from.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) control: Arc<Control>,
    pub(crate) group: usize,
    pub(crate) schedule: Arc<Schedule>,
    /// The next walker's number, of all workers.
    pub(crate) next: Arc<AtomicU32>,
}

/// The walkers on one worker.
pub(crate) struct Client {
    plan: Plan,
    meter: Meter,
}

/// One walker.
#[derive(Default)]
pub(crate) struct Walker {
    number: u32,
    /// Its number in the arena, once that is told.
    player: Option<u32>,
    /// From which tick on it has been in which area, the newest last.
    areas: VecDeque<(u32, u32)>,
    /// Of each player, the tick of the newest position.
    newest: HashMap<u32, u32>,
    turns: u32,
    /// Turns that no position knows of yet, and when they were meant.
    under_way: VecDeque<(u32, u64)>,
    arrivals: Arrivals,
}

impl Walker {
    /// Where it was in this tick; `None`: nowhere yet, or that is too long ago to be kept.
    fn area_at(&self, tick: u32) -> Option<u32> {
        let entered = self.areas.iter().rev().find(|(from, _)| *from <= tick);
        entered.map(|(_, area)| *area)
    }
}

type Cx<'a> = Context<'a, Walker>;

impl Client {
    pub(crate) fn new(plan: Plan) -> Self {
        let schedule = Some(Arc::clone(&plan.schedule));
        let meter = Meter::new(Arc::clone(&plan.control), plan.group, schedule);
        Self { plan, meter }
    }

    /// Turns as often as was meant by now.
    fn turn(&mut self, cx: &mut Cx<'_>) -> wharf::Result {
        if !self.meter.sends() {
            return Ok(());
        }
        let now_ns = self.meter.now_ns();
        let schedule = Arc::clone(&self.plan.schedule);
        let from_ns = self.meter.control().measured_from_ns();
        loop {
            let data = cx.data();
            let meant_ns = schedule.next_ns(&data.arrivals, from_ns);
            if meant_ns > now_ns {
                let wait_ns = (meant_ns - now_ns).min(schedule.look_again_ns());
                cx.set_timer(Duration::from_nanos(wait_ns), TURN);
                return Ok(());
            }
            if data.under_way.len() == UNDER_WAY_MAX {
                self.meter.never_sent_before(&mut data.arrivals, now_ns + 1);
                continue;
            }
            schedule.advance(&mut data.arrivals, meant_ns);
            data.turns += 1;
            let chance = mix(u64::from(data.number) << 32 | u64::from(data.turns));
            let pace = |bits: u64| (bits % (2 * PACE_MAX + 1)) as i16 - PACE_MAX as i16;
            let walk = Walk {
                turn: data.turns,
                right: pace(chance >> 32),
                down: pace(chance & 0xffff_ffff),
            };
            data.under_way.push_back((walk.turn, meant_ns));
            self.meter.late(meant_ns, now_ns);
            self.meter.sent();
            cx.send_packet(Walk::ID, &walk.to_vec())?;
        }
    }

    fn entered(&mut self, cx: &mut Cx<'_>, entered: Entered) -> wharf::Result {
        let data = cx.data();
        let is_first = data.player.is_none();
        if !is_first && data.player != Some(entered.player) {
            let what = format!("player {} is told that it is {}", data.number, entered.player);
            self.meter.note(cx.id(), ErrorKind::Altered, None, what, None);
            return Ok(());
        }
        if data.areas.back().is_some_and(|(tick, _)| *tick >= entered.tick) {
            let what = format!("it is in area {} from tick {} on", entered.area, entered.tick);
            self.meter.note(cx.id(), ErrorKind::Reordered, None, what, None);
            return Ok(());
        }
        data.player = Some(entered.player);
        if data.areas.len() == AREAS_KEPT {
            data.areas.pop_front();
        }
        data.areas.push_back((entered.tick, entered.area));
        if !is_first {
            return Ok(());
        }
        data.arrivals = self.plan.schedule.begin(self.meter.now_ns(), data.number.into());
        self.meter.opened();
        self.turn(cx)
    }

    fn seen(&mut self, cx: &mut Cx<'_>, position: Position) {
        let (received_ns, id) = (self.meter.now_ns(), cx.id());
        let Position { player, turn, tick, area, .. } = position;
        let data = cx.data();
        let was_in = data.area_at(tick);
        if was_in != Some(area) {
            let where_it_was =
                was_in.map_or("in none that is known".to_owned(), |area| format!("in {area}"));
            let what = format!(
                "player {player} in area {area} at tick {tick}, to a walker that was {where_it_was}"
            );
            return self.meter.note(id, ErrorKind::Unasked, None, what, None);
        }
        let newest = data.newest.insert(player, tick);
        if let Some(newest) = newest.filter(|newest| *newest >= tick) {
            let kind = if newest == tick { ErrorKind::Repeated } else { ErrorKind::Reordered };
            let what = format!("player {player} at tick {tick} came after {newest}");
            return self.meter.note(id, kind, None, what, None);
        }
        self.meter.tally.verified += 1;
        if data.player != Some(player) {
            return;
        }
        if turn > data.turns {
            let what = format!("its turn {turn} is known, where it has made {}", data.turns);
            return self.meter.note(id, ErrorKind::Unasked, Some(turn.into()), what, None);
        }
        while let Some((_, meant_ns)) = data.under_way.pop_front_if(|(known, _)| *known <= turn) {
            self.meter.settled(1);
            self.meter.answered(meant_ns, received_ns, Position::BODY_BYTES_MAX);
        }
    }

    fn unreadable(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) {
        let what = format!("a packet {} of {} bytes", frame.id(), frame.body().len());
        self.meter.note(cx.id(), ErrorKind::WrongLength, None, what, None);
    }
}

impl Handler for Client {
    type Session = Walker;

    fn on_open(&mut self, cx: &mut Cx<'_>) -> wharf::Result {
        cx.data().number = self.plan.next.fetch_add(1, Ordering::Relaxed);
        self.meter.taken();
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> wharf::Result {
        match frame.id() {
            Entered::ID => match Entered::decode(frame.body()) {
                Ok(entered) => return self.entered(cx, entered),
                Err(_) => self.unreadable(cx, &frame),
            },
            Position::ID => match Position::decode(frame.body()) {
                Ok(position) => self.seen(cx, position),
                Err(_) => self.unreadable(cx, &frame),
            },
            id => {
                let what = format!("packet {id} came, of which nothing is known");
                self.meter.note(cx.id(), ErrorKind::WrongId, None, what, None);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Cx<'_>, _: u64) -> wharf::Result {
        self.turn(cx)
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: CloseReason) {
        let (player, under_way) = (cx.data().player, cx.data().under_way.len() as u64);
        if player.is_none() {
            let what = format!("it ended ({reason}) before the arena let it in");
            return self.meter.turned_away(what);
        }
        self.meter.closed(reason);
        self.meter.settled(under_way);
        if !matches!(reason, CloseReason::Drain | CloseReason::Handler) {
            let what = format!("it ended ({reason}) with {under_way} turns under way");
            self.meter.note(cx.id(), ErrorKind::ConnectionLost, None, what, None);
            *self.meter.tally.lost_connections.entry(reason.name()).or_default() += 1;
        } else if under_way > 0 {
            let what = format!("{under_way} turns that no position knows of");
            self.meter.note(cx.id(), ErrorKind::Lost, None, what, None);
        }
    }

    fn on_connect_failed(&mut self, _: SocketAddr, error: &io::Error, _: Option<Duration>) {
        self.meter.connect_failed(error);
    }
}

const TURN: u64 = 0;
/// Turns of a walker that no position knows of yet: a server that is so far behind is too late.
const UNDER_WAY_MAX: usize = 256;
/// Areas that a walker remembers: it needs those of what waits for it, a few ticks.
const AREAS_KEPT: usize = 64;
/// Steps each way and tick.
const PACE_MAX: u64 = 100;
