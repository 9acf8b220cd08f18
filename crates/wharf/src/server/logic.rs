//! The threads beside the workers: logic threads, and those that run offloaded work.

use std::{
    rc::Rc,
    sync::{Arc, mpsc},
    time::Duration,
};

use wharf_port::{Inbox, Parker, Time, inbox};

use super::{Builder, COMMANDS_WAITING_MAX, ServiceSource, spawn};
use crate::{
    error::{Error, Result},
    handle::{Handle, ThreadKind},
    logic::{Job, Order, Runner, RunnerLink, TIMED_JOBS_MAX, Way},
    metrics::Report,
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
            let link = RunnerLink { post: Way::new(post, index) };
            (Self { parker, inbox, sources, timer_tick_ns }, link)
        };
        (0..threads).map(plan).unzip()
    }

    pub(super) fn make_runner(self, handle: Handle, now: Time) -> (Runner, Parker) {
        let service = |source: &ServiceSource| ((source.make)(()), Rc::new(source.limits.clone()));
        let services = self.sources.iter().map(service).collect();
        (Runner::new(handle, self.inbox, services, self.timer_tick_ns, now), self.parker)
    }

    /// The life of a logic thread.
    fn run(self, handle: Handle, made: &mpsc::Sender<()>) -> Report {
        ThreadKind::Worker.enter();
        let (mut runner, parker) = self.make_runner(handle, Parker::now());
        let _ = made.send(());
        while !runner.is_finished() {
            let timeout = runner.next_timer().map(|at| at.since(Parker::now()));
            runner.turn(parker.wait(timeout));
        }
        runner.report()
    }
}

/// Starts the logic threads, and those that run offloaded work; they end with the last worker. Returns
/// when all handlers are made.
pub(super) fn spawn_all(
    handle: &Handle,
    plans: Vec<LogicPlan>,
    offload_threads: usize,
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
    drop(made);
    handle.0.runners.iter().for_each(|_| _ = all_made.recv());
    Ok(())
}

/// Repeated jobs that a server can start with: as many more may be posted later.
const REPEATED_MAX: usize = TIMED_JOBS_MAX / 2;
const _: () = assert!(REPEATED_MAX < COMMANDS_WAITING_MAX, "they find room in an inbox");
