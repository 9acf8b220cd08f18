//! The rooms that most people would write on tokio: a task that reads and one that writes for each
//! member, and between them a channel for each, or one broadcast channel for all. Whoever writes takes
//! all that its channel has and writes it at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc};

use super::wire::TEXT_BYTES;

/// A text, shared by all who get it.
type Text = Arc<[u8; TEXT_BYTES]>;

/// What is between readers and writers.
#[derive(Clone)]
enum Room {
    /// A channel for each member.
    Channels(Arc<Mutex<Vec<mpsc::UnboundedSender<Text>>>>),
    /// One for all.
    Broadcast(broadcast::Sender<Text>),
}

/// A member's end of it.
enum Inbox {
    Channel(mpsc::UnboundedReceiver<Text>),
    Broadcast(broadcast::Receiver<Text>),
}

/// Texts that a member of the broadcast channel may be behind: more than are ever under way here.
const BROADCAST_TEXTS: usize = 1024;

/// Serves until the process ends, on one thread.
///
/// # Errors
/// When the runtime cannot be built, or accepting fails for good.
pub fn serve(
    one_channel: bool,
    listener: TcpListener,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let room = match one_channel {
        true => Room::Broadcast(broadcast::channel(BROADCAST_TEXTS).0),
        false => Room::Channels(Arc::default()),
    };
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        ready(listener.local_addr()?);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => join(stream, room.clone()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

fn join(stream: TcpStream, room: Room) {
    // Fails only if the peer is gone already, which the first read will say.
    let _ = stream.set_nodelay(true);
    let (reads, writes) = stream.into_split();
    let inbox = match &room {
        Room::Channels(members) => {
            let (sender, receiver) = mpsc::unbounded_channel();
            members.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
            Inbox::Channel(receiver)
        }
        Room::Broadcast(sender) => Inbox::Broadcast(sender.subscribe()),
    };
    tokio::spawn(write(writes, inbox));
    tokio::spawn(read(reads, room));
}

async fn read(mut stream: OwnedReadHalf, room: Room) {
    let mut text = [0; TEXT_BYTES];
    while stream.read_exact(&mut text).await.is_ok() {
        let text = Arc::new(text);
        match &room {
            Room::Channels(members) => {
                let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
                members.retain(|member| member.send(Arc::clone(&text)).is_ok());
            }
            // Nobody there is no error.
            Room::Broadcast(sender) => drop(sender.send(text)),
        }
    }
}

/// Ends with the connection, with the room, and where it is too far behind.
async fn write(mut stream: OwnedWriteHalf, mut inbox: Inbox) {
    let mut batch = vec![b'+'];
    while stream.write_all(&batch).await.is_ok() {
        batch.clear();
        let Some(text) = inbox.next().await else { return };
        batch.extend_from_slice(&text[..]);
        while let Some(text) = inbox.try_next() {
            batch.extend_from_slice(&text[..]);
        }
    }
}

impl Inbox {
    async fn next(&mut self) -> Option<Text> {
        match self {
            Inbox::Channel(texts) => texts.recv().await,
            Inbox::Broadcast(texts) => texts.recv().await.ok(),
        }
    }

    fn try_next(&mut self) -> Option<Text> {
        match self {
            Inbox::Channel(texts) => texts.try_recv().ok(),
            Inbox::Broadcast(texts) => texts.try_recv().ok(),
        }
    }
}
