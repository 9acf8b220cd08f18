//! Runs a load once: opens connections, lets them warm up, measures, stops, and waits for what is
//! under way.
//!
//! One thread does that (this file; `opening` opens the connections); the workers send and check, each
//! for itself.

mod opening;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wharf::{ConnectorOptions, Handle, Server, port};

use super::control::{Control, Event};
use super::echo;
use super::process::{Process, Usage};
use super::progress::Progress;
use super::scenario::{Group, Kind, Scenario};
use super::schedule::Schedule;
use super::series::{Interval, Point, Sample, Series};
use super::tally::{ErrorKind, Tally};
use super::{arena, chat};
use crate::settings::Framing;
use crate::{descriptors, network};
use opening::{CONNECT_FAILURES_MAX, Counts, Failure};

/// All that one run has found out.
pub(crate) struct Outcome {
    /// The engine of the load itself, as programs and as people are told it.
    pub(crate) engine: String,
    pub(crate) engine_detail: String,
    pub(crate) workers: usize,
    /// Connections that were made.
    pub(crate) opened: u64,
    /// How long answers were counted.
    pub(crate) measured: Duration,
    /// Processor time of this process meanwhile, where the system tells.
    pub(crate) processor_time: Option<Duration>,
    /// The server's process, and what it had used: before the load, when measuring began and ended.
    pub(crate) server: Option<(Process, [Usage; 3])>,
    pub(crate) was_interrupted: bool,
    /// No connection was left before the time was over.
    pub(crate) ended_early: bool,
    /// Why connections could not be made or were turned away, if some were: the first reason.
    pub(crate) connect_error: Option<String>,
    /// By group.
    pub(crate) tallies: Vec<Tally>,
    pub(crate) points: Vec<Point>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) log: Vec<Interval>,
}

/// What a run needs beside its scenario.
pub(crate) struct Setting<'a> {
    /// Which repeat, for the one who watches.
    pub(crate) title: String,
    pub(crate) keeps_log: bool,
    /// Where Ctrl+C is told; lives as long as the program.
    pub(crate) interrupts: &'a Interrupts,
}

/// A load was ended before it had a connection.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("interrupted before a connection was made")
    }
}

impl std::error::Error for Interrupted {}

/// Ends a load early on the first Ctrl+C or SIGTERM, with the result so far, and the process on the
/// second.
#[derive(Default)]
pub(crate) struct Interrupts(Arc<std::sync::Mutex<Option<Sender<Event>>>>);

impl Interrupts {
    /// Handles the signals from now on.
    ///
    /// # Errors
    /// Something else handles them already.
    pub(crate) fn handle() -> Result<Self> {
        let interrupts = Self::default();
        let target = Arc::clone(&interrupts.0);
        let mut is_second = false;
        ctrlc::set_handler(move || {
            let target = target.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let told =
                target.as_ref().is_some_and(|events| events.send(Event::Interrupted).is_ok());
            if std::mem::replace(&mut is_second, true) || !told {
                std::process::exit(1);
            }
        })
        .context("signals cannot be handled")?;
        Ok(interrupts)
    }

    fn go_to(&self, events: Option<Sender<Event>>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = events;
    }
}

/// Runs a scenario once.
///
/// # Errors
/// If the load cannot start, or not one connection can be made.
pub(crate) fn run(scenario: &Scenario, setting: &Setting<'_>) -> Result<Outcome> {
    check_descriptors(scenario.connections())?;
    let (events_in, events) = mpsc::channel();
    setting.interrupts.go_to(Some(events_in.clone()));
    let expected = scenario.warmup + scenario.duration;
    let interval = (expected / POINTS).clamp(INTERVAL_MIN, INTERVAL_MAX);
    let control = Arc::new(Control::new(scenario.groups.len(), interval, events_in));
    let server = match scenario.pid {
        Some(pid) => Some(Process { pid }),
        None => Process::listening_on(scenario.groups[0].addr),
    };
    let before = server.and_then(Process::usage);
    let handle = start(scenario, &control)?;
    let mut run = Run {
        scenario,
        setting,
        progress: Progress::start(expected),
        handle,
        control,
        events,
        counts: vec![Counts::default(); scenario.groups.len()],
        first_failure: None,
        was_interrupted: false,
        ended_early: false,
        server,
        series: Series::new(interval, setting.keeps_log),
        sampled: Instant::now(),
        interval,
        began: Instant::now(),
    };
    run.open()?;
    let measured = run.load();
    run.finish()?;
    setting.interrupts.go_to(None);
    Ok(run.outcome(before, measured))
}

/// Starts the workers, still without a connection.
fn start(scenario: &Scenario, control: &Arc<Control>) -> Result<Handle> {
    be_woken_exactly();
    let is_open = scenario.groups.iter().any(|group| group.rate().is_some());
    let tick = if is_open { OPEN_LOOP_TICK } else { CLOSED_LOOP_TICK };
    let mut builder = Server::builder()
        .workers(scenario.workers())
        .port(port::Config {
            engine: network::engine_choice(scenario.engine),
            ..port::Config::default()
        })
        .timer_tick(tick)
        // A connection that is over takes up its place for a moment.
        .max_sessions(2 * scenario.connections() as usize + SESSIONS_SPARE);
    for (index, group) in scenario.groups.iter().enumerate() {
        let options = ConnectorOptions {
            sources: scenario.sources(group.addr).map_err(anyhow::Error::msg)?,
            ..ConnectorOptions::default()
        };
        let framing = network::any_framing(group.framing);
        let name = index.to_string();
        let schedule = group.rate().map(|rate| {
            Arc::new(Schedule::new(rate, arrival(group), scenario.duration, group.talkers()))
        });
        builder = builder.limits(group.limits().map_err(anyhow::Error::msg)?);
        builder = match &group.kind {
            Kind::Chat(talk) => {
                let plan =
                    chat::Plan::new(talk, group.connections, Arc::clone(control), index, schedule);
                builder.connector(&name, options, framing, move || chat::Client::new(plan.clone()))
            }
            Kind::Arena(_) => {
                let plan = arena::Plan {
                    control: Arc::clone(control),
                    group: index,
                    schedule: schedule.expect("walkers turn at a rate"),
                    next: Arc::default(),
                };
                builder.connector(&name, options, framing, move || arena::Client::new(plan.clone()))
            }
            Kind::Echo(_) | Kind::Connect { .. } | Kind::Idle { .. } => {
                let plan = echo_plan(group, control, index, schedule);
                builder.connector(&name, options, framing, move || echo::Client::new(plan.clone()))
            }
        };
    }
    Ok(builder.start()?)
}

fn arrival(group: &Group) -> super::schedule::Arrival {
    match &group.kind {
        Kind::Echo(traffic) => traffic.arrival,
        Kind::Chat(talk) => talk.arrival,
        Kind::Arena(walking) => walking.arrival,
        Kind::Connect { .. } | Kind::Idle { .. } => super::schedule::Arrival::default(),
    }
}

fn echo_plan(
    group: &Group,
    control: &Arc<Control>,
    index: usize,
    schedule: Option<Arc<Schedule>>,
) -> echo::Plan {
    let ends = match &group.kind {
        Kind::Idle { messages, .. } => echo::Ends::IdleAfter((*messages).into()),
        Kind::Connect { messages, .. } => echo::Ends::ResetAfter((*messages).into()),
        Kind::Echo(_) | Kind::Chat(_) | Kind::Arena(_) => echo::Ends::WithTheLoad,
    };
    echo::Plan {
        control: Arc::clone(control),
        group: index,
        sizes: group.sizes().expect("all but chat and arena are echoes"),
        depth: group.depth() as usize,
        schedule,
        ends,
        packet_id: group.packet_id(),
        is_stream: group.framing == Framing::Raw,
        is_text: group.is_text(),
    }
}

/// A load that is going on, as the thread that runs it sees it.
struct Run<'a> {
    scenario: &'a Scenario,
    setting: &'a Setting<'a>,
    progress: Progress,
    handle: Handle,
    control: Arc<Control>,
    events: Receiver<Event>,
    /// By group.
    counts: Vec<Counts>,
    first_failure: Option<Failure>,
    was_interrupted: bool,
    ended_early: bool,
    server: Option<Process>,
    series: Series,
    sampled: Instant,
    interval: Duration,
    began: Instant,
}

/// What the measured time took.
struct Measured {
    time: Duration,
    processor_time: Option<Duration>,
    server: Option<[Usage; 2]>,
}

impl Run<'_> {
    /// Warms up, measures, and waits for what is under way then.
    fn load(&mut self) -> Measured {
        self.wait("warming up", Instant::now() + self.scenario.warmup);
        self.control.measure(self.scenario.duration);
        let started = Instant::now();
        let before = (processor_time(), self.server.and_then(Process::usage));
        self.wait("measuring", started + self.scenario.duration);
        self.ended_early = self.open_connections() == 0;
        self.control.stop();
        let time = started.elapsed();
        let after = (processor_time(), self.server.and_then(Process::usage));
        let grace_ends = Instant::now() + self.scenario.grace;
        while self.is_waiting() && Instant::now() < grace_ends {
            let soon = Instant::now() + LOOK_AGAIN;
            self.next_event("waiting for the last answers", Some(soon.min(grace_ends)));
        }
        self.progress.end();
        // An answer too many is noticed only if somebody still listens.
        thread::sleep(SETTLE);
        Measured {
            time,
            processor_time: before
                .0
                .zip(after.0)
                .map(|(before, after)| after.saturating_sub(before)),
            server: before.1.zip(after.1).map(|(before, after)| [before, after]),
        }
    }

    /// Whether answers are still to come.
    fn is_waiting(&self) -> bool {
        self.open_connections() > 0 && self.control.under_way() > 0
    }

    /// Lets the load go on until then, or until it is interrupted or has no connection left.
    fn wait(&mut self, doing: &str, until: Instant) {
        while Instant::now() < until && !self.was_interrupted {
            if let Err(error) = self.ask_for_connections() {
                self.failed(0, error.to_string(), false);
                return;
            }
            if self.open_connections() == 0
                && self.counts.iter().all(|counts| counts.connecting() == 0)
                && !self.visits_go_on()
            {
                return;
            }
            self.next_event(doing, Some(until));
        }
    }

    /// Whether a group makes new connections all the time.
    fn visits_go_on(&self) -> bool {
        let groups = self.scenario.groups.iter().zip(&self.counts);
        groups.into_iter().any(|(group, counts)| {
            matches!(group.kind, Kind::Connect { .. }) && counts.failed < CONNECT_FAILURES_MAX
        })
    }

    /// Takes in what has happened, or shows that it goes on if that is due.
    fn next_event(&mut self, doing: &str, until: Option<Instant>) {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let look = self.interval.saturating_sub(self.sampled.elapsed());
        let mut due = self.progress.due_in().min(look);
        if self.scenario.groups.iter().any(|group| matches!(group.kind, Kind::Connect { .. })) {
            due = due.min(LOOK_AGAIN);
        }
        match self.events.recv_timeout(left.unwrap_or(due).min(due)) {
            Ok(event) => self.on_event(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        for event in self.events.try_iter().take(EVENTS_AT_ONCE).collect::<Vec<_>>() {
            self.on_event(event);
        }
        if self.sampled.elapsed() >= self.interval {
            self.sample();
        }
        if self.progress.due_in().is_zero() {
            let doing = format!("{}{doing}", self.setting.title);
            self.progress.show(&doing, self.open_connections(), self.series.last());
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened(group) => {
                self.counts[group].opened += 1;
                self.counts[group].taken = self.counts[group].taken.saturating_sub(1);
            }
            Event::Taken(group) => self.counts[group].taken += 1,
            Event::ConnectFailed(group, error) => {
                self.counts[group].failed += 1;
                self.failed(group, error, false);
            }
            Event::TurnedAway(group, why) => {
                self.counts[group].taken -= 1;
                self.counts[group].failed += 1;
                self.failed(group, why, true);
            }
            Event::Closed(group) => self.counts[group].closed += 1,
            Event::Interval(interval, answers) => self.series.add(interval, &answers),
            Event::Interrupted => self.was_interrupted = true,
        }
    }

    fn sample(&mut self) {
        self.sampled = Instant::now();
        let now_ns = self.control.now_ns();
        self.series.close(now_ns);
        let server = self.server.and_then(Process::usage);
        let at = Duration::from_nanos(now_ns);
        self.series.sample(at, self.open_connections(), processor_time(), server);
    }

    fn open_connections(&self) -> u64 {
        self.counts.iter().map(|counts| counts.open()).sum()
    }

    /// Ends every connection and the workers; each then adds what it has counted to the total.
    fn finish(&self) -> Result<()> {
        self.handle.drain(DRAIN_TIMEOUT);
        let report = self.handle.join()?;
        debug_assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
        Ok(())
    }

    fn outcome(mut self, before: Option<Usage>, measured: Measured) -> Outcome {
        for event in self.events.try_iter().collect::<Vec<_>>() {
            self.on_event(event);
        }
        self.series.close_all(self.control.until_ns());
        let mut tallies = self.control.take_totals();
        for (tally, counts) in tallies.iter_mut().zip(&self.counts) {
            tally.count(ErrorKind::ConnectFailed, counts.failed);
        }
        let engine = &self.handle.engines()[0];
        let (points, samples, log) = self.series.into_parts();
        let usages = before.zip(measured.server);
        Outcome {
            engine: engine.engine.to_string(),
            engine_detail: network::engine_detail(engine),
            workers: self.scenario.workers(),
            opened: self.counts.iter().map(|counts| counts.opened).sum(),
            measured: measured.time,
            processor_time: measured.processor_time,
            server: self.server.zip(usages.map(|(before, [began, ended])| [before, began, ended])),
            was_interrupted: self.was_interrupted,
            ended_early: self.ended_early,
            connect_error: self.first_failure.map(|failure| failure.why),
            tallies,
            points,
            samples,
            log,
        }
    }
}

fn check_descriptors(connections: u32) -> Result<()> {
    let limit = descriptors::raise(u64::from(connections)).unwrap_or_else(|_| descriptors::limit());
    let needed = u64::from(connections) + descriptors::RESERVED;
    match limit.and_then(|limit| limit.soft) {
        Some(allowed) if allowed < needed => bail!(
            "{connections} connections need {needed} descriptors, but this process may have \
             {allowed}: raise the limit (`ulimit -n`), or load with fewer --connections"
        ),
        _ => Ok(()),
    }
}

/// Processor time that this process has used, in user and kernel mode.
#[cfg(unix)]
fn processor_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

/// Processor time that this process has used; not told here.
#[cfg(not(unix))]
fn processor_time() -> Option<Duration> {
    None
}

/// Lets the system wake this thread, and those that it starts, without 50 us of slack.
#[cfg(target_os = "linux")]
fn be_woken_exactly() {
    // Where that is refused the load is a little late, and says by how much.
    let _ = rustix::thread::set_current_timer_slack(NonZero::new(1));
}

/// Wakes are as exact as the system makes them.
#[cfg(not(target_os = "linux"))]
fn be_woken_exactly() {
    let _: Option<NonZero<u64>> = None;
}

/// How late a message of an open loop may be by the load's own timers.
const OPEN_LOOP_TICK: Duration = Duration::from_micros(50);

/// In a closed loop there are only deadlines.
const CLOSED_LOOP_TICK: Duration = Duration::from_millis(10);

/// Places for connections that are over but not yet closed.
const SESSIONS_SPARE: usize = 1024;

/// Points of the curves over time, unless the interval would be too short or too long to see.
const POINTS: u32 = 60;
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How often is looked at what nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Events that are taken in before anything else is looked at.
const EVENTS_AT_ONCE: usize = 1024;

/// How long answers too many are listened for.
const SETTLE: Duration = Duration::from_millis(50);

/// How long the connections may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
