//! Readiness (epoll, kqueue) turned into completions.
//!
//! The system only says what could be done. [`wait`](CompletionPort::wait) does it: it sends and
//! receives where a flag of the socket says that this may succeed, and sleeps for new flags where
//! nothing can be done. Sockets are registered once, edge-triggered, so that a message costs no
//! system call but its own; a flag is remembered until the system says "would block".
//!
//! No operation is ever in the system's hands when `wait` returns: there is nothing to cancel, and
//! dropping the port frees everything at once (P8).
//!
//! On Linux the descriptors stay blocking and every call says that it will not wait, so that an
//! accepted socket can be adopted by any other port.

mod entry;
mod system;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    rc::Rc,
    time::Duration,
};

use mio::{Events, Interest, unix::SourceFd};

use self::entry::Entry;
use crate::{
    accept::reserve,
    buffer::{BufferPool, FreeList, Gather, RecvPool},
    clock,
    config::{Config, SecondSend},
    contract::{
        Close, CompletionPort, Counts, Done, Engine, EngineInfo, Op, Outcome, SendError, Socket,
        Time, Token,
    },
    operation::Slots,
    parked::Parked,
    socket::{
        Listening, SocketOptions, Stream, UnboundListener, UnboundSocket, connecting_socket, inet,
    },
    wake::{Kick, WakeFlag, Waker},
};

/// Opens a port on the system's readiness queue.
pub(crate) fn open(
    config: &Config,
    fell_back: Option<String>,
) -> io::Result<Box<dyn CompletionPort>> {
    if config.receive_buffers == 0 || config.receive_buffer_bytes == 0 {
        let message = "a port needs at least one receive buffer of at least one byte";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let poll = mio::Poll::new()?;
    drop(reserve::hold());
    let kick = mio::Waker::new(poll.registry(), WAKER)?;
    let flag = WakeFlag::new();
    let core = Core {
        poll,
        pool: RecvPool::new(
            config.receive_buffers,
            config.receive_buffer_bytes as usize,
            config.guard_pages,
            FreeList::Stack(RefCell::new(Vec::new())),
        ),
        parked: Parked::default(),
        operations_in_flight: 0,
        buffer_shortages: 0,
        system_calls: Cell::new(0),
    };
    Ok(Box::new(PollPort {
        sockets: Slots::new(),
        ready: VecDeque::new(),
        refused: Vec::new(),
        events: Events::with_capacity(EVENTS_PER_POLL),
        core,
        poll_skipped: false,
        stale_events: 0,
        buffers: BufferPool::new(config.guard_pages),
        waker: Waker::new(flag.clone(), Kick::Mio(std::sync::Arc::new(kick))),
        flag,
        spin: config.spin,
        second_send: config.second_send,
        info: EngineInfo { engine: Engine::Poll, detail: SYSTEM.to_owned(), fell_back },
    }))
}

struct PollPort {
    sockets: Slots<Entry>,
    /// Sockets with something to try, each at most once ([`Entry::queued`]).
    ready: VecDeque<Socket>,
    /// Second sends ([`SecondSend::Refuse`]), answered by the next `wait`.
    refused: Vec<(Socket, Token, Gather)>,
    events: Events,
    core: Core,
    /// Whether the last `wait` returned what it had without looking for events.
    poll_skipped: bool,
    stale_events: u64,
    buffers: BufferPool,
    flag: WakeFlag,
    waker: Waker,
    spin: Duration,
    second_send: SecondSend,
    info: EngineInfo,
}

/// What trying an operation needs besides its socket.
struct Core {
    poll: mio::Poll,
    pool: Rc<RecvPool>,
    /// Receives that wait for a buffer. After [`PollPort::turn`] has begun with them, there is
    /// either none of them or no free buffer.
    parked: Parked,
    operations_in_flight: usize,
    buffer_shortages: u64,
    system_calls: Cell<u64>,
}

impl Core {
    #[inline]
    fn count_system_call(&self) {
        self.system_calls.set(self.system_calls.get() + 1);
    }

    /// Registers a socket for all events, edge-triggered, under its slot.
    fn register(&self, socket: Socket, os: &socket2::Socket) -> io::Result<()> {
        self.count_system_call();
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Urgent data ends a recv(2) early; see `Entry::short_reads_count`.
        #[cfg(target_os = "linux")]
        let interest = interest | Interest::PRIORITY;
        let token = mio::Token(socket.slot as usize);
        self.poll.registry().register(&mut SourceFd(&os.as_raw_fd()), token, interest)
    }

    fn deregister(&self, os: &socket2::Socket) {
        self.count_system_call();
        // Closing does this too, unless someone has duplicated the descriptor.
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&os.as_raw_fd())) {
            tracing::error!(%error, "a socket could not be deregistered");
        }
    }
}

impl PollPort {
    fn insert(&mut self, entry: Entry, register: bool) -> io::Result<Socket> {
        let socket = self.sockets.insert(entry);
        if register {
            let entry = self.sockets.get_mut(socket).expect("inserted above");
            if let Err(error) = entry.register(socket, &self.core) {
                self.sockets.remove(socket);
                return Err(error);
            }
        }
        Ok(socket)
    }

    #[track_caller]
    fn entry(&mut self, socket: Socket) -> &mut Entry {
        self.sockets.get_mut(socket).expect("the socket is open, and of this port")
    }

    /// Tries what may succeed: first the receives that waited for a buffer, then every socket that
    /// is queued.
    fn turn(&mut self, done: &mut Vec<Done>) {
        for (socket, token, gather) in self.refused.drain(..) {
            let result = Err(SendError::AlreadyInFlight);
            let outcome = Outcome::Sent { gather, result };
            let entry = self.sockets.get_mut(socket).expect("open while something is in flight");
            entry.finish(&mut self.core, token, outcome, done);
        }
        while self.core.pool.free() > 0 {
            let Some(socket) = self.core.parked.pop() else { break };
            let entry = self.sockets.get_mut(socket).expect("parked receives are in flight");
            entry.unpark();
            enqueue(
                &mut self.ready,
                socket,
                entry.try_receive(socket, &mut self.core, done),
                entry,
            );
        }
        for _ in 0..self.ready.len() {
            let socket = self.ready.pop_front().expect("as many as counted");
            // Closed sockets may still be queued; their slot's generation has changed.
            let Some(entry) = self.sockets.get_mut(socket) else { continue };
            entry.queued = false;
            enqueue(&mut self.ready, socket, entry.attempt(socket, &mut self.core, done), entry);
        }
    }

    /// Polls for events, sleeping up to `timeout` unless a wake-up has been asked for.
    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let sleep = timeout != Some(Duration::ZERO) && self.flag.prepare_sleep();
        let polled = if !sleep {
            self.poll(Some(Duration::ZERO))
        } else if self.spin.is_zero() {
            self.poll(timeout)
        } else {
            self.spin_then_poll(timeout)
        };
        self.flag.wake_up();
        polled.map(|_any| self.take_events())
    }

    /// Polls without sleeping for as long as configured, then sleeps for what is left of `timeout`.
    /// The wake flag says "asleep" meanwhile: a wake-up comes as an event.
    fn spin_then_poll(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let start = clock::now();
        let spin = timeout.map_or(self.spin, |timeout| timeout.min(self.spin));
        while clock::now().since(start) < spin {
            if self.poll(Some(Duration::ZERO))? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        let left = timeout.map(|timeout| timeout.saturating_sub(clock::now().since(start)));
        self.poll(left)
    }

    /// One poll; whether there are events.
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.core.count_system_call();
        match self.core.poll.poll(&mut self.events, timeout) {
            // A signal (signal(7)): `wait` may return early.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(false)
            }
            polled => polled.map(|()| !self.events.is_empty()),
        }
    }

    /// Remembers what the events say and queues the sockets that were waiting for it.
    fn take_events(&mut self) {
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            let socket = self.sockets.at(event.token().0 as u32);
            let Some((socket, entry)) =
                socket.and_then(|s| self.sockets.get_mut(s).map(|entry| (s, entry)))
            else {
                self.stale_events += 1;
                continue;
            };
            entry.note(event);
            enqueue(&mut self.ready, socket, entry.may_succeed(), entry);
        }
        self.events.clear();
    }
}

impl CompletionPort for PollPort {
    fn adopt(&mut self, socket: UnboundSocket) -> io::Result<Socket> {
        let Stream::Os(os) = socket.0 else { return Err(simulated()) };
        let os = reserve::admit(os)?;
        system::prepare_stream(&os, &self.core)?;
        self.insert(Entry::stream(os), true)
    }

    fn adopt_listener(&mut self, listener: UnboundListener) -> io::Result<Socket> {
        let Listening::Os(os) = listener.socket else { return Err(simulated()) };
        self.core.count_system_call();
        os.set_nonblocking(true)?;
        self.insert(Entry::listener(os), true)
    }

    fn stream(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        self.core.count_system_call();
        let os = connecting_socket(address)?;
        options.apply(&os)?;
        os.set_nonblocking(true)?;
        // Registered once it connects: an unconnected socket reports that it is hung up.
        self.insert(Entry::stream(os), false)
    }

    fn submit(&mut self, op: Op, token: Token) {
        let socket = match op {
            Op::Accept { listener } => {
                self.entry(listener).start_accept(token);
                listener
            }
            Op::Connect { socket, address } => {
                self.entry(socket).start_connect(token, address);
                socket
            }
            Op::Receive { socket, credit_bytes } => {
                self.entry(socket).start_receive(token, credit_bytes, false);
                socket
            }
            Op::ReceiveOnce { socket, bytes_max } => {
                self.entry(socket).start_receive(token, bytes_max, true);
                socket
            }
            Op::Send { socket, gather } => {
                assert!(!gather.is_empty(), "an empty gather cannot be sent");
                let refuse = self.second_send == SecondSend::Refuse;
                if let Some(gather) = self.entry(socket).start_send(token, gather, refuse) {
                    self.refused.push((socket, token, gather));
                }
                socket
            }
        };
        self.core.operations_in_flight += 1;
        let entry = self.sockets.get_mut(socket).expect("found above");
        enqueue(&mut self.ready, socket, entry.may_succeed(), entry);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<Time> {
        let before = done.len();
        self.turn(done);
        // What there is can be handled before looking for more, but not twice in a row: whoever has
        // work every time would never see an event.
        let some = done.len() > before;
        self.poll_skipped = some && !self.poll_skipped;
        if self.poll_skipped {
            self.flag.wake_up();
        } else {
            let busy = some || !self.ready.is_empty();
            self.look(if busy { Some(Duration::ZERO) } else { timeout })?;
            self.turn(done);
        }
        Ok(clock::now())
    }

    fn turn_away(&mut self, listener: Socket) -> usize {
        let entry = self.sockets.get_mut(listener).expect("the listener is open, and of this port");
        assert!(entry.is_idle(), "an accept is in flight");
        reserve::turn_away(entry.os(), || self.core.count_system_call())
    }

    fn pause(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.pause(&mut self.core);
            enqueue(&mut self.ready, socket, entry.may_succeed(), entry);
        }
    }

    fn cancel(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.cancel(&mut self.core);
            enqueue(&mut self.ready, socket, entry.may_succeed(), entry);
        }
    }

    fn shutdown_write(&mut self, socket: Socket) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.shutdown_write(&self.core);
        }
    }

    fn close(&mut self, socket: Socket, how: Close) {
        let idle = self.entry(socket).is_idle();
        assert!(idle, "a socket is closed with nothing in flight (P7)");
        let entry = self.sockets.remove(socket).expect("found above");
        entry.close(how, &self.core);
    }

    fn local_addr(&self, socket: Socket) -> io::Result<SocketAddr> {
        let entry = self.sockets.get(socket).ok_or(io::ErrorKind::NotConnected)?;
        self.core.count_system_call();
        inet(&entry.os().local_addr()?)
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn counts(&self) -> Counts {
        Counts {
            operations_in_flight: self.core.operations_in_flight,
            buffers_lent: self.core.pool.lent(),
            blocks_in_use: self.buffers.blocks_in_use(),
            sockets: self.sockets.len(),
            receives_parked: self.core.parked.len(),
            system_calls: self.core.system_calls.get(),
            buffer_shortages: self.core.buffer_shortages,
            stale_completions: self.stale_events,
        }
    }

    fn engine(&self) -> &EngineInfo {
        &self.info
    }
}

/// Queues the socket if something may be done and it is not queued yet.
#[inline]
fn enqueue(ready: &mut VecDeque<Socket>, socket: Socket, something: bool, entry: &mut Entry) {
    if something && !entry.queued {
        entry.queued = true;
        ready.push_back(socket);
    }
}

fn simulated() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a simulated socket is adopted on its own network")
}

/// The waker's name among the events; slots are 32 bits and fewer.
const WAKER: mio::Token = mio::Token(usize::MAX);

/// Events fetched by one poll; what does not fit comes with the next.
const EVENTS_PER_POLL: usize = 1024;

const SYSTEM: &str =
    if cfg!(any(target_os = "linux", target_os = "android")) { "epoll" } else { "kqueue" };
