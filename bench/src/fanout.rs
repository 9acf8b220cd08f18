//! One room, and what a delivery in it costs: `wharf-bench fanout`.
//!
//! Everybody's server relays the same texts to all members; the members verify every delivery. Servers
//! alternate over several rounds, each run between two looks at the distance of the cores.

mod floor;
mod load;
mod tokio;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::child::{Running, check_interrupted};
use crate::compare::{self, Distance, EchoArgs};
use crate::contestant::FLOOR;
use crate::machine::{self, Machine};
use crate::table::{ByRound, DISTURBED, Spread, paired};

pub use load::{FanLoadArgs, FanReport, run as run_load};
pub use wire::Wire;

/// The rooms that are written for this comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FanPeer {
    /// Written by hand on the raw ring: what the others are compared with
    Floor,
    /// tokio, a channel for each member
    TokioChannels,
    /// tokio, one broadcast channel
    TokioBroadcast,
}

/// Serves on `addr`, pinned to `core`, until the process is ended. Prints `ready ADDR`.
///
/// # Errors
/// When the address cannot be bound, or the server fails.
pub fn serve(peer: FanPeer, addr: SocketAddr, core: usize) -> anyhow::Result<()> {
    let listener = crate::peer::listen(addr, core)?;
    let ready = |addr: SocketAddr| println!("ready {addr}");
    match peer {
        FanPeer::Floor => floor::serve(listener, ready),
        FanPeer::TokioChannels => tokio::serve(false, listener, ready),
        FanPeer::TokioBroadcast => tokio::serve(true, listener, ready),
    }
    .with_context(|| format!("{peer:?}"))
}

/// Who talks in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Talk {
    /// One member, one text under way.
    One,
    /// One member, sixteen texts under way.
    Sixteen,
    /// Sixteen members, one text of each under way.
    Talkers,
}

impl Talk {
    /// How many talk, and how many texts each has under way.
    fn shape(self) -> (usize, usize) {
        match self {
            Talk::One => (1, 1),
            Talk::Sixteen => (1, 16),
            Talk::Talkers => (16, 1),
        }
    }
}

/// A room and who talks in it, as MEMBERSxTALK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FanCell {
    /// Members, those who talk among them.
    pub members: usize,
    /// Who talks.
    pub talk: Talk,
}

/// What is measured if nothing is chosen.
const DEFAULT_CELLS: &str = "200xone,200xsixteen,200xtalkers,1000xone,1000xsixteen,1000xtalkers";

impl FromStr for FanCell {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<FanCell> {
        let what =
            || format!("`{text}` is not MEMBERSxTALK, such as 200xone, 200xsixteen, 200xtalkers");
        let (members, talk) = text.split_once('x').with_context(what)?;
        let members: usize = members.parse().with_context(what)?;
        let talk = Talk::from_str(talk, false).map_err(anyhow::Error::msg).with_context(what)?;
        if !(talk.shape().0..=10_000).contains(&members) {
            bail!("{members} members cannot be in a room with {} who talk", talk.shape().0);
        }
        Ok(FanCell { members, talk })
    }
}

impl fmt::Display for FanCell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}x{}", self.members, format!("{:?}", self.talk).to_lowercase())
    }
}

impl FanCell {
    /// For headings.
    pub fn title(&self) -> String {
        let who = match self.talk {
            Talk::One => "one text under way",
            Talk::Sixteen => "sixteen texts of one member under way",
            Talk::Talkers => "sixteen members talk at once",
        };
        format!("a room of {}, {who}", self.members)
    }
}

/// The settings of a comparison of rooms.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct FanoutArgs {
    /// Rounds; each runs every server once per cell
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Rounds after these in which only the floor, wharf and tokio's channels run: their ratios need more
    #[arg(long, default_value_t = 8)]
    pub close_rounds: usize,
    /// Seconds measured per run
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before that, per run
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Rooms, as MEMBERSxTALK; TALK is one, sixteen or talkers
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_CELLS)]
    pub cells: Vec<FanCell>,
    /// Only these servers [default: all that are here]
    #[arg(long, value_delimiter = ',')]
    pub contestants: Vec<String>,
    /// The wharf program
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/wharf"))]
    #[serde(skip)]
    pub wharf: PathBuf,
    /// The core that every server is pinned to
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// The core that the members are pinned to
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Cores whose cache-line round trip is shorter are near each other
    #[arg(long, default_value_t = 200.0)]
    pub near_below_ns: f64,
    /// Write every run to this file
    #[arg(long)]
    #[serde(skip)]
    pub json: Option<PathBuf>,
}

impl FanoutArgs {
    /// The rooms that a comparison of everything has, too.
    pub fn beside(echo: &EchoArgs) -> FanoutArgs {
        let cells = DEFAULT_CELLS.split(',').map(|cell| cell.parse().expect("a constant"));
        FanoutArgs {
            rounds: echo.rounds,
            close_rounds: echo.close_rounds,
            seconds: echo.seconds,
            warmup: echo.warmup,
            cells: cells.collect(),
            contestants: Vec::new(),
            wharf: echo.wharf.clone(),
            server_core: echo.server_core,
            load_core: echo.load_core,
            near_below_ns: echo.near_below_ns,
            json: None,
        }
    }
}

/// A server with a room.
struct Contestant {
    name: &'static str,
    wire: Wire,
    /// `{port}` in it is a free port, for a server that does not choose one.
    command: Vec<String>,
    /// What stands before its address in the line that says it is ready; `None`: it says nothing.
    ready: Option<&'static str>,
}

/// One run of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanRun {
    pub cell: FanCell,
    pub round: usize,
    pub contestant: String,
    pub distance: Distance,
    pub report: FanReport,
}

/// All that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct FanResults {
    pub runs: Vec<FanRun>,
    /// Servers that are not here, and why.
    pub left_out: Vec<String>,
    /// Servers that could not be measured, and why.
    pub failures: Vec<String>,
}

impl FanResults {
    /// Whether every delivery was right and everybody who is here ran.
    pub fn is_right(&self) -> bool {
        self.failures.is_empty() && self.runs.iter().all(|run| run.report.errors == 0)
    }
}

/// Compares, prints, and says whether everything was right.
///
/// # Errors
/// When nothing can be measured, or after Ctrl+C.
pub fn run(args: &FanoutArgs) -> anyhow::Result<bool> {
    machine::pin_to(args.load_core)?;
    let machine = Machine::read(args.server_core, args.load_core)?;
    println!("{}", machine.line());
    let results = measure(args)?;
    print!("{}", markdown(args, &results));
    if let Some(path) = &args.json {
        #[derive(Serialize)]
        struct Everything<'a> {
            machine: &'a Machine,
            settings: &'a FanoutArgs,
            results: &'a FanResults,
        }
        let everything = Everything { machine: &machine, settings: args, results: &results };
        std::fs::write(path, serde_json::to_vec_pretty(&everything)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(results.is_right())
}

/// Measures every cell, everybody alternating.
///
/// # Errors
/// When there is nobody to measure, or after Ctrl+C.
pub fn measure(args: &FanoutArgs) -> anyhow::Result<FanResults> {
    if args.rounds == 0 || args.seconds <= 0.0 {
        bail!("a comparison needs at least one round and more than zero seconds");
    }
    let mut results = FanResults::default();
    let contestants = choose(args, &mut results.left_out)?;
    for &cell in &args.cells {
        let mut failed: Vec<&str> = Vec::new();
        let rounds = args.rounds + args.close_rounds;
        for round in 0..rounds {
            for contestant in &contestants {
                let name = contestant.name;
                if (round >= args.rounds && !CLOSE.contains(&name)) || failed.contains(&name) {
                    continue;
                }
                eprintln!("fanout {cell} round {}/{rounds} {name}", round + 1);
                match run_once(args, contestant, cell, round) {
                    Ok(run) => results.runs.push(run),
                    Err(error) => {
                        check_interrupted()?;
                        failed.push(contestant.name);
                        let failure = format!("fanout {cell} {}: {error:#}", contestant.name);
                        eprintln!("  {failure}");
                        results.failures.push(failure);
                    }
                }
            }
        }
    }
    Ok(results)
}

fn run_once(
    args: &FanoutArgs,
    contestant: &Contestant,
    cell: FanCell,
    round: usize,
) -> anyhow::Result<FanRun> {
    let (mut server, addr) = start(contestant, args.server_core)?;
    let before = machine::core_distance_ns(args.server_core, args.load_core)?;
    let (talkers, depth) = cell.talk.shape();
    let wire = contestant.wire.to_possible_value().expect("none is hidden").get_name().to_owned();
    let mut command =
        vec![std::env::current_exe()?.to_string_lossy().into_owned(), "fan-load".into()];
    for (flag, value) in [
        ("--addr", addr.to_string()),
        ("--wire", wire),
        ("--members", cell.members.to_string()),
        ("--talkers", talkers.to_string()),
        ("--depth", depth.to_string()),
        ("--duration", args.seconds.to_string()),
        ("--warmup", args.warmup.to_string()),
        ("--core", args.load_core.to_string()),
        ("--pid", server.id().to_string()),
    ] {
        command.extend([flag.to_owned(), value]);
    }
    let mut load = Running::start(&command, args.load_core)?;
    let within = Duration::from_secs_f64(args.seconds + args.warmup) + LOAD_ENDS_WITHIN;
    let (line, _) = load.wait_for_result(within)?;
    let after = machine::core_distance_ns(args.server_core, args.load_core)?;
    server.stop(Signal::SIGTERM)?;
    Ok(FanRun {
        cell,
        round,
        contestant: contestant.name.to_owned(),
        distance: compare::classify(args.near_below_ns, [before, after]),
        report: serde_json::from_str(&line).with_context(|| format!("it printed `{line}`"))?,
    })
}

fn start(contestant: &Contestant, core: usize) -> anyhow::Result<(Running, SocketAddr)> {
    // Free at this moment, and nobody else's soon after.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let fill = |word: &String| {
        word.replace("{port}", &free.port().to_string()).replace("{core}", &core.to_string())
    };
    let command: Vec<String> = contestant.command.iter().map(fill).collect();
    let mut server = Running::start(&command, core)?;
    if let Some(key) = contestant.ready {
        let line = server.wait_for_line()?;
        let mut words = line.split_whitespace();
        let addr = words.find_map(|word| word.strip_prefix(key)?.parse().ok());
        let addr = addr.with_context(|| format!("no address in `{line}`"))?;
        return Ok((server, addr));
    }
    let until = Instant::now() + LISTENS_WITHIN;
    while TcpStream::connect(free).is_err() {
        check_interrupted()?;
        if Instant::now() > until {
            bail!("`{}` does not listen", command.join(" "));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((server, free))
}

/// Who takes part; the others are left out by name.
fn choose(args: &FanoutArgs, left_out: &mut Vec<String>) -> anyhow::Result<Vec<Contestant>> {
    let mut all = known(&std::env::current_exe()?.to_string_lossy(), &args.wharf);
    let names: Vec<&str> = all.iter().map(|known| known.name).collect();
    if let Some(unknown) = args.contestants.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no server `{unknown}`; there are {}", names.join(", "));
    }
    all.retain(|known| {
        args.contestants.is_empty() || args.contestants.iter().any(|name| name == known.name)
    });
    all.retain_mut(|known| match program(&known.command[0]) {
        Some(path) => {
            known.command[0] = path;
            true
        }
        None => {
            left_out.push(format!("{}: there is no {} here", known.name, known.command[0]));
            false
        }
    });
    if all.is_empty() {
        bail!("there is no server to run: {}", left_out.join("; "));
    }
    Ok(all)
}

fn known(own_program: &str, wharf: &Path) -> Vec<Contestant> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let peer = |name: &'static str| Contestant {
        name,
        wire: Wire::Raw,
        command: [
            vec![own_program.to_owned()],
            words(&format!("fan-peer {name} 127.0.0.1:0 {{core}}")),
        ]
        .concat(),
        ready: Some(""),
    };
    let wharf = Contestant {
        name: "wharf",
        wire: Wire::Chat,
        command: [vec![wharf.to_string_lossy().into_owned()], words(WHARF)].concat(),
        ready: Some("chat="),
    };
    let other =
        |name, wire, command| Contestant { name, wire, command: words(command), ready: None };
    vec![
        peer(FLOOR),
        wharf,
        peer("tokio-channels"),
        peer("tokio-broadcast"),
        other("redis", Wire::Redis, REDIS),
        other("nats", Wire::Nats, NATS),
    ]
}

/// No notifications, and rates that nobody reaches: what is measured is the delivery.
const WHARF: &str = "serve --workers 1 --echo 127.0.0.1:0 --chat 127.0.0.1:0 --store open --control off \
                     --chat-rooms 1 --chat-room-seats 10000 --chat-room-notifications false \
                     --chat-messages-per-second 1000000 --chat-messages-burst 1000000";
const REDIS: &str = "redis-server --port {port} --bind 127.0.0.1 --save  --appendonly no";
const NATS: &str = "nats-server -a 127.0.0.1 -p {port}";

/// Who is compared closely: those that a goal is about.
const CLOSE: [&str; 3] = [FLOOR, "wharf", "tokio-channels"];

/// What a run may take beside its own time.
const LOAD_ENDS_WITHIN: Duration = Duration::from_secs(60);
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// Where a program is, if it is here. Debian has servers in a folder that is not on everybody's path.
fn program(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    if name.contains('/') {
        return Path::new(name).is_file().then(|| name.to_owned());
    }
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    Some(found?.to_string_lossy().into_owned())
}

/// A table for each cell, and what is to be known of them.
pub fn markdown(args: &FanoutArgs, results: &FanResults) -> String {
    let mut text = String::new();
    for cell in &args.cells {
        text.push_str(&format!("\n### Fan-out: {}\n\n{}\n", cell.title(), table(results, *cell)));
    }
    text.push_str(
        "\nNear runs are compared where there are any, far ones otherwise; those in which the distance \
         changed are dropped. Gaps under 5 % are ties.\n",
    );
    let others = results.runs.iter().filter_map(|run| {
        Some(run.report.others_cpu_s? / run.report.elapsed_s.max(f64::MIN_POSITIVE))
    });
    let others = others.fold(0.0, f64::max);
    if others > DISTURBED {
        text.push_str(&format!(
            "DISTURBED: other processes used up to {others:.2} cores while this was measured.\n"
        ));
    }
    for (what, why) in results
        .left_out
        .iter()
        .map(|why| ("Left out", why))
        .chain(results.failures.iter().map(|why| ("FAILED", why)))
    {
        text.push_str(&format!("{what}: {why}\n"));
    }
    for run in results.runs.iter().filter(|run| run.report.errors > 0) {
        let error = run.report.first_error.as_deref().unwrap_or("no text");
        text.push_str(&format!("ERROR: {} {}: {error}; not used.\n", run.cell, run.contestant));
    }
    text
}

/// How many times the CPU of another server's run in the same round a delivery took, the median.
pub fn ratio(results: &FanResults, cell: FanCell, contestant: &str, of: &str) -> Option<f64> {
    let used = used(results, cell);
    let costs = |name: &str| -> Option<ByRound> {
        Some(
            used.get(name)?
                .iter()
                .filter_map(|run| Some((run.round, cost(&run.report)?)))
                .collect(),
        )
    };
    paired(&costs(contestant)?, &costs(of)?, |own, base| own / base)
}

/// Server CPU per delivery, ns.
fn cost(report: &FanReport) -> Option<f64> {
    Some(report.server_cpu_s? * 1e9 / report.deliveries as f64)
}

/// By server, the runs that are compared: those without errors, near ones if there are any.
fn used(results: &FanResults, cell: FanCell) -> BTreeMap<&str, Vec<&FanRun>> {
    let right = || {
        let of_cell = results.runs.iter().filter(move |run| run.cell == cell);
        of_cell.filter(|run| run.report.errors == 0 && run.report.deliveries > 0)
    };
    let near = right().any(|run| run.distance == Distance::Near);
    let distance = if near { Distance::Near } else { Distance::Far };
    let mut used: BTreeMap<&str, Vec<&FanRun>> = BTreeMap::new();
    for run in right().filter(|run| run.distance == distance) {
        used.entry(&run.contestant).or_default().push(run);
    }
    used
}

fn table(results: &FanResults, room: FanCell) -> Table {
    let of_cell = || results.runs.iter().filter(|run| run.cell == room);
    let used = used(results, room);
    let spread = |name: &str, figure: fn(&FanReport) -> Option<f64>| {
        Spread::of(used.get(name)?.iter().filter_map(|run| figure(&run.report)))
    };
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "server",
        "bytes each",
        "CPU ns/delivery",
        "min..max",
        "x floor",
        "deliveries/s",
        "server CPU",
        "load CPU",
        "runs used",
    ]);
    let mut names: Vec<&str> = Vec::new();
    of_cell().for_each(|run| {
        if !names.contains(&run.contestant.as_str()) {
            names.push(&run.contestant);
        }
    });
    for name in names {
        let runs = of_cell().filter(|run| run.contestant == name);
        let bytes = runs.clone().next().map_or(0, |run| run.report.delivery_bytes);
        let cell = |figure: Option<f64>, digits: usize| {
            figure.map_or("-".to_owned(), |figure| format!("{figure:.digits$}"))
        };
        let median = |figure| spread(name, figure).map(|spread| spread.median);
        let own = spread(name, cost);
        table.add_row([
            name.to_owned(),
            bytes.to_string(),
            cell(own.map(|own| own.median), 0),
            own.map_or("-".to_owned(), |own| format!("{:.0}..{:.0}", own.min, own.max)),
            cell(ratio(results, room, name, FLOOR), 2),
            cell(median(|report| Some(report.deliveries as f64 / report.elapsed_s)), 0),
            cell(median(|report| Some(report.server_cpu_s? / report.elapsed_s)), 2),
            cell(median(|report| Some(report.load_cpu_s / report.elapsed_s)), 2),
            format!("{} of {}", used.get(name).map_or(0, Vec::len), runs.count()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_and_written_alike() {
        for text in DEFAULT_CELLS.split(',') {
            assert_eq!(text.parse::<FanCell>().unwrap().to_string(), text);
        }
        for wrong in ["", "200", "200x", "x", "200xall", "0xone", "15xtalkers", "10001xone"] {
            assert!(wrong.parse::<FanCell>().is_err(), "{wrong}");
        }
    }

    fn run(contestant: &str, distance: Distance, server_cpu_s: f64, errors: u64) -> FanRun {
        let report = FanReport {
            deliveries: 1_000_000,
            deliveries_in_all: 1_200_000,
            errors,
            first_error: (errors > 0).then(|| "lost".to_owned()),
            delivery_bytes: 256,
            elapsed_s: 2.0,
            load_cpu_s: 1.0,
            server_cpu_s: Some(server_cpu_s),
            others_cpu_s: None,
        };
        let cell = "200xone".parse().unwrap();
        FanRun { cell, round: 0, contestant: contestant.to_owned(), distance, report }
    }

    #[test]
    fn runs_that_are_near_and_right_are_compared() {
        let runs = vec![
            run("floor", Distance::Near, 1.0, 0),
            run("wharf", Distance::Near, 1.5, 0),
            run("wharf", Distance::Far, 9.0, 0),
            run("wharf", Distance::Near, 0.1, 1),
        ];
        let results = FanResults { runs, left_out: vec!["nats: gone".into()], failures: vec![] };
        assert!(!results.is_right());
        let table = table(&results, "200xone".parse().unwrap()).to_string();
        let row = table.lines().find(|line| line.contains("wharf")).unwrap();
        let cells: Vec<&str> =
            row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let expected =
            ["wharf", "256", "1500", "1500..1500", "1.50", "500000", "0.75", "0.50", "1 of 3"];
        assert_eq!(cells, expected);
    }
}
