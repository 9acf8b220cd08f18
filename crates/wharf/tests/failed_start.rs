//! A start that fails. In a program of its own: a child process of another test would hold on to the
//! address for a moment.
#![cfg(target_os = "linux")]

use std::net::TcpListener;

use wharf::{
    Context, Frame, Handler, Result, Server,
    framing::Raw,
    port::{self, Config, EngineChoice},
};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        cx.send(frame.body())?;
        Ok(())
    }
}

/// Whatever it had bound is free when it says that it failed. (An address of the loopback network
/// that no other program uses.)
#[test]
fn a_start_that_fails_leaves_nothing_bound() {
    let address = TcpListener::bind("127.93.17.5:0").unwrap().local_addr().unwrap();
    for (engine, _) in port::probe().into_iter().filter(|(_, works)| works.is_ok()) {
        for _ in 0..20 {
            let engine = EngineChoice::Named(engine);
            let broken = Config { engine, receive_buffers: 0, ..Config::default() };
            let server = || Server::builder().workers(4).listen(address, Raw, || Echo);
            server().port(broken).start().map(drop).unwrap_err();
            let handle = server().port(Config { engine, ..Config::default() }).start().unwrap();
            handle.drain(std::time::Duration::ZERO);
            assert!(handle.join().unwrap().leftover.is_nothing());
        }
    }
}
