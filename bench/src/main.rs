//! Servers compared with wharf on pinned cores: `wharf-bench echo` and `fanout`.
//!
//! `peer`, `load` and `distance` are its parts; each also works alone.

mod buffer_ring;
mod cell;
mod child;
mod compare;
mod contestant;
mod copied;
mod fanout;
mod goals;
mod load;
mod machine;
mod page;
mod peer;
mod profile;
mod ring;
mod suite;
mod syscalls;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Compares servers with wharf on pinned cores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Alternate all contestants over several rounds; print medians, spread and ratios
    Echo(compare::EchoArgs),
    /// Rooms: what a delivery costs, in wharf's chat and elsewhere; medians, spread and ratios
    Fanout(fanout::FanoutArgs),
    /// What a frame that many connections share costs, copied and gathered, by its size
    Copied(copied::CopiedArgs),
    /// Everything: echo, fan-out, storms, idle memory, latency at a rate, overload; writes docs/performance.md
    All(suite::SuiteArgs),
    /// Write the page again, of what `all --json FILE` has measured
    Page {
        /// What `all` wrote
        json: PathBuf,
        /// The page to write; its pictures go to a folder of the same name beside it
        #[arg(long, default_value = suite::PAGE)]
        out: PathBuf,
    },
    /// Serve as one of the peers, pinned to a core
    Peer {
        /// Which one
        #[arg(value_enum)]
        peer: peer::Peer,
        /// Where to listen; port 0 picks a free one
        addr: SocketAddr,
        /// The core to run on
        core: usize,
    },
    /// Put an echo server under load and print one line of JSON; exit status 1 if an answer was
    /// wrong
    Load(load::LoadArgs),
    /// Serve a room as one of the peers of `fanout`, pinned to a core
    FanPeer {
        /// Which one
        #[arg(value_enum)]
        peer: fanout::FanPeer,
        /// Where to listen; port 0 picks a free one
        addr: SocketAddr,
        /// The core to run on
        core: usize,
    },
    /// Be the members of a room and print one line of JSON; exit status 1 if a delivery was wrong
    FanLoad(fanout::FanLoadArgs),
    /// Print the time that a cache line takes between two cores and back, in nanoseconds
    Distance {
        /// One core
        #[arg(default_value_t = 0)]
        near: usize,
        /// The other
        #[arg(default_value_t = 1)]
        far: usize,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    machine::raise_descriptor_limit()?;
    match command {
        Command::Echo(args) => {
            ctrlc::set_handler(|| child::INTERRUPTED.store(true, Ordering::Relaxed))?;
            let all_answers_right = compare::run(&args)?;
            return Ok(if all_answers_right { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Fanout(args) => {
            ctrlc::set_handler(|| child::INTERRUPTED.store(true, Ordering::Relaxed))?;
            let all_right = fanout::run(&args)?;
            return Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Copied(args) => copied::run(&args)?,
        Command::FanPeer { peer, addr, core } => fanout::serve(peer, addr, core)?,
        Command::FanLoad(args) => {
            let report = fanout::run_load(&args)?;
            println!("{}", serde_json::to_string(&report)?);
            if report.errors > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::All(args) => {
            ctrlc::set_handler(|| child::INTERRUPTED.store(true, Ordering::Relaxed))?;
            let all_right = suite::run(&args)?;
            return Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Page { json, out } => suite::write_again(&json, &out)?,
        Command::Peer { peer, addr, core } => peer::run(peer, addr, core)?,
        Command::Load(args) => {
            let report = load::run(&args)?;
            println!("{}", serde_json::to_string(&report)?);
            if report.errors > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Distance { near, far } => {
            println!("{:.1}", machine::core_distance_ns(near, far)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
