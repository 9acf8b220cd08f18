//! Sessions on a completion port.
#![forbid(unsafe_code)]

pub mod framing;
#[cfg_attr(not(test), expect(dead_code, reason = "only the worker turns the wheel"))]
mod timer;
