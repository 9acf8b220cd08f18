//! A field on which players walk: a game's tick, positions of which only the newest is of use, and
//! areas in which players see each other.
//!
//! ```text
//! cargo run --release --example arena                 (or with another address behind `--`)
//! wharf bench arena --addr 127.0.0.1:9010 --connections 500
//! ```
//!
//! All of the game is in the job of one key, 20 times per second: no lock, and no handler waits for
//! it. An area is a topic. A position is [`Class::Latest`] of its player, so that a slow client gets
//! fewer positions instead of old ones, and sends leave every 50 ms with all that a client sees.
//!
//! In the framing `study`: [`Walk`] to the server; [`Entered`] and [`Position`] to clients.

use std::{collections::BTreeMap, time::Duration};

use wharf::{
    Class, Context, FlushPolicy, Frame, Handle, Handler, Job, SendError, Server, SessionId, Topic,
    framing::LengthField, packet::Packet, port::Config,
};

wharf::packet! {
    /// Walk on in this direction, so far with each tick. The turn's number comes back in positions.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) struct Walk = 1 {
        pub(crate) turn: u32,
        pub(crate) right: i16,
        pub(crate) down: i16,
    }

    /// From this tick on this player is in this area, and sees who else is. It goes before all that
    /// waits: a client knows where it is before it sees anybody there.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) struct Entered = 2 {
        pub(crate) player: u32,
        pub(crate) tick: u32,
        pub(crate) area: u32,
    }

    /// Where a player of the area is.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) struct Position = 3 {
        pub(crate) player: u32,
        pub(crate) turn: u32,
        pub(crate) tick: u32,
        pub(crate) area: u32,
        pub(crate) x: i16,
        pub(crate) y: i16,
    }
}

/// The field is a square of so many steps, cut into so many areas each way.
pub(crate) const FIELD: i16 = 6_000;
pub(crate) const AREAS: i16 = 6;
/// Nobody runs faster: an area takes several ticks to cross.
const STEPS_MAX: i16 = 200;

const TICK: Duration = Duration::from_millis(50);
/// The key of the job that is the game.
const ARENA: u64 = 0;

/// The game: belongs to its key.
#[derive(Default)]
struct Arena {
    tick: u32,
    players: BTreeMap<SessionId, Player>,
    entered: u32,
}

struct Player {
    number: u32,
    turn: u32,
    x: i16,
    y: i16,
    right: i16,
    down: i16,
    area: Option<u32>,
}

impl Player {
    /// Spread over the field, so that nobody has to know what is random here.
    fn new(number: u32) -> Self {
        let place = |stride: u32| (number.wrapping_mul(stride) % FIELD as u32) as i16;
        Self { number, turn: 0, x: place(2_741), y: place(1_627), right: 0, down: 0, area: None }
    }

    fn step(&mut self) {
        (self.x, self.right) = walked(self.x, self.right);
        (self.y, self.down) = walked(self.y, self.down);
    }
}

/// One step on, or back from a wall.
fn walked(at: i16, by: i16) -> (i16, i16) {
    let by = by.clamp(-STEPS_MAX, STEPS_MAX);
    if (0..FIELD).contains(&(at + by)) { (at + by, by) } else { (at, -by) }
}

pub(crate) fn area_at(x: i16, y: i16) -> u32 {
    let (column, row) = (x / (FIELD / AREAS), y / (FIELD / AREAS));
    (row * AREAS + column) as u32
}

/// One tick: who is gone, who is where, and who sees whom.
fn tick(job: &mut Job<'_>) {
    let (arena, handle) = job.split::<Arena>();
    arena.tick += 1;
    arena.players.retain(|id, _| handle.is_open(*id));
    for (id, player) in &mut arena.players {
        player.step();
        if arrive(handle, *id, player, arena.tick) == Err(SendError::WouldExceed) {
            // It would see what it must not, or nothing at all.
            let _ = handle.close(*id);
        }
    }
    for player in arena.players.values() {
        let area = area_at(player.x, player.y);
        let Player { number, turn, x, y, .. } = *player;
        let position = Position { player: number, turn, tick: arena.tick, area, x, y };
        let newest = Class::Latest(number.into());
        // Where it finds no room, the next one is as good.
        let _ = handle.publish(Topic(area.into()), newest, Position::ID, &position.to_vec());
    }
}

/// Lets a player see the area that it has come into.
fn arrive(handle: &Handle, id: SessionId, player: &mut Player, tick: u32) -> Result<(), SendError> {
    let area = area_at(player.x, player.y);
    if player.area == Some(area) {
        return Ok(());
    }
    if let Some(left) = player.area.replace(area) {
        handle.unsubscribe(id, Topic(left.into()))?;
    }
    let entered = Entered { player: player.number, tick, area };
    handle.send_as(id, Class::Control, Entered::ID, &entered.to_vec())?;
    // Behind that, in the order of this thread.
    handle.subscribe(id, Topic(area.into()))
}

struct Players;

impl Handler for Players {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> wharf::Result {
        let id = cx.id();
        cx.post(ARENA, move |job| {
            let arena = job.state::<Arena>();
            arena.players.insert(id, Player::new(arena.entered));
            arena.entered += 1;
        })?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        if frame.id() != Walk::ID {
            return Ok(());
        }
        let walk = Walk::decode(frame.body()).map_err(wharf::Error::handler)?;
        let id = cx.id();
        cx.post(ARENA, move |job| {
            if let Some(player) = job.state::<Arena>().players.get_mut(&id) {
                player.turn = walk.turn;
                (player.right, player.down) = (walk.right, walk.down);
            }
        })?;
        Ok(())
    }
}

/// Starts an arena; it goes on until the handle drains it.
pub(crate) fn start(address: &str) -> wharf::Result<Handle> {
    Server::builder()
        .port(Config::from_env().map_err(wharf::Error::handler)?)
        .flush(FlushPolicy::Every(TICK.as_millis() as u32))
        .listen(address, LengthField::STUDY, || Players)
        .every(TICK, ARENA, tick)
        .start()
}

fn main() -> wharf::Result {
    let address = std::env::args().nth(1);
    let handle = start(address.as_deref().unwrap_or("127.0.0.1:9010"))?;
    println!("ready arena={}", handle.local_addrs()[0]);
    wharf::drain_on_signal(&handle, Duration::from_secs(10))?;
    let stats = handle.join()?.stats;
    let gathered = stats.frames_sent as f64 / stats.sends.max(1) as f64;
    println!("{} frames in {} sends: {gathered:.1} in each", stats.frames_sent, stats.sends);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_the_field() {
        for (at, by, expected) in [
            (0, -5, (0, 5)),
            (FIELD - 1, 1, (FIELD - 1, -1)),
            (10, 7, (17, 7)),
            (10, i16::MAX, (10 + STEPS_MAX, STEPS_MAX)),
            (FIELD - 1, i16::MAX, (FIELD - 1, -STEPS_MAX)),
            (0, i16::MIN, (0, STEPS_MAX)),
        ] {
            assert_eq!(walked(at, by), expected);
        }
        for number in 0..10_000 {
            let player = Player::new(number);
            assert!((0..FIELD).contains(&player.x) && (0..FIELD).contains(&player.y));
            assert!(area_at(player.x, player.y) < (AREAS * AREAS) as u32);
        }
    }
}
