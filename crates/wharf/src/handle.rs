//! A running server, seen from outside its workers: any thread may hold a [`Handle`].

mod link;

use std::{
    cell::Cell,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use wharf_port::{EngineInfo, PostError, Time, UnboundSocket, Waker};

pub(crate) use self::link::WorkerLink;
use crate::{
    addresses::Addresses,
    error::{Error, Result, SendError},
    handler::{CloseReason, SessionId},
    handler_times::Measured,
    limits::Limits,
    logic::{Event, Order, Pool, Posted, RunnerLink, TimedJobs},
    memory::MemoryCap,
    metrics::{Report, Stats},
    sending::{Class, Sent},
    session::Hold,
    topic::Topic,
};

/// Reaches a running server and its sessions from any thread. Cheap to clone.
///
/// Nothing here waits for a worker except the methods that say so; those refuse to be called on a
/// worker's thread, where they would wait for themselves.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Links>);

/// What a [`Handle`] leads to.
pub(crate) struct Links {
    pub(crate) workers: Vec<WorkerLink>,
    pub(crate) engines: Vec<EngineInfo>,
    pub(crate) local_addrs: Vec<SocketAddr>,
    pub(crate) connectors: Vec<String>,
    pub(crate) max_sessions: usize,
    pub(crate) addresses: Addresses,
    /// Logic threads; none where handlers run on the workers.
    pub(crate) runners: Vec<RunnerLink>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) timed: Arc<TimedJobs>,
    /// By service.
    pub(crate) handler_times: Vec<Arc<Measured>>,
    /// Calls of handlers that took too long.
    pub(crate) slow_calls: AtomicU64,
    /// Wakes who looks for those, if anybody does.
    pub(crate) watchdog: Option<Waker>,
    /// For frames that wait to be sent.
    pub(crate) memory: MemoryCap,
    /// Workers that have not ended.
    pub(crate) running: AtomicUsize,
    /// Workers and logic threads that have not ended.
    pub(crate) watched: AtomicUsize,
    pub(crate) ended: Mutex<Ended>,
}

/// Whether the worker threads have been joined.
pub(crate) enum Ended {
    Running(Vec<JoinHandle<Report>>),
    Joined(Box<Report>),
}

/// What another thread asks of a worker.
pub(crate) enum Command {
    Send {
        to: SessionId,
        class: Class,
        packet_id: u32,
        /// Where its body is in what goes beside the orders.
        bytes: Range<usize>,
    },
    Broadcast {
        packet_id: u32,
        body: Arc<[u8]>,
        filter: Filter,
    },
    Subscribe {
        id: SessionId,
        topic: Topic,
    },
    Unsubscribe {
        id: SessionId,
        topic: Topic,
    },
    Publish {
        topic: Topic,
        class: Class,
        packet_id: u32,
        body: Arc<[u8]>,
    },
    Close {
        id: SessionId,
        reason: CloseReason,
    },
    /// Run this on the session's thread.
    Event {
        id: SessionId,
        event: Event,
    },
    Job(Posted),
    /// Frames that a logic thread has encoded.
    Encoded {
        to: SessionId,
        /// Where they are in what goes beside the orders.
        bytes: Range<usize>,
        frames: u32,
    },
    /// A handler on a logic thread holds its session back, or does so no more.
    Hold {
        id: SessionId,
        hold: Hold,
        on: bool,
    },
    /// A handler on a logic thread knows who the peer is.
    Authenticated {
        id: SessionId,
    },
    /// A handler on a logic thread has asked the peer for a sign of life, or did not want to.
    HeartbeatAsked {
        id: SessionId,
        asked: bool,
    },
    /// A handler on a logic thread has had the answer.
    HeartbeatAnswered {
        id: SessionId,
    },
    /// A handler on a logic thread wants what is queued to leave now.
    FlushNow {
        id: SessionId,
    },
    /// A logic thread has handled so many bytes of frames.
    Consumed {
        id: SessionId,
        bytes: u32,
    },
    /// A handler on a logic thread wants its session to end.
    EndInLogic {
        id: SessionId,
        reason: CloseReason,
    },
    /// A session has ended on its logic thread, which will not name it again.
    EndedInLogic {
        id: SessionId,
        reason: CloseReason,
        bytes: u32,
    },
    Adopt {
        service: u16,
        socket: UnboundSocket,
        peer: SocketAddr,
    },
    Connect {
        connector: u16,
        address: SocketAddr,
    },
    Sessions {
        only: Option<SessionId>,
        answer: mpsc::Sender<Vec<SessionInfo>>,
    },
    Stats {
        answer: mpsc::Sender<Stats>,
    },
    Limits {
        service: u16,
        limits: Box<Limits>,
    },
    /// Look at the link: somebody wants it to drain.
    Drain,
}

/// Which sessions a broadcast is for.
pub(crate) type Filter = Arc<dyn Fn(&SessionInfo) -> bool + Send + Sync>;

/// A session as it was when its worker was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// The other end's address.
    pub peer: SocketAddr,
    /// The address that it was accepted at, as in [`Handle::local_addrs`]; `None` for one that was
    /// made by a connector.
    pub listener: Option<SocketAddr>,
    /// When it was opened, on the workers' clock.
    pub opened: Time,
    /// How long ago that was.
    pub age: Duration,
    /// Bytes queued for the peer.
    pub queued_bytes: usize,
    /// How long the peer took to answer the last [heartbeat](crate::Handler::on_heartbeat) that was
    /// measured; `None` before that.
    pub round_trip: Option<Duration>,
    /// Whether it is on its way to the end.
    pub closing: bool,
}

impl Handle {
    /// Queues a frame with this body for a session. Frames sent by one thread leave in that order.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the session is over; [`SendError::WouldExceed`] if its worker has
    /// more to do than it may. A frame that reaches a session at its
    /// [`send_queue_bytes_max`](crate::Limits::send_queue_bytes_max) aborts it with
    /// [`CloseReason::SlowConsumer`].
    pub fn send(&self, to: SessionId, body: &[u8]) -> std::result::Result<(), SendError> {
        self.send_packet(to, 0, body)
    }

    /// As [`send`](Self::send), with a packet id for framings that carry one.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_packet(
        &self,
        to: SessionId,
        packet_id: u32,
        body: &[u8],
    ) -> std::result::Result<(), SendError> {
        self.send_as(to, Class::Reliable, packet_id, body).map(drop)
    }

    /// Queues a frame for a session as its class says. [`Sent::Queued`] means that it is on its way to
    /// the session's worker, which drops it if its class says so.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_as(
        &self,
        to: SessionId,
        class: Class,
        packet_id: u32,
        body: &[u8],
    ) -> std::result::Result<Sent, SendError> {
        let worker = self.0.workers.get(usize::from(to.worker())).ok_or(SendError::Closed)?;
        worker.take_room(to, body.len())?;
        let command = |at| Command::Send { to, class, packet_id, bytes: at..at + body.len() };
        worker.post.post_with(body, command).map_err(|error| {
            worker.taken(to, body.len());
            refusal(error)
        })?;
        Ok(Sent::Queued)
    }

    /// Subscribes a session to a topic, as [`Context::subscribe`](crate::Context::subscribe) does: it
    /// gets what this thread publishes and sends from now on, in that order. At
    /// [`topics_max`](crate::Limits::topics_max) nothing happens but a line in the log.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn subscribe(&self, id: SessionId, topic: Topic) -> std::result::Result<(), SendError> {
        // Noted before the worker knows, so that what this thread publishes next is sent there.
        let worker = self.0.workers.get(usize::from(id.worker())).ok_or(SendError::Closed)?;
        worker.topics.add(topic);
        let asked = self.to_session(id, || Command::Subscribe { id, topic });
        if asked.is_err() {
            worker.topics.remove(topic);
        }
        asked
    }

    /// Ends a session's subscription to a topic, if there is one.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn unsubscribe(&self, id: SessionId, topic: Topic) -> std::result::Result<(), SendError> {
        self.to_session(id, || Command::Unsubscribe { id, topic })
    }

    /// Sends a frame to every subscriber of a topic, as
    /// [`Context::publish`](crate::Context::publish) does: once to each worker that has any.
    ///
    /// # Errors
    /// [`SendError::WouldExceed`] if the inbox of a worker is full: its subscribers get nothing.
    /// [`SendError::Closed`] if the server has ended.
    pub fn publish(
        &self,
        topic: Topic,
        class: Class,
        packet_id: u32,
        body: &[u8],
    ) -> std::result::Result<(), SendError> {
        self.publish_but_on(None, topic, class, packet_id, body)
    }

    /// Sends a frame to every open session that `filter` wants, of whichever listener: once to each
    /// worker, where all sessions of one framing share it. On each of them it is what
    /// [`send`](Self::send) would be. Asking all sessions costs more than publishing to a topic that
    /// those in question have subscribed to.
    ///
    /// # Errors
    /// [`SendError::WouldExceed`] if the inbox of a worker is full: its sessions get nothing.
    /// [`SendError::Closed`] if the server has ended.
    pub fn broadcast(
        &self,
        packet_id: u32,
        body: &[u8],
        filter: impl Fn(&SessionInfo) -> bool + Send + Sync + 'static,
    ) -> std::result::Result<(), SendError> {
        let (body, filter): (Arc<[u8]>, Filter) = (body.into(), Arc::new(filter));
        let mut answer = Ok(());
        for worker in &self.0.workers {
            let (body, filter) = (Arc::clone(&body), Arc::clone(&filter));
            let command = Command::Broadcast { packet_id, body, filter };
            // A full inbox costs the sessions of other workers nothing.
            answer = answer.and(worker.post.post(command).map_err(refusal));
        }
        answer
    }

    /// As [`publish`](Self::publish), for subscribers on other workers than `here`.
    pub(crate) fn publish_but_on(
        &self,
        here: Option<usize>,
        topic: Topic,
        class: Class,
        packet_id: u32,
        body: &[u8],
    ) -> std::result::Result<(), SendError> {
        let mut answer = Ok(());
        let mut shared: Option<Arc<[u8]>> = None;
        for (index, worker) in self.0.workers.iter().enumerate() {
            if Some(index) == here || !worker.topics.may_have(topic) {
                continue;
            }
            let body = Arc::clone(shared.get_or_insert_with(|| body.into()));
            let command = Command::Publish { topic, class, packet_id, body };
            answer = answer.and(worker.post.post(command).map_err(refusal));
        }
        answer
    }

    /// Closes a session: what is queued for it is sent first.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn close(&self, id: SessionId) -> std::result::Result<(), SendError> {
        self.to_session(id, || Command::Close { id, reason: CloseReason::Requested })
    }

    pub(crate) fn to_session(
        &self,
        id: SessionId,
        command: impl FnOnce() -> Command,
    ) -> std::result::Result<(), SendError> {
        let worker = self.0.workers.get(usize::from(id.worker())).ok_or(SendError::Closed)?;
        if !worker.is_live(id) {
            return Err(SendError::Closed);
        }
        worker.post.post(command()).map_err(refusal)
    }

    /// Whether the session takes sends.
    #[must_use]
    pub fn is_open(&self, id: SessionId) -> bool {
        self.0.workers.get(usize::from(id.worker())).is_some_and(|worker| worker.is_live(id))
    }

    /// Makes an outgoing session through the connector of this name, on the worker that has the
    /// fewest sessions. [`Handler::on_open`](crate::Handler::on_open) or
    /// [`on_connect_failed`](crate::Handler::on_connect_failed) tells how it went.
    ///
    /// # Errors
    /// There is no such connector; [`SendError::WouldExceed`] if the server has as many sessions as it
    /// may, or its worker more to do; [`SendError::Closed`] if the server has ended.
    pub fn connect(&self, connector: &str, address: SocketAddr) -> Result {
        let index = self.0.connectors.iter().position(|name| name == connector);
        let Some(index) = index else {
            return Err(Error::Settings(format!("there is no connector named `{connector}`")));
        };
        let command = Command::Connect { connector: index as u16, address };
        let worker = self.0.least_busy();
        if !self.0.take_place(worker) {
            return Err(SendError::WouldExceed.into());
        }
        worker.post.post_now(command).map_err(|error| {
            worker.sessions.fetch_sub(1, Ordering::Relaxed);
            refusal(error).into()
        })
    }

    /// Sessions that are open or closing.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.sessions()
    }

    /// The addresses that the server listens on, in the order in which they were given.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.0.local_addrs
    }

    /// The engine of each worker.
    #[must_use]
    pub fn engines(&self) -> &[EngineInfo] {
        &self.0.engines
    }

    /// Every session. Waits for the workers.
    ///
    /// # Errors
    /// [`Error::OnWorker`] on a worker's thread; [`SendError::WouldExceed`] if a worker has more to do
    /// than it may.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let parts = self.ask(&self.0.workers, |answer| Command::Sessions { only: None, answer })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// One session, if it still is. Waits for its worker.
    ///
    /// # Errors
    /// [`Error::OnWorker`] on a worker's thread; [`SendError::WouldExceed`] if a worker has more to do
    /// than it may.
    pub fn session(&self, id: SessionId) -> Result<Option<SessionInfo>> {
        let worker = usize::from(id.worker());
        let workers = self.0.workers.get(worker..=worker).unwrap_or_default();
        let parts = self.ask(workers, |answer| Command::Sessions { only: Some(id), answer })?;
        Ok(parts.into_iter().flatten().next())
    }

    /// What the server has counted. Waits for the workers.
    ///
    /// # Errors
    /// [`Error::OnWorker`] on a worker's thread; [`SendError::WouldExceed`] if a worker has more to do
    /// than it may.
    pub fn stats(&self) -> Result<Stats> {
        let mut total = Stats::default();
        for part in self.ask(&self.0.workers, |answer| Command::Stats { answer })? {
            total.add(&part);
        }
        let (answer, answers) = mpsc::channel();
        for runner in &self.0.runners {
            runner.post.post_reserved(Order::Stats { answer: answer.clone() });
        }
        drop(answer);
        answers.into_iter().for_each(|part| total.add(&part));
        total.slow_calls = self.slow_calls();
        Ok(total)
    }

    /// Replaces the limits of a listener, named by its place in [`local_addrs`](Self::local_addrs).
    /// Sessions that open from now on have the new ones; those that are there keep what they began
    /// with. Returns at once; each worker does it when it comes to it.
    ///
    /// # Errors
    /// There is no such listener, or the limits [cannot work](Limits::validate): nothing changes then.
    /// [`SendError::WouldExceed`] if a worker has more to do than it may: workers that were asked
    /// before it have the new limits, so that one calls again. [`SendError::Closed`] if the server
    /// has ended.
    pub fn set_limits(&self, listener: usize, limits: &Limits) -> Result {
        if listener >= self.0.local_addrs.len() {
            return Err(Error::Settings(format!("there is no listener {listener}")));
        }
        limits.validate()?;
        let service = listener as u16;
        for worker in &self.0.workers {
            let command = Command::Limits { service, limits: Box::new(limits.clone()) };
            worker.post.post(command).map_err(refusal)?;
        }
        Ok(())
    }

    /// Asks workers and waits for their answers; a worker that has ended gives none.
    ///
    /// # Errors
    /// On a worker's thread; or a worker's inbox is full, and its part of the answer would be missing.
    fn ask<T>(
        &self,
        workers: &[WorkerLink],
        command: impl Fn(mpsc::Sender<T>) -> Command,
    ) -> Result<Vec<T>> {
        if ON_THREAD.get() == ThreadKind::Worker {
            return Err(Error::OnWorker);
        }
        let (answer, answers) = mpsc::channel();
        for worker in workers {
            match worker.post.post_now(command(answer.clone())) {
                Err(PostError::Full(_)) => return Err(SendError::WouldExceed.into()),
                // A worker that is gone drops the command, and with it the answer's sender.
                Ok(()) | Err(PostError::Closed(_)) => {}
            }
        }
        drop(answer);
        Ok(answers.into_iter().collect())
    }

    /// Ends the server: no new sessions, the present ones are closed with [`CloseReason::Drain`]
    /// after what is queued for them has been sent, and aborted at the deadline. Returns at once;
    /// [`join`](Self::join) waits. Calling it again can only bring the deadline nearer.
    pub fn drain(&self, deadline: Duration) {
        for worker in &self.0.workers {
            worker.post.ask_to_drain(deadline);
        }
    }

    /// Waits until the server has ended, after [`drain`](Self::drain) for example.
    ///
    /// # Errors
    /// [`Error::OnWorker`] on a worker's thread, and in offloaded work.
    pub fn join(&self) -> Result<Report> {
        if ON_THREAD.get() != ThreadKind::Other {
            return Err(Error::OnWorker);
        }
        Ok(self.join_workers())
    }

    /// Waits until this server's workers have ended; not for one of them.
    pub(crate) fn join_workers(&self) -> Report {
        let mut ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *ended {
            Ended::Joined(report) => **report,
            Ended::Running(threads) => {
                let mut report = join_all(std::mem::take(threads));
                report.leftover.offloads = self.0.pool.outstanding();
                report.stats.slow_calls = self.slow_calls();
                *ended = Ended::Joined(Box::new(report));
                report
            }
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({} workers, {} sessions)", self.0.workers.len(), self.count())
    }
}

/// Waits for worker threads and adds up their reports.
pub(crate) fn join_all(threads: Vec<JoinHandle<Report>>) -> Report {
    let mut report = Report::default();
    for thread in threads {
        // A worker that panics aborts the process before this.
        let part = thread.join().expect("a worker does not panic");
        report.stats.add(&part.stats);
        report.leftover.add(&part.leftover);
    }
    report
}

impl Links {
    /// A worker has ended. With the last one, blocking work has nobody left to be done for.
    pub(crate) fn worker_ended(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.runners.iter().for_each(|runner| runner.post.post_reserved(Order::Stop));
            self.pool.close();
        }
        self.watched_ended();
    }

    /// A thread with handlers has ended. With the last one, nobody is left to be watched.
    pub(crate) fn watched_ended(&self) {
        if self.watched.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.watchdog.iter().for_each(Waker::wake);
        }
    }

    /// A thread that is joined with the workers.
    pub(crate) fn add_thread(&self, thread: JoinHandle<Report>) {
        if let Ended::Running(threads) =
            &mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
        {
            threads.push(thread);
        }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.workers.iter().map(|worker| worker.sessions.load(Ordering::SeqCst)).sum()
    }

    /// Counts one more session on this worker; false if the server may have no more.
    ///
    /// Counted first and added up afterwards: of two that take the last place at one time, on two
    /// workers, at least one sees the other (hence `SeqCst`). Both may; then it stays free.
    pub(crate) fn take_place(&self, worker: &WorkerLink) -> bool {
        worker.sessions.fetch_add(1, Ordering::SeqCst);
        let there_is = self.sessions() <= self.max_sessions;
        if !there_is {
            worker.sessions.fetch_sub(1, Ordering::Relaxed);
        }
        there_is
    }

    /// The worker with the fewest sessions.
    pub(crate) fn least_busy(&self) -> &WorkerLink {
        let busy = |worker: &&WorkerLink| worker.sessions.load(Ordering::Relaxed);
        self.workers.iter().min_by_key(busy).expect("a server has a worker")
    }
}

/// What the poster is told of an order that an inbox does not take.
pub(crate) fn refusal<T>(error: PostError<T>) -> SendError {
    match error {
        PostError::Full(_) => SendError::WouldExceed,
        PostError::Closed(_) => SendError::Closed,
    }
}

thread_local! {
    static ON_THREAD: Cell<ThreadKind> = const { Cell::new(ThreadKind::Other) };
}

/// What a thread may wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// Anything.
    Other,
    /// Runs blocking work: may wait for workers, but not for the server's end, which waits for it.
    Pool,
    /// Turns workers: may wait for none of them.
    Worker,
}

impl ThreadKind {
    /// Says what the calling thread is.
    pub(crate) fn enter(self) {
        ON_THREAD.set(self);
    }
}
