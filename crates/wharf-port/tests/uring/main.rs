//! What only io_uring can get wrong, on real sockets: what every backend promises is in
//! `conformance.rs`. Every port here has its buffers behind guard pages, and is idle at the end.
//!
//! Nothing here measures time; the limits on waiting only turn a hang into a failure.

#![cfg(target_os = "linux")]

mod allocation;
mod credit;
mod ending;
mod refused;
mod rig;
mod waking;
