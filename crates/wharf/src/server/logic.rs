//! The threads beside the workers: logic threads, and those that run offloaded work.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use wharf_port::{Inbox, Parker, inbox};

use super::{Builder, COMMANDS_WAITING_MAX, ServiceSource, spawn};
use crate::{
    error::{Error, Result},
    handle::{Handle, ThreadKind},
    handler_times::Clock,
    logic::{Job, Order, Runner, RunnerLink, TIMED_JOBS_MAX, Way},
    metrics::Report,
    watch::Watchdog,
};

/// Where handlers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dispatch {
    /// On the worker that has the connection: nothing is copied, nobody is woken. A handler must not
    /// take long.
    #[default]
    Inline,
    /// On so many threads beside the workers (1 to 256): each session on one of them for life. A
    /// frame is copied once and another thread is woken, at most once per turn; a handler that takes
    /// its time holds up the sessions of its thread, and no connection of another.
    Threads(usize),
}

impl Dispatch {
    /// How many logic threads there are.
    pub(super) fn threads(self) -> usize {
        match self {
            Dispatch::Inline => 0,
            Dispatch::Threads(threads) => threads,
        }
    }
}

impl Builder {
    /// How long a call of a handler, or a job, may take (100 ms, at least 4 ms; `None`: any time). One that
    /// takes longer is logged with its thread, packet id and session, again whenever it has taken twice
    /// as long, and counted in [`Stats::slow_calls`](crate::Stats::slow_calls). It is found while it runs,
    /// so that one that never returns is named, too: a thread looks four times within that time, and
    /// finds for certain what takes a quarter more.
    pub fn slow_handler(mut self, limit: Option<Duration>) -> Self {
        if limit.is_some_and(|limit| limit < SLOW_HANDLER_MIN) {
            let what = format!("slow_handler must be {SLOW_HANDLER_MIN:?} or more: {limit:?}");
            self.failure.get_or_insert(Error::Settings(what));
        }
        self.slow_handler = limit;
        self
    }

    /// Runs `job` every `period` on the thread that owns `key`, from the start of the server to its end:
    /// [`Handle::post_every`].
    pub fn every(
        mut self,
        period: Duration,
        key: u64,
        job: impl FnMut(&mut Job<'_>) + Send + 'static,
    ) -> Self {
        if self.repeated.len() == REPEATED_MAX {
            let what = format!("a server can start with {REPEATED_MAX} repeated jobs");
            self.failure.get_or_insert(Error::Settings(what));
        }
        self.repeated.push(Box::new(move |handle| handle.post_every(period, key, job)));
        self
    }
}

/// All that a logic thread needs to make its handlers.
pub(super) struct LogicPlan {
    parker: Parker,
    inbox: Inbox<Order>,
    sources: Vec<ServiceSource>,
    index: usize,
    timer_tick_ns: u64,
}

impl LogicPlan {
    /// A plan for each thread, and the ways to them.
    pub(super) fn all(
        threads: usize,
        sources: &[ServiceSource],
        tick: Duration,
    ) -> (Vec<Self>, Vec<RunnerLink>) {
        let plan = |index| {
            let parker = Parker::new();
            let (post, inbox) = inbox(parker.waker(), COMMANDS_WAITING_MAX);
            let (sources, timer_tick_ns) = (sources.to_vec(), tick.as_nanos() as u64);
            let link = RunnerLink { post: Way::new(post, index), watch: Arc::default() };
            (Self { parker, inbox, sources, index, timer_tick_ns }, link)
        };
        (0..threads).map(plan).unzip()
    }

    pub(super) fn make_runner(self, handle: Handle, clock: Clock) -> (Runner, Parker) {
        let services = self.sources.iter().map(|source| (source.make)(())).collect();
        let watch = Arc::clone(&handle.0.runners[self.index].watch);
        let (tick, now) = (self.timer_tick_ns, clock());
        (Runner::new(handle, self.inbox, services, tick, now, (watch, clock)), self.parker)
    }

    /// The life of a logic thread.
    fn run(self, handle: Handle, made: &mpsc::Sender<()>) -> Report {
        ThreadKind::Worker.enter();
        let links = Arc::clone(&handle.0);
        let (mut runner, parker) = self.make_runner(handle, Box::new(Parker::now));
        let _ = made.send(());
        while !runner.is_finished() {
            let timeout = runner.next_timer().map(|at| at.since(Parker::now()));
            runner.turn(parker.wait(timeout));
        }
        let report = runner.report();
        links.watched_ended();
        report
    }
}

/// Starts the logic threads, and those that run offloaded work; they end with the last worker. Returns
/// when all handlers are made.
pub(super) fn spawn_all(
    handle: &Handle,
    plans: Vec<LogicPlan>,
    offload_threads: usize,
    watchdog: Option<(Duration, Parker)>,
) -> Result<()> {
    let (made, all_made) = mpsc::channel();
    for (index, plan) in plans.into_iter().enumerate() {
        let (theirs, made) = (handle.clone(), made.clone());
        let thread = spawn(format!("wharf-logic-{index}"), move || plan.run(theirs, &made));
        handle.0.add_thread(thread.map_err(Error::io("cannot start a thread"))?);
    }
    for index in 0..offload_threads {
        let pool = Arc::clone(&handle.0.pool);
        let run = move || {
            ThreadKind::Pool.enter();
            while pool.wait() {
                pool.turn();
            }
            Report::default()
        };
        let thread = spawn(format!("wharf-pool-{index}"), run);
        handle.0.add_thread(thread.map_err(Error::io("cannot start a thread"))?);
    }
    if let Some((limit, parker)) = watchdog {
        let theirs = handle.clone();
        let thread = spawn("wharf-watchdog".to_owned(), move || watch(&theirs, limit, &parker));
        handle.0.add_thread(thread.map_err(Error::io("cannot start a thread"))?);
    }
    drop(made);
    handle.0.runners.iter().for_each(|_| _ = all_made.recv());
    Ok(())
}

/// The life of the thread that looks for calls of handlers that take too long: until the last thread that
/// has any has ended.
fn watch(handle: &Handle, limit: Duration, parker: &Parker) -> Report {
    ThreadKind::Pool.enter();
    let workers = handle.0.workers.iter().map(|worker| &worker.watch).enumerate();
    let workers = workers.map(|(index, watch)| (format!("wharf-{index}"), Arc::clone(watch)));
    let runners = handle.0.runners.iter().map(|runner| &runner.watch).enumerate();
    let runners = runners.map(|(index, watch)| (format!("wharf-logic-{index}"), Arc::clone(watch)));
    let mut watchdog = Watchdog::new(limit, workers.chain(runners));
    while handle.0.watched.load(Ordering::Acquire) > 0 {
        let slow = watchdog.look(parker.wait(Some(watchdog.period())));
        handle.0.slow_calls.fetch_add(slow, Ordering::Relaxed);
    }
    Report::default()
}

/// How long a call of a handler may take unless told otherwise: what people begin to notice, and they
/// are those of all sessions of that thread.
pub(super) const SLOW_HANDLER: Duration = Duration::from_millis(100);

/// Looking for shorter ones would cost more than it tells.
const SLOW_HANDLER_MIN: Duration = Duration::from_millis(4);

/// Repeated jobs that a server can start with: as many more may be posted later.
const REPEATED_MAX: usize = TIMED_JOBS_MAX / 2;
const _: () = assert!(REPEATED_MAX < COMMANDS_WAITING_MAX, "they find room in an inbox");
