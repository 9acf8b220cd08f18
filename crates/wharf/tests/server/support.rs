//! A server whose handler is a closure, what its sessions went through, and clients of plain
//! `std::net`.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    time::Duration,
};

use socket2::SockRef;
use wharf::{
    CloseReason, Context, Dispatch, Frame, Handle, Handler, Limits, Report, Result, Server,
    SessionId, Stats,
    framing::{self, Framing, Packet},
    port::{self, Config, Engine, EngineChoice},
};

use crate::wine;

/// How long anything that must happen may take before a test gives up. Nothing waits this long
/// where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A time that no test reaches.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

thread_local! {
    static DISPATCH: Cell<Dispatch> = const { Cell::new(Dispatch::Inline) };
}

/// Runs a test on every engine that works here, or on the one that `WHARF_ENGINE` names, and there with
/// handlers on the workers and on logic threads.
pub(crate) fn on_every_engine(test: impl Fn(Engine)) {
    on_every_engine_inline(&test);
    DISPATCH.set(Dispatch::Threads(2));
    eprintln!("with logic threads");
    on_every_engine_inline(&test);
    DISPATCH.set(Dispatch::Inline);
}

/// Whether handlers of the present run of a test are on the workers.
pub(crate) fn handlers_inline() -> bool {
    DISPATCH.get() == Dispatch::Inline
}

/// As [`on_every_engine`], for what has nothing to do with where handlers run, or differs there.
pub(crate) fn on_every_engine_inline(test: impl Fn(Engine)) {
    let engines = match Config::from_env().expect("WHARF_ENGINE names an engine").engine {
        EngineChoice::Named(engine) => vec![engine],
        EngineChoice::Auto => {
            let probed = port::probe();
            assert!(probed.iter().any(|(_, found)| found.is_ok()), "no engine works: {probed:?}");
            let works = |(engine, found): (Engine, io::Result<_>)| found.ok().map(|_| engine);
            probed.into_iter().filter_map(works).collect()
        }
    };
    for engine in engines {
        eprintln!("on {engine}");
        test(engine);
    }
}

/// Runs `body` in a process of its own, where the shell command `limit` set the limits of
/// resources: those that it needs are taken from no other test, and those that it lacks are
/// lacking nowhere else. `name` is the whole name of the test that asks.
#[cfg(unix)]
pub(crate) fn in_a_process_of_its_own(name: &str, limit: &str, body: impl FnOnce()) {
    const ALONE: &str = "TEST_IN_A_PROCESS_OF_ITS_OWN";
    #[expect(clippy::disallowed_methods, reason = "the test is its own child process")]
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A server of two workers on this engine.
pub(crate) fn builder(engine: Engine) -> wharf::Builder {
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    Server::builder().port(config).workers(2).seed(7).dispatch(DISPATCH.get())
}

/// Limits of sessions that nothing disturbs, and that do not wait long for clients which stay.
pub(crate) fn calm() -> Limits {
    Limits {
        first_frame_timeout: None,
        close_flush_timeout: PATIENCE,
        linger_timeout: Duration::from_millis(100),
        ..Limits::default()
    }
}

pub(crate) const ANY_PORT: &str = "127.0.0.1:0";

// ---- the server --------------------------------------------------------------------------------

/// What a scripted handler is called with.
pub(crate) enum On<'a> {
    Open,
    Frame(&'a [u8]),
    Timer(u64),
    Backpressure,
    Writable,
    Drain,
    Close(#[expect(dead_code, reason = "scripts do without; events carry it")] CloseReason),
}

/// What happened to a session, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Open(SessionId, SocketAddr),
    Frame(SessionId, Vec<u8>),
    Timer(SessionId, u64),
    Backpressure(SessionId),
    Writable(SessionId),
    Drain(SessionId),
    Close(SessionId, CloseReason),
    ConnectFailed(io::ErrorKind, Option<Duration>),
}

type Script = Arc<dyn Fn(&mut Context<'_, ()>, On<'_>) -> Result + Send + Sync>;

/// A handler that reports every call and then does what its script says.
pub(crate) struct Scripted {
    events: mpsc::Sender<Event>,
    script: Script,
}

impl Handler for Scripted {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.tell(Event::Open(cx.id(), cx.peer()));
        (self.script)(cx, On::Open)
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        self.tell(Event::Frame(cx.id(), frame.body().to_vec()));
        (self.script)(cx, On::Frame(frame.body()))
    }

    fn on_timer(&mut self, cx: &mut Context<'_, ()>, key: u64) -> Result {
        self.tell(Event::Timer(cx.id(), key));
        (self.script)(cx, On::Timer(key))
    }

    fn on_backpressure(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.tell(Event::Backpressure(cx.id()));
        (self.script)(cx, On::Backpressure)
    }

    fn on_writable(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.tell(Event::Writable(cx.id()));
        (self.script)(cx, On::Writable)
    }

    fn on_drain(&mut self, cx: &mut Context<'_, ()>) -> Result {
        self.tell(Event::Drain(cx.id()));
        (self.script)(cx, On::Drain)
    }

    fn on_close(&mut self, cx: &mut Context<'_, ()>, reason: CloseReason) {
        self.tell(Event::Close(cx.id(), reason));
        // An error is not for `on_close` to give; a panic is.
        let _ = (self.script)(cx, On::Close(reason));
    }

    fn on_connect_failed(&mut self, _: SocketAddr, error: &io::Error, retry: Option<Duration>) {
        self.tell(Event::ConnectFailed(error.kind(), retry));
    }
}

impl Scripted {
    fn tell(&self, event: Event) {
        // The test may have failed already and be gone.
        let _ = self.events.send(event);
    }
}

/// Where the events of a server's scripted handlers come together.
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    receiver: mpsc::Receiver<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    /// A factory of handlers with this script.
    pub(crate) fn script(
        &self,
        script: impl Fn(&mut Context<'_, ()>, On<'_>) -> Result + Send + Sync + 'static,
    ) -> impl Fn() -> Scripted + Send + Sync + 'static {
        let (events, script): (_, Script) = (self.sender.clone(), Arc::new(script));
        move || Scripted { events: events.clone(), script: Arc::clone(&script) }
    }

    /// A factory of handlers that send every frame back.
    pub(crate) fn echo(&self) -> impl Fn() -> Scripted + Send + Sync + 'static {
        self.script(echo)
    }

    /// Starts what `listen` makes of these.
    pub(crate) fn with(self, listen: impl FnOnce(&Self) -> wharf::Builder) -> TestServer {
        let builder = listen(&self);
        self.start(builder)
    }

    pub(crate) fn start(self, builder: wharf::Builder) -> TestServer {
        let handle = builder.start().expect("the server starts");
        TestServer { handle, receiver: self.receiver, seen: Vec::new() }
    }
}

/// The script of an echo server.
pub(crate) fn echo(cx: &mut Context<'_, ()>, on: On<'_>) -> Result {
    if let On::Frame(body) = on {
        cx.send(body)?;
    }
    Ok(())
}

/// A running server.
pub(crate) struct TestServer {
    pub(crate) handle: Handle,
    receiver: mpsc::Receiver<Event>,
    seen: Vec<Event>,
}

impl TestServer {
    /// One listener with this framing, these limits and this script.
    pub(crate) fn with<F: Framing + Clone + Sync>(
        engine: Engine,
        framing: F,
        limits: Limits,
        script: impl Fn(&mut Context<'_, ()>, On<'_>) -> Result + Send + Sync + 'static,
    ) -> Self {
        let events = Events::new();
        let builder =
            builder(engine).limits(limits).listen(ANY_PORT, framing, events.script(script));
        events.start(builder)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.local_addrs()[0]
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Event {
        let event = self.receiver.recv_timeout(PATIENCE).expect("something happens");
        self.seen.push(event.clone());
        event
    }

    /// Waits for an event that `wanted` makes something of, past all others.
    pub(crate) fn wait_for<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next()) {
                return found;
            }
        }
    }

    /// Waits until a session opens.
    pub(crate) fn opened(&mut self) -> SessionId {
        self.wait_for(|event| match event {
            Event::Open(id, _) => Some(*id),
            _ => None,
        })
    }

    /// Waits until a session is over, and says why.
    pub(crate) fn closed(&mut self) -> (SessionId, CloseReason) {
        self.wait_for(|event| match event {
            Event::Close(id, reason) => Some((*id, *reason)),
            _ => None,
        })
    }

    /// Waits until a frame reaches the handler.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        self.wait_for(|event| match event {
            Event::Frame(_, body) => Some(body.clone()),
            _ => None,
        })
    }

    /// Waits until the counters satisfy `wanted`.
    pub(crate) fn until(&self, wanted: impl Fn(&Stats) -> bool) {
        wait_until(|| wanted(&self.handle.stats().expect("not on a worker")));
    }

    /// Drains the server, waits for its end and checks what must hold after any test: nothing is
    /// left over, and each session was opened once, closed once and left alone afterwards.
    pub(crate) fn finish(self) -> Report {
        // No deadline that would cover up a session which is stuck.
        self.handle.drain(NEVER);
        self.join().0
    }

    /// As [`finish`](Self::finish), without waiting for what still goes on.
    pub(crate) fn finish_now(self) -> Report {
        self.handle.drain(Duration::ZERO);
        self.join().0
    }

    /// As [`finish`](Self::finish), for a server that drains already; also gives the events.
    pub(crate) fn join(mut self) -> (Report, Vec<Event>) {
        wait_for_it(|| self.handle.count() == 0, || format!("{:?}", self.handle.sessions()));
        let report = finish(&self.handle);
        self.seen.extend(self.receiver.try_iter());
        check_lives(&self.seen);
        (report, self.seen)
    }
}

/// Waits for the end of a server that drains and checks the idle invariant.
pub(crate) fn finish(handle: &Handle) -> Report {
    let report = handle.join().expect("not on a worker");
    assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
    assert_eq!(report.stats.sessions, 0);
    report
}

/// Exactly one `on_open` before and one `on_close` after all else, for every session (I9).
fn check_lives(events: &[Event]) {
    let mut open: HashMap<SessionId, bool, _> = HashMap::with_hasher(fixed_hasher());
    for event in events {
        match event {
            Event::Open(id, _) => {
                assert_eq!(open.insert(*id, true), None, "{id} was opened again");
            }
            Event::Frame(id, _)
            | Event::Timer(id, _)
            | Event::Backpressure(id)
            | Event::Writable(id)
            | Event::Drain(id) => {
                assert_eq!(open.get(id), Some(&true), "{event:?} outside its session's life");
            }
            Event::Close(id, _) => {
                assert_eq!(
                    open.insert(*id, false),
                    Some(true),
                    "{id} was closed unopened or again"
                );
            }
            Event::ConnectFailed(..) => {}
        }
    }
    assert!(open.values().all(|open| !open), "never closed: {open:?}");
    let drained = |of: &SessionId| events.iter().filter(|e| **e == Event::Drain(*of)).count();
    assert!(open.keys().all(|id| drained(id) <= 1), "drained twice");
}

fn fixed_hasher() -> std::hash::BuildHasherDefault<std::hash::DefaultHasher> {
    std::hash::BuildHasherDefault::default()
}

/// Asks again and again until it is so.
pub(crate) fn wait_until(so: impl FnMut() -> bool) {
    wait_for_it(so, || String::from("it never came to that"));
}

#[expect(clippy::disallowed_methods, reason = "a test may look at the clock")]
fn wait_for_it(mut so: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{}", otherwise());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs several threads and waits for them.
#[expect(clippy::disallowed_methods, reason = "clients are threads")]
pub(crate) fn in_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(move || work(index))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the thread is fine")).collect()
    })
}

/// Runs `beside` on another thread while `work` runs on this one.
#[expect(clippy::disallowed_methods, reason = "clients are threads")]
pub(crate) fn beside<T>(beside: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        scope.spawn(beside);
        work()
    })
}

#[expect(clippy::disallowed_methods, reason = "a handler that blocks is what the test is about")]
pub(crate) fn block_for(pause: Duration) {
    std::thread::sleep(pause);
}

// ---- clients -----------------------------------------------------------------------------------

/// One connection, without any help of the library.
pub(crate) struct Client(pub(crate) TcpStream);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    OfStream,
    Reset,
}

impl End {
    /// That the connection was reset, as far as this system lets a reset be seen.
    #[track_caller]
    pub(crate) fn assert_reset(self) {
        assert!(self == End::Reset || !resets_are_sent(), "{self:?}");
    }
}

/// False under Wine, which ends the stream before it closes a socket: closing with a linger time of
/// zero sends FIN there.
fn resets_are_sent() -> bool {
    !is_wine()
}

/// Whether the test is one that Wine has no say in, and this is Wine; says so.
pub(crate) fn left_out(test: &str) -> bool {
    let known = wine::CANNOT_JUDGE.iter().find(|(name, _)| *name == test && is_wine());
    if let Some((_, why)) = known {
        // Past the test harness, which shows what a passing test prints to nobody.
        let _ = writeln!(io::stderr(), "{test} is left out: {why}");
    }
    known.is_some()
}

fn is_wine() -> bool {
    let wine = |(_, found): &(_, io::Result<port::EngineInfo>)| {
        found.as_ref().is_ok_and(|info| info.detail.contains("Wine"))
    };
    port::probe().iter().any(wine)
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::from(TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts"))
    }

    /// A client whose system takes little before it must read.
    pub(crate) fn connect_narrow(address: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(128 * 1024).expect("a small buffer");
        socket.connect(&address.into()).expect("the server accepts");
        Self::from(TcpStream::from(socket))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server takes bytes");
    }

    /// Writes until the server has gone; a reset meanwhile is no failure.
    pub(crate) fn write_if_possible(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("the server sends bytes");
        bytes
    }

    /// Reads to the end, whichever it is.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = match self.0.read_to_end(&mut bytes) {
            Ok(_) => End::OfStream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
            Err(error) => panic!("neither end of stream nor reset after {}: {error}", bytes.len()),
        };
        (bytes, end)
    }

    pub(crate) fn end(&mut self) -> End {
        self.read_to_end().1
    }

    pub(crate) fn end_stream(&mut self) {
        self.0.shutdown(std::net::Shutdown::Write).expect("still connected");
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    /// Sends one body in this framing and reads its echo.
    pub(crate) fn echo(&mut self, framing: &dyn Framing, body: &[u8]) {
        let sent = wire(framing, &[body]);
        self.write(&sent);
        assert_eq!(bodies(framing, &self.read(sent.len())), [body]);
    }
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("an open socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("an open socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("an open socket");
        Self(stream)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Frames with these bodies, as they go over the wire.
pub(crate) fn wire(framing: &dyn Framing, bodies: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for body in bodies {
        let packet = Packet { id: 0, session: 0, body };
        framing::append(framing, packet, &mut bytes).expect("a body that can be said");
    }
    bytes
}

/// The bodies of these frames, which are whole.
pub(crate) fn bodies(framing: &dyn Framing, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = framing::frames(framing, bytes);
    let bodies = frames.by_ref().map(|frame| frame.expect("a frame").body().to_vec()).collect();
    assert_eq!(frames.unread(), b"", "the last frame is whole");
    bodies
}
