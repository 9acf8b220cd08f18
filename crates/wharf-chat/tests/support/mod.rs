//! A chat on real sockets, and clients that speak its protocol with nothing but the standard library
//! and the crate's packets.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use wharf::{
    Handle, Limits, Server,
    framing::{self, LengthField},
    packet::{Packet, TextRef},
    port,
};
use wharf_chat::{
    Accounts, Chat, Cost, Memory, Outcome, Passwords, Scheme, Settings,
    packets::{ChatRequest, EnterRequest, LeaveRequest, LoginRequest},
};

/// A chat with the users `user0` to `user99`, all with the password `pw`.
pub(crate) fn accounts() -> Accounts {
    let accounts = Accounts::with(Memory::new(Scheme::Argon2id), Passwords::new(Cost::LEAST));
    for user in 0..100 {
        accounts.add(&format!("user{user}"), "pw").unwrap();
    }
    accounts
}

/// A server that is drained when it goes.
pub(crate) struct Running {
    pub(crate) chat: Chat,
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
}

pub(crate) fn start(settings: Settings) -> Running {
    start_with(settings, accounts(), |builder| builder)
}

pub(crate) fn start_with(
    settings: Settings,
    accounts: Accounts,
    with: impl FnOnce(wharf::Builder) -> wharf::Builder,
) -> Running {
    start_on(engine_from_environment(), settings, accounts, with)
}

#[expect(clippy::disallowed_methods, reason = "the engine is the choice of who runs the tests")]
fn engine_from_environment() -> port::EngineChoice {
    std::env::var("WHARF_ENGINE").map_or(port::EngineChoice::Auto, |name| name.parse().unwrap())
}

pub(crate) fn start_on(
    engine: port::EngineChoice,
    settings: Settings,
    accounts: Accounts,
    with: impl FnOnce(wharf::Builder) -> wharf::Builder,
) -> Running {
    let chat = Chat::new(settings, accounts);
    let builder = Server::builder()
        .workers(2)
        .port(port::Config { engine, ..port::Config::default() })
        .max_sessions(200);
    let address = "127.0.0.1:0".parse().unwrap();
    let builder = chat.listen(with(builder), address, Limits::default()).unwrap();
    let handle = builder.start().unwrap();
    let address = handle.local_addrs()[0];
    Running { chat, handle, address }
}

impl Running {
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A client that has logged in.
    pub(crate) fn user(&self, name: &str) -> Client {
        let mut client = self.connect();
        assert_eq!(client.login(name, "pw"), Outcome::Ok.code(), "{name}");
        client
    }

    /// A client in a room, which has read all that tells it so.
    pub(crate) fn member(&self, name: &str, room: i32) -> Client {
        let mut client = self.user(name);
        assert_eq!(client.enter(room), 0, "{name}");
        client.expect(209);
        client
    }

    /// Waits until this is so: what a client has done reaches the server when it does.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Chat) -> bool) {
        for _ in 0..3_000 {
            if is_so(&self.chat) {
                return;
            }
            pause(Duration::from_millis(10));
        }
        panic!("not {what}: {:?}", self.chat.counts());
    }

    /// Ends the server; nothing may be left over.
    pub(crate) fn finish(self) {
        self.handle.drain(Duration::from_secs(5));
        let report = self.handle.join().unwrap();
        assert!(report.leftover.is_nothing(), "{:?}", report.leftover);
        let counts = self.chat.counts();
        assert_eq!(counts.online, 0, "{counts:?}");
    }
}

/// A client of the chat. Reading waits for ten seconds at most: then the test fails.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next packet: its id and its body. `None` at the end of the stream.
    pub(crate) fn try_receive(&mut self) -> Option<(u16, Vec<u8>)> {
        loop {
            if let Some(header) = self.unread.first_chunk::<5>() {
                let total = usize::from(u16::from_le_bytes([header[0], header[1]]));
                let id = u16::from_le_bytes([header[2], header[3]]);
                assert_eq!(header[4], 0, "the type is 0");
                if self.unread.len() >= total {
                    let packet: Vec<u8> = self.unread.drain(..total).collect();
                    return Some((id, packet[5..].to_vec()));
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    pub(crate) fn receive(&mut self) -> (u16, Vec<u8>) {
        self.try_receive().expect("the connection is open")
    }

    /// The next packet, which has to be this one: its body.
    pub(crate) fn expect(&mut self, id: u16) -> Vec<u8> {
        let (found, body) = self.receive();
        assert_eq!(found, id, "with the body {body:?}");
        body
    }

    /// The result in the next packet, which has to be this one.
    pub(crate) fn result(&mut self, id: u16) -> u16 {
        let body = self.expect(id);
        u16::from_le_bytes(body.try_into().expect("a result has two bytes"))
    }

    pub(crate) fn login(&mut self, name: &str, password: &str) -> u16 {
        self.send(&login(name, password));
        self.result(202)
    }

    pub(crate) fn enter(&mut self, room: i32) -> u16 {
        self.send(&enter(room));
        self.result(207)
    }

    pub(crate) fn leave(&mut self) -> u16 {
        self.send(&leave());
        self.result(216)
    }

    /// Who said what, in the next packet.
    pub(crate) fn heard(&mut self) -> (String, String) {
        let body = self.expect(223);
        let notify = wharf_chat::packets::ChatNotify::decode(&body).unwrap();
        (notify.id.as_str().to_owned(), notify.text.as_str().to_owned())
    }

    /// Whether nothing has come that was not read: an echo comes first.
    pub(crate) fn assert_quiet(&mut self) {
        self.send(&wire(1, b"quiet"));
        assert_eq!(self.receive(), (1, b"quiet".to_vec()));
    }

    /// Whether the server has ended the connection.
    pub(crate) fn assert_closed(&mut self) {
        while let Some((id, _)) = self.try_receive() {
            assert!(id != 1, "an echo comes from a server that goes on");
        }
    }

    /// Ends the connection without a farewell.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn end(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A packet on the wire.
pub(crate) fn wire(id: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let packet = framing::Packet { id, session: 0, body };
    framing::append(&LengthField::TUTORIAL, packet, &mut out).unwrap();
    out
}

pub(crate) fn typed<P: Packet>(packet: &P) -> Vec<u8> {
    wire(P::ID, &packet.to_vec())
}

pub(crate) fn login(name: &str, password: &str) -> Vec<u8> {
    typed(&LoginRequest {
        id: TextRef::new(name).unwrap(),
        password: TextRef::new(password).unwrap(),
    })
}

pub(crate) fn enter(room: i32) -> Vec<u8> {
    typed(&EnterRequest { room })
}

pub(crate) fn leave() -> Vec<u8> {
    typed(&LeaveRequest {})
}

pub(crate) fn chat(text: &str) -> Vec<u8> {
    typed(&ChatRequest { text: TextRef::new(text).unwrap() })
}

/// Lets time pass, for what only time brings.
#[expect(clippy::disallowed_methods, reason = "a test's own thread may wait")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
