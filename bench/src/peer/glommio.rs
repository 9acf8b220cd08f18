//! glommio on its rings: one task per connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::{LocalExecutorBuilder, Placement};

const READ_BYTES: usize = 16 * 1024;

/// Serves until the process ends.
///
/// # Errors
/// When the executor cannot be built (it locks memory), or accepting fails for good.
pub fn serve(listener: TcpListener, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let addr = listener.local_addr()?;
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make()?;
    executor.run(async {
        // SAFETY: the descriptor is a listening socket that nobody else owns from here on.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
        ready(addr);
        loop {
            match listener.accept().await {
                Ok(stream) => glommio::spawn_local(echo(stream)).detach(),
                Err(error) => return Err(io::Error::other(error.to_string())),
            };
        }
    })
}

async fn echo(mut stream: TcpStream) {
    // Fails only if the peer is gone already, which the first read will say.
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                if stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
