//! A running server, as the one who runs it meets it: its control channel, its end.

mod control;
mod drain;
mod metrics;
mod support;
