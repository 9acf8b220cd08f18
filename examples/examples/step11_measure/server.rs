//! The server that is measured. Each of its optimisations can be left out.

use std::{
    collections::{HashMap, VecDeque},
    io,
    time::Duration,
};

use wharf_port::{
    Close, CompletionPort, Done, Frame, Gather, Op, Outcome, ReceiveEnd, Socket, Token,
    UnboundSocket,
};

use super::{
    handover::Handover,
    inbound::{Inbound, PACKET_BYTES_MAX},
};

/// What is switched on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tuning {
    /// All completions that are there are handled before the port is asked again.
    pub(crate) batched: bool,
    /// A packet's memory is used again.
    pub(crate) pooled: bool,
    /// Received bytes stay where they are until their packet is whole.
    pub(crate) ring: bool,
    /// A queue between threads is taken as a whole, with one lock.
    pub(crate) swapped: bool,
    /// What waits for a client leaves in one send.
    pub(crate) gathered: bool,
}

/// On its way to the logic, or back as an answer.
struct Packet {
    client: u64,
    bytes: Vec<u8>,
}

struct Client {
    socket: Socket,
    inbound: Inbound,
    receiving: bool,
    waiting: VecDeque<Frame>,
    /// `None` while a send is in flight.
    sending: Option<Gather>,
    ended: bool,
}

pub(crate) struct Server {
    tuning: Tuning,
    pub(crate) port: Box<dyn CompletionPort>,
    clients: HashMap<u64, Client>,
    done: Vec<Done>,
    pending: VecDeque<Done>,
    to_logic: Handover<Packet>,
    from_logic: Handover<Packet>,
    /// What a thread holds of the two queues, to be used again.
    cut: VecDeque<Packet>,
    answers: VecDeque<Packet>,
    touched: Vec<u64>,
    free: Vec<Vec<u8>>,
    pub(crate) waits: u64,
    pub(crate) completions: u64,
    pub(crate) answered: u64,
}

impl Server {
    pub(crate) fn new(port: Box<dyn CompletionPort>, tuning: Tuning) -> Self {
        Self {
            tuning,
            port,
            clients: HashMap::new(),
            done: Vec::new(),
            pending: VecDeque::new(),
            to_logic: Handover::new(tuning.swapped),
            from_logic: Handover::new(tuning.swapped),
            cut: VecDeque::new(),
            answers: VecDeque::new(),
            touched: Vec::new(),
            free: Vec::new(),
            waits: 0,
            completions: 0,
            answered: 0,
        }
    }

    pub(crate) fn greet(&mut self, number: u64, socket: UnboundSocket) -> io::Result<()> {
        let client = Client {
            socket: self.port.adopt(socket)?,
            inbound: Inbound::new(self.tuning.ring),
            receiving: false,
            waiting: VecDeque::new(),
            sending: Some(Gather::new()),
            ended: false,
        };
        self.clients.insert(number, client);
        self.advance(number);
        Ok(())
    }

    /// What has completed, then the logic, then what it has to say.
    pub(crate) fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = if self.pending.is_empty() { timeout } else { Duration::ZERO };
        self.port.wait(Some(timeout), &mut self.done)?;
        self.waits += 1;
        self.pending.extend(self.done.drain(..));
        // One at a time is how a loop around GetQueuedCompletionStatus takes them.
        let count = if self.tuning.batched { usize::MAX } else { 1 };
        for _ in 0..count {
            let Some(Done { token: Token(number), outcome }) = self.pending.pop_front() else {
                break;
            };
            self.completions += 1;
            self.complete(number, outcome);
            self.touched.push(number);
        }
        self.to_logic.hand_over(&mut self.cut);
        self.think();
        self.say();
        Ok(())
    }

    fn complete(&mut self, number: u64, outcome: Outcome) {
        let client = self.clients.get_mut(&number).expect("there while anything is in flight");
        match outcome {
            Outcome::Received(bytes) => self.cut(number, &bytes),
            Outcome::ReceiveEnded(end) => {
                client.receiving = false;
                client.ended |= !matches!(end, ReceiveEnd::CreditSpent);
                if matches!(end, ReceiveEnd::Failed(_)) {
                    self.port.cancel(client.socket); // a send to nobody ends, too
                }
            }
            Outcome::Sent { mut gather, result } => {
                self.answered += gather.frames().len() as u64;
                gather.clear();
                client.sending = Some(gather);
                if result.is_err() {
                    client.waiting.clear();
                    client.ended = true;
                    self.port.cancel(client.socket);
                }
            }
            _ => unreachable!("clients receive and send"),
        }
    }

    /// Whole packets out of what has come.
    fn cut(&mut self, number: u64, mut received: &[u8]) {
        let client = self.clients.get_mut(&number).expect("it has just received");
        while !received.is_empty() && !client.ended {
            let taken = client.inbound.write(received);
            received = &received[taken..];
            loop {
                let mut bytes = self.free.pop().unwrap_or_default();
                match client.inbound.packet(&mut bytes) {
                    Ok(true) => self.cut.push_back(Packet { client: number, bytes }),
                    Ok(false) => break recycle(self.tuning, &mut self.free, bytes),
                    Err(too_long) => {
                        eprintln!("client {number} is closed: {too_long:?}");
                        client.ended = true;
                        break self.port.cancel(client.socket);
                    }
                }
            }
        }
    }

    /// The logic's part, which may run on any thread: it answers each packet with itself.
    fn think(&mut self) {
        self.to_logic.take(&mut self.answers);
        for packet in self.answers.iter_mut().filter(|_| !self.tuning.pooled) {
            packet.bytes = packet.bytes.clone();
        }
        self.from_logic.hand_over(&mut self.answers);
    }

    /// Queues the answers, then starts what each client that something has happened to needs.
    fn say(&mut self) {
        self.from_logic.take(&mut self.answers);
        for Packet { client: number, bytes } in self.answers.drain(..) {
            // Nobody has the number of one who is gone.
            if let Some(client) = self.clients.get_mut(&number) {
                let mut frame = self.port.buffers().take(bytes.len());
                frame.append(&bytes);
                client.waiting.push_back(frame.freeze());
                self.touched.push(number);
            }
            recycle(self.tuning, &mut self.free, bytes);
        }
        while let Some(number) = self.touched.pop() {
            self.start_send(number);
            self.advance(number);
        }
    }

    fn start_send(&mut self, number: u64) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if client.waiting.is_empty() {
            return;
        }
        let Some(mut gather) = client.sending.take() else { return };
        while !gather.is_full()
            && (gather.is_empty() || self.tuning.gathered)
            && let Some(frame) = client.waiting.pop_front()
        {
            gather.push(frame);
        }
        let socket = client.socket;
        self.port.submit(Op::Send { socket, gather }, Token(number));
    }

    /// The next receive, or the end once nothing is in flight: what waits was submitted before.
    fn advance(&mut self, number: u64) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let socket = client.socket;
        if client.receiving {
            return;
        }
        if !client.ended {
            if client.waiting.len() <= WAITING_MAX {
                client.receiving = true;
                let op = Op::Receive { socket, credit_bytes: CREDIT_BYTES };
                self.port.submit(op, Token(number));
            }
        } else if client.sending.is_some() {
            self.port.close(socket, Close::Graceful);
            self.clients.remove(&number);
        }
    }
}

/// Keeps the memory of a packet for the next, if there is not enough of it already.
fn recycle(tuning: Tuning, free: &mut Vec<Vec<u8>>, mut bytes: Vec<u8>) {
    if tuning.pooled && free.len() < FREE_MAX {
        bytes.clear();
        free.push(bytes);
    }
}

/// Bytes that a client may send before it is looked at whether it reads its answers.
const CREDIT_BYTES: u32 = 16 * 1024;
/// Answers behind a send in flight above which a client is not received from.
const WAITING_MAX: usize = 256;
/// 1 MiB of packets of the largest size.
const FREE_MAX: usize = (1 << 20) / PACKET_BYTES_MAX;
