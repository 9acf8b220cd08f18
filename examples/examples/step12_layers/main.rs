//! Step 12: the layers. Network is the crates `wharf-port` and `wharf`, Content is `wharf-chat` and an
//! auction of our own, and this program is the Host: it says what runs where, and how it ends.
//!
//! ```text
//! cargo run -p wharf-examples --example step12_layers -- [CHAT] [AUCTION]
//! cargo run -p wharf-cli -- chat --user user0     (in another terminal; the password is pw)
//! ```

pub(crate) mod auction;

use std::{env, error::Error, net::SocketAddr, time::Duration};

use wharf::{Builder, Limits, Server, drain_on_signal, framing::LengthField, port::Config};
use wharf_chat::{Accounts, Chat, Memory, Scheme, Settings};

use self::auction::Auction;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let mut address = |default: &str| args.next().as_deref().unwrap_or(default).parse();
    let (server, chat) = compose(address("127.0.0.1:11021")?, address("127.0.0.1:11022")?)?;
    let running = server.port(Config::from_env()?).start()?;
    drain_on_signal(&running, DRAIN)?;
    println!("step 12: chat and auction on {:?}; Ctrl+C drains", running.local_addrs());
    let report = running.join()?;
    println!("{} packets, {} logins", report.stats.frames_received, chat.counts().logins);
    Ok(())
}

/// One server with two contents, each behind an address and limits of its own.
pub(crate) fn compose(chat: SocketAddr, auction: SocketAddr) -> wharf::Result<(Builder, Chat)> {
    // No secrets, so no hashes: the chat refuses other addresses than loopback with these.
    let accounts = Accounts::new(Memory::new(Scheme::Plain));
    for user in ["user0", "user1"] {
        accounts.add(user, "pw").map_err(wharf::Error::handler)?;
    }
    let content = Chat::new(Settings::default(), accounts);
    let server = content.listen(Server::builder(), chat, Limits::default())?;
    let router = auction::router();
    let limits = Limits { frame_bytes_max: BID_BYTES_MAX, ..Limits::default() };
    let server = server
        .limits(limits)
        .listen(auction, LengthField::TUTORIAL, move || router.handler(Auction));
    Ok((server, content))
}

/// A bid is nine bytes; nothing here is longer than this.
const BID_BYTES_MAX: usize = 64;
/// How long what is queued may take to leave once the server is to end.
const DRAIN: Duration = Duration::from_secs(10);
