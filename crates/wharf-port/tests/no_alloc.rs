//! No allocation per message: the echo example, warm, on every engine of this system.

#![cfg(unix)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use wharf_port::{Config, Engine, EngineChoice, ListenOptions};

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/port_echo.rs"]
mod port_echo;

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call goes to the system's allocator as it came; counting neither allocates (the
// counter is initialised in place and has no destructor) nor touches the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sends `rounds` messages of changing size over each connection and reads them back.
fn echo_rounds(echo: &mut port_echo::Echo, clients: &mut [TcpStream], rounds: usize) {
    let message = [7; 9_000];
    let mut answer = [0; 9_000];
    for round in 0..rounds {
        let len = 1 + round * 997 % message.len();
        for client in &mut *clients {
            client.write_all(&message[..len]).unwrap();
        }
        for client in &mut *clients {
            let mut filled = 0;
            while filled < len {
                match client.read(&mut answer[filled..len]) {
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        echo.turn(Some(Duration::from_millis(1))).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

fn check(engine: Engine) {
    if let EngineChoice::Named(asked) = Config::from_env().unwrap().engine
        && asked != engine
    {
        return;
    }
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    let port = match wharf_port::open(&config) {
        Ok(port) => port,
        // The conformance suite tells refused from broken.
        Err(error) => {
            let _ = writeln!(io::stderr(), "{engine} is left out: {error}");
            return;
        }
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = wharf_port::listen(any, &ListenOptions::default(), 1).unwrap().remove(0);
    let address = listener.local_addr();
    let mut echo = port_echo::Echo::new(port, listener).unwrap();
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let client = TcpStream::connect(address).unwrap();
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    echo_rounds(&mut echo, &mut clients, 200);
    let before = ALLOCATIONS.get();
    echo_rounds(&mut echo, &mut clients, 500);
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations for 4,000 messages on {engine}");
    assert!(before > 0, "the counter counts");
}

#[test]
fn a_message_costs_no_allocation_on_poll() {
    check(Engine::Poll);
}

#[cfg(target_os = "linux")]
#[test]
fn a_message_costs_no_allocation_on_uring() {
    check(Engine::Uring);
}
