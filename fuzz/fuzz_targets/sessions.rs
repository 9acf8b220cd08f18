//! Any sequence of what clients, handlers and other threads can do to a server, in the simulator:
//! nothing panics, nothing is left over at the end, and memory follows what was received, not what
//! was announced.
#![no_main]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use libfuzzer_sys::{arbitrary::Arbitrary, fuzz_target};
use wharf::{
    Context, Frame, Handler, Limits, Server, SessionId,
    framing::LengthField,
    port,
    testing::{Client, Faults, Simulation},
};
use wharf_fuzz::within_memory;

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    rough: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Connect,
    /// A frame whose first byte tells the handler what to do.
    Frame(u8, Vec<u8>),
    /// Whatever bytes, which may break the framing.
    Bytes(u8, Vec<u8>),
    End(u8),
    Reset(u8),
    Reading(u8, bool),
    Wait(u16),
    SendFromOutside(u8, Vec<u8>),
    CloseFromOutside(u8),
    Steps(u8),
}

fuzz_target!(|input: Input| {
    if input.steps.len() > STEPS_MAX {
        return;
    }
    // What a client says was in its step and is then in one place at a time: with the client, in the
    // network's window, with the server.
    let said: usize = input.steps.iter().map(Step::bytes).sum();
    within_memory(said, SERVER_BYTES_MAX, || run(input));
});

fn run(input: Input) {
    let limits = Limits {
        frame_bytes_max: 1024 * 1024,
        send_queue_bytes_soft: 4 * 1024,
        send_queue_bytes_max: 16 * 1024,
        ..Limits::default()
    };
    let port =
        port::Config { receive_buffers: 64, receive_buffer_bytes: 1024, ..port::Config::default() };
    let seen = Ids::default();
    let ids = Arc::clone(&seen);
    let server = Server::builder()
        .workers(2)
        .max_sessions(SESSIONS_MAX)
        .port(port)
        .limits(limits)
        .listen(ADDRESS, FRAMING, move || Obedient(Arc::clone(&ids)));
    let faults = if input.rough { Faults::rough() } else { Faults::none() };
    let mut sim = server.simulate(input.seed, faults).expect("a server");
    sim.set_window(WINDOW_BYTES);
    let mut clients = Vec::new();
    for step in input.steps {
        step.take(&mut sim, &mut clients, &seen);
    }
    clients.iter().for_each(|client| client.set_reading(true));
    sim.finish();
}

type Ids = Arc<Mutex<Vec<SessionId>>>;

/// Does what the first byte of a frame says; knows every session that ever was.
struct Obedient(Ids);

impl Handler for Obedient {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> wharf::Result {
        self.0.lock().expect("one thread").push(cx.id());
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        match frame.body().first() {
            Some(250) => cx.close(),
            Some(251) => cx.abort(),
            Some(252) => return Err(wharf::Error::handler("asked for")),
            Some(253) => cx.set_timer(Duration::from_millis(30), 1),
            Some(254) => (0..20).for_each(|_| _ = cx.try_send(&[254; 500])),
            Some(255) => drop(cx.handle().close(cx.id())),
            _ => cx.send(frame.body())?,
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Context<'_, ()>, _: u64) -> wharf::Result {
        cx.send(b"in time")?;
        Ok(())
    }
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Step::Frame(_, bytes) | Step::Bytes(_, bytes) | Step::SendFromOutside(_, bytes) => {
                bytes.len()
            }
            _ => 0,
        }
    }

    fn take(self, sim: &mut Simulation, clients: &mut Vec<Client<LengthField>>, ids: &Ids) {
        let pick = |who: u8| clients.get(usize::from(who) % clients.len().max(1)).into_iter();
        let id = |which: u8| {
            let ids = ids.lock().expect("one thread");
            ids.get(usize::from(which) % ids.len().max(1)).copied()
        };
        match self {
            Step::Connect if clients.len() < CLIENTS_MAX => {
                let client = sim.connect(ADDRESS, FRAMING);
                // What it was told is not the server's any more.
                client.set_keeping(false);
                clients.push(client);
            }
            Step::Connect => {}
            Step::Frame(who, body) => {
                let mut wire = (body.len() as u32).to_be_bytes().to_vec();
                wire.extend_from_slice(&body);
                pick(who).for_each(|client| client.send_bytes(&wire));
            }
            Step::Bytes(who, bytes) => pick(who).for_each(|client| client.send_bytes(&bytes)),
            Step::End(who) => pick(who).for_each(Client::end),
            Step::Reset(who) => pick(who).for_each(Client::reset),
            Step::Reading(who, reads) => pick(who).for_each(|client| client.set_reading(reads)),
            Step::Wait(millis) => sim.run_for(Duration::from_millis(millis.into())),
            Step::SendFromOutside(which, body) => {
                id(which).into_iter().for_each(|id| _ = sim.handle().send(id, &body));
            }
            Step::CloseFromOutside(which) => {
                id(which).into_iter().for_each(|id| _ = sim.handle().close(id));
            }
            Step::Steps(count) => (0..count).for_each(|_| {
                sim.step();
            }),
        }
    }
}

const FRAMING: LengthField = LengthField::u32_be();
const ADDRESS: &str = "10.0.0.1:9000";
const STEPS_MAX: usize = 60;
const CLIENTS_MAX: usize = 6;
const SESSIONS_MAX: usize = 64;
/// So that the network holds little.
const WINDOW_BYTES: usize = 4 * 1024;
/// The simulated ports with their buffers, and sessions at their limits.
const SERVER_BYTES_MAX: usize = 640 * 1024;
