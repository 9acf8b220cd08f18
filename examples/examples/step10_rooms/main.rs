//! Step 10: rooms. A room is shared by sessions of different workers, and has no lock: a key stands
//! for it, whose jobs run one after the other on the thread that owns the key.
//!
//! ```text
//! cargo run -p wharf-examples --example step10_rooms -- 127.0.0.1:11021 open
//! cargo run -p wharf-cli -- chat --user user0     (in another terminal)
//! ```

pub(crate) mod chat;
pub(crate) mod online;
pub(crate) mod packets;
pub(crate) mod room;
pub(crate) mod store;

use std::{env, error::Error, fmt::Debug, net::ToSocketAddrs, sync::Arc};

use wharf::{Builder, Server, framing::LengthField, port::Config};

use self::{
    chat::Chat,
    online::Online,
    store::{Anybody, Redis, Store},
};

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11021".to_owned());
    let url = env::args().nth(2).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    println!("step 10: rooms on {address}, passwords in {url}");
    let store: Arc<dyn Store> =
        if url == "open" { Arc::new(Anybody) } else { Arc::new(Redis::new(&url)?) };
    Ok(server(address, store).port(Config::from_env()?).run()?)
}

/// The server, which is still to be started.
pub(crate) fn server(address: impl ToSocketAddrs + Debug, store: Arc<dyn Store>) -> Builder {
    let router = chat::router();
    let online = Arc::new(Online::default());
    let chat =
        move || router.handler(Chat { online: Arc::clone(&online), store: Arc::clone(&store) });
    Server::builder().listen(address, LengthField::TUTORIAL, chat)
}
