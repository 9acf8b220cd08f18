//! The attackers: plain sockets that never block, stepped by one thread.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::wire::Wire;
use super::{Harm, Options};
use crate::descriptors;

/// All attackers of one attack.
pub(crate) struct Attack {
    harm: Harm,
    addr: SocketAddr,
    connections: usize,
    /// New connections per second, at most.
    rate: f64,
    sources: Vec<IpAddr>,
    wire: Wire,
    ends: Duration,
}

/// What became of the attackers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct AttackTally {
    /// Connections begun, and those of them that could not be made.
    pub(crate) begun: u64,
    pub(crate) refused: u64,
    /// Ended by the server: closed, or reset.
    pub(crate) closed_by_server: u64,
    pub(crate) reset_by_server: u64,
    /// Left by themselves, as the attack has it.
    pub(crate) left: u64,
    /// Still connected when the attack was over.
    pub(crate) held: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// How long those lived that the server ended: the middle one.
    pub(crate) lived_s: Option<f64>,
    /// Errors that are none of the above, by name.
    pub(crate) other_errors: BTreeMap<String, u64>,
}

struct Attacker {
    stream: TcpStream,
    began: Instant,
    /// It does nothing before this.
    next: Instant,
    /// Of the bytes that it is sending now.
    place: usize,
    /// Where a login is cut.
    cut: usize,
    is_connected: bool,
}

/// What an attacker's step came to.
enum Step {
    /// It goes on, after a pause.
    Again(Duration),
    /// It has done its harm: a reset, or an orderly end.
    Reset,
    Close,
}

impl Attack {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let needed = u64::from(options.connections) + 256;
        let limit = descriptors::raise(needed).unwrap_or_else(|_| descriptors::limit());
        if let Some(allowed) = limit.and_then(|limit| limit.soft)
            && allowed < needed
        {
            bail!("{needed} descriptors are needed and {allowed} allowed: fewer --connections");
        }
        // Honest users come from 127.0.0.1: a limit by address is to hit the attackers alone.
        let has_many =
            cfg!(target_os = "linux") && options.addr.is_ipv4() && options.addr.ip().is_loopback();
        let source = |index: u32| IpAddr::from(Ipv4Addr::from(0x7f00_0002 + index));
        let count = if has_many { u32::from(options.sources) } else { 0 };
        Ok(Self {
            harm: options.harm,
            addr: options.addr,
            connections: options.connections as usize,
            rate: options.rate.into(),
            sources: (0..count).map(source).collect(),
            wire: Wire::new(options.harm, options.framing()).map_err(anyhow::Error::msg)?,
            ends: options.duration + OVERTIME,
        })
    }

    /// Attacks until it is over, by the flag or by the time.
    pub(crate) fn run(&self, is_over: &AtomicBool) -> AttackTally {
        let mut tally = AttackTally::default();
        let mut lived = Vec::new();
        let mut random = 0x5eed_u64;
        let mut attackers: Vec<Attacker> = Vec::new();
        let began = Instant::now();
        while !is_over.load(Ordering::Relaxed) && began.elapsed() < self.ends {
            let allowed = began.elapsed().as_secs_f64() * self.rate;
            while attackers.len() < self.connections && (tally.begun as f64) < allowed {
                match self.connect(tally.begun, next(&mut random)) {
                    Ok(attacker) => attackers.push(attacker),
                    Err(error) => tally.count_error(&error),
                }
                tally.begun += 1;
            }
            let now = Instant::now();
            attackers.retain_mut(|attacker| {
                if attacker.next > now {
                    return true;
                }
                match self.step(attacker, &mut tally, &mut random) {
                    Ok(Step::Again(pause)) => {
                        attacker.next = now + pause;
                        return true;
                    }
                    Ok(Step::Reset) => {
                        tally.left += 1;
                        let _ = SockRef::from(&attacker.stream).set_linger(Some(Duration::ZERO));
                    }
                    Ok(Step::Close) => tally.left += 1,
                    Err(error) => {
                        if tally.count_end(&error, attacker.is_connected) {
                            lived.push(attacker.began.elapsed());
                        }
                    }
                }
                false
            });
            thread::sleep(BREATH);
        }
        tally.held = attackers.len() as u64;
        lived.sort_unstable();
        tally.lived_s = lived.get(lived.len() / 2).map(Duration::as_secs_f64);
        tally
    }

    /// Begins to connect; whether it comes about is seen later.
    fn connect(&self, number: u64, random: u64) -> io::Result<Attacker> {
        let domain = Domain::for_address(self.addr);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if self.harm == Harm::SlowReader {
            // The less the system takes in for it, the sooner the server has to.
            socket.set_recv_buffer_size(SLOW_READER_BYTES)?;
        }
        if !self.sources.is_empty() {
            let source = self.sources[(number % self.sources.len() as u64) as usize];
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&self.addr.into()) {
            Err(error) if !is_under_way(&error) => return Err(error),
            _ => {}
        }
        let now = Instant::now();
        let cut = (random % (self.wire.message.len() as u64 + 1)) as usize;
        let stream = TcpStream::from(socket);
        Ok(Attacker { stream, began: now, next: now, place: 0, cut, is_connected: false })
    }

    fn step(
        &self,
        attacker: &mut Attacker,
        tally: &mut AttackTally,
        random: &mut u64,
    ) -> io::Result<Step> {
        if !attacker.is_connected {
            match attacker.stream.take_error()? {
                Some(error) => return Err(error),
                None if attacker.stream.peer_addr().is_err() => return Ok(Step::Again(BREATH)),
                None => attacker.is_connected = true,
            }
        }
        let wire = &self.wire;
        match self.harm {
            Harm::SlowReader => {
                attacker.send_on(&wire.message, FLOOD_BYTES, tally)?;
                attacker.stream.take_error()?.map_or(Ok(Step::Again(PAUSE)), Err)
            }
            Harm::Slowloris => {
                // Never the last byte: the message does not end.
                if attacker.place + 1 < wire.message.len() {
                    attacker.send_on(&wire.message, 1, tally)?;
                }
                attacker.read(tally)?;
                Ok(Step::Again(SLOWLORIS_PAUSE))
            }
            Harm::HalfOpen | Harm::ConnectFlood => {
                attacker.read(tally)?;
                Ok(Step::Again(PAUSE))
            }
            Harm::ResetStorm => {
                attacker.send_on(&wire.message, wire.message.len(), tally)?;
                Ok(Step::Reset)
            }
            Harm::Garbage => {
                let garbage: Vec<u8> =
                    (0..GARBAGE_WORDS).flat_map(|_| next(random).to_le_bytes()).collect();
                attacker.place = 0;
                attacker.send_on(&garbage, garbage.len(), tally)?;
                attacker.read(tally)?;
                Ok(Step::Again(PAUSE))
            }
            Harm::Oversize => {
                if attacker.place < wire.oversize.len() {
                    attacker.send_on(
                        &wire.oversize,
                        wire.oversize.len() - attacker.place,
                        tally,
                    )?;
                    // `send_on` begins anew at the end; the header is sent once.
                    if attacker.place == 0 {
                        attacker.place = wire.oversize.len();
                    }
                } else {
                    let place = attacker.place;
                    attacker.place = 0;
                    attacker.send_on(&[b'x'; 4096], FLOOD_BYTES, tally)?;
                    attacker.place = place;
                }
                attacker.read(tally)?;
                Ok(Step::Again(PAUSE))
            }
            Harm::ZeroLength => {
                attacker.send_on(&wire.empty, FLOOD_BYTES / 4, tally)?;
                attacker.read(tally)?;
                Ok(Step::Again(PAUSE))
            }
            Harm::Fragments => {
                attacker.send_on(&wire.message, 1, tally)?;
                attacker.read(tally)?;
                Ok(Step::Again(BREATH))
            }
            Harm::LoginCut => {
                if attacker.place < attacker.cut {
                    attacker.send_on(&wire.message[..attacker.cut], attacker.cut, tally)?;
                }
                Ok(if next(random).is_multiple_of(2) { Step::Reset } else { Step::Close })
            }
            Harm::Churn => {
                if attacker.place == 0 && attacker.cut != usize::MAX {
                    attacker.send_on(&wire.message, wire.message.len(), tally)?;
                    attacker.cut = usize::MAX;
                }
                let received = attacker.read(tally)?;
                Ok(if received > 0 { Step::Close } else { Step::Again(BREATH) })
            }
        }
    }
}

impl Attacker {
    /// Sends up to so many bytes, of these over and over, as far as the system takes them.
    fn send_on(
        &mut self,
        bytes: &[u8],
        mut count: usize,
        tally: &mut AttackTally,
    ) -> io::Result<()> {
        while count > 0 {
            let rest = &bytes[self.place..];
            match self.stream.write(&rest[..rest.len().min(count)]) {
                Ok(sent) => {
                    tally.bytes_sent += sent as u64;
                    self.place = (self.place + sent) % bytes.len();
                    count -= sent;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come, a little of it.
    ///
    /// # Errors
    /// The server has ended the connection: `UnexpectedEof` in order, or what the system says.
    fn read(&mut self, tally: &mut AttackTally) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => {
                tally.bytes_received += received as u64;
                Ok(received)
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

impl AttackTally {
    /// Counts the end of a connection; whether it was the server that ended it.
    fn count_end(&mut self, error: &io::Error, was_connected: bool) -> bool {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.closed_by_server += 1,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
                if was_connected =>
            {
                self.reset_by_server += 1;
            }
            _ => {
                self.count_error(error);
                return false;
            }
        }
        true
    }

    /// Counts a connection that could not be made.
    fn count_error(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::TimedOut => {
                self.refused += 1
            }
            _ => *self.other_errors.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// A connect that does not block has only begun.
fn is_under_way(error: &io::Error) -> bool {
    #[cfg(unix)]
    let has_begun = error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error());
    #[cfg(not(unix))]
    let has_begun = false;
    has_begun || error.kind() == ErrorKind::WouldBlock
}

/// The next number of a fixed sequence: an attack can be repeated.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    crate::load::mix(*state)
}

/// Between two looks at the attackers.
const BREATH: Duration = Duration::from_millis(1);

/// Between two deeds of one attacker.
const PAUSE: Duration = Duration::from_millis(10);
const SLOWLORIS_PAUSE: Duration = Duration::from_secs(1);

/// What a flood sends in one go.
const FLOOD_BYTES: usize = 64 * 1024;

/// Random bytes in one go, in words of eight.
const GARBAGE_WORDS: usize = 64;

/// What the system takes in for one that does not read.
const SLOW_READER_BYTES: usize = 4096;

/// An attack ends by itself even if the honest users do not.
const OVERTIME: Duration = Duration::from_secs(30);
