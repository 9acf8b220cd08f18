//! Step 9: passwords are in a Redis. Asking it takes a while, and a dead one takes a second: the
//! question goes to another thread, and its answer comes back to the session's own.
//!
//! ```text
//! redis-cli set user0 pw
//! cargo run -p wharf-examples --example step09_redis
//! cargo run -p wharf-cli -- chat --user user0     (in another terminal)
//! ```

pub(crate) mod chat;
pub(crate) mod online;
pub(crate) mod packets;
pub(crate) mod store;

use std::{env, error::Error, fmt::Debug, net::ToSocketAddrs, sync::Arc};

use wharf::{Builder, Server, framing::LengthField, port::Config};

use self::{
    chat::Chat,
    online::Online,
    store::{Redis, Store},
};

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11021".to_owned());
    let url = env::args().nth(2).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    println!("step 9: a login on {address}, passwords in {url}");
    let redis = Redis::new(&url)?;
    Ok(server(address, Arc::new(redis)).port(Config::from_env()?).run()?)
}

/// The server, which is still to be started.
pub(crate) fn server(address: impl ToSocketAddrs + Debug, store: Arc<dyn Store>) -> Builder {
    let router = chat::router();
    let online = Arc::new(Online::default());
    let chat =
        move || router.handler(Chat { online: Arc::clone(&online), store: Arc::clone(&store) });
    Server::builder().listen(address, LengthField::TUTORIAL, chat)
}
