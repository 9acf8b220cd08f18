//! Step 11: measure and optimise. One load on one server, on which one optimisation after the other
//! is switched on; what each changes is counted.
//!
//! ```text
//! cargo run --release -p wharf-examples --example step11_measure
//! ```

mod handover;
mod inbound;
pub(crate) mod load;
pub(crate) mod ring;
pub(crate) mod server;

use std::error::Error;

use wharf_port::Config;

use self::{
    load::{Cost, Load, measure},
    server::Tuning,
};

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::from_env()?;
    let engine = wharf_port::open(&config)?.engine().clone();
    println!("step 11: {} clients, bursts of {} packets", LOAD.clients, LOAD.packets);
    println!("engine {} ({})\n", engine.engine, engine.detail);
    println!(
        "{:26}{:>8}{:>13}{:>8}{:>8}{:>8}{:>9}",
        "", "system", "completions", "allo-", "bytes", "", "CPU"
    );
    println!(
        "{:26}{:>8}{:>13}{:>8}{:>8}{:>8}{:>9}",
        "per message", "calls", "per wait", "cations", "moved", "locks", "ns"
    );
    for (name, tuning, receive_buffer_bytes) in stages() {
        let config = Config { receive_buffer_bytes, ..config.clone() };
        println!("{name:26}{}", line(&measure(tuning, &config, LOAD)?));
    }
    println!("\nfrom two packets of one client to both answers");
    for (name, nodelay, gathered) in [
        ("Nagle, two sends", false, false),
        ("TCP_NODELAY, two sends", true, false),
        ("Nagle, one send", false, true),
        ("TCP_NODELAY, one send", true, true),
    ] {
        let tuning = Tuning { gathered, ..all() };
        let cost = measure(tuning, &config, Load { nodelay, ..PAIRS })?;
        println!("{name:26}{:>9.3} ms", cost.burst.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// One more is switched on in each; the last has larger receive buffers, too.
pub(crate) fn stages() -> [(&'static str, Tuning, u32); 7] {
    let none = Tuning::default();
    let batched = Tuning { batched: true, ..none };
    let pooled = Tuning { pooled: true, ..batched };
    let ring = Tuning { ring: true, ..pooled };
    let swapped = Tuning { swapped: true, ..ring };
    [
        ("everything by itself", none, SMALL),
        ("+ completions in batches", batched, SMALL),
        ("+ packets from a pool", pooled, SMALL),
        ("+ ring buffer", ring, SMALL),
        ("+ queues are swapped", swapped, SMALL),
        ("+ sends are gathered", all(), SMALL),
        ("+ receive buffers of 4 KiB", all(), 4096),
    ]
}

pub(crate) fn all() -> Tuning {
    Tuning { batched: true, pooled: true, ring: true, swapped: true, gathered: true }
}

fn line(cost: &Cost) -> String {
    let each = |total: u64| total as f64 / cost.messages as f64;
    format!(
        "{:>8.3}{:>13.2}{:>8.2}{:>8.1}{:>8.3}{:>9.0}",
        each(cost.system_calls),
        cost.completions as f64 / cost.waits as f64,
        each(cost.allocations),
        each(cost.moved_bytes),
        each(cost.locks),
        cost.cpu.as_nanos() as f64 / cost.messages as f64,
    )
}

pub(crate) const LOAD: Load =
    Load { clients: 16, bursts: 200, packets: 16, cut: true, nodelay: true };
/// Two packets each, and what is between them and the last answer is looked at.
const PAIRS: Load = Load { clients: 1, bursts: 20, packets: 2, cut: false, nodelay: true };
/// Receive buffers as the first servers have them.
const SMALL: u32 = 128;
