//! io_uring: operations go into one ring, completions come out of it, and a turn costs one system
//! call.
//!
//! Needs Linux 6.1, the first with deferred task work. Newer features are found out by a probe that
//! really sends and receives, and each has a fallback and a switch ([`UringConfig`]).
//!
//! The kernel is shown only memory that lives elsewhere than in the table of sockets and stays until
//! the operation's final completion (P2): frames and receive buffers behind reference counts, boxed
//! addresses and message headers. An operation is named by kind, slot and generation
//! ([`record::Key`]), never by its descriptor.
//!
//! [`UringConfig`]: crate::UringConfig

mod buf_ring;
mod complete;
mod explain;
mod probe;
mod record;
mod ring;
mod submit;
mod teardown;

pub(crate) use self::buf_ring::BufRing;

use std::{
    collections::VecDeque,
    io,
    net::{Shutdown, SocketAddr},
    os::fd::FromRawFd,
    ptr::NonNull,
    rc::Rc,
    time::Duration,
};

use self::{
    record::{Inbound, Kind, Outbound, Record, SLOTS_MAX, Stop, Streaming},
    ring::Ring,
};
use crate::{
    accept::reserve,
    buffer::{BufferPool, FreeList, Gather, RecvPool},
    clock,
    config::{Config, SecondSend},
    contract::{
        AcceptEnd, Close, CompletionPort, Counts, Done, Engine, EngineInfo, Op, Outcome,
        ReceiveEnd, SendError, Socket, Time, Token,
    },
    operation::Slots,
    socket::{Listening, SocketOptions, Stream, UnboundListener, UnboundSocket, connecting_socket},
    wake::{Kick, WakeFlag, Waker},
};

/// Opens a port on a ring of its own, for the calling thread.
///
/// # Errors
/// There is no io_uring for us here, in words; or it does not do what it says.
pub(crate) fn open(config: &Config) -> io::Result<Box<dyn CompletionPort>> {
    Ok(Box::new(UringPort::open(config)?))
}

struct UringPort {
    ring: Ring,
    records: Slots<Record>,
    pool: Rc<RecvPool>,
    buffers: BufferPool,
    /// What sends have used and others will, the last one first.
    #[expect(clippy::vec_box, reason = "records take the boxes")]
    sends: Vec<Box<Outbound>>,
    /// Receives that found no buffer, longest first. An entry whose number is no longer the
    /// record's is out of date.
    parked: VecDeque<(Socket, u32)>,
    parked_total: u32,
    parked_now: usize,
    /// Final completions that do not come from the kernel, for the next wait (P4).
    ready: Vec<Ready>,
    wake: Wake,
    info: EngineInfo,
    settings: Settings,
    /// Operations submitted and not yet delivered as final.
    in_flight: usize,
    /// Operations that the kernel has: it may still write to what they own.
    in_kernel: usize,
    buffer_shortages: u64,
    stale_completions: u64,
}

struct Settings {
    streaming: Streaming,
    second_send: SecondSend,
    spin: Duration,
    drop_deadline: Duration,
}

/// The eventfd that other threads write to when this one sleeps, and where the kernel puts what it
/// read from it.
struct Wake {
    flag: WakeFlag,
    event: std::sync::Arc<std::fs::File>,
    value: NonNull<u64>,
}

/// A final completion that the port itself makes.
enum Ready {
    Ended(Socket),
    Refused(Token, Gather),
}

impl UringPort {
    fn open(config: &Config) -> io::Result<Self> {
        if config.receive_buffer_bytes == 0 {
            let message = "a port needs receive buffers of at least one byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let ring = Ring::new(!config.spin.is_zero())?;
        let free = FreeList::Ring(BufRing::new(config.receive_buffers)?);
        let bytes = config.receive_buffer_bytes as usize;
        let pool = RecvPool::new(config.receive_buffers, bytes, config.guard_pages, free);
        let buffer_ring = pool.ring().expect("made with one, above");
        // SAFETY: the port unregisters the ring before it lets go of the pool, or leaks it (P8).
        unsafe { ring.register_buffers(buffer_ring) }
            .map_err(|error| explain::with_text(error, "no ring of buffers".to_owned()))?;
        let restricted = if config.uring.restrict_opcodes {
            match ring.restrict() {
                Ok(()) => "opcodes restricted".to_owned(),
                Err(error) => format!("opcodes not restricted ({error})"),
            }
        } else {
            "opcodes not restricted".to_owned()
        };
        let mut port = Self {
            ring,
            records: Slots::new(),
            pool,
            buffers: BufferPool::new(config.guard_pages),
            sends: Vec::new(),
            parked: VecDeque::new(),
            parked_total: 0,
            parked_now: 0,
            ready: Vec::new(),
            wake: Wake::new()?,
            info: EngineInfo { engine: Engine::Uring, detail: String::new(), fell_back: None },
            settings: Settings {
                streaming: Streaming::No,
                second_send: config.second_send,
                spin: config.spin,
                drop_deadline: config.drop_deadline,
            },
            in_flight: 0,
            in_kernel: 0,
            buffer_shortages: 0,
            stale_completions: 0,
        };
        drop(reserve::hold());
        port.ring.enable()?;
        port.settings.streaming = probe::run(&mut port.ring, &port.pool, &config.uring)?;
        let version = explain::kernel_version();
        let receives = match port.settings.streaming {
            Streaming::ToCredit => "receive cap on",
            Streaming::UntilCancelled => "receive cap off",
            Streaming::No if config.uring.streaming_receive => {
                "receives of one buffer (this kernel can lose a reset, CVE-2026-23473)"
            }
            Streaming::No => "receives of one buffer",
        };
        port.info.detail = format!("kernel {version}, probe ok, {receives}, {restricted}");
        port.arm_wake();
        Ok(port)
    }

    fn insert(&mut self, socket: socket2::Socket) -> Socket {
        let id = self.records.insert(Record::new(socket));
        assert!(id.slot < SLOTS_MAX, "fewer than 2^28 sockets");
        id
    }

    #[inline]
    fn record(&mut self, socket: Socket) -> &mut Record {
        self.records.get_mut(socket).expect("a socket of this port that is not closed")
    }

    /// Delivers the final completions that the port made itself.
    fn deliver_ready(&mut self, done: &mut Vec<Done>) {
        for ready in self.ready.drain(..) {
            self.in_flight -= 1;
            done.push(match ready {
                Ready::Refused(token, gather) => {
                    let result = Err(SendError::AlreadyInFlight);
                    Done { token, outcome: Outcome::Sent { gather, result } }
                }
                Ready::Ended(socket) => {
                    let record = self.records.get_mut(socket).expect("in flight until now");
                    let inbound = record.inbound.take().expect("in flight until now");
                    Done { token: inbound.token, outcome: inbound.stopped() }
                }
            });
        }
    }

    /// Looks for completions until `until` without sleeping; true if there were some, or a wake-up.
    fn spin(&mut self, until: Time, done: &mut Vec<Done>) -> io::Result<bool> {
        let before = done.len();
        self.ring.enter(0, None)?;
        loop {
            self.drain(done);
            if done.len() > before || self.wake.flag.is_notified() {
                return Ok(true);
            }
            while !self.ring.has_work() {
                if self.wake.flag.is_notified() {
                    return Ok(true);
                }
                if clock::now() >= until {
                    return Ok(false);
                }
                std::hint::spin_loop();
            }
            self.ring.enter(0, None)?;
        }
    }

    fn wait_for_kernel(
        &mut self,
        timeout: Option<Duration>,
        done: &mut Vec<Done>,
    ) -> io::Result<()> {
        let mut timeout = timeout;
        if !self.settings.spin.is_zero() && timeout != Some(Duration::ZERO) {
            let start = clock::now();
            let spin = timeout.map_or(self.settings.spin, |time| time.min(self.settings.spin));
            if self.spin(start + spin, done)? {
                return Ok(());
            }
            timeout = timeout.map(|time| time.saturating_sub(clock::now().since(start)));
        }
        let sleeps = timeout != Some(Duration::ZERO) && self.wake.flag.prepare_sleep();
        self.ring.enter(u32::from(sleeps), timeout)?;
        self.drain(done);
        Ok(())
    }
}

impl CompletionPort for UringPort {
    fn adopt(&mut self, socket: UnboundSocket) -> io::Result<Socket> {
        match socket.0 {
            // Whether it blocks is found out when it matters: see `Record::made_blocking`.
            Stream::Os(socket) => {
                let socket = reserve::admit(socket)?;
                Ok(self.insert(socket))
            }
            Stream::Sim(_) => Err(foreign("a simulated connection")),
        }
    }

    fn adopt_listener(&mut self, listener: UnboundListener) -> io::Result<Socket> {
        match listener.socket {
            Listening::Os(socket) => Ok(self.insert(socket)),
            Listening::Sim(_) => Err(foreign("a simulated listener")),
        }
    }

    fn stream(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        let socket = connecting_socket(address)?;
        options.apply(&socket)?;
        Ok(self.insert(socket))
    }

    #[inline]
    fn submit(&mut self, op: Op, token: Token) {
        match op {
            Op::Send { socket, gather } => self.submit_send(socket, gather, token),
            Op::Receive { socket, credit_bytes } => {
                assert!(credit_bytes > 0, "a receive has credit");
                self.submit_inbound(socket, Kind::Receive, credit_bytes, token);
            }
            Op::ReceiveOnce { socket, bytes_max } => {
                assert!(bytes_max > 0, "a receive is for at least one byte");
                self.submit_inbound(socket, Kind::ReceiveOnce, bytes_max, token);
            }
            Op::Accept { listener } => self.submit_inbound(listener, Kind::Accept, 0, token),
            Op::Connect { socket, address } => self.submit_connect(socket, address, token),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<Time> {
        self.pool.fill_ring(self.parked_now > 0);
        self.unpark();
        // What is ready is not slept on, but the kernel gets its entries and is asked all the same.
        let timeout = if self.ready.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.deliver_ready(done);
        let waited = self.wait_for_kernel(timeout, done);
        self.wake.flag.wake_up();
        waited?;
        Ok(clock::now())
    }

    fn turn_away(&mut self, listener: Socket) -> usize {
        let record = self.records.get(listener).expect("a listener of this port, not closed");
        assert!(record.is_idle(), "an accept is in flight");
        reserve::turn_away(&record.socket, || self.ring.count_system_call())
    }

    fn pause(&mut self, socket: Socket) {
        self.record(socket);
        self.stop_inbound(socket, Stop::Pause);
    }

    fn cancel(&mut self, socket: Socket) {
        let record = self.record(socket);
        let send = record.outbound.as_mut().map(|outbound| &mut outbound.cancelled);
        let send = send.is_some_and(|cancelled| !std::mem::replace(cancelled, true));
        let connect = record.connecting.as_mut().map(|connecting| &mut connecting.cancelled);
        let connect = connect.is_some_and(|cancelled| !std::mem::replace(cancelled, true));
        if send {
            self.push_cancel(Kind::Send, socket);
        }
        if connect {
            self.push_cancel(Kind::Connect, socket);
        }
        self.stop_inbound(socket, Stop::Cancel);
    }

    fn shutdown_write(&mut self, socket: Socket) {
        if let Some(outbound) = &mut self.record(socket).outbound {
            outbound.ends_stream = true;
            return;
        }
        self.ring.count_system_call();
        if let Err(error) = self.record(socket).socket.shutdown(Shutdown::Write) {
            // Reset by the peer: there is nobody to tell.
            tracing::debug!(%error, "no end of stream was sent");
        }
    }

    fn close(&mut self, socket: Socket, how: Close) {
        assert!(self.record(socket).is_idle(), "a socket is closed with nothing in flight (P7)");
        let record = self.records.remove(socket).expect("looked up above");
        if how == Close::Reset && !record.is_gone {
            self.ring.count_system_call();
            if let Err(error) = record.socket.set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "a connection cannot be reset");
            }
        }
        self.ring.count_system_call();
        drop(record);
    }

    fn local_addr(&self, socket: Socket) -> io::Result<SocketAddr> {
        let record = self.records.get(socket).expect("a socket of this port that is not closed");
        crate::socket::inet(&record.socket.local_addr()?)
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn waker(&self) -> Waker {
        Waker::new(self.wake.flag.clone(), Kick::EventFd(self.wake.event.clone()))
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn counts(&self) -> Counts {
        Counts {
            operations_in_flight: self.in_flight,
            buffers_lent: self.pool.lent(),
            blocks_in_use: self.buffers.blocks_in_use(),
            sockets: self.records.len(),
            receives_parked: self.parked_now,
            system_calls: self.ring.system_calls(),
            buffer_shortages: self.buffer_shortages,
            stale_completions: self.stale_completions,
        }
    }

    fn engine(&self) -> &EngineInfo {
        &self.info
    }
}

impl Inbound {
    /// The final completion of an operation that was told to stop.
    fn stopped(&self) -> Outcome {
        let cancelled = self.stop == Stop::Cancel;
        match self.kind {
            Kind::Accept if cancelled => Outcome::AcceptEnded(AcceptEnd::Cancelled),
            Kind::Accept => Outcome::AcceptEnded(AcceptEnd::Paused),
            _ if cancelled => self.ended(ReceiveEnd::Cancelled),
            _ if self.stop == Stop::CreditSpent => self.ended(ReceiveEnd::CreditSpent),
            _ => self.ended(ReceiveEnd::Paused),
        }
    }

    /// The final completion of a receive that brings nothing.
    fn ended(&self, end: ReceiveEnd) -> Outcome {
        Outcome::of_receive(self.kind == Kind::ReceiveOnce, Err(end))
    }
}

impl Wake {
    fn new() -> io::Result<Self> {
        // Blocking: the ring waits for it, and a write would block only after 2^64 wake-ups.
        // SAFETY: eventfd(2) has no preconditions.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else owns.
        let event = std::sync::Arc::new(unsafe { std::fs::File::from_raw_fd(fd) });
        let value = NonNull::from(Box::leak(Box::new(0)));
        Ok(Self { flag: WakeFlag::new(), event, value })
    }
}

fn foreign(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what} cannot be on an io_uring port"))
}
