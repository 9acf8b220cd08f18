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

use wharf_port::{Config, Engine, EngineChoice, ListenOptions};

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

fn echo_under_fire(engine: Engine) {
    if let EngineChoice::Named(asked) = Config::from_env().unwrap().engine
        && asked != engine
    {
        return;
    }
    let config = Config { engine: EngineChoice::Named(engine), ..Config::default() };
    let port = match wharf_port::open(&config) {
        Ok(port) => port,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{engine} is left out: {error}");
            return;
        }
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = wharf_port::listen(any, &ListenOptions::default(), 1).unwrap().remove(0);
    let address = listener.local_addr();
    let mut echo = port_echo::Echo::new(port, listener).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    let message: Vec<u8> = (0..20_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
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

#[test]
fn signals_interrupt_nothing() {
    handle_signals();
    under_fire(|| echo_under_fire(Engine::Poll));
    #[cfg(target_os = "linux")]
    under_fire(|| echo_under_fire(Engine::Uring));
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
