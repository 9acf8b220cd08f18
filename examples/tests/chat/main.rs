//! The chat of the course, steps 8 to 10: on the simulator, and on real sockets where the bytes or
//! another program are what matters.

#![cfg(any(unix, windows))]

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step08_login/main.rs"]
mod step08;

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step09_redis/main.rs"]
mod step09;

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step10_rooms/main.rs"]
mod step10;

mod guest;

mod protocol;
mod rooms;
mod store;
