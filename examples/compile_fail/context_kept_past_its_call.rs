//! A pointer to the connection is kept, and used when the connection is another one or gone.
use wharf::{Context, Frame, Handler};

struct Remembers {
    last: Option<&'static mut Context<'static, ()>>,
}

impl Handler for Remembers {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, _: Frame<'_>) -> wharf::Result {
        self.last = Some(cx);
        Ok(())
    }
}

fn main() {}
