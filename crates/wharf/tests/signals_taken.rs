//! A process whose signals are taken already. In a program of its own: signals are the process's.
#![cfg(unix)]

use std::net::{TcpListener, TcpStream};

use wharf::{Context, Frame, Handler, Result, Server, framing::Raw};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        cx.send(frame.body())?;
        Ok(())
    }
}

#[test]
fn a_run_that_cannot_have_the_signals_leaves_no_server_behind() {
    ctrlc::set_handler(|| {}).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Server::builder().workers(2).listen(address, Raw, || Echo).run().unwrap_err();
    assert!(error.to_string().contains("signals"), "{error}");
    let refused = TcpStream::connect(address).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
