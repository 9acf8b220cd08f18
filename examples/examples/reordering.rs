//! Beside step 4: what a server risks that has more than one send in flight on a socket. Windows takes
//! a second `WSASend` while the first is in flight, and servers in C++ rely on it. `wharf-port` refuses
//! it, so the system is played here, on the simulated network: it takes any number of sends, and sends
//! of each what there is room for.
//!
//! ```text
//! cargo run -p wharf-examples --example reordering -- 5
//! ```

use std::{collections::VecDeque, env, error::Error, fmt::Write};

use wharf_port::sim::{Faults, SimNet, SimPeer};

fn main() -> Result<(), Box<dyn Error>> {
    let schedule = env::args().nth(1).map_or(Ok(5), |schedule| schedule.parse())?;
    print!("{}", report(schedule));
    Ok(())
}

/// What came of the same answers, once with many sends in flight and once with one.
pub(crate) fn report(schedule: u64) -> String {
    let (many, one) = (many_in_flight(schedule), one_in_flight());
    let (many, one) = (String::from_utf8_lossy(&many), String::from_utf8_lossy(&one));
    let mut page = "many in flight           one in flight\n".to_owned();
    let mut last = None;
    for (many, one) in many.lines().zip(one.lines()) {
        let number = many.strip_prefix("line ").and_then(|number| number.parse::<usize>().ok());
        let what = match number {
            None => "broken",
            Some(_) if number < last => "too late",
            Some(_) => "",
        };
        last = last.max(number);
        let _ = writeln!(page, "{many:<14} {what:<9} {one}");
    }
    page
}

/// One end of a connection, and the system below it, which takes sends in the order of their coming.
struct Socket {
    net: SimNet,
    end: SimPeer,
    peer: SimPeer,
    in_flight: VecDeque<Vec<u8>>,
}

impl Socket {
    fn new() -> Self {
        let net = SimNet::new(0, Faults::none());
        net.set_window(WINDOW_BYTES);
        let address = "10.0.0.1:9000".parse().expect("an address");
        let listener = net.listen(address).expect("nobody else listens");
        let peer = net.connect(address);
        let end = loop {
            if let Some(end) = net.accept(&listener) {
                break end;
            }
            assert!(net.step(), "the connection is made");
        };
        Self { net, end, peer, in_flight: VecDeque::new() }
    }

    /// The first send completes with what there was room for. Returns what there was not.
    fn complete(&mut self) -> Vec<u8> {
        let bytes = self.in_flight.pop_front().unwrap_or_default();
        let sent = self.end.write(&bytes);
        bytes[sent..].to_vec()
    }

    /// What has reached the peer.
    fn read(&mut self) -> Vec<u8> {
        while self.net.step() {}
        self.peer.read_arrived()
    }
}

/// Two threads take an answer each and submit it when they run; the bits of `schedule` say which of
/// them runs next. What is left of a send is submitted again, behind what is in flight by then.
pub(crate) fn many_in_flight(schedule: u64) -> Vec<u8> {
    let (mut socket, mut answers, mut got) = (Socket::new(), answers(), Vec::new());
    let mut threads = [answers.next(), answers.next()];
    for turn in 0.. {
        let runs = (schedule >> (turn % 64) & 1) as usize;
        let runs = if threads[runs].is_some() { runs } else { 1 - runs };
        if let Some(answer) = threads[runs].take() {
            socket.in_flight.push_back(answer);
            threads[runs] = answers.next();
        } else if socket.in_flight.is_empty() {
            break;
        }
        if turn % 2 == 1 {
            let left = socket.complete();
            if !left.is_empty() {
                socket.in_flight.push_back(left);
            }
        }
        if turn % READS_EVERY == 0 {
            got.extend(socket.read());
        }
    }
    got.extend(socket.read());
    got
}

/// 1-Send: what waits, waits in one place, and what is left of a send goes before it.
pub(crate) fn one_in_flight() -> Vec<u8> {
    let (mut socket, mut waiting, mut got) = (Socket::new(), answers(), Vec::new());
    for turn in 0.. {
        let Some(next) = socket.in_flight.pop_front().or_else(|| waiting.next()) else { break };
        socket.in_flight.push_back(next);
        let left = socket.complete();
        if !left.is_empty() {
            socket.in_flight.push_back(left);
        }
        if turn % READS_EVERY == 0 {
            got.extend(socket.read());
        }
    }
    got.extend(socket.read());
    got
}

/// What the logic has to say, in this order.
pub(crate) fn answers() -> impl Iterator<Item = Vec<u8>> {
    (0..10).map(|number| format!("line {number}\n").into_bytes())
}

/// Room for two answers and a part of a third.
const WINDOW_BYTES: usize = 18;
/// The peer reads in every so many turns.
const READS_EVERY: u32 = 7;
