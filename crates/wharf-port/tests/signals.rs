//! A port under a storm of signals: every call that can be interrupted is, a thousand times a
//! second, and no byte is lost. A process of its own, since signal handlers are the process's.

#![cfg(unix)]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use wharf_port::{
    CompletionPort, Config, Done, Engine, EngineChoice, ListenOptions, Op, Outcome, ReceiveEnd,
    UnboundListener,
};

#[expect(dead_code, reason = "its main function is not for tests")]
#[path = "../examples/port_echo.rs"]
mod port_echo;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_signal: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Handles the signal, so that it ends calls early instead of the process, and never restarts them.
fn handle_signals() {
    // SAFETY: an all-zero sigaction is valid (no flags: no SA_RESTART), and the handler does
    // nothing that a signal handler must not (signal-safety(7)).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Signals the calling thread every millisecond while `run` runs.
fn under_fire(run: impl FnOnce()) {
    // SAFETY: pthread_self(3) has no preconditions.
    let target = unsafe { libc::pthread_self() };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // SAFETY: the target waits for this thread at the end of the scope: it exists.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(run));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    });
}

/// A port on this engine and a listener, unless the engine is not asked for or not to be had here.
fn open(engine: Engine) -> Option<(Box<dyn CompletionPort>, UnboundListener)> {
    if let EngineChoice::Named(asked) = Config::from_env().unwrap().engine
        && asked != engine
    {
        return None;
    }
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    let port = match wharf_port::open(&config) {
        Ok(port) => port,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{engine} is left out: {error}");
            return None;
        }
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = wharf_port::listen(any, &ListenOptions::default(), 1).unwrap().remove(0);
    Some((port, listener))
}

fn echo_under_fire(engine: Engine) {
    let Some((port, listener)) = open(engine) else { return };
    let address = listener.local_addr();
    let mut echo = port_echo::Echo::new(port, listener).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    let message = message();
    let start = SIGNALS.load(Ordering::Relaxed);
    let mut rounds = 0;
    while SIGNALS.load(Ordering::Relaxed) - start < 300 || rounds < 100 {
        client.write_all(&message).unwrap();
        let (mut answer, mut filled) = (vec![0; message.len()], 0);
        while filled < answer.len() {
            match client.read(&mut answer[filled..]) {
                Ok(0) => panic!("closed"),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    echo.turn(Some(Duration::from_secs(5))).unwrap();
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
            }
        }
        assert!(answer == message);
        // Idle for some signals: the sleep itself is interrupted.
        (0..3).for_each(|_| echo.turn(Some(Duration::from_millis(2))).unwrap());
        rounds += 1;
    }
}

/// The example receives once at a time; a receive that streams brings all of it, too.
fn stream_under_fire(engine: Engine) {
    let Some((mut port, listener)) = open(engine) else { return };
    let address = listener.local_addr();
    let listener = port.adopt_listener(listener).unwrap();
    port.submit(Op::Accept { listener }, listener.into());
    let mut client = TcpStream::connect(address).unwrap();
    let message = message();
    let (mut received, mut done) = (Vec::new(), Vec::new());
    let start = SIGNALS.load(Ordering::Relaxed);
    let mut rounds = 0;
    while SIGNALS.load(Ordering::Relaxed) - start < 300 || rounds < 100 {
        client.write_all(&message).unwrap();
        while received.len() < message.len() {
            port.wait(Some(Duration::from_secs(5)), &mut done).unwrap();
            for Done { token, outcome } in done.drain(..) {
                let socket = match outcome {
                    Outcome::Received(bytes) => {
                        received.extend_from_slice(&bytes);
                        continue;
                    }
                    Outcome::Accepted(client) => port.adopt(client).unwrap(),
                    Outcome::ReceiveEnded(ReceiveEnd::CreditSpent) => token.into(),
                    other => panic!("{other:?}"),
                };
                port.submit(Op::Receive { socket, credit_bytes: 1 << 20 }, socket.into());
            }
        }
        assert!(received == message);
        received.clear();
        // Idle for some signals, with the receive in flight.
        for _ in 0..3 {
            port.wait(Some(Duration::from_millis(2)), &mut done).unwrap();
        }
        assert!(done.is_empty(), "{done:?}");
        rounds += 1;
    }
}

fn message() -> Vec<u8> {
    (0..20_000_u32).map(|i| ((i * 7) >> 3) as u8).collect()
}

#[test]
fn signals_interrupt_nothing() {
    handle_signals();
    let all = |engine| {
        echo_under_fire(engine);
        stream_under_fire(engine);
    };
    under_fire(|| all(Engine::Poll));
    #[cfg(target_os = "linux")]
    under_fire(|| all(Engine::Uring));
}

/// A ring that is gone interrupts the thread that opened it, some time later.
#[test]
fn whoever_probes_is_not_interrupted() {
    let (mut near, _far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for _ in 0..10 {
        assert!(wharf_port::probe().iter().any(|(_, tried)| tried.is_ok()));
        assert_eq!(near.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
