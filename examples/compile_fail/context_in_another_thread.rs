//! Another thread sends on the connection while its own thread does: two sends at one time.
use std::thread;
use wharf::Context;

fn answer(cx: &mut Context<'_, ()>) {
    thread::scope(|scope| {
        scope.spawn(|| cx.send(b"later"));
    });
}

fn main() {}
