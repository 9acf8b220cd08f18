//! Whole servers in the simulator, from outside, with virtual time.

mod classes;
mod deadlines;
mod support;
mod topics;
