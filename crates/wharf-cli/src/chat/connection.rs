//! A connection to the chat: threads that make it and read from it, so that nobody who types waits for
//! the network.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::Event;

/// How long a server may take to accept, and to take what is written.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest packet that is taken. Those of the protocol have 1,024 bytes at most; whoever says that
/// longer ones follow speaks something else.
const PACKET_BYTES_MAX: usize = 8192;

/// Connects.
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Connects on a thread of its own; what becomes of it is an event.
pub(super) fn try_connect(
    address: SocketAddr,
    connection: u32,
    events: Sender<Event>,
) -> io::Result<()> {
    let connect = move || {
        let event = match connect(address) {
            Ok(stream) => Event::Connected { connection, stream },
            Err(error) => Event::Lost { connection, error: error.to_string() },
        };
        let _ = events.send(event);
    };
    thread::Builder::new().name("connect".to_owned()).spawn(connect).map(drop)
}

/// Reads packets on a thread of its own, until the connection ends.
pub(super) fn read(stream: TcpStream, connection: u32, events: Sender<Event>) -> io::Result<()> {
    let read = move || {
        let error = match read_packets(stream, connection, &events) {
            Ok(()) => "the server has ended it".to_owned(),
            Err(error) => error.to_string(),
        };
        let _ = events.send(Event::Lost { connection, error });
    };
    thread::Builder::new().name("connection".to_owned()).spawn(read).map(drop)
}

fn read_packets(mut stream: TcpStream, connection: u32, events: &Sender<Event>) -> io::Result<()> {
    let mut unread = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => unread.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let mut used = 0;
        while let Some(header) = unread[used..].first_chunk::<5>() {
            let total = usize::from(u16::from_le_bytes([header[0], header[1]]));
            let id = u32::from(u16::from_le_bytes([header[2], header[3]]));
            if !(header.len()..=PACKET_BYTES_MAX).contains(&total) {
                return Err(io::Error::other("what came is no packet of a chat"));
            }
            let Some(packet) = unread.get(used..used + total) else { break };
            let body = packet[5..].to_vec();
            used += total;
            if events.send(Event::Arrived { connection, id, body }).is_err() {
                return Ok(());
            }
        }
        unread.drain(..used);
    }
}
