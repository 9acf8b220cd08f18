//! The machine that a load ran on: a figure says nothing without it.

use std::num::NonZero;

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) processor: Option<String>,
    pub(crate) processors: usize,
    /// Processes that ran or waited to, on average over the last minute, before the load.
    pub(crate) load_average: Option<f64>,
    pub(crate) wharf: &'static str,
}

impl Machine {
    /// Reads what the system tells.
    pub(crate) fn read() -> Self {
        let first_word = |text: String| text.split_whitespace().next()?.parse().ok();
        Self {
            system: system(),
            processor: std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
                let line = text.lines().find(|line| line.starts_with("model name"))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            }),
            processors: std::thread::available_parallelism().map_or(1, NonZero::get),
            load_average: std::fs::read_to_string("/proc/loadavg").ok().and_then(first_word),
            wharf: env!("CARGO_PKG_VERSION"),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let processor = self.processor.as_deref().unwrap_or(std::env::consts::ARCH);
        format!("{}, {} x {processor}", self.system, self.processors)
    }
}

#[cfg(unix)]
fn system() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

#[cfg(not(unix))]
fn system() -> String {
    std::env::consts::OS.to_owned()
}
