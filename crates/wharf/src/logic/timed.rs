//! Jobs that wait for their time: once after a delay, or again and again. They belong to no session,
//! and lie on the timer wheel of the thread that owns their key.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use wharf_port::Time;

use super::{
    guard,
    jobs::{Job, Jobs, Posted, Work},
};
use crate::{
    error::SendError,
    handle::Handle,
    handler::Context,
    session::{Shared, TimerKey},
    timer::TimerId,
};

/// A job that waits for its time. Dropping this changes nothing; [`cancel`](Self::cancel) takes the
/// job back.
#[derive(Clone)]
pub struct Timer {
    handle: Handle,
    key: u64,
    number: u64,
    over: Arc<AtomicBool>,
}

impl Timer {
    /// The job does not run any more. Called by a job of the same key this holds from now on; called
    /// by anybody else, a run that has begun already goes on to its end. Does nothing if there is
    /// nothing to take back.
    pub fn cancel(&self) {
        if !self.over.swap(true, Ordering::AcqRel) {
            let cancel = Work::Cancel(self.number);
            self.handle.0.post_job_reserved(Posted { key: self.key, work: cancel });
        }
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timer({} of key {})", self.number, self.key)
    }
}

impl Handle {
    /// Runs `job` once on the thread that owns `key`, as [`post`](Self::post) does, when `delay` has
    /// passed since that thread has taken it up: never before, and about 10 ms late at most
    /// ([`timer_tick`](crate::Builder::timer_tick)) where the thread keeps up. What still waits when
    /// that thread ends is dropped; in a drain a worker ends with its last session.
    ///
    /// # Errors
    /// As for [`post`](Self::post); and [`SendError::WouldExceed`] if 65,536 jobs of the server wait
    /// for their time.
    pub fn post_after(
        &self,
        delay: Duration,
        key: u64,
        job: impl FnOnce(&mut Job<'_>) + Send + 'static,
    ) -> Result<Timer, SendError> {
        let mut job = Some(job);
        let run = move |cx: &mut Job<'_>| job.take().into_iter().for_each(|job| job(cx));
        self.post_timed(key, delay, None, Box::new(run))
    }

    /// Runs `job` every `period` on the thread that owns `key`, for the first time when one period has
    /// passed: the tick of a game, for example. Runs do not drift: each is due a whole number of
    /// periods after the start, and at most about 10 ms late as with
    /// [`post_after`](Self::post_after). What a thread could not keep up with is not made up for: of
    /// several that have become due meanwhile, one runs. So a period below a tick of the timers means
    /// every tick.
    ///
    /// It goes on until [`Timer::cancel`] or [`Job::stop`], until a run panics, or until that thread
    /// ends: in a drain a worker ends with its last session.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wharf::{Context, Frame, Handler, Job, Topic};
    ///
    /// const ARENA: u64 = 1;
    /// const MOVES: Topic = Topic(1);
    ///
    /// /// Belongs to the arena's key: no lock.
    /// #[derive(Default)]
    /// struct Arena {
    ///     players: usize,
    ///     tick: u32,
    /// }
    ///
    /// fn tick(job: &mut Job<'_>) {
    ///     let (arena, handle) = job.split::<Arena>();
    ///     arena.tick += 1;
    ///     let told = handle.publish(MOVES, wharf::Class::Latest(0), 1, &arena.tick.to_be_bytes());
    ///     if arena.players == 0 || told.is_err() {
    ///         job.stop();
    ///         job.clear();
    ///     }
    /// }
    ///
    /// struct Players;
    /// impl Handler for Players {
    ///     type Session = ();
    ///     fn on_open(&mut self, cx: &mut Context<'_, ()>) -> wharf::Result {
    ///         cx.subscribe(MOVES)?;
    ///         cx.post(ARENA, |job| {
    ///             job.state::<Arena>().players += 1;
    ///             if job.state::<Arena>().players == 1 {
    ///                 // 20 times per second, for as long as anybody is there.
    ///                 let _ = job.post_every(Duration::from_millis(50), ARENA, tick);
    ///             }
    ///         })?;
    ///         Ok(())
    ///     }
    /// #   fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> wharf::Result { Ok(()) }
    /// }
    /// ```
    ///
    /// # Errors
    /// As for [`post_after`](Self::post_after).
    pub fn post_every(
        &self,
        period: Duration,
        key: u64,
        job: impl FnMut(&mut Job<'_>) + Send + 'static,
    ) -> Result<Timer, SendError> {
        self.post_timed(key, period, Some(period), Box::new(job))
    }

    fn post_timed(
        &self,
        key: u64,
        delay: Duration,
        period: Option<Duration>,
        run: TimedFn,
    ) -> Result<Timer, SendError> {
        let ticket = Ticket::take(&self.0.timed)?;
        let (number, over) = (ticket.number, Arc::clone(&ticket.over));
        let timed = Box::new(Timed { delay, period, run, ticket });
        self.0.post_job(Posted { key, work: Work::Later(timed) })?;
        Ok(Timer { handle: self.clone(), key, number, over })
    }
}

impl Job<'_> {
    /// As [`Handle::post_after`].
    ///
    /// # Errors
    /// As for [`Handle::post_after`].
    pub fn post_after(
        &self,
        delay: Duration,
        key: u64,
        job: impl FnOnce(&mut Job<'_>) + Send + 'static,
    ) -> Result<Timer, SendError> {
        self.handle().post_after(delay, key, job)
    }

    /// As [`Handle::post_every`].
    ///
    /// # Errors
    /// As for [`Handle::post_after`].
    pub fn post_every(
        &self,
        period: Duration,
        key: u64,
        job: impl FnMut(&mut Job<'_>) + Send + 'static,
    ) -> Result<Timer, SendError> {
        self.handle().post_every(period, key, job)
    }
}

impl<S> Context<'_, S> {
    /// As [`Handle::post_after`].
    ///
    /// # Errors
    /// As for [`Handle::post_after`].
    pub fn post_after(
        &self,
        delay: Duration,
        key: u64,
        job: impl FnOnce(&mut Job<'_>) + Send + 'static,
    ) -> Result<Timer, SendError> {
        self.handle().post_after(delay, key, job)
    }

    /// As [`Handle::post_every`].
    ///
    /// # Errors
    /// As for [`Handle::post_after`].
    pub fn post_every(
        &self,
        period: Duration,
        key: u64,
        job: impl FnMut(&mut Job<'_>) + Send + 'static,
    ) -> Result<Timer, SendError> {
        self.handle().post_every(period, key, job)
    }
}

pub(super) type TimedFn = Box<dyn FnMut(&mut Job<'_>) + Send>;

/// A job and its times, on the way to the thread that owns its key.
pub(super) struct Timed {
    delay: Duration,
    /// After which it comes again.
    period: Option<Duration>,
    run: TimedFn,
    ticket: Ticket,
}

/// The jobs of a server that wait for their time.
#[derive(Default)]
pub(crate) struct TimedJobs {
    waiting: AtomicUsize,
    numbers: AtomicU64,
}

/// A place among [`TimedJobs`], until the job is over.
struct Ticket {
    number: u64,
    /// It does not run any more; whoever sets this first sees to that.
    over: Arc<AtomicBool>,
    jobs: Arc<TimedJobs>,
}

impl Ticket {
    fn take(jobs: &Arc<TimedJobs>) -> Result<Self, SendError> {
        let fits = |count: usize| (count < TIMED_JOBS_MAX).then_some(count + 1);
        let taken = jobs.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.map_err(|_| SendError::WouldExceed)?;
        let number = jobs.numbers.fetch_add(1, Ordering::Relaxed);
        Ok(Self { number, over: Arc::default(), jobs: Arc::clone(jobs) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.jobs.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What waits on one thread, by number.
#[derive(Default)]
pub(super) struct Waiting(BTreeMap<u64, Entry>);

struct Entry {
    key: u64,
    due: Time,
    timer: TimerId,
    timed: Box<Timed>,
}

impl Timed {
    fn is_over(&self) -> bool {
        self.ticket.over.load(Ordering::Acquire)
    }

    /// What it holds is the user's, and may panic.
    fn drop_guarded(self: Box<Self>) {
        guard(|| drop(self));
    }

    /// When it comes again that was due then: the first whole number of periods after that which has
    /// not passed.
    fn next(&self, due: Time, now: Time) -> Option<Time> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let period = nanos(self.period?).max(1);
        let passed = nanos(now.since(due)) / period;
        Some(due + Duration::from_nanos(passed.saturating_add(1).saturating_mul(period)))
    }
}

impl Jobs {
    /// Takes up a job that is to wait.
    pub(super) fn wait(&mut self, key: u64, timed: Box<Timed>, shared: &mut Shared) {
        // Not from the start of the turn, which may be long ago.
        let due = shared.stopwatch.read() + timed.delay;
        self.wait_until(due, key, timed, shared);
    }

    fn wait_until(&mut self, due: Time, key: u64, timed: Box<Timed>, shared: &mut Shared) {
        if timed.is_over() {
            return timed.drop_guarded();
        }
        let number = timed.ticket.number;
        let timer = shared.timers.insert(due.as_nanos(), TimerKey::Job(number));
        self.waiting.0.insert(number, Entry { key, due, timer, timed });
    }

    pub(super) fn cancel(&mut self, number: u64, shared: &mut Shared) {
        if let Some(entry) = self.waiting.0.remove(&number) {
            shared.timers.cancel(entry.timer);
            entry.timed.drop_guarded();
        }
    }

    /// The time of a job has come.
    pub(crate) fn due(&mut self, number: u64, shared: &mut Shared) {
        let Some(entry) = self.waiting.0.remove(&number) else { return };
        let Entry { key, due, mut timed, .. } = entry;
        let goes_on = !timed.is_over() && self.run_one(key, shared, &mut *timed.run);
        match timed.next(due, shared.now).filter(|_| goes_on) {
            Some(again) => self.wait_until(again, key, timed, shared),
            None => timed.drop_guarded(),
        }
    }

    /// Drops what still waits.
    pub(crate) fn end_waiting(&mut self, shared: &mut Shared) {
        for entry in std::mem::take(&mut self.waiting.0).into_values() {
            shared.timers.cancel(entry.timer);
            entry.timed.drop_guarded();
        }
    }
}

/// Jobs of a server that may wait for their time: what a thread's inbox holds. One that is to end
/// something after a minute can be posted a thousand times per second.
pub(crate) const TIMED_JOBS_MAX: usize = 64 * 1024;

#[cfg(all(test, any(unix, windows)))]
mod tests {
    use std::sync::Mutex;

    use wharf_port::sim::{Faults, SimNet};

    use super::*;
    use crate::{Context, Frame, Handler, Server, framing::Lines};

    struct Nobody;

    impl Handler for Nobody {
        type Session = ();

        fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> crate::Result {
            unreachable!("nobody connects")
        }
    }

    /// A turn may be long. The delay of a job that is taken up late in it counts from there, not from
    /// the start of the turn, or it would come too early.
    #[test]
    fn a_delay_counts_from_when_the_job_is_taken_up() {
        let (long, delay) = (Duration::from_secs(1), Duration::from_millis(100));
        let net = SimNet::new(1, Faults::none());
        let builder = Server::builder().workers(1).listen("10.0.0.1:1", Lines, || Nobody);
        let (mut workers, _, handle) = builder.assemble(&net, 1).unwrap();
        let worker = &mut workers[0];
        let (time, start, ran) = (net.clone(), net.now(), Arc::new(Mutex::new(None)));
        let seen = Arc::clone(&ran);
        handle.post(1, move |_| time.advance_to(start + long)).unwrap();
        handle.post_after(delay, 1, move |job| *seen.lock().unwrap() = Some(job.now())).unwrap();
        for _ in 0..100 {
            let now = worker.poll().unwrap();
            worker.turn(now);
            if ran.lock().unwrap().is_some() {
                break;
            }
            net.advance_to(worker.next_timer().unwrap_or(now).max(net.now()));
        }
        let at = ran.lock().unwrap().expect("it comes").since(start);
        let tick = Duration::from_nanos(crate::timer::TICK_NS);
        assert!(long + delay <= at && at <= long + delay + tick, "{at:?}");
        handle.drain(Duration::ZERO);
        for _ in 0..10 {
            net.step();
            let now = worker.poll().unwrap();
            worker.turn(now);
        }
        assert!(worker.is_finished() && worker.report().leftover.is_nothing());
    }
}
