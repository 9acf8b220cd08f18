//! Whole servers in the simulator, from outside, with virtual time.

mod accepting;
mod bad_input;
mod classes;
mod closing;
mod deadlines;
mod flush;
mod heartbeat;
mod limits;
mod logic;
mod marks;
mod memory;
mod parting;
mod rates;
mod strangers;
mod support;
mod timed;
mod topics;
