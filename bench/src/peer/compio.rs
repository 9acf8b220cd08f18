//! compio on its ring: one task per connection, the buffer is handed over and comes back.

use std::io;
use std::net::{SocketAddr, TcpListener};

use compio::buf::{BufResult, IntoInner, IoBuf};
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::TcpStream;
use compio::runtime::Runtime;

const READ_BYTES: usize = 16 * 1024;

/// Serves until the process ends.
///
/// # Errors
/// When the runtime cannot be built, or accepting fails for good.
pub fn serve(listener: TcpListener, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    Runtime::new()?.block_on(async {
        let listener = compio::net::TcpListener::from_std(listener)?;
        ready(listener.local_addr()?);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => compio::runtime::spawn(echo(stream)).detach(),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

async fn echo(mut stream: TcpStream) {
    // Fails only if the peer is gone already, which the first read will say.
    let _ = socket2::SockRef::from(&stream).set_tcp_nodelay(true);
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        buffer.clear();
        let BufResult(read, filled) = stream.read(buffer).await;
        let Ok(read @ 1..) = read else { return };
        let BufResult(written, sent) = stream.write_all(filled.slice(..read)).await;
        if written.is_err() {
            return;
        }
        buffer = sent.into_inner();
    }
}
