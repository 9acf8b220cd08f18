//! monoio on its ring: one task per connection, the buffer is handed over and comes back.

use std::io;
use std::net::{SocketAddr, TcpListener};

use monoio::buf::{IoBuf, SliceMut};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, RuntimeBuilder};

const READ_BYTES: usize = 16 * 1024;

/// Serves until the process ends.
///
/// # Errors
/// When the runtime cannot be built, or accepting fails for good.
pub fn serve(listener: TcpListener, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    RuntimeBuilder::<IoUringDriver>::new().build()?.block_on(async {
        let listener = monoio::net::TcpListener::from_std(listener)?;
        ready(listener.local_addr()?);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(monoio::spawn(echo(stream))),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

async fn echo(mut stream: TcpStream) {
    // Fails only if the peer is gone already, which the first read will say.
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (read, slice) = stream.read(SliceMut::new(buffer, 0, READ_BYTES)).await;
        let Ok(read @ 1..) = read else { return };
        let (written, sent) = stream.write_all(slice.into_inner().slice(..read)).await;
        if written.is_err() {
            return;
        }
        buffer = sent.into_inner();
    }
}
