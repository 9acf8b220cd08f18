//! Sessions on a completion port.
#![forbid(unsafe_code)]
