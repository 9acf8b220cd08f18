//! `wharf bench`: what can be asked of the load, and how it becomes a scenario.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::load::{
    self, Arrival, CONNECTIONS_MAX, Group, Kind, MESSAGES_MAX, Measured, Mix, Rate, Scenario,
    Sizes, Talk, Tolerance, Traffic, Walking, time, visits, whole,
};
use crate::settings::{Engine, Framing, to_reach};

/// The kinds of load.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Bench {
    /// Messages that come back: in a closed loop (--depth), or at a rate (--rate)
    #[command(alias = "dummy")]
    Echo(Echo),
    /// Connections that come and go: connect, a few messages, reset, and again
    Connect(Connect),
    /// Connections that are held and silent; tells the server's memory for each
    Idle(Idle),
    /// Users of a chat: log in, enter a room, talk; every member must see all texts in one order
    Chat(Chat),
    /// One room in which a few talk to many: the cost of a delivery
    Fanout(Fanout),
    /// Walkers in the example `arena`: nobody may see back in time, or an area where it is not
    Arena(Arena),
    /// Several of these at the same time, as a TOML file says
    Mix(Mixed),
    /// Two results of --json beside each other; refuses to compare a closed loop with an open one
    Compare(Compare),
}

/// Whom to load, and how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// The server's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000", value_parser = to_reach)]
    pub(crate) addr: SocketAddr,
    /// How the server cuts bytes into frames [default: study; tutorial for chat and fanout]
    #[arg(long, value_enum)]
    pub(crate) framing: Option<Framing>,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value = "50", value_parser = |text: &str| whole(text, 1, CONNECTIONS_MAX))]
    pub(crate) connections: u32,
    /// How long to measure, such as `10s`; a plain number counts seconds
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = time)]
    pub(crate) duration: Duration,
    /// How long to load before measuring
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = time)]
    pub(crate) warmup: Duration,
    /// How long to wait for answers: at the end, and at the start where users have to be let in
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = time)]
    pub(crate) grace: Duration,
    /// Runs, one after the other; medians and spread are told
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Threads of the load itself [default: half of the processors, for the server may need the rest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) workers: Option<u8>,
    /// The completion engine of the load itself
    #[arg(long, value_enum, default_value = "auto", env = "WHARF_ENGINE", hide_env_values = true)]
    pub(crate) engine: Engine,
    /// Addresses from 127.0.0.1 on that connections come from [default: as many as their ports need]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) sources: Option<u16>,
    /// The server's process, for its CPU time and memory [default: found by its port on this machine]
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the result as a page of HTML that needs no network
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the latencies over time as an HdrHistogram log
    #[arg(long, value_name = "FILE")]
    pub(crate) hdr: Option<PathBuf>,
    /// Compare with this earlier result of --json
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Exit status 1 if a figure is worse than the baseline by more than this: `p99=+10%,rate=-5%`
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "baseline")]
    pub(crate) fail_on: Vec<Tolerance>,
}

/// `wharf bench echo`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Echo {
    #[command(flatten)]
    common: Common,
    /// Payload of one message, such as `64` or `4KiB`, or from shortest to longest: `16..1KiB`
    #[arg(long, value_name = "SIZE", default_value = "64")]
    size: Sizes,
    /// Messages under way per connection: all the time in a closed loop, at most with --rate
    /// [default: 1; with --rate 1,024]
    #[arg(long, value_name = "P", value_parser = |text: &str| whole(text, 1, MESSAGES_MAX))]
    depth: Option<u32>,
    /// Messages per second of all connections together, whatever the server does: `5000`, a ramp
    /// `1000..20000`, or steps `1000,2000,4000`
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// How messages of a rate are spread
    #[arg(long, value_enum, default_value = "poisson", requires = "rate")]
    arrival: Arrival,
}

/// `wharf bench connect`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connect {
    #[command(flatten)]
    common: Common,
    /// Payload of one message, such as `64` or `4KiB`
    #[arg(long, value_name = "SIZE", default_value = "64")]
    size: Sizes,
    /// Messages of a visit; 0: only connects
    #[arg(long, value_name = "N", default_value = "1", value_parser = |text: &str| whole(text, 0, MESSAGES_MAX))]
    messages: u32,
    /// At most so many visits per second [default: the next begins when one is over]
    #[arg(long, value_name = "RATE", value_parser = visits)]
    rate: Option<f64>,
}

/// `wharf bench idle`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    common: Common,
    /// Messages of a connection before it is silent; 0: for a server that returns none
    #[arg(long, value_name = "N", default_value = "1", value_parser = |text: &str| whole(text, 0, MESSAGES_MAX))]
    messages: u32,
    /// Payload of one message, such as `64` or `4KiB`
    #[arg(long, value_name = "SIZE", default_value = "64")]
    size: Sizes,
}

/// What users of a chat have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct Users {
    #[command(flatten)]
    common: Common,
    /// Texts per second of all who talk together: `100`, a ramp `10..1000`, or steps `100,200,400`
    #[arg(long, value_name = "RATE", default_value = "100")]
    rate: Rate,
    /// How texts are spread
    #[arg(long, value_enum, default_value = "poisson")]
    arrival: Arrival,
    /// Length of a text, 32 to 256 bytes, or from shortest to longest: `32..200`
    #[arg(long, value_name = "SIZE", default_value = "64")]
    size: Sizes,
    /// The first room's number
    #[arg(long, value_name = "N", default_value = "0")]
    first_room: i32,
    /// User n logs in as this and n
    #[arg(long, value_name = "NAME", default_value = "user")]
    user_prefix: String,
    /// The password of all of them
    #[arg(long, value_name = "WORD", default_value = "pw")]
    password: String,
}

/// `wharf bench chat`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Chat {
    #[command(flatten)]
    users: Users,
    /// Rooms over which the users are spread evenly
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    rooms: u32,
    /// After so long in a room a user leaves and enters again [default: stays]
    #[arg(long, value_name = "DURATION", value_parser = time)]
    stay: Option<Duration>,
}

/// `wharf bench fanout`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    users: Users,
    /// How many of the members talk
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    talkers: u32,
}

/// `wharf bench arena`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arena {
    #[command(flatten)]
    common: Common,
    /// Turns per second of all walkers together: `100`, a ramp `10..1000`, or steps `100,200,400`
    #[arg(long, value_name = "RATE", default_value = "100")]
    rate: Rate,
    /// How turns are spread
    #[arg(long, value_enum, default_value = "poisson")]
    arrival: Arrival,
}

/// `wharf bench mix`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Mixed {
    /// The scenario; what it does not say about a group, the options say
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// `wharf bench compare`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// The earlier result
    before: PathBuf,
    /// The later one
    after: PathBuf,
    /// Exit status 1 if a figure is worse by more than this: `p99=+10%,rate=-5%`
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    fail_on: Vec<Tolerance>,
}

impl Bench {
    /// What was asked for, with where the results go.
    fn scenario(&self) -> Result<(Scenario, &Common)> {
        Ok(match self {
            Bench::Echo(echo) => {
                let depth = if echo.rate.is_some() { OPEN_LOOP_DEPTH } else { 1 };
                let traffic = Traffic {
                    sizes: echo.size,
                    depth: echo.depth.unwrap_or(depth),
                    rate: echo.rate.clone(),
                    arrival: echo.arrival,
                };
                (echo.common.scenario("echo", Kind::Echo(traffic)), &echo.common)
            }
            Bench::Connect(Connect { common, size, messages, rate }) => {
                let kind = Kind::Connect { messages: *messages, sizes: *size, rate: *rate };
                (common.scenario("connect", kind), common)
            }
            Bench::Idle(Idle { common, messages, size }) => {
                let kind = Kind::Idle { messages: *messages, sizes: *size };
                (common.scenario("idle", kind), common)
            }
            Bench::Chat(Chat { users, rooms, stay }) => {
                (users.scenario("chat", *rooms, None, *stay), &users.common)
            }
            Bench::Fanout(Fanout { users, talkers }) => {
                (users.scenario("fanout", 1, Some(*talkers), None), &users.common)
            }
            Bench::Arena(Arena { common, rate, arrival }) => {
                let walking = Walking { rate: rate.clone(), arrival: *arrival };
                (common.scenario("arena", Kind::Arena(walking)), common)
            }
            Bench::Mix(Mixed { file, common }) => (common.mix(file)?, common),
            Bench::Compare(_) => bail!("a comparison loads nobody"),
        })
    }
}

impl Common {
    fn scenario(&self, name: &'static str, kind: Kind) -> Scenario {
        let usual = if matches!(kind, Kind::Chat(_)) { Framing::Tutorial } else { Framing::Study };
        let group = Group {
            name: name.to_owned(),
            addr: self.addr,
            framing: self.framing.unwrap_or(usual),
            connections: self.connections,
            kind,
        };
        Scenario {
            name,
            groups: vec![group],
            duration: self.duration,
            warmup: self.warmup,
            grace: self.grace,
            repeats: self.repeats,
            workers: self.workers,
            engine: self.engine,
            sources: self.sources,
            pid: self.pid,
        }
    }

    fn mix(&self, file: &Path) -> Result<Scenario> {
        let mix = Mix::read(file)?;
        let usual = Sizes { shortest: 64, longest: 64 };
        let mut scenario = self.scenario("mix", Kind::Idle { messages: 1, sizes: usual });
        let [duration, warmup] = mix.times().with_context(|| file.display().to_string())?;
        scenario.duration = duration.unwrap_or(self.duration);
        scenario.warmup = warmup.unwrap_or(self.warmup);
        scenario.groups =
            mix.groups(&scenario.groups[0]).with_context(|| file.display().to_string())?;
        Ok(scenario)
    }
}

impl Users {
    fn scenario(
        &self,
        name: &'static str,
        rooms: u32,
        talkers: Option<u32>,
        stay: Option<Duration>,
    ) -> Scenario {
        let talk = Talk {
            rate: self.rate.clone(),
            arrival: self.arrival,
            sizes: self.size,
            rooms,
            first_room: self.first_room,
            talkers,
            stay,
            user_prefix: self.user_prefix.clone(),
            password: self.password.clone(),
        };
        self.common.scenario(name, Kind::Chat(talk))
    }
}

/// Runs the load; fails if any byte that came back was wrong or a figure is worse than it may be, 2
/// if the options cannot go together.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    if let Bench::Compare(compare) = bench {
        return run_comparison(compare);
    }
    let asked = bench.scenario().map_err(|error| format!("{error:#}"));
    let checked = asked.and_then(|(scenario, common)| {
        scenario.check()?;
        Ok((scenario, common))
    });
    let (scenario, common) = match checked {
        Ok(checked) => checked,
        Err(mistake) => {
            eprintln!("error: {mistake}");
            return Ok(ExitCode::from(2));
        }
    };
    // Read first: a load whose result nothing can be done with need not run.
    let baseline = common.baseline.as_deref().map(Measured::read).transpose()?;
    common.hdr.iter().chain(&common.report).try_for_each(|path| check_writable(path))?;
    let report = match load::run(&scenario, common.hdr.is_some()) {
        Ok(report) => report,
        Err(error) => {
            // A program that reads the result is told what the person is told on standard error.
            if common.json {
                let failure = json!({ "right": false, "error": format!("{error:#}") });
                print(&format!("{failure:#}\n"))?;
            }
            return Err(error);
        }
    };
    let ended = SystemTime::now();
    let json = report.json();
    print(&if common.json { format!("{json:#}\n") } else { report.text() })?;
    if let Some(path) = &common.hdr {
        load::write_log(&report, path, ended)?;
    }
    if let Some(path) = &common.report {
        fs::write(path, load::page(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut is_fine = report.is_right();
    if let Some(baseline) = baseline {
        let result =
            Measured::of("this run".to_owned(), &json).context("this result cannot be compared")?;
        is_fine &= compare(&baseline, &result, &common.fail_on, common.json)?;
    }
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fails if the file could not be written; what is in it stays for now.
fn check_writable(path: &Path) -> Result<()> {
    let is_new = !path.exists();
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))?;
    if is_new {
        // A load that comes to nothing leaves nothing.
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn run_comparison(options: &Compare) -> Result<ExitCode> {
    let (before, after) = (Measured::read(&options.before)?, Measured::read(&options.after)?);
    let is_fine = compare(&before, &after, &options.fail_on, false)?;
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows both, and whether no figure is worse than it may be.
fn compare(
    before: &Measured,
    after: &Measured,
    fail_on: &[Tolerance],
    is_quiet: bool,
) -> Result<bool> {
    let table = load::table(before, after)?;
    if !is_quiet {
        print(&format!("\n{table}"))?;
    }
    let failures = load::failures(before, after, fail_on)?;
    for failure in &failures {
        eprintln!("worse: {failure}");
    }
    Ok(failures.is_empty())
}

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("writing the result to standard output")
}

/// What a connection of an open loop may have under way: enough for a server that stops for a
/// second, without end for none.
pub(crate) const OPEN_LOOP_DEPTH: u32 = 1024;
