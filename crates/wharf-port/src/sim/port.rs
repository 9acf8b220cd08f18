//! A port on a simulated network.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Duration};

use super::{
    Held, SimNet, SimStream,
    in_flight::{Delivered, Delivery, Lane, Source, Work},
    world::{Buffers, Id, PortId, Queue, World},
};
use crate::{
    buffer::{BufferPool, FreeList, Gather, RecvBuffer, RecvPool},
    config::{Config, SecondSend},
    contract::{
        Close, CompletionPort, Counts, Done, Engine, EngineInfo, Op, Outcome, SendError, Socket,
        Time, Token,
    },
    operation::Slots,
    socket::{Listening, SocketOptions, Stream, UnboundListener, UnboundSocket},
    wake::{Kick, WakeFlag, Waker},
};

pub(super) struct SimPort {
    net: SimNet,
    id: PortId,
    sockets: Slots<Bound>,
    in_flight: usize,
    receive_pool: Rc<RecvPool>,
    pool: BufferPool,
    second_send: SecondSend,
    /// Second sends to give back (P5).
    refused: Vec<Done>,
    flag: WakeFlag,
    waker: Waker,
    info: EngineInfo,
}

/// A socket of this port. The network knows what is in flight by [`Bound::id`]; the gather stays
/// here, since it belongs to this thread.
struct Bound {
    id: Id,
    kind: Kind,
    /// Which lanes have an operation in flight.
    in_flight: [bool; 4],
    sending: Option<Gather>,
    /// The stream ends behind the send in flight.
    ends_stream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Listener,
    Stream,
}

impl SimPort {
    pub(super) fn new(net: &SimNet, config: &Config) -> Self {
        let mut world = net.lock();
        let id = world.next_id();
        world.ports.insert(id, Queue::default());
        drop(world);
        let flag = WakeFlag::new();
        Self {
            net: net.clone(),
            id,
            sockets: Slots::new(),
            in_flight: 0,
            receive_pool: RecvPool::new(
                config.receive_buffers,
                config.receive_buffer_bytes as usize,
                config.guard_pages,
                FreeList::Stack(RefCell::new(Vec::new())),
            ),
            pool: BufferPool::new(config.guard_pages),
            second_send: config.second_send,
            refused: Vec::new(),
            waker: Waker::new(flag.clone(), Kick::Nothing),
            flag,
            info: EngineInfo {
                engine: Engine::Sim,
                detail: format!("in memory, seed {}", net.seed),
                fell_back: None,
            },
        }
    }

    fn bind(&mut self, id: Id, kind: Kind) -> Socket {
        self.sockets.insert(Bound {
            id,
            kind,
            in_flight: [false; 4],
            sending: None,
            ends_stream: false,
        })
    }

    fn bound(&self, socket: Socket) -> &Bound {
        self.sockets.get(socket).expect(NOT_OPEN)
    }

    fn start(&mut self, socket: Socket, lane: Lane, token: Token, work: Work) {
        let bound = self.sockets.get_mut(socket).expect(NOT_OPEN);
        let kind = if lane == Lane::Accept { Kind::Listener } else { Kind::Stream };
        assert_eq!(bound.kind, kind, "an operation of another kind of socket");
        let busy = &mut bound.in_flight[lane as usize];
        assert!(!*busy, "one {lane:?} at a time is in flight on a socket (P5)");
        *busy = true;
        self.in_flight += 1;
        let source = Source { id: bound.id, lane };
        self.net.lock().start(source, self.id, socket, token, work);
    }

    fn send(&mut self, socket: Socket, gather: Gather, token: Token) {
        assert!(!gather.is_empty(), "an empty gather cannot be sent");
        let busy = self.bound(socket).in_flight[Lane::Send as usize];
        if busy && self.second_send == SecondSend::Refuse {
            let outcome = Outcome::Sent { gather, result: Err(SendError::AlreadyInFlight) };
            self.refused.push(Done { token, outcome });
            self.in_flight += 1;
            return;
        }
        let bytes = gather.frames().iter().flat_map(|frame| &**frame).copied().collect();
        self.start(socket, Lane::Send, token, Work::Send { bytes, sent: 0, result: None });
        self.sockets.get_mut(socket).expect(NOT_OPEN).sending = Some(gather);
    }

    /// Delivers everything that is ready.
    fn deliver(&mut self, world: &mut World, done: &mut Vec<Done>) {
        loop {
            let buffers = Buffers {
                free: self.receive_pool.free(),
                bytes_each: self.receive_pool.buffer_bytes(),
            };
            let Some(delivery) = world.take(self.id, buffers) else { return };
            done.push(self.received(world, delivery));
        }
    }

    fn received(&mut self, world: &mut World, delivery: Delivery) -> Done {
        let Delivery { socket, token, what } = delivery;
        let bound = self.sockets.get_mut(socket).expect("open while something is in flight (P7)");
        if what.is_final() {
            let lane = match what {
                Delivered::Accepted { .. } | Delivered::AcceptEnded(_) => Lane::Accept,
                Delivered::Connected(_) => Lane::Connect,
                Delivered::Received(_)
                | Delivered::ReceiveEnded(_)
                | Delivered::ReceivedOnce(_) => Lane::Receive,
                Delivered::Sent(_) => Lane::Send,
            };
            bound.in_flight[lane as usize] = false;
            self.in_flight -= 1;
        }
        let outcome = match what {
            Delivered::Accepted { end, remote } => {
                let stream = SimStream { held: Held::new(&self.net, end), remote };
                Outcome::Accepted(UnboundSocket(Stream::Sim(Box::new(stream))))
            }
            Delivered::AcceptEnded(end) => Outcome::AcceptEnded(end),
            Delivered::Connected(result) => Outcome::Connected(result),
            Delivered::Received(bytes) => Outcome::Received(self.lend(&bytes)),
            Delivered::ReceiveEnded(end) => Outcome::ReceiveEnded(end),
            Delivered::ReceivedOnce(last) => {
                Outcome::ReceivedOnce(last.map(|bytes| self.lend(&bytes)))
            }
            Delivered::Sent(result) => {
                let gather = bound.sending.take().expect("kept while its send is in flight");
                if bound.ends_stream {
                    world.finish(bound.id);
                }
                Outcome::Sent { gather, result }
            }
        };
        Done { token, outcome }
    }

    /// Puts bytes into a free buffer and lends it.
    fn lend(&self, bytes: &[u8]) -> RecvBuffer {
        let id = self.receive_pool.take().expect("the network was told of a free buffer");
        assert!(bytes.len() <= self.receive_pool.buffer_bytes());
        // SAFETY: the address is valid for `buffer_bytes`, at least as many as there are bytes
        // (asserted), and a buffer that was free has no other holder (P2).
        unsafe {
            let start = self.receive_pool.address(id);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
        }
        RecvBuffer::lend(&self.receive_pool, id, bytes.len())
    }
}

impl CompletionPort for SimPort {
    fn adopt(&mut self, socket: UnboundSocket) -> io::Result<Socket> {
        match socket.0 {
            Stream::Sim(mut stream) => {
                let id = stream.held.bind(&self.net)?;
                Ok(self.bind(id, Kind::Stream))
            }
            #[cfg(any(unix, windows))]
            Stream::Os(_) => Err(super::foreign()),
        }
    }

    fn adopt_listener(&mut self, listener: UnboundListener) -> io::Result<Socket> {
        match listener.socket {
            Listening::Sim(mut listener) => {
                let id = listener.0.bind(&self.net)?;
                Ok(self.bind(id, Kind::Listener))
            }
            #[cfg(any(unix, windows))]
            Listening::Os(_) => Err(super::foreign()),
        }
    }

    fn stream(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        let local = options.source.unwrap_or_else(|| super::any_address_like(address));
        let id = self.net.lock().new_end(local, address);
        Ok(self.bind(id, Kind::Stream))
    }

    fn submit(&mut self, op: Op, token: Token) {
        match op {
            Op::Accept { listener } => self.start(listener, Lane::Accept, token, Work::Accept),
            Op::Connect { socket, address } => {
                self.start(socket, Lane::Connect, token, Work::Connect { result: None });
                let id = self.bound(socket).id;
                self.net.lock().start_connecting(id, address);
            }
            Op::Receive { socket, credit_bytes } => {
                assert!(credit_bytes > 0, "a receive has a credit of at least one byte");
                let work = Work::Receive { credit_left: credit_bytes as usize, once: false };
                self.start(socket, Lane::Receive, token, work);
            }
            Op::ReceiveOnce { socket, bytes_max } => {
                assert!(bytes_max > 0, "a receive is for at least one byte");
                let work = Work::Receive { credit_left: bytes_max as usize, once: true };
                self.start(socket, Lane::Receive, token, work);
            }
            Op::Send { socket, gather } => self.send(socket, gather, token),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<Time> {
        let before = done.len();
        self.in_flight -= self.refused.len();
        done.append(&mut self.refused);
        let net = self.net.clone();
        let mut world = net.lock();
        let deadline = timeout.map(|timeout| world.now + timeout);
        let may_sleep = self.flag.prepare_sleep();
        // What was due by another's step of the clock is due for this port too.
        let now = world.now;
        world.advance_to(now);
        loop {
            self.deliver(&mut world, done);
            if done.len() > before || !may_sleep || !world.pass_time(deadline) {
                break;
            }
        }
        self.flag.wake_up();
        let now = world.now;
        drop(world);
        if done.len() == before && timeout != Some(Duration::ZERO) {
            // A real port would have slept: let those run who might wake it.
            std::thread::yield_now();
        }
        Ok(now)
    }

    fn turn_away(&mut self, listener: Socket) -> usize {
        let bound = self.bound(listener);
        assert!(!bound.in_flight[Lane::Accept as usize], "an accept is in flight");
        self.net.lock().turn_away(bound.id)
    }

    fn pause(&mut self, socket: Socket) {
        let id = self.bound(socket).id;
        self.net.lock().pause(id);
    }

    fn cancel(&mut self, socket: Socket) {
        let id = self.bound(socket).id;
        self.net.lock().cancel(id);
    }

    fn shutdown_write(&mut self, socket: Socket) {
        let bound = self.sockets.get_mut(socket).expect(NOT_OPEN);
        if bound.in_flight[Lane::Send as usize] {
            bound.ends_stream = true;
        } else {
            self.net.lock().finish(bound.id);
        }
    }

    fn close(&mut self, socket: Socket, how: Close) {
        let bound = self.bound(socket);
        assert_eq!(bound.in_flight, [false; 4], "nothing is in flight on a socket to close (P7)");
        let bound = self.sockets.remove(socket).expect(NOT_OPEN);
        let mut world = self.net.lock();
        match bound.kind {
            Kind::Listener => world.close_listener(bound.id),
            Kind::Stream => world.close(bound.id, how),
        }
    }

    fn local_addr(&self, socket: Socket) -> io::Result<SocketAddr> {
        let bound = self.bound(socket);
        let world = self.net.lock();
        Ok(match bound.kind {
            Kind::Listener => world.listeners[&bound.id].local,
            Kind::Stream => world.ends[&bound.id].local,
        })
    }

    fn now(&self) -> Time {
        self.net.now()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn buffers(&self) -> &BufferPool {
        &self.pool
    }

    fn counts(&self) -> Counts {
        let world = self.net.lock();
        let queue = &world.ports[&self.id];
        Counts {
            operations_in_flight: self.in_flight,
            buffers_lent: self.receive_pool.lent(),
            blocks_in_use: self.pool.blocks_in_use(),
            sockets: self.sockets.len(),
            receives_parked: queue.parked.len(),
            system_calls: 0,
            buffer_shortages: queue.shortages,
            stale_completions: 0,
        }
    }

    fn engine(&self) -> &EngineInfo {
        &self.info
    }
}

/// The network holds nothing of the port's, so there is nothing to wait for (P8): what is in flight
/// is forgotten, and the sockets are closed as a process's end closes them.
impl Drop for SimPort {
    fn drop(&mut self) {
        let mut world = self.net.lock();
        for (_, bound) in self.sockets.iter() {
            world.forget(bound.id);
            match bound.kind {
                Kind::Listener => world.close_listener(bound.id),
                Kind::Stream => world.close(bound.id, Close::Graceful),
            }
        }
        world.ports.remove(&self.id);
    }
}

const NOT_OPEN: &str = "the socket is one of this port's and open";
