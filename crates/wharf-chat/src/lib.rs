//! A chat server: users who log in, rooms, and what is said in them, over the protocol of
//! `docs/chat.md`. It uses nothing of [`wharf`] that a user of that library could not.
//!
//! ```no_run
//! use wharf::{Limits, Server};
//! use wharf_chat::{Accounts, Chat, Memory, Scheme, Settings};
//!
//! fn main() -> wharf::Result {
//!     let accounts = Accounts::new(Memory::new(Scheme::Argon2id));
//!     accounts.add("user0", "pw").map_err(wharf::Error::handler)?;
//!     let chat = Chat::new(Settings::default(), accounts);
//!     let address = "127.0.0.1:11021".parse().expect("an address");
//!     chat.listen(Server::builder(), address, Limits::default())?.run()
//! }
//! ```
//!
//! # Who owns what
//! | file | what is there | on which thread |
//! |---|---|---|
//! | `packets.rs` | the packets and the result codes | |
//! | `user.rs`, `rate.rs` | how far a session has come, how much it may send | the session's |
//! | `chat.rs` | what each packet does | the session's |
//! | `room.rs` | who is in a room, and all that a room sends | that of the room's key |
//! | `online.rs`, `failures.rs` | names that are taken, addresses that guess passwords | any: once per login |
//! | `store.rs`, `store/`, `password.rs` | users and their passwords | the pool for blocking work |
#![forbid(unsafe_code)]

mod chat;
mod failures;
mod online;
pub mod packets;
mod password;
mod rate;
mod room;
mod settings;
mod store;
mod user;

pub use crate::{
    chat::{Chat, Counts},
    online::Duplicate,
    packets::Outcome,
    password::{Cost, Passwords},
    rate::Rate,
    settings::Settings,
    store::{
        Accounts, Embedded, Format, Location, Memory, Open, Redis, RedisUrl, Scheme, Store,
        StoreError, check_name, commands_terminal, hide_password,
    },
    user::{Stage, User},
};
