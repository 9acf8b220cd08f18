//! Clients of the chat on a simulated network, which say packets and remember what came.

use std::time::Duration;

use wharf::{
    Builder,
    framing::LengthField,
    packet::{Packet, TextRef},
    testing::{Client, Faults, Simulation},
};

use crate::step08::packets::{LoginRequest, LoginResponse};

pub(crate) const ADDRESS: &str = "127.0.0.1:11021";

/// Everything that can be cut is cut, and no connection breaks by itself.
pub(crate) fn cuts() -> Faults {
    Faults { short_send: 0.5, short_receive: 0.5, reorder: 0.5, ..Faults::none() }
}

pub(crate) fn simulate(server: Builder, seed: u64) -> Simulation {
    server.workers(1 + (seed % 3) as usize).simulate(seed, cuts()).unwrap()
}

pub(crate) struct Guest {
    pub(crate) client: Client<LengthField>,
    seen: usize,
}

impl Guest {
    pub(crate) fn connect(sim: &mut Simulation) -> Self {
        Self { client: sim.connect(ADDRESS, LengthField::TUTORIAL), seen: 0 }
    }

    pub(crate) fn say<P: Packet>(&self, packet: &P) {
        self.client.send_packet(P::ID, &packet.to_vec());
    }

    pub(crate) fn say_login(&self, name: &str, password: &str) {
        let [id, password] = [name, password].map(|text| TextRef::new(text).unwrap());
        self.say(&LoginRequest { id, password });
    }

    /// What has come since this was last asked.
    pub(crate) fn heard(&mut self) -> Vec<(u32, Vec<u8>)> {
        let packets = self.client.received_packets();
        let new = packets[self.seen..].to_vec();
        self.seen = packets.len();
        new
    }

    /// The only packet that has come since, which has this id and a result.
    #[track_caller]
    pub(crate) fn result(&mut self, id: u32) -> u16 {
        match &self.heard()[..] {
            [(found, body)] if *found == id => u16::from_le_bytes(body[..].try_into().unwrap()),
            other => panic!("{other:?} is not one {id}"),
        }
    }

    #[track_caller]
    pub(crate) fn login(&mut self, sim: &mut Simulation, name: &str) -> u16 {
        self.say_login(name, "pw");
        sim.run();
        self.result(LoginResponse::ID)
    }

    /// The connection is reset, and the server knows it.
    pub(crate) fn leave(self, sim: &mut Simulation) {
        self.client.reset();
        sim.run_for(Duration::from_secs(1));
    }
}
