//! The starters of the course: each is the program of its step with a gap, and its test passes once
//! the gap is filled: `cargo xtask steps try 5`. As long as nobody tries, the tests here check that
//! each starter fails for its gap alone.

#![cfg(any(unix, windows))]
// Of a reader who has filled a gap, whom the compiler would bother with it. It cannot be expected.
#![allow(unfulfilled_lint_expectations, reason = "a gap that is filled leaves nothing unused")]

#[expect(
    unused,
    reason = "the gap leaves some of it unused, and its main function is not for tests"
)]
#[path = "../../starters/step01_echo.rs"]
mod step01;

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step03 {
    #[path = "../../examples/step03_application/application.rs"]
    pub(crate) mod application;
    #[path = "../../starters/step03_network.rs"]
    pub(crate) mod network;
}

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step04 {
    #[path = "../../examples/step04_logic_thread/application.rs"]
    pub(crate) mod application;
    #[path = "../../examples/step04_logic_thread/logic.rs"]
    pub(crate) mod logic;
    #[path = "../../starters/step04_network.rs"]
    pub(crate) mod network;
}

#[path = "."]
mod step05 {
    #[path = "../../examples/step05_accumulate/application.rs"]
    pub(crate) mod application;
    #[path = "../../examples/step05_accumulate/logic.rs"]
    pub(crate) mod logic;
    #[path = "../../starters/step05_network.rs"]
    pub(crate) mod network;
    #[path = "../../examples/step05_accumulate/sending.rs"]
    pub(crate) mod sending;
}

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step06 {
    #[path = "../../examples/step06_queue/application.rs"]
    pub(crate) mod application;
    #[path = "../../examples/step06_queue/logic.rs"]
    pub(crate) mod logic;
    #[path = "../../starters/step06_network.rs"]
    pub(crate) mod network;
    #[path = "../../examples/step06_queue/sending.rs"]
    pub(crate) mod sending;
}

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step07 {
    #[path = "../../starters/step07_accept.rs"]
    pub(crate) mod accept;
    #[path = "../../examples/step07_async_accept/application.rs"]
    pub(crate) mod application;
    #[path = "../../examples/step07_async_accept/logic.rs"]
    pub(crate) mod logic;
    #[path = "../../examples/step07_async_accept/network.rs"]
    pub(crate) mod network;
    #[path = "../../examples/step07_async_accept/sending.rs"]
    pub(crate) mod sending;
}

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step08 {
    #[path = "../../starters/step08_chat.rs"]
    pub(crate) mod chat;
    #[path = "../../examples/step08_login/online.rs"]
    pub(crate) mod online;
    #[path = "../../examples/step08_login/packets.rs"]
    pub(crate) mod packets;
}

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step09 {
    #[path = "../../starters/step09_chat.rs"]
    pub(crate) mod chat;
    #[path = "../../examples/step09_redis/online.rs"]
    pub(crate) mod online;
    #[path = "../../examples/step09_redis/packets.rs"]
    pub(crate) mod packets;
    #[path = "../../examples/step09_redis/store.rs"]
    pub(crate) mod store;
}

#[expect(unused, reason = "the gap leaves some of it unused")]
#[path = "."]
mod step10 {
    #[path = "../../examples/step10_rooms/chat.rs"]
    pub(crate) mod chat;
    #[path = "../../examples/step10_rooms/online.rs"]
    pub(crate) mod online;
    #[path = "../../examples/step10_rooms/packets.rs"]
    pub(crate) mod packets;
    #[path = "../../starters/step10_room.rs"]
    pub(crate) mod room;
    #[path = "../../examples/step10_rooms/store.rs"]
    pub(crate) mod store;
}

#[path = "."]
mod step11 {
    #[path = "../../starters/step11_ring.rs"]
    pub(crate) mod ring;
}

#[path = "."]
mod step12 {
    #[path = "../../starters/step12_auction.rs"]
    pub(crate) mod auction;
}

#[path = "../layers/bidders.rs"]
mod bidders;
#[path = "../steps/circle.rs"]
mod circle;
#[path = "../chat/guest.rs"]
mod guest;
#[path = "../steps/lab.rs"]
mod lab;

mod chat_tries;
mod tries;
