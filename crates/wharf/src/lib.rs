//! Sessions on a completion port.
#![forbid(unsafe_code)]

pub mod framing;
