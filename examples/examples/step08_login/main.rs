//! Step 8: packets and a login. The network is `wharf` from here on, which has what steps 1 to 7 grew
//! by hand. What is new is what the bytes mean: packets with an id, and users with a name.
//!
//! ```text
//! cargo run -p wharf-examples --example step08_login
//! cargo run -p wharf-cli -- chat --user user0     (in another terminal)
//! ```

pub(crate) mod chat;
pub(crate) mod online;
pub(crate) mod packets;

use std::{env, error::Error, fmt::Debug, net::ToSocketAddrs, sync::Arc};

use wharf::{Builder, Server, framing::LengthField, port::Config};

use self::{chat::Chat, online::Online};

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11021".to_owned());
    println!("step 8: a login on {address}");
    Ok(server(address).port(Config::from_env()?).run()?)
}

/// The server, which is still to be started.
pub(crate) fn server(address: impl ToSocketAddrs + Debug) -> Builder {
    let router = chat::router();
    let online = Arc::new(Online::default());
    let chat = move || router.handler(Chat { online: Arc::clone(&online) });
    Server::builder().listen(address, LengthField::TUTORIAL, chat)
}
