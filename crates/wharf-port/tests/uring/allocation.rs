//! A warm port allocates nothing.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{Read, Write},
    time::Duration,
};

use wharf_port::{Config, Done, Gather, Outcome};

use crate::rig::{Rig, config};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_echo_allocates_nothing() {
    for frames in [1, 3] {
        let mut rig = Rig::new(&Config { guard_pages: false, ..config() });
        let (socket, mut peer) = rig.connection();
        let mut done = Vec::with_capacity(64);
        let mut spare = Some(Gather::new());
        let mut echo = [0; 300];
        let mut warm = 0;
        for round in 0..200 {
            peer.write_all(b"hello").unwrap();
            let before = ALLOCATIONS.with(Cell::get);
            echo_once(&mut rig, socket, frames, &mut spare, &mut done);
            if round >= 20 {
                warm += ALLOCATIONS.with(Cell::get) - before;
            }
            peer.read_exact(&mut echo[..5 * frames]).unwrap();
            assert_eq!(&echo[..5], b"hello");
        }
        assert_eq!(warm, 0, "with {frames} frames in a send");
        rig.finish([socket]);
    }
}

/// Receives five bytes and sends them back, several times over.
fn echo_once(
    rig: &mut Rig,
    socket: wharf_port::Socket,
    frames: usize,
    spare: &mut Option<Gather>,
    done: &mut Vec<Done>,
) {
    rig.receive(socket, 5, 0);
    let (mut sent, mut ended) = (false, false);
    while !(sent && ended) {
        rig.port.wait(Some(Duration::from_secs(10)), done).unwrap();
        for done in done.drain(..) {
            match done.outcome {
                Outcome::Received(bytes) => {
                    let frame = rig.frame(&bytes);
                    let mut gather = spare.take().unwrap();
                    (1..frames).for_each(|_| gather.push(frame.clone()));
                    gather.push(frame);
                    rig.send(socket, gather, 1);
                }
                Outcome::ReceiveEnded(_) => ended = true,
                Outcome::Sent { mut gather, .. } => {
                    gather.clear();
                    *spare = Some(gather);
                    sent = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
