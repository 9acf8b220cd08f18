//! The smallest server: every frame goes back to where it came from.
//!
//! ```text
//! cargo run --example echo
//! wharf bench echo --addr 127.0.0.1:9000 --framing u16be     (in another terminal)
//! ```

use wharf::{Context, Frame, Handler, Server, framing::LengthField};

struct Echo;

impl Handler for Echo {
    type Session = (); // your data, one per connection

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        cx.send(frame.body())?; // limits are on by default
        Ok(())
    }
}

fn main() -> wharf::Result {
    Server::builder()
        .listen("127.0.0.1:9000", LengthField::u16_be(), || Echo) // repeatable
        .run() // Ctrl+C drains
}
