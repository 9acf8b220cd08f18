//! A network in memory, with a virtual clock, seeded, and with faults on demand.
//!
//! A [`SimNet`] has ports ([`SimNet::open`]) that keep the [contract](crate::contract) as those of a
//! real system do, listeners, and [peers](SimPeer) that a test drives by hand. Nothing happens
//! between calls: time passes only in a port's [`wait`](CompletionPort::wait), in
//! [`SimNet::step`] and in [`SimNet::advance_to`]. The same seed and the same calls give the same
//! completions at the same times ([`SimNet::trace_hash`]).
//!
//! A port's `wait` never blocks. It delivers what is ready at the present time; where nothing is,
//! it lets events happen until something is, or until the timeout; with no timeout and no event
//! left it returns with nothing, which a test may take for a deadlock. With a timeout of zero it
//! leaves time alone: whoever schedules several ports waits so on each and lets time pass by `step`.
//!
//! ```
//! use wharf_port::{Config, Op, Outcome, Token, sim::{Faults, SimNet}};
//!
//! # fn main() -> std::io::Result<()> {
//! let net = SimNet::new(7, Faults::none());
//! let mut port = net.open(&Config::default());
//! let listener = port.adopt_listener(net.listen("10.0.0.1:9000".parse().unwrap())?)?;
//! port.submit(Op::Accept { listener }, Token(1));
//! let mut peer = net.connect("10.0.0.1:9000".parse().unwrap());
//! assert_eq!(peer.write(b"hello"), 5);
//! let mut done = Vec::new();
//! let now = port.wait(None, &mut done)?;
//! assert!(matches!(done[0].outcome, Outcome::Accepted(_)));
//! assert!(now.as_nanos() > 0, "a connection takes its time");
//! # Ok(())
//! # }
//! ```

mod world;

mod wire;

mod in_flight;

mod faults;
mod peer;
mod port;

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use self::{
    faults::{Fault, Faults},
    peer::{PeerState, SimPeer},
};
use self::{
    port::SimPort,
    wire::Listener,
    world::{Id, World},
};
use crate::{
    config::Config,
    contract::{Close, CompletionPort, Time},
    socket::UnboundListener,
};

/// A simulated network; clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    /// Behind a lock because an unbound socket may cross threads (P10). Never held while user code
    /// runs or a socket is dropped.
    world: Arc<Mutex<World>>,
    seed: u64,
}

impl SimNet {
    /// A network with nothing in it, at time zero.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed, faults))), seed }
    }

    /// Opens a port on this network. Of the configuration it uses the receive buffers, the guard
    /// pages and what a second send does.
    #[must_use]
    pub fn open(&self, config: &Config) -> Box<dyn CompletionPort> {
        Box::new(SimPort::new(self, config))
    }

    /// Listens; a port number of 0 becomes a free one.
    ///
    /// # Errors
    /// The address is in use.
    pub fn listen(&self, address: SocketAddr) -> io::Result<UnboundListener> {
        self.listen_shared(address, 1).map(|mut listeners| listeners.remove(0))
    }

    /// Listens with several listeners on one address, as `SO_REUSEPORT` does: each connection goes
    /// to one of them that is still open, by chance.
    ///
    /// # Errors
    /// The address is in use by others.
    pub fn listen_shared(
        &self,
        address: SocketAddr,
        count: usize,
    ) -> io::Result<Vec<UnboundListener>> {
        let mut world = self.lock();
        if address.port() != 0 && world.is_in_use(address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let local = world.resolve(address);
        let listeners = (0..count).map(|_| {
            let id = world.next_id();
            world.listeners.insert(id, Listener { local, backlog: Default::default() });
            UnboundListener::simulated(SimListener(Held::new(self, id)), local)
        });
        Ok(listeners.collect())
    }

    /// Connects a peer to an address that may be listened on, from an address of its own.
    #[must_use]
    pub fn connect(&self, to: SocketAddr) -> SimPeer {
        self.connect_from(any_address_like(to), to)
    }

    /// As [`connect`](Self::connect), from a given address; a port number of 0 becomes a free one.
    #[must_use]
    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> SimPeer {
        let mut world = self.lock();
        let client = world.new_end(from, to);
        world.start_connecting(client, to);
        let local = world.ends[&client].local;
        drop(world);
        SimPeer::new(self, client, local, to)
    }

    /// Accepts a connection as a peer, by a listener that no port has.
    ///
    /// # Panics
    /// If the listener is not of this network.
    #[must_use]
    pub fn accept(&self, listener: &UnboundListener) -> Option<SimPeer> {
        let id = match &listener.socket {
            crate::socket::Listening::Sim(listener) => listener.0.id(self),
            #[cfg(any(unix, windows))]
            crate::socket::Listening::Os(_) => None,
        };
        let id = id.expect("a listener of this network");
        let mut world = self.lock();
        let end = world.listeners.get_mut(&id)?.backlog.pop_front()?;
        let (local, remote) = (world.ends[&end].local, world.ends[&end].remote);
        drop(world);
        Some(SimPeer::new(self, end, local, remote))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.lock().now
    }

    /// When the next event is due; `None` if nothing will happen by itself any more.
    #[must_use]
    pub fn next_event(&self) -> Option<Time> {
        self.lock().next_event()
    }

    /// Advances the clock to the next event and applies it; false if there is none.
    pub fn step(&self) -> bool {
        self.lock().step()
    }

    /// Advances the clock to then, applying every event up to then. Does not go back.
    pub fn advance_to(&self, time: Time) {
        self.lock().advance_to(time);
    }

    /// A hash over every completion that was delivered so far and its time.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace_hash()
    }

    /// Changes what may go wrong from now on. Where no operation may be silent any more, those that
    /// are wake; what is already late comes when it comes.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().set_faults(faults);
    }

    /// [`Faults::none`] from now on.
    pub fn stop_faults(&self) {
        self.set_faults(Faults::none());
    }

    /// How often a fault has struck.
    #[must_use]
    pub fn applied(&self, fault: Fault) -> u64 {
        self.lock().chance.applied(fault)
    }

    /// How many bytes may be under way or unread in each direction of connections made from now on;
    /// 64 KiB if never set.
    pub fn set_window(&self, bytes: usize) {
        self.lock().window_bytes = bytes;
    }

    /// Ends of connections that exist, also those whose owner is gone while the other end is not:
    /// zero when everything is closed and no event is left.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.lock().ends.len()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A panic of a caller's bug happens before the world is touched.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_same(&self, other: &SimNet) -> bool {
        Arc::ptr_eq(&self.world, &other.world)
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNet(seed {})", self.seed)
    }
}

/// An end or a listener that no port has: closed when dropped.
#[derive(Debug)]
struct Held {
    net: SimNet,
    id: Option<Id>,
}

impl Held {
    fn new(net: &SimNet, id: Id) -> Self {
        Self { net: net.clone(), id: Some(id) }
    }

    /// Its name, if it is of this network.
    fn id(&self, net: &SimNet) -> Option<Id> {
        self.id.filter(|_| self.net.is_same(net))
    }

    /// Gives it to a port of this network.
    fn bind(&mut self, net: &SimNet) -> io::Result<Id> {
        let id = self.id(net).ok_or_else(foreign)?;
        self.id = None;
        Ok(id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut world = self.net.lock();
        world.close_listener(id);
        world.close(id, Close::Graceful);
    }
}

fn foreign() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the socket is not of this simulated network")
}

/// A simulated connection that no port has.
#[derive(Debug)]
pub(crate) struct SimStream {
    held: Held,
    remote: SocketAddr,
}

impl SimStream {
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.remote
    }
}

/// A simulated listener that no port has.
pub(crate) struct SimListener(Held);

/// How long a connect that nobody answers takes to fail.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A local address, without a port number, to reach this one from.
fn any_address_like(address: SocketAddr) -> SocketAddr {
    if address.is_ipv4() {
        (Ipv4Addr::LOCALHOST, 0).into()
    } else {
        (Ipv6Addr::LOCALHOST, 0).into()
    }
}
