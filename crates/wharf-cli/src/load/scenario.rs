//! What a load consists of: groups of connections that do the same, and for how long.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use wharf::Limits;
use wharf::framing::{self, FramingError, Packet};

use super::arena::Walking;
use super::bounds::CONNECTIONS_MAX;
use super::chat::Talk;
use super::pattern::{Message, Pattern, Sizes};
use super::process::Process;
use super::schedule::{Arrival, Rate};
use crate::network;
use crate::settings::{Bytes, Engine, Framing, grouped};

/// Everything that decides what a load does.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// As the command is called: `echo`, `mix` ...
    pub(crate) name: &'static str,
    pub(crate) groups: Vec<Group>,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) grace: Duration,
    pub(crate) repeats: u32,
    pub(crate) workers: Option<u8>,
    pub(crate) engine: Engine,
    /// Addresses of 127.0.0.0/8 that connections come from; `None`: as many as their ports need.
    pub(crate) sources: Option<u16>,
    /// The server's process; `None`: found by its port if it is on this machine.
    pub(crate) pid: Option<u32>,
}

/// Connections that do the same.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    pub(crate) framing: Framing,
    /// Connections at the same time.
    pub(crate) connections: u32,
    pub(crate) kind: Kind,
}

/// What a group's connections do.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Send messages and check that each comes back.
    Echo(Traffic),
    /// Connect, have so many messages echoed, reset; and again.
    Connect {
        messages: u32,
        sizes: Sizes,
        /// Visits per second; `None`: the next begins when one is over.
        rate: Option<f64>,
    },
    /// So many messages, and then nothing.
    Idle { messages: u32, sizes: Sizes },
    /// The chat protocol.
    Chat(Talk),
    /// That of the example `arena`.
    Arena(Walking),
}

/// Messages of an echo.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) sizes: Sizes,
    /// Messages that may be under way on a connection.
    pub(crate) depth: u32,
    /// `None`: a closed loop.
    pub(crate) rate: Option<Rate>,
    pub(crate) arrival: Arrival,
}

impl Scenario {
    /// Finds settings that cannot go together.
    ///
    /// # Errors
    /// A sentence that says which, and what would do.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.duration.is_zero() {
            return Err("--duration must be above 0".to_owned());
        }
        if let Some(pid) = self.pid.filter(|pid| Process { pid: *pid }.usage().is_none()) {
            let what = if cfg!(target_os = "linux") {
                "no such process, or it may not be looked at"
            } else {
                "processes are looked at on Linux alone"
            };
            return Err(format!("--pid {pid}: {what}"));
        }
        let all: u64 = self.groups.iter().map(|group| u64::from(group.connections)).sum();
        if all > u64::from(CONNECTIONS_MAX) {
            return Err(format!(
                "{} connections are more than {}",
                grouped(all),
                grouped(CONNECTIONS_MAX.into())
            ));
        }
        self.groups.iter().try_for_each(|group| group.check(self.duration))
    }

    /// Whether latency is that of clients which wait, in at least one group. Who is silent is in no
    /// loop.
    pub(crate) fn is_closed_loop(&self) -> bool {
        self.groups
            .iter()
            .any(|group| group.rate().is_none() && !matches!(group.kind, Kind::Idle { .. }))
    }

    pub(crate) fn connections(&self) -> u32 {
        self.groups.iter().map(|group| group.connections).sum()
    }

    pub(crate) fn workers(&self) -> usize {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let default = (processors / 2).clamp(1, usize::from(u8::MAX));
        let wanted = self.workers.map_or(default, usize::from);
        wanted.min(self.connections() as usize).max(1)
    }

    /// The addresses that connections to `addr` come from; none: the system chooses.
    ///
    /// # Errors
    /// Several were asked for where there are none.
    pub(crate) fn sources(&self, addr: SocketAddr) -> Result<Vec<IpAddr>, String> {
        // On Linux all of 127.0.0.0/8 is this machine; elsewhere only its first address is.
        let has_many = cfg!(target_os = "linux") && addr.is_ipv4() && addr.ip().is_loopback();
        let needed = self.connections().div_ceil(PORTS_PER_ADDRESS);
        let wanted = self.sources.map_or(needed, u32::from);
        match (wanted, has_many) {
            (0 | 1, _) => Ok(Vec::new()),
            (_, true) => {
                let address = |index: u32| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + index);
                Ok((0..wanted).map(|index| address(index).into()).collect())
            }
            _ if self.sources.is_some() => Err(format!(
                "--sources {wanted} needs a server on 127.x.x.x, and Linux on this machine"
            )),
            // The system says so when its ports are used up.
            _ => Ok(Vec::new()),
        }
    }
}

impl Group {
    fn check(&self, duration: Duration) -> Result<(), String> {
        let depth = self.depth();
        if let Some(sizes) = self.sizes() {
            let under_way = (sizes.longest as u64).saturating_mul(depth);
            if under_way > UNDER_WAY_BYTES_MAX {
                return Err(format!(
                    "--depth {depth} of --size {} is more than {} under way on each connection",
                    Bytes(sizes.longest as u64),
                    Bytes(UNDER_WAY_BYTES_MAX)
                ));
            }
            self.frame_bytes_of(sizes.shortest)?;
            self.frame_bytes_of(sizes.longest)?;
            // At a rate as many are the exception.
            let all = under_way.saturating_mul(self.connections.into());
            if self.rate().is_none() && all > ALL_UNDER_WAY_BYTES_MAX {
                return Err(format!(
                    "{} connections with {depth} messages of {} each are more than {} under way",
                    grouped(self.connections.into()),
                    Bytes(sizes.longest as u64),
                    Bytes(ALL_UNDER_WAY_BYTES_MAX)
                ));
            }
        }
        match &self.kind {
            Kind::Chat(talk) => talk.check(self.framing, self.connections)?,
            Kind::Arena(_) if self.framing != Framing::Study => {
                return Err(format!("the arena speaks study framing, not {}", self.framing));
            }
            _ => {}
        }
        let Some(rate) = self.rate() else { return Ok(()) };
        let gap = rate.gap_max(self.talkers());
        if gap > duration * 2 {
            return Err(format!(
                "--rate {rate} over {} connections is one message of a connection every {:.0} s, \
                 longer than twice the --duration: fewer --connections, or a higher --rate",
                grouped(self.talkers().into()),
                gap.as_secs_f64()
            ));
        }
        Ok(())
    }

    /// Connections that share the rate.
    pub(crate) fn talkers(&self) -> u32 {
        match &self.kind {
            Kind::Chat(talk) => talk.talkers(self.connections),
            _ => self.connections,
        }
    }

    /// The rate of an open loop.
    pub(crate) fn rate(&self) -> Option<&Rate> {
        match &self.kind {
            Kind::Echo(traffic) => traffic.rate.as_ref(),
            Kind::Chat(talk) => Some(&talk.rate),
            Kind::Arena(walking) => Some(&walking.rate),
            Kind::Connect { .. } | Kind::Idle { .. } => None,
        }
    }

    /// The lengths of the bodies that come back as they were sent.
    pub(crate) fn sizes(&self) -> Option<Sizes> {
        match &self.kind {
            Kind::Echo(traffic) => Some(traffic.sizes),
            Kind::Connect { sizes, .. } | Kind::Idle { sizes, .. } => Some(*sizes),
            Kind::Chat(_) | Kind::Arena(_) => None,
        }
    }

    /// Messages that may be under way on one connection.
    pub(crate) fn depth(&self) -> u64 {
        match &self.kind {
            Kind::Echo(traffic) => traffic.depth.into(),
            Kind::Connect { messages, .. } => (*messages).max(1).into(),
            Kind::Chat(_) => super::chat::UNDER_WAY_MAX,
            Kind::Idle { .. } | Kind::Arena(_) => 1,
        }
    }

    pub(crate) fn is_text(&self) -> bool {
        self.framing == Framing::Lines
    }

    pub(crate) fn packet_id(&self) -> u32 {
        match self.framing {
            Framing::Study | Framing::Tutorial => network::STUDY_ECHO_ID,
            _ => 0,
        }
    }

    /// How long the longest message of this group is on the wire.
    ///
    /// # Errors
    /// The framing cannot carry it.
    pub(crate) fn frame_bytes(&self) -> Result<usize, String> {
        self.sizes()
            .map_or(Ok(super::chat::FRAME_BYTES_MAX), |sizes| self.frame_bytes_of(sizes.longest))
    }

    fn frame_bytes_of(&self, size: usize) -> Result<usize, String> {
        // The length fields that a size can be too long for have 16 bits: a longer body need not be
        // made.
        let tried = size.min(usize::from(u16::MAX) + 1);
        let first = Message { connection: 0, sequence: 0 };
        let body = Pattern::new(self.is_text()).fill(first, 0, tried).to_vec();
        let packet = Packet { id: self.packet_id(), session: 0, body: &body };
        let mut frame = Vec::new();
        let (framing, shown) = (self.framing, Bytes(size as u64));
        framing::append(&network::any_framing(framing), packet, &mut frame).map_err(
            |error| match error {
                FramingError::BodyTooLong { body_bytes_max } => format!(
                    "--size {shown} cannot be sent in {framing} framing, which takes up to {} bytes",
                    grouped(body_bytes_max as u64)
                ),
                FramingError::BodyEmpty => format!(
                    "--size 0 cannot be sent in {framing} framing, which takes 1 byte or more: an \
                     empty message leaves no trace there"
                ),
                other => format!("--size {shown} cannot be sent in {framing} framing: {other}"),
            },
        )?;
        Ok(frame.len() - tried + size)
    }

    /// The limits of the group's connections: they must be able to have everything under way, and
    /// go on reading whatever waits to be sent, or two sides that only write would wait for each
    /// other.
    ///
    /// # Errors
    /// As [`frame_bytes`](Self::frame_bytes).
    pub(crate) fn limits(&self) -> Result<Limits, String> {
        let frame_bytes = self.frame_bytes()?;
        let queue_bytes = frame_bytes.saturating_mul(self.depth() as usize) + SPARE_BYTES;
        Ok(Limits {
            // Longer answers than were asked for are to be seen, and a piece of a raw stream has no
            // size.
            frame_bytes_max: frame_bytes + SPARE_BYTES,
            // The load waits for as long as it is told to, and counts what does not come.
            first_frame_timeout: None,
            frame_timeout: None,
            idle_read_timeout: None,
            idle_write_timeout: None,
            send_queue_soft_timeout: None,
            send_queue_bytes_soft: queue_bytes,
            send_queue_bytes_max: queue_bytes,
            ..Limits::default()
        })
    }
}

/// What one connection may have under way.
const UNDER_WAY_BYTES_MAX: u64 = 1 << 30;

/// And all together, in a closed loop: a machine that loads others has not much more memory.
const ALL_UNDER_WAY_BYTES_MAX: u64 = 8 << 30;

/// Room beside the messages that are under way.
const SPARE_BYTES: usize = 64 * 1024;

/// Connections from one address to one other: Linux has 28,232 ports for them unless told otherwise
/// (ip_local_port_range), and others use some.
const PORTS_PER_ADDRESS: u32 = 20_000;

/// Elsewhere 127.0.0.1 alone is this machine.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn holding(connections: u32, sources: Option<u16>) -> Scenario {
        let sizes = Sizes { shortest: 64, longest: 64 };
        let group = Group {
            name: "held".to_owned(),
            addr: ([127, 0, 0, 1], 9000).into(),
            framing: Framing::Study,
            connections,
            kind: Kind::Idle { messages: 1, sizes },
        };
        Scenario {
            name: "idle",
            groups: vec![group],
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            grace: Duration::ZERO,
            repeats: 1,
            workers: None,
            engine: Engine::Auto,
            sources,
            pid: None,
        }
    }

    #[test]
    fn connections_come_from_as_many_addresses_as_their_ports_need() {
        let here: SocketAddr = ([127, 0, 0, 1], 9000).into();
        let elsewhere: SocketAddr = ([192, 0, 2, 1], 9000).into();
        for (connections, asked, here_count) in [
            // The system chooses, as long as one address is enough.
            (20_000, None, 0),
            (20_001, None, 2),
            (1_000_000, None, 50),
            (5, Some(3), 3),
            (5, Some(1), 0),
        ] {
            let scenario = holding(connections, asked);
            let sources = scenario.sources(here).unwrap();
            assert_eq!(sources.len(), here_count, "{connections} {asked:?}");
            assert!(sources.first().is_none_or(|source| *source == here.ip()), "{sources:?}");
            assert!(sources.iter().all(IpAddr::is_loopback), "{sources:?}");
            assert!(sources.windows(2).all(|pair| pair[0] < pair[1]), "{sources:?}");
            // A machine elsewhere has no other addresses to be reached from.
            let refused = asked.is_some_and(|sources| sources > 1);
            assert_eq!(scenario.sources(elsewhere).is_err(), refused, "{connections} {asked:?}");
        }
    }
}
