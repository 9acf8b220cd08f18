//! The programs of the course, each driven by hand on the simulator and whole on real sockets.

#![cfg(any(unix, windows))]

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/dummy_clients.rs"]
mod dummy_clients;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/reordering.rs"]
mod reordering;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step01_echo.rs"]
mod step01;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step02_buffers.rs"]
mod step02;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step03_application/main.rs"]
mod step03;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step04_logic_thread/main.rs"]
mod step04;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step05_accumulate/main.rs"]
mod step05;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step06_queue/main.rs"]
mod step06;
#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step07_async_accept/main.rs"]
mod step07;

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../../examples/step11_measure/main.rs"]
mod step11;

mod circle;
mod lab;

mod logic;
mod measure;
mod network;
mod order;
mod real;
