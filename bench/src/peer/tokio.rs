//! The peer that most people would write: one tokio task per connection.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

const READ_BYTES: usize = 16 * 1024;

/// Which of tokio's schedulers runs the tasks.
#[derive(Clone, Copy, Debug)]
pub enum Scheduler {
    /// One thread.
    CurrentThread,
    /// Work stealing, with as many threads as the pinning allows (tokio's default).
    MultiThread,
}

/// Serves until the process ends.
///
/// # Errors
/// When the runtime cannot be built, or accepting fails for good.
pub fn serve(
    scheduler: Scheduler,
    listener: TcpListener,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let mut builder = match scheduler {
        Scheduler::CurrentThread => Builder::new_current_thread(),
        Scheduler::MultiThread => Builder::new_multi_thread(),
    };
    builder.enable_io().build()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        ready(listener.local_addr()?);
        // In a task of its own: the future given to `block_on` runs outside the worker threads.
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(echo(stream));
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return error,
                }
            }
        });
        Err(accepting.await?)
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
