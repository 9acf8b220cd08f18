//! Putting a server together: listeners, connectors and settings become workers on threads.
//!
//! This is the only file of the crate that starts threads, reads the clock's seed or installs a
//! signal handler; everything below it is a struct that is turned.

mod logic;
mod plan;

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    process,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
        mpsc,
    },
    thread,
    time::Duration,
};

use wharf_port::{
    Config as PortConfig, EngineInfo, ListenOptions, Parker, Post, UnboundListener, Waker, inbox,
    sim::SimNet,
};

pub use self::logic::Dispatch;
use self::{
    logic::{LogicPlan, SLOW_HANDLER, spawn_all},
    plan::{Opened, Plan, gather_workers},
};
use crate::{
    addresses::Addresses,
    connector::{Connector, ConnectorOptions},
    error::{Error, Result, SendError},
    framing::Framing,
    handle::{Command, Ended, Handle, Links, WorkerLink, join_all},
    handler::{Handler, SessionId},
    handler_times::{Clock, Measured},
    limits::Limits,
    logic::{Forward, Logic, Pool, Runner, RunnerLink, Service, Timer},
    memory::{MemoryCap, PIECE_BYTES},
    metrics::Report,
    sending::{FLUSH_EVERY_MS_MAX, FlushPolicy, SendPolicy, Sending},
    timer::{TICK_NS, TICK_NS_MIN},
    worker::Worker,
};

/// A server: begin with [`Server::builder`].
pub struct Server;

impl Server {
    /// A server that listens nowhere yet.
    pub fn builder() -> Builder {
        Builder {
            listens: Vec::new(),
            connects: Vec::new(),
            limits: Limits::default(),
            send_policy: SendPolicy::default(),
            flush: FlushPolicy::default(),
            workers: None,
            port: PortConfig::default(),
            listen_options: ListenOptions::default(),
            max_sessions: 50_000,
            send_memory_max: 1024 * 1024 * 1024,
            drain_timeout: Duration::from_secs(10),
            share_listeners: true,
            timer_tick: Duration::from_nanos(TICK_NS),
            dispatch: Dispatch::Inline,
            offload_threads: 2,
            offload_queue: 64,
            repeated: Vec::new(),
            slow_handler: Some(SLOW_HANDLER),
            seed: None,
            failure: None,
        }
    }
}

/// What a server is made of. Settings of connections ([`limits`](Self::limits)) apply to what is
/// added after them.
#[must_use = "a server does nothing until `start` or `run`"]
pub struct Builder {
    listens: Vec<Listen>,
    connects: Vec<Connect>,
    limits: Limits,
    send_policy: SendPolicy,
    flush: FlushPolicy,
    workers: Option<usize>,
    port: PortConfig,
    listen_options: ListenOptions,
    max_sessions: usize,
    send_memory_max: usize,
    drain_timeout: Duration,
    share_listeners: bool,
    timer_tick: Duration,
    dispatch: Dispatch,
    offload_threads: usize,
    offload_queue: usize,
    /// Posts what [`every`](Self::every) was given.
    repeated: Vec<Repeated>,
    slow_handler: Option<Duration>,
    seed: Option<u64>,
    failure: Option<Error>,
}

struct Listen {
    address: SocketAddr,
    service: ServiceSource,
}

struct Connect {
    name: String,
    options: ConnectorOptions,
    service: ServiceSource,
}

/// Makes the [`Service`] of each thread that has handlers, and the other half of each worker where
/// those are on logic threads.
#[derive(Clone)]
struct ServiceSource {
    make: MakeService<()>,
    /// From the service's number.
    forward: MakeService<u16>,
    /// What its handlers' calls took, on all threads.
    measured: Arc<Measured>,
    limits: Limits,
}

/// Posts a job that is repeated from the start.
type Repeated = Box<dyn FnOnce(&Handle) -> std::result::Result<Timer, SendError> + Send>;

type MakeService<T> = Arc<dyn Fn(T) -> Box<dyn Service> + Send + Sync>;

impl Builder {
    /// Listens on `address` for sessions of this framing; `factory` makes each worker's handler. May
    /// be called any number of times. An address that cannot be used is reported by
    /// [`start`](Self::start).
    pub fn listen<F, H>(
        mut self,
        address: impl ToSocketAddrs + fmt::Debug,
        framing: F,
        factory: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self
    where
        F: Framing + Clone + Sync,
        H: Handler,
    {
        let service = self.source(framing, factory);
        let resolved = address.to_socket_addrs().and_then(|mut all| {
            all.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such address"))
        });
        match resolved {
            Ok(address) => self.listens.push(Listen { address, service }),
            Err(error) => {
                let what = format!("cannot listen on {address:?}");
                self.failure.get_or_insert(Error::io(what)(error));
            }
        }
        self
    }

    /// Adds a way to make outgoing sessions of this framing: [`Handle::connect`] with this name. The
    /// deadlines for the first frame and for a silent peer are off for them unless `limits` was
    /// called.
    pub fn connector<F, H>(
        mut self,
        name: &str,
        options: ConnectorOptions,
        framing: F,
        factory: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self
    where
        F: Framing + Clone + Sync,
        H: Handler,
    {
        let mut service = self.source(framing, factory);
        if service.limits == Limits::default() {
            service.limits.first_frame_timeout = None;
            service.limits.idle_read_timeout = None;
        }
        self.connects.push(Connect { name: name.to_owned(), options, service });
        self
    }

    fn source<F, H>(
        &self,
        framing: F,
        factory: impl Fn() -> H + Send + Sync + 'static,
    ) -> ServiceSource
    where
        F: Framing + Clone + Sync,
        H: Handler,
    {
        // What is out of bounds was reported when it was set.
        let sending = Sending::new(self.send_policy, self.flush).unwrap_or_default();
        let (theirs, requires_login) = (framing.clone(), Arc::new(OnceLock::new()));
        let (login, measured) = (Arc::clone(&requires_login), Arc::<Measured>::default());
        let times = Arc::clone(&measured);
        let make = move |()| {
            let logic = Logic::new(theirs.clone(), factory(), &times).with_sending(sending);
            login.get_or_init(|| logic.requires_login());
            Box::new(logic) as Box<dyn Service>
        };
        let forward = move |service| {
            let login = Arc::clone(&requires_login);
            Box::new(Forward::new(framing.clone(), service, login, sending)) as Box<dyn Service>
        };
        let limits = self.limits.clone();
        ServiceSource { make: Arc::new(make), forward: Arc::new(forward), measured, limits }
    }

    /// Limits of the sessions of listeners and connectors that are added after this.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How frames become buffers, for listeners and connectors that are added after this
    /// ([`SendPolicy::Auto`]).
    pub fn send_policy(mut self, policy: SendPolicy) -> Self {
        self.send_policy = policy;
        self
    }

    /// When frames leave, for listeners and connectors that are added after this
    /// ([`FlushPolicy::PerTurn`]). A time out of bounds is reported by [`start`](Self::start).
    pub fn flush(mut self, policy: FlushPolicy) -> Self {
        if Sending::new(self.send_policy, policy).is_none() {
            let what =
                format!("sends can be flushed every 1 to {FLUSH_EVERY_MS_MAX} ms: {policy:?}");
            self.failure.get_or_insert(Error::Settings(what));
        }
        self.flush = policy;
        self
    }

    /// How many workers, each a thread with a port of its own (one for each processor, at most 256).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// The engine and its buffers.
    pub fn port(mut self, port: PortConfig) -> Self {
        self.port = port;
        self
    }

    /// Options of listening sockets, of those that they accept, and of outgoing ones.
    pub fn sockets(mut self, options: ListenOptions) -> Self {
        self.listen_options = options;
        self
    }

    /// How many sessions there may be at one time (50,000), accepted and outgoing. Connections beyond
    /// that are closed as they are accepted, and not made.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// Memory that frames waiting to be sent may take, over all sessions, in bytes (1 GiB); unfinished
    /// frames that have arrived count as well. It is leased to workers in pieces of 1 MiB, so that
    /// there must be one for each. A worker that cannot have another one aborts sessions with
    /// [`SlowConsumer`](crate::CloseReason::SlowConsumer) until what is left fits: the one that has
    /// been above its soft mark for longest first. The marks of sessions alone would let many slow
    /// ones use up any memory.
    pub fn send_memory_max(mut self, bytes: usize) -> Self {
        self.send_memory_max = bytes;
        self
    }

    /// How long [`run`](Self::run) lets sessions finish after a signal (10 s).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Whether every worker has a listening socket of its own where the system spreads connections
    /// over them (yes, on Linux). Otherwise one worker accepts for all, and hands each connection to
    /// the worker with the fewest sessions: fairer when few connections live long.
    pub fn share_listeners(mut self, share: bool) -> Self {
        self.share_listeners = share;
        self
    }

    /// How late a timer may be on a worker that keeps up (10 ms), at least 10 us. Timers of one tick
    /// come together, so that a short one costs wake-ups; only what acts at given times, such as a
    /// load generator, needs one. Systems add their own lateness: 1 ms on the `poll` engine.
    pub fn timer_tick(mut self, tick: Duration) -> Self {
        self.timer_tick = tick;
        self
    }

    /// Where handlers run ([`Dispatch::Inline`]). A factory given to [`listen`](Self::listen) makes one
    /// handler for each thread that runs any.
    pub fn dispatch(mut self, dispatch: Dispatch) -> Self {
        self.dispatch = dispatch;
        self
    }

    /// How many threads run what [`Context::offload`](crate::Context::offload) is given (2, at most
    /// 256): as many pieces of blocking work are done at one time.
    pub fn offload_threads(mut self, threads: usize) -> Self {
        self.offload_threads = threads;
        self
    }

    /// How many pieces of blocking work may wait beside those that run (64), those counted in whose
    /// result has not reached its session. [`Context::offload`](crate::Context::offload) refuses
    /// more: who asks for more than can be done is told so while it still matters.
    pub fn offload_queue(mut self, works: usize) -> Self {
        self.offload_queue = works;
        self
    }

    /// What everything random is derived from; drawn by chance unless set.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts the server and returns as soon as it takes connections.
    ///
    /// # Errors
    /// An address that cannot be listened on, a named engine that cannot start, a setting that
    /// cannot work. Nothing is left running then.
    pub fn start(mut self) -> Result<Handle> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let workers = self.validate()?;
        let options = self.listen_options.clone();
        let listening =
            self.bind(workers, |address, count| wharf_port::listen(address, &options, count))?;
        let seed = self.seed.unwrap_or_else(random_seed);
        let plans = self.plans(listening, seed);
        let (ready, opened) = mpsc::channel();
        let mut threads = Vec::new();
        let mut starts = Vec::new();
        let mut spawned = Ok(());
        for plan in plans {
            let (start, started) = mpsc::channel();
            starts.push(start);
            let ready = ready.clone();
            match spawn(format!("wharf-{}", plan.index), move || plan.run(&ready, &started)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    spawned = Err(Error::io("cannot start a thread")(error));
                    break;
                }
            }
        }
        drop(ready);
        let gathered = spawned.and_then(|()| gather_workers(&opened, workers));
        let links = match gathered {
            Ok(gathered) => gathered,
            Err(error) => {
                // Those that opened wait for a handle that will not come. Their listening sockets
                // are closed when they have ended.
                drop(starts);
                join_all(threads);
                return Err(error);
            }
        };
        let offload_threads = self.offload_threads;
        let link = |(index, engine, post)| (engine, self.link(post, usize::from(index)));
        let links = links.into_iter().map(link).collect();
        let (runners, runner_links) = self.logic_plans();
        let watchdog = self.slow_handler.map(|limit| (limit, Parker::new()));
        let waker = watchdog.as_ref().map(|(_, parker)| parker.waker());
        let handle = self.into_handle(links, runner_links, threads, seed, waker);
        if let Err(error) = spawn_all(&handle, runners, offload_threads, watchdog) {
            drop(starts);
            (0..workers).for_each(|_| handle.0.worker_ended());
            handle.join_workers();
            return Err(error);
        }
        for start in starts {
            // A worker waits for this; it cannot be gone.
            let _ = start.send(handle.clone());
        }
        let listening = opened.iter().take(workers).find_map(|opened| match opened {
            Opened::Listening(result) => result.err(),
            Opened::Port(_) => None,
        });
        match listening {
            None => Ok(handle),
            Some(error) => {
                handle.drain(Duration::ZERO);
                handle.join_workers();
                Err(error)
            }
        }
    }

    /// The server's workers and logic threads on a simulated network, for somebody else to turn.
    pub(crate) fn assemble(
        mut self,
        net: &SimNet,
        seed: u64,
    ) -> Result<(Vec<Worker>, Vec<Runner>, Handle)> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let workers = self.validate()?;
        let listening = self.bind(workers, |address, count| net.listen_shared(address, count))?;
        let plans = self.plans(listening, seed);
        let (mut ports, mut links) = (Vec::new(), Vec::new());
        for index in 0..workers {
            let port = net.open(&self.port);
            let (post, inbox) = inbox(port.waker(), COMMANDS_WAITING_MAX);
            links.push((port.engine().clone(), self.link(post, index)));
            ports.push((port, inbox));
        }
        let (runners, runner_links) = self.logic_plans();
        let handle = self.into_handle(links, runner_links, Vec::new(), seed, None);
        let clock = || -> Clock {
            let net = net.clone();
            Box::new(move || net.now())
        };
        let runner = |plan: LogicPlan| plan.make_runner(handle.clone(), clock()).0;
        let runners = runners.into_iter().map(runner).collect();
        let make = |(plan, (port, inbox)): (Plan, _)| {
            let (worker, listening) = plan.make_worker(port, inbox, handle.clone(), clock());
            listening.map(|()| worker)
        };
        let made = plans.into_iter().zip(ports).map(make).collect::<Result<_>>()?;
        Ok((made, runners, handle))
    }

    fn link(&self, post: Post<Command>, index: usize) -> WorkerLink {
        let link = WorkerLink::new(post, index, self.max_sessions);
        if self.dispatch == Dispatch::Inline { link } else { link.for_logic() }
    }

    fn sources(&self) -> Vec<ServiceSource> {
        let listens = self.listens.iter().map(|listen| &listen.service);
        listens.chain(self.connects.iter().map(|connect| &connect.service)).cloned().collect()
    }

    fn logic_plans(&self) -> (Vec<LogicPlan>, Vec<RunnerLink>) {
        LogicPlan::all(self.dispatch.threads(), &self.sources(), self.timer_tick)
    }

    /// What each worker is made from.
    fn plans(&self, listening: Vec<Vec<(u16, UnboundListener)>>, seed: u64) -> Vec<Plan> {
        let sources = self.sources();
        let hand_over = listening_alone(listening.len(), self.share_listeners);
        let plan = |(index, listening)| Plan {
            index: index as u8,
            port: self.port.clone(),
            sources: sources.clone(),
            dispatch: self.dispatch,
            connectors: self.connectors(),
            socket_options: self.listen_options.socket.clone(),
            timer_tick_ns: self.timer_tick.as_nanos() as u64,
            seed,
            listening,
            hand_over,
        };
        listening.into_iter().enumerate().map(plan).collect()
    }

    fn into_handle(
        self,
        links: Vec<(EngineInfo, WorkerLink)>,
        runners: Vec<RunnerLink>,
        threads: Vec<thread::JoinHandle<Report>>,
        seed: u64,
        watchdog: Option<Waker>,
    ) -> Handle {
        let [running, watched] =
            [0, runners.len()].map(|more| AtomicUsize::new(links.len() + more));
        let handler_times = self.sources().into_iter().map(|source| source.measured).collect();
        let (engines, workers) = links.into_iter().unzip();
        let handle = Handle(Arc::new(Links {
            workers,
            engines,
            local_addrs: self.listens.iter().map(|listen| listen.address).collect(),
            connectors: self.connects.into_iter().map(|connect| connect.name).collect(),
            max_sessions: self.max_sessions,
            addresses: Addresses::new(seed),
            runners,
            timed: Arc::default(),
            handler_times,
            slow_calls: AtomicU64::new(0),
            watchdog,
            pool: Pool::new(self.offload_threads + self.offload_queue),
            memory: MemoryCap::new(self.send_memory_max),
            running,
            watched,
            ended: Mutex::new(Ended::Running(threads)),
        }));
        for post in self.repeated {
            // All have room: that was looked at when they were given.
            let _ = post(&handle);
        }
        handle
    }

    /// Starts the server, drains it on Ctrl+C or SIGTERM, and returns when it has ended. A second
    /// signal ends the process at once.
    ///
    /// # Errors
    /// As for [`start`](Self::start); or signals cannot be handled, because something else in the
    /// process does already. Nothing is left running then.
    pub fn run(self) -> Result {
        let drain_timeout = self.drain_timeout;
        let handle = self.start()?;
        if let Err(error) = drain_on_signal(&handle, drain_timeout) {
            handle.drain(Duration::ZERO);
            handle.join_workers();
            return Err(error);
        }
        handle.join().map(drop)
    }

    fn validate(&self) -> Result<usize> {
        let refuse = |what: String| Err(Error::Settings(what));
        for source in
            self.listens.iter().map(|l| &l.service).chain(self.connects.iter().map(|c| &c.service))
        {
            source.limits.validate()?;
        }
        let slots = SessionId::SLOT_MAX as usize + 1;
        if self.max_sessions == 0 || self.max_sessions > slots {
            return refuse(format!("max_sessions must be between 1 and {slots}"));
        }
        if !(u128::from(TICK_NS_MIN)..=TICK_NS_MAX).contains(&self.timer_tick.as_nanos()) {
            return refuse("timer_tick must be between 10 us and 1 s".to_owned());
        }
        if let Dispatch::Threads(threads) = self.dispatch
            && !(1..=256).contains(&threads)
        {
            return refuse(format!("there can be 1 to 256 logic threads, not {threads}"));
        }
        if !(1..=256).contains(&self.offload_threads) {
            return refuse("offload_threads must be between 1 and 256".to_owned());
        }
        match self.workers.unwrap_or_else(processors) {
            workers @ 1..=256 if self.send_memory_max / PIECE_BYTES < workers => refuse(format!(
                "send_memory_max must be 1 MiB or more for each of {workers} workers"
            )),
            workers @ 1..=256 => Ok(workers),
            workers => refuse(format!("there can be 1 to 256 workers, not {workers}")),
        }
    }

    /// Binds every address; the outer list is by worker, the inner one has (listen, socket).
    fn bind(
        &mut self,
        workers: usize,
        mut bind: impl FnMut(SocketAddr, usize) -> io::Result<Vec<UnboundListener>>,
    ) -> Result<Vec<Vec<(u16, UnboundListener)>>> {
        let mut by_worker: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let count = if self.share_listeners { workers } else { 1 };
        for (index, listen) in self.listens.iter_mut().enumerate() {
            let sockets = bind(listen.address, count)
                .map_err(|error| cannot_listen(listen.address, error))?;
            listen.address = sockets[0].local_addr();
            // A single socket is served by another worker for each listener.
            let first = if sockets.len() == 1 { index % workers } else { 0 };
            for (offset, socket) in sockets.into_iter().enumerate() {
                by_worker[first + offset].push((index as u16, socket));
            }
        }
        Ok(by_worker)
    }

    fn connectors(&self) -> Vec<Connector> {
        let first = self.listens.len();
        let connector = |(index, connect): (usize, &Connect)| Connector {
            service: (first + index) as u16,
            options: connect.options.clone(),
            next_source: 0,
        };
        self.connects.iter().enumerate().map(connector).collect()
    }
}

/// Drains the server on the first Ctrl+C, SIGTERM or SIGHUP, and ends the process on the second. On
/// Windows on Ctrl+C and Ctrl+Break, and when the console is closed, the user logs off or the machine
/// shuts down; the system then ends what is not done within some seconds.
///
/// # Errors
/// Something else in the process handles signals already.
pub fn drain_on_signal(handle: &Handle, timeout: Duration) -> Result {
    let handle = handle.clone();
    on_signal(move || {
        // The drain comes before the log, which may have nowhere to go.
        let sessions = handle.count();
        handle.drain(timeout);
        tracing::info!(?timeout, sessions, "draining; a second signal ends at once");
    })
}

/// Calls `first` on the first Ctrl+C, SIGTERM or SIGHUP, on a thread of its own, and ends the process
/// on the second: for programs that do more than [`drain_on_signal`].
///
/// # Errors
/// Something else in the process handles signals already.
pub fn on_signal(first: impl FnOnce() + Send + 'static) -> Result {
    // Windows may call it on several threads at one time.
    let (first, signalled) = (Mutex::new(Some(first)), OnceLock::new());
    let handler = move || {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first {
            let _ = signalled.set(clock_now());
            first();
        } else if signalled.get().is_some_and(|at| clock_now().duration_since(*at) > SAME_SIGNAL) {
            // The end comes also where the log has nowhere to go.
            let _ = std::panic::catch_unwind(|| tracing::warn!("second signal: ending at once"));
            process::exit(1);
        }
    };
    #[cfg(windows)]
    let installed = wharf_port::console::on_event(handler);
    #[cfg(unix)]
    let installed = ctrlc::set_handler(handler);
    installed.map_err(|error| Error::Settings(format!("signals cannot be handled: {error}")))
}

/// Whether a listening socket serves more workers than its own.
fn listening_alone(workers: usize, share: bool) -> bool {
    workers > 1 && !(share && cfg!(target_os = "linux"))
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another program has it: stop that one, or choose another address)"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need a privilege: choose a higher one)"
        }
        io::ErrorKind::AddrNotAvailable => " (it is not an address of this machine)",
        _ => "",
    };
    Error::io(format!("cannot listen on {address}{advice}"))(error)
}

#[expect(clippy::disallowed_methods, reason = "threads are started here and nowhere else")]
fn spawn(
    name: String,
    work: impl FnOnce() -> Report + Send + 'static,
) -> io::Result<thread::JoinHandle<Report>> {
    let guarded = move || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
            // Handlers are guarded: this is a bug of the library, and nothing is certain any more.
            tracing::error!("a worker panicked outside a handler");
            process::abort()
        })
    };
    thread::Builder::new().name(name).spawn(guarded)
}

#[expect(clippy::disallowed_methods, reason = "tells one signal from two")]
fn clock_now() -> std::time::Instant {
    std::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the default number of workers is the machine's")]
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(256)
}

#[expect(clippy::disallowed_methods, reason = "the default seed is drawn by chance")]
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Within this time a second signal is the first one again: `timeout` and some supervisors signal a
/// process and then its group.
const SAME_SIGNAL: Duration = Duration::from_millis(50);

/// A longer tick would make deadlines late that people notice.
const TICK_NS_MAX: u128 = 1_000_000_000;

/// Orders from other threads that a worker may have waiting.
const COMMANDS_WAITING_MAX: usize = 64 * 1024;
