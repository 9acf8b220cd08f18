//! Windows' I/O completion ports: the original of the contract.
//!
//! An operation is started by a call and ends with a packet in the port's queue. What there is for
//! each kind: several `AcceptEx` per listener, `ConnectEx`, a gathered `WSASend`, and for receiving
//! a `WSARecv` of nothing, whose packet says that there is something; that is then taken without
//! waiting, so that an idle connection pins no memory and no buffer ([`stream`]).
//!
//! Every operation has a [`packet`] of its own on the heap, which the system holds a reference count
//! of; it is let go of only where packets are taken out of the queue. Which socket it belongs to is
//! written in it, as slot and generation. The completion key is not used (W6).
//!
//! Whether an operation was cancelled, paused or failed is decided by what the caller asked for; the
//! system's code for it differs between ways to close and between versions (W5).

mod core;
mod error;
mod listener;
mod packet;
mod queue;
mod stream;
mod teardown;
mod winsock;

pub(crate) use self::{queue::Queue, winsock::set_exclusive_address};

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use windows_sys::Win32::System::IO::OVERLAPPED_ENTRY;

use self::{
    core::{Again, Core, Stop},
    listener::Listener,
    packet::{Kind, Packet},
    stream::StreamSocket,
    winsock::Extensions,
};
use crate::{
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

/// Opens a port on a completion port of its own.
///
/// # Errors
/// The system refuses one, or its Winsock lacks `AcceptEx` or `ConnectEx`.
pub(crate) fn open(config: &Config) -> io::Result<Box<dyn CompletionPort>> {
    Ok(Box::new(IocpPort::open(config)?))
}

struct IocpPort {
    entries: Slots<Entry>,
    /// Sockets with something to try, each at most once ([`Entry::queued`]).
    ready: VecDeque<Socket>,
    /// Sockets for which the system had no memory: tried again by the next `wait`.
    later: Vec<Socket>,
    /// Second sends ([`SecondSend::Refuse`]), answered by the next `wait`.
    refused: Vec<(Socket, Token, Gather)>,
    core: Core,
    flag: WakeFlag,
    buffers: BufferPool,
    spin: Duration,
    drop_deadline: Duration,
    stale_packets: u64,
    info: EngineInfo,
}

/// A socket of the port.
struct Entry {
    /// The port's queue has this socket already.
    queued: bool,
    role: Role,
}

enum Role {
    Listener(Listener),
    Stream(StreamSocket),
}

impl Entry {
    fn os(&self) -> &socket2::Socket {
        match &self.role {
            Role::Listener(listener) => listener.os(),
            Role::Stream(stream) => stream.os(),
        }
    }
}

impl IocpPort {
    fn open(config: &Config) -> io::Result<Self> {
        if config.receive_buffers == 0 || config.receive_buffer_bytes == 0 {
            let message = "a port needs at least one receive buffer of at least one byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let example = connecting_socket(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        let skips = config.iocp.skip_on_success && winsock::all_providers_have_file_handles()?;
        let free = FreeList::Stack(RefCell::new(Vec::new()));
        let bytes = config.receive_buffer_bytes as usize;
        let packets = if skips { "packets skipped on success" } else { "a packet for everything" };
        let wine = winsock::wine_version().map_or(String::new(), |v| format!("under Wine {v}, "));
        Ok(Self {
            entries: Slots::new(),
            ready: VecDeque::new(),
            later: Vec::new(),
            refused: Vec::new(),
            core: Core {
                queue: Arc::new(Queue::new()?),
                extensions: Extensions::of(&example)?,
                pool: RecvPool::new(config.receive_buffers, bytes, config.guard_pages, free),
                parked: Parked::default(),
                idle_sends: Vec::new(),
                accepts_outstanding: usize::from(config.iocp.accepts_outstanding.max(1)),
                skips,
                refuses_second_sends: config.second_send == SecondSend::Refuse,
                operations_in_flight: 0,
                packets_posted: Cell::new(0),
                buffer_shortages: 0,
                system_calls: Cell::new(0),
            },
            flag: WakeFlag::new(),
            buffers: BufferPool::new(config.guard_pages),
            spin: config.spin,
            drop_deadline: config.drop_deadline,
            stale_packets: 0,
            info: EngineInfo { engine: Engine::Iocp, detail: wine + packets, fell_back: None },
        })
    }

    fn insert(&mut self, role: Role) -> Socket {
        self.entries.insert(Entry { queued: false, role })
    }

    #[track_caller]
    fn stream_mut(&mut self, socket: Socket) -> &mut StreamSocket {
        match self.entries.get_mut(socket).map(|entry| &mut entry.role) {
            Some(Role::Stream(stream)) => stream,
            Some(Role::Listener(_)) => panic!("a listener only accepts"),
            None => panic!("the socket is open, and of this port"),
        }
    }

    #[track_caller]
    fn start_accept(&mut self, socket: Socket, token: Token) {
        match self.entries.get_mut(socket).map(|entry| &mut entry.role) {
            Some(Role::Listener(listener)) => listener.start(token),
            Some(Role::Stream(_)) => panic!("accepting takes a listener"),
            None => panic!("the listener is open, and of this port"),
        }
    }

    #[track_caller]
    fn start_send(&mut self, socket: Socket, gather: Gather, token: Token) {
        assert!(!gather.is_empty(), "an empty gather cannot be sent");
        let entry = self.entries.get_mut(socket).expect("the socket is open, and of this port");
        let Role::Stream(stream) = &mut entry.role else { panic!("a listener only accepts") };
        if let Some(gather) = stream.start_send(socket, token, gather, &mut self.core) {
            self.refused.push((socket, token, gather));
        }
    }

    /// Queues the socket, at most once.
    fn enqueue(&mut self, socket: Socket, again: Again) {
        let Some(entry) = self.entries.get_mut(socket) else { return };
        match again {
            Again::No => {}
            Again::Later => self.later.push(socket),
            Again::Soon => {
                if !std::mem::replace(&mut entry.queued, true) {
                    self.ready.push_back(socket);
                }
            }
        }
    }

    /// Starts what was submitted and takes what is there: first the receives that waited for a
    /// buffer, then every socket that is queued.
    fn turn(&mut self, done: &mut Vec<Done>) {
        for (socket, token, gather) in std::mem::take(&mut self.refused) {
            let result = Err(SendError::AlreadyInFlight);
            self.stream_mut(socket).refused -= 1;
            self.core.finish(token, Outcome::Sent { gather, result }, done);
        }
        while self.core.pool.free() > 0 {
            let Some(socket) = self.core.parked.pop() else { break };
            let entry = self.entries.get_mut(socket).expect("parked receives are in flight");
            let Role::Stream(stream) = &mut entry.role else { unreachable!("it receives") };
            stream.unpark();
            let again = stream.try_receive(socket, &mut self.core, done);
            self.enqueue(socket, again);
        }
        for _ in 0..self.ready.len() {
            let socket = self.ready.pop_front().expect("as many as counted");
            // Closed sockets may still be queued; their slot's generation has changed.
            let Some(entry) = self.entries.get_mut(socket) else { continue };
            entry.queued = false;
            let again = match &mut entry.role {
                Role::Listener(listener) => listener.attempt(socket, &mut self.core, done),
                Role::Stream(stream) => stream.attempt(socket, &mut self.core, done),
            };
            self.enqueue(socket, again);
        }
    }

    /// Takes packets out of the queue, sleeping up to `timeout` for the first unless a wake-up has
    /// been asked for.
    fn look(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        let mut packets = [OVERLAPPED_ENTRY::default(); PACKETS_PER_CALL];
        let sleep = timeout != Some(Duration::ZERO) && self.flag.prepare_sleep();
        let taken = if !sleep {
            self.dequeue(&mut packets, Some(Duration::ZERO))
        } else if self.spin.is_zero() {
            self.dequeue(&mut packets, timeout)
        } else {
            self.spin_then_dequeue(&mut packets, timeout)
        };
        self.flag.wake_up();
        let mut count = taken?;
        for _ in 0..CALLS_PER_WAIT {
            for packet in &packets[..count] {
                self.take_in(packet, done);
            }
            if count < packets.len() {
                break;
            }
            count = self.dequeue(&mut packets, Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn dequeue(
        &self,
        packets: &mut [OVERLAPPED_ENTRY],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        self.core.count_system_call();
        self.core.queue.dequeue(packets, timeout)
    }

    /// Looks without sleeping for as long as configured, then sleeps for what is left of `timeout`.
    /// The wake flag says "asleep" meanwhile: a wake-up comes as a packet.
    fn spin_then_dequeue(
        &self,
        packets: &mut [OVERLAPPED_ENTRY],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let start = clock::now();
        let spin = timeout.map_or(self.spin, |timeout| timeout.min(self.spin));
        while clock::now().since(start) < spin {
            let count = self.dequeue(packets, Some(Duration::ZERO))?;
            if count > 0 {
                return Ok(count);
            }
            std::hint::spin_loop();
        }
        let left = timeout.map(|timeout| timeout.saturating_sub(clock::now().since(start)));
        self.dequeue(packets, left)
    }

    /// Takes in what a packet says.
    fn take_in(&mut self, packet: &OVERLAPPED_ENTRY, done: &mut Vec<Done>) {
        let bytes = packet.dwNumberOfBytesTransferred;
        // SAFETY: it was dequeued from this port, and is passed on once.
        let Some(packet) = (unsafe { Packet::from_entry(packet, &self.core) }) else { return };
        if packet.is_abandoned() {
            drop(packet.unload());
            return;
        }
        let socket = packet.socket();
        let Some(entry) = self.entries.get_mut(socket) else {
            self.stale_packets += 1;
            drop(packet.unload());
            return;
        };
        let again = match (&mut entry.role, packet.kind()) {
            (Role::Listener(listener), Kind::Accept) => {
                listener.on_accept(&packet, bytes, &self.core);
                Again::Soon
            }
            (Role::Stream(stream), Kind::Readable) => stream.on_readable(&packet, bytes),
            (Role::Stream(stream), Kind::Send) => {
                stream.on_send(&packet, bytes, &mut self.core, done)
            }
            (Role::Stream(stream), Kind::Connect) => {
                stream.on_connect(&packet, bytes, &mut self.core, done);
                Again::No
            }
            (Role::Listener(_), _) | (Role::Stream(_), Kind::Accept) => {
                unreachable!("packets are made by the role that they come back to")
            }
        };
        self.enqueue(socket, again);
    }
}

impl CompletionPort for IocpPort {
    fn adopt(&mut self, socket: UnboundSocket) -> io::Result<Socket> {
        let Stream::Os(os) = socket.0 else { return Err(simulated()) };
        self.core.prepare(&os)?;
        Ok(self.insert(Role::Stream(StreamSocket::new(os))))
    }

    fn adopt_listener(&mut self, listener: UnboundListener) -> io::Result<Socket> {
        let UnboundListener { socket, options, .. } = listener;
        let Listening::Os(os) = socket else { return Err(simulated()) };
        self.core.count_system_call();
        self.core.queue.associate(&os)?;
        Ok(self.insert(Role::Listener(Listener::new(os, options)?)))
    }

    fn stream(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        self.core.count_system_call();
        let os = connecting_socket(address)?;
        options.apply(&os)?;
        if options.source.is_none() {
            // `ConnectEx` wants a bound socket.
            let any: SocketAddr = match address {
                SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
            };
            self.core.count_system_call();
            os.bind(&any.into())?;
        }
        self.core.prepare(&os)?;
        Ok(self.insert(Role::Stream(StreamSocket::new(os))))
    }

    fn submit(&mut self, op: Op, token: Token) {
        let socket = match op {
            Op::Accept { listener } => {
                self.start_accept(listener, token);
                listener
            }
            Op::Connect { socket, address } => {
                self.stream_mut(socket).start_connect(socket, token, address);
                socket
            }
            Op::Receive { socket, credit_bytes } => {
                self.stream_mut(socket).start_receive(token, credit_bytes, false);
                socket
            }
            Op::ReceiveOnce { socket, bytes_max } => {
                self.stream_mut(socket).start_receive(token, bytes_max, true);
                socket
            }
            Op::Send { socket, gather } => {
                self.start_send(socket, gather, token);
                socket
            }
        };
        self.core.operations_in_flight += 1;
        self.enqueue(socket, Again::Soon);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<Time> {
        for socket in std::mem::take(&mut self.later) {
            self.enqueue(socket, Again::Soon);
        }
        let before = done.len();
        self.turn(done);
        let timeout = if done.len() > before || !self.ready.is_empty() {
            Duration::ZERO
        } else if !self.later.is_empty() {
            timeout.unwrap_or(RETRY_AFTER).min(RETRY_AFTER)
        } else {
            timeout.unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
        };
        self.look(Some(timeout), done)?;
        self.turn(done);
        Ok(clock::now())
    }

    fn turn_away(&mut self, listener: Socket) -> usize {
        let entry = self.entries.get(listener).expect("the listener is open, and of this port");
        assert!(matches!(entry.role, Role::Listener(_)), "only a listener has somebody waiting");
        0
    }

    fn pause(&mut self, socket: Socket) {
        let Some(entry) = self.entries.get_mut(socket) else { return };
        match &mut entry.role {
            Role::Listener(listener) => listener.stop(Stop::Pause),
            Role::Stream(stream) => stream.pause(&mut self.core),
        }
        self.enqueue(socket, Again::Soon);
    }

    fn cancel(&mut self, socket: Socket) {
        let Some(entry) = self.entries.get_mut(socket) else { return };
        match &mut entry.role {
            Role::Listener(listener) => listener.stop(Stop::Cancel),
            Role::Stream(stream) => stream.cancel(&mut self.core),
        }
        self.enqueue(socket, Again::Soon);
    }

    fn shutdown_write(&mut self, socket: Socket) {
        let entry = self.entries.get_mut(socket);
        if let Some(Entry { role: Role::Stream(stream), .. }) = entry {
            stream.shutdown_write(&self.core);
        }
    }

    fn close(&mut self, socket: Socket, how: Close) {
        let entry = self.entries.get(socket).expect("the socket is open, and of this port");
        let idle = match &entry.role {
            Role::Listener(listener) => listener.is_idle(),
            Role::Stream(stream) => stream.is_idle(),
        };
        assert!(idle, "a socket is closed with nothing in flight (P7)");
        match self.entries.remove(socket).expect("found above").role {
            Role::Listener(listener) => listener.abandon(&self.core),
            Role::Stream(stream) => stream.close(how, &self.core),
        }
    }

    fn local_addr(&self, socket: Socket) -> io::Result<SocketAddr> {
        let entry = self.entries.get(socket).ok_or(io::ErrorKind::NotConnected)?;
        self.core.count_system_call();
        inet(&entry.os().local_addr()?)
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn waker(&self) -> Waker {
        Waker::new(self.flag.clone(), Kick::Iocp(Arc::clone(&self.core.queue)))
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn counts(&self) -> Counts {
        Counts {
            operations_in_flight: self.core.operations_in_flight,
            buffers_lent: self.core.pool.lent(),
            blocks_in_use: self.buffers.blocks_in_use(),
            sockets: self.entries.len(),
            receives_parked: self.core.parked.len(),
            system_calls: self.core.system_calls.get(),
            buffer_shortages: self.core.buffer_shortages,
            stale_completions: self.stale_packets,
        }
    }

    fn engine(&self) -> &EngineInfo {
        &self.info
    }
}

fn simulated() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a simulated socket is adopted on its own network")
}

/// Packets taken out by one call.
const PACKETS_PER_CALL: usize = 64;

/// Calls in one `wait`, as long as each is full: the rest comes with the next.
const CALLS_PER_WAIT: usize = 16;

/// How long to wait before trying again what the system had no memory for (W9).
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The longest sleep: a wake-up is a packet, for which the system may have no memory (W11); it is
/// remembered by the flag, and noticed at the end of the sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "iocp/tests.rs"]
mod tests;
