//! Signals interrupt system calls; they must not interrupt anything else (U23).

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use wharf_port::{Gather, Outcome, ReceiveEnd};

use crate::rig::{Rig, config, in_child, pattern};

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_thousand_signals_a_second_lose_and_change_no_byte() {
    in_child("signals::a_thousand_signals_a_second_lose_and_change_no_byte", || {
        // SAFETY: a handler that only counts; no SA_RESTART, so that system calls are interrupted.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        }
        // SAFETY: no preconditions.
        let worker = unsafe { libc::pthread_self() };
        let stop = Arc::new(AtomicBool::new(false));
        let pest = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: the worker's thread outlives this one, which it joins.
                    assert_eq!(unsafe { libc::pthread_kill(worker, libc::SIGUSR1) }, 0);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        echo(8 << 20);
        // At least some must have hit a sleeping port.
        let mut rig = Rig::new(&config());
        let before = SIGNALS.load(Ordering::Relaxed);
        while SIGNALS.load(Ordering::Relaxed) < before + 50 {
            rig.turn(Duration::from_millis(100));
        }
        rig.finish([]);
        stop.store(true, Ordering::Relaxed);
        pest.join().unwrap();
    });
}

/// Echoes `bytes` in pieces as they come, and checks every one.
fn echo(bytes: usize) {
    let mut rig = Rig::new(&config());
    let (socket, mut peer) = rig.connection();
    let mut reading = peer.try_clone().unwrap();
    let writer = thread::spawn(move || {
        for at in (0..bytes).step_by(1 << 16) {
            peer.write_all(&pattern(1 << 16, at)).unwrap();
        }
        peer.shutdown(Shutdown::Write).unwrap();
    });
    let reader = thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        for at in (0..bytes).step_by(1 << 16) {
            reading.read_exact(&mut piece).unwrap();
            assert!(piece == pattern(1 << 16, at), "the bytes from {at} on");
        }
        assert_eq!(reading.read(&mut piece).unwrap(), 0);
    });
    let (mut waiting, mut sending, mut ended) = (Gather::new(), false, false);
    rig.receive(socket, 16 * 1024, 0);
    while !ended || sending {
        match rig.next().outcome {
            Outcome::Received(piece) => waiting.push(rig.frame(&piece)),
            Outcome::ReceiveEnded(ReceiveEnd::EndOfStream) => ended = true,
            Outcome::ReceiveEnded(ReceiveEnd::CreditSpent) => {}
            Outcome::Sent { result: Ok(()), .. } => sending = false,
            other => panic!("{other:?}"),
        }
        if !sending && !waiting.is_empty() {
            rig.send(socket, std::mem::take(&mut waiting), 1);
            sending = true;
        }
        let receiving = rig.port.counts().operations_in_flight > usize::from(sending);
        // Sixteen kilobytes are at most 16 pieces unless the kernel cuts them small.
        if !ended && !receiving && rig.done.is_empty() && waiting.frames().len() < 16 {
            rig.receive(socket, 16 * 1024, 0);
        }
    }
    rig.port.shutdown_write(socket);
    writer.join().unwrap();
    reader.join().unwrap();
    rig.finish([socket]);
}
