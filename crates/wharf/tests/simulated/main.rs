//! Whole servers in the simulator, from outside, with virtual time.

mod deadlines;
mod support;
