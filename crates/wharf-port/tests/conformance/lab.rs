//! What the cases share: the world that a port lives in, and a port under watch.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use wharf_port::{
    Close, CompletionPort, Config, Counts, Done, Frame, Gather, Op, Outcome, ReceiveEnd,
    RecvBuffer, Socket, Token, UnboundListener,
};

/// Where ports, listeners and the peers of their connections come from: an operating system or a
/// simulated network.
pub(crate) trait Rig {
    /// Opens a port of the backend under test.
    fn port(&self, config: Config) -> Box<dyn CompletionPort>;

    /// Listens on an address of its own. Connections should have small send buffers, so that sends
    /// are partial.
    fn listen(&self) -> UnboundListener;

    /// Connects from outside of every port to an address that is listened on.
    fn connect(&self, address: SocketAddr) -> Box<dyn Peer>;

    /// An address that refuses connections.
    fn refusing_address(&self) -> SocketAddr;

    /// Why this world has no say in a case, if it has none.
    fn cannot_judge(&self, case: &str) -> Option<&'static str> {
        let _ = case;
        None
    }
}

/// The other end of a connection, driven by hand. Never blocks; dropping it closes it.
pub(crate) trait Peer {
    /// Sends what fits; `WouldBlock` if nothing does.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Receives what is there; 0 at the end of the stream, `WouldBlock` if there is nothing yet.
    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Ends its stream and can still receive.
    fn shutdown_write(&mut self);

    /// Closes so that the other end sees a reset.
    fn reset(self: Box<Self>);

    /// Its own address.
    fn local_addr(&self) -> SocketAddr;
}

/// A port under watch: that each operation has completions of its own kind only, exactly one final
/// one, and nothing behind it (P1) is checked in every case.
pub(crate) struct Lab<'r> {
    pub(crate) rig: &'r dyn Rig,
    pub(crate) port: Box<dyn CompletionPort>,
    pub(crate) listener: Socket,
    pub(crate) address: SocketAddr,
    accept: Token,
    operations: BTreeMap<u64, Operation>,
    sockets: Vec<Socket>,
    arrived: VecDeque<Done>,
    done: Vec<Done>,
}

struct Operation {
    kind: Kind,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Accept,
    Connect,
    Receive,
    ReceiveOnce,
    Send,
}

impl<'r> Lab<'r> {
    /// Opens a port that listens and accepts.
    pub(crate) fn open(rig: &'r dyn Rig, config: Config) -> Self {
        let mut port = rig.port(config);
        let listener = rig.listen();
        let address = listener.local_addr();
        let listener = port.adopt_listener(listener).unwrap();
        let mut lab = Self {
            rig,
            port,
            listener,
            address,
            accept: Token(0),
            operations: BTreeMap::new(),
            sockets: vec![listener],
            arrived: VecDeque::new(),
            done: Vec::new(),
        };
        lab.accept = lab.submit(Op::Accept { listener });
        lab
    }

    pub(crate) fn submit(&mut self, op: Op) -> Token {
        let kind = match &op {
            Op::Accept { .. } => Kind::Accept,
            Op::Connect { .. } => Kind::Connect,
            Op::Receive { .. } => Kind::Receive,
            Op::ReceiveOnce { .. } => Kind::ReceiveOnce,
            Op::Send { .. } => Kind::Send,
        };
        let token = Token(self.operations.len() as u64);
        // First the operation, which may panic, then the record of it.
        self.port.submit(op, token);
        self.operations.insert(token.0, Operation { kind, over: false });
        token
    }

    /// Waits once, briefly, and takes in what completed.
    pub(crate) fn turn(&mut self) {
        self.port.wait(Some(TURN), &mut self.done).unwrap();
        for done in self.done.drain(..) {
            let operation = self.operations.get_mut(&done.token.0).expect("a token of ours");
            assert!(!operation.over, "a completion behind the final one (P1): {done:?}");
            let (kind, over) = match &done.outcome {
                Outcome::Accepted(_) => (Kind::Accept, false),
                Outcome::AcceptEnded(_) => (Kind::Accept, true),
                Outcome::Connected(_) => (Kind::Connect, true),
                Outcome::Received(bytes) => {
                    assert!(!bytes.is_empty(), "received bytes are never none");
                    (Kind::Receive, false)
                }
                Outcome::ReceiveEnded(_) => (Kind::Receive, true),
                Outcome::ReceivedOnce(last) => {
                    let empty = last.as_ref().is_ok_and(|bytes| bytes.is_empty());
                    assert!(!empty, "received bytes are never none");
                    (Kind::ReceiveOnce, true)
                }
                Outcome::Sent { .. } => (Kind::Send, true),
            };
            assert_eq!(kind, operation.kind, "{done:?}");
            operation.over = over;
            self.arrived.push_back(done);
        }
        let open = self.operations.values().filter(|operation| !operation.over).count();
        assert_eq!(self.port.counts().operations_in_flight, open, "operations in flight");
    }

    /// Turns until there is a result.
    #[track_caller]
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut result: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        for _ in 0..TURNS_MAX {
            if let Some(result) = result(self) {
                return result;
            }
            self.turn();
        }
        panic!("never came: {what}; {:?}, arrived: {:?}", self.port.counts(), self.arrived);
    }

    /// Some turns, for something that should not happen.
    pub(crate) fn settle(&mut self) {
        (0..20).for_each(|_| self.turn());
    }

    /// The operation's next completion, if it has arrived.
    pub(crate) fn try_next(&mut self, token: Token) -> Option<Outcome> {
        let index = self.arrived.iter().position(|done| done.token == token)?;
        self.arrived.remove(index).map(|done| done.outcome)
    }

    /// The operation's next completion.
    #[track_caller]
    pub(crate) fn next(&mut self, token: Token) -> Outcome {
        self.until("a completion", |lab| lab.try_next(token))
    }

    /// The next completion of any of these operations.
    #[track_caller]
    pub(crate) fn next_of(&mut self, tokens: &[Token]) -> Done {
        self.until("a completion of one of these", |lab| {
            let index = lab.arrived.iter().position(|done| tokens.contains(&done.token))?;
            lab.arrived.remove(index)
        })
    }

    /// A connection: the port's end, adopted, and the peer.
    #[track_caller]
    pub(crate) fn pair(&mut self) -> (Socket, Box<dyn Peer>) {
        let peer = self.rig.connect(self.address);
        let accepted = self.accepted();
        assert_eq!(accepted.peer_addr().unwrap(), peer.local_addr());
        (self.adopt(accepted), peer)
    }

    /// A connection on which so many bytes have come before anybody receives, and these bytes.
    pub(crate) fn pair_with_input(&mut self, bytes: usize) -> (Socket, Box<dyn Peer>, Vec<u8>) {
        let (socket, mut peer) = self.pair();
        let input = pattern(bytes);
        self.peer_writes(&mut *peer, &input);
        self.settle();
        (socket, peer, input)
    }

    /// The next connection of the listener.
    #[track_caller]
    pub(crate) fn accepted(&mut self) -> wharf_port::UnboundSocket {
        match self.next(self.accept) {
            Outcome::Accepted(socket) => socket,
            outcome => panic!("{outcome:?}"),
        }
    }

    pub(crate) fn adopt(&mut self, socket: wharf_port::UnboundSocket) -> Socket {
        let socket = self.port.adopt(socket).unwrap();
        self.sockets.push(socket);
        socket
    }

    /// The token of the accept that [`open`](Self::open) submitted.
    pub(crate) fn accept_token(&self) -> Token {
        self.accept
    }

    /// Submits an accept on the listener, whose last one is over.
    pub(crate) fn accept_again(&mut self) {
        self.accept = self.submit(Op::Accept { listener: self.listener });
    }

    /// A socket to connect.
    pub(crate) fn stream(&mut self, address: SocketAddr) -> Socket {
        let socket = self.port.stream(address, &wharf_port::SocketOptions::default()).unwrap();
        self.sockets.push(socket);
        socket
    }

    pub(crate) fn receive(&mut self, socket: Socket, credit_bytes: u32) -> Token {
        self.submit(Op::Receive { socket, credit_bytes })
    }

    pub(crate) fn receive_once(&mut self, socket: Socket, bytes_max: u32) -> Token {
        self.submit(Op::ReceiveOnce { socket, bytes_max })
    }

    /// What the single receive ends with.
    #[track_caller]
    pub(crate) fn once(&mut self, token: Token) -> Result<RecvBuffer, ReceiveEnd> {
        match self.next(token) {
            Outcome::ReceivedOnce(last) => last,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Sends copies of the parts as one gather.
    pub(crate) fn send(&mut self, socket: Socket, parts: &[&[u8]]) -> Token {
        let gather = self.gather(parts);
        self.submit(Op::Send { socket, gather })
    }

    pub(crate) fn gather(&self, parts: &[&[u8]]) -> Gather {
        let mut gather = Gather::new();
        parts.iter().for_each(|part| gather.push(self.frame(part)));
        gather
    }

    pub(crate) fn frame(&self, bytes: &[u8]) -> Frame {
        let mut buf = self.port.buffers().take(bytes.len());
        assert_eq!(buf.append(bytes), bytes.len());
        buf.freeze()
    }

    /// Waits for the send to succeed.
    #[track_caller]
    pub(crate) fn sent(&mut self, token: Token) {
        match self.next(token) {
            Outcome::Sent { result: Ok(()), .. } => {}
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Waits for the receive's end and puts what came before behind `bytes`.
    #[track_caller]
    pub(crate) fn collect(&mut self, token: Token, bytes: &mut Vec<u8>) -> ReceiveEnd {
        loop {
            match self.next(token) {
                Outcome::Received(piece) => bytes.extend_from_slice(&piece),
                Outcome::ReceiveEnded(end) => return end,
                outcome => panic!("{outcome:?}"),
            }
        }
    }

    /// Receives `len` bytes, by several operations if need be.
    #[track_caller]
    pub(crate) fn receive_exactly(&mut self, socket: Socket, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let token = self.receive(socket, (len - bytes.len()) as u32);
            let end = self.collect(token, &mut bytes);
            assert!(matches!(end, ReceiveEnd::CreditSpent), "{end:?} after {}", bytes.len());
        }
        bytes
    }

    #[track_caller]
    pub(crate) fn peer_writes(&mut self, peer: &mut dyn Peer, mut bytes: &[u8]) {
        self.until("room at the peer", |_| {
            while !bytes.is_empty() {
                match peer.try_write(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                    Err(error) => panic!("{error}"),
                }
            }
            Some(())
        });
    }

    #[track_caller]
    pub(crate) fn peer_reads(&mut self, peer: &mut dyn Peer, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        self.until("bytes at the peer", |_| {
            while filled < len {
                match peer.try_read(&mut bytes[filled..]) {
                    Ok(0) => panic!("the stream ended after {filled} bytes of {len}"),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                    Err(error) => panic!("{error} after {filled} bytes of {len}"),
                }
            }
            Some(())
        });
        bytes
    }

    /// Everything up to the end of the stream, or up to the error.
    #[track_caller]
    pub(crate) fn peer_reads_to_end(&mut self, peer: &mut dyn Peer) -> (Vec<u8>, io::Result<()>) {
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        let end = self.until("the end at the peer", |_| {
            loop {
                match peer.try_read(&mut piece) {
                    Ok(0) => return Some(Ok(())),
                    Ok(read) => bytes.extend_from_slice(&piece[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
        });
        (bytes, end)
    }

    /// Closes a socket with nothing in flight.
    pub(crate) fn close(&mut self, socket: Socket, how: Close) {
        self.port.close(socket, how);
        self.sockets.retain(|open| *open != socket);
    }

    /// Cancels everything, joins it, closes everything, and checks that nothing is left.
    pub(crate) fn finish(mut self) {
        for socket in self.sockets.clone() {
            self.port.cancel(socket);
        }
        self.until("the end of every operation", |lab| {
            lab.operations.values().all(|operation| operation.over).then_some(())
        });
        for socket in self.sockets.clone() {
            self.close(socket, Close::Reset);
        }
        self.arrived.clear();
        self.settle(); // a second final completion would come now
        assert!(self.arrived.is_empty());
        let totals = self.port.counts();
        let idle = Counts {
            operations_in_flight: 0,
            buffers_lent: 0,
            blocks_in_use: 0,
            sockets: 0,
            receives_parked: 0,
            ..totals
        };
        assert_eq!(totals, idle, "the idle invariant");
    }
}

/// Bytes whose every position can be told from its neighbours'.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 21) as u8).collect()
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(bytes: &[u8], expected: &[u8]) {
    let common = bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let lens = (bytes.len(), expected.len());
    assert!(bytes == expected, "equal up to byte {common}; lengths {lens:?}");
}

/// The message that `run` panics with.
#[track_caller]
pub(crate) fn panic_of<T>(run: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(run()))) else {
        panic!("it did not panic");
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// How long a turn waits where nothing happens.
const TURN: Duration = Duration::from_millis(1);

/// Turns after which something is taken to never come; only a failing case takes that long.
const TURNS_MAX: usize = 20_000;
