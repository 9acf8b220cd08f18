//! What carries the control channel: a socket in the file system, or a named pipe.
//!
//! Both give the same few functions and types: `default_place`, `live_places`, [`Listener`], and a
//! `Stream` of bytes whose reads and writes fail once its deadline has passed.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::{Listener, Stream, connect, default_place, live_places};
#[cfg(windows)]
pub(super) use windows::{Listener, Stream, connect, default_place, live_places};
