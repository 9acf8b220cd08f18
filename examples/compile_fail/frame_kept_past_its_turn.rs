//! A packet is queued for later by its address; by then its buffer has another client's bytes.
use wharf::{Context, Frame, Handler};

struct Later<'a> {
    queue: Vec<&'a [u8]>,
}

impl Handler for Later<'static> {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        self.queue.push(frame.body());
        Ok(())
    }
}

fn main() {}
