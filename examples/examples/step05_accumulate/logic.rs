//! The thread that runs the application, and what travels between it and the workers.

use std::sync::Arc;

use wharf_port::Post;

use super::{application::Application, network::CLIENTS_MAX};

/// What a worker tells the logic. A client has at most one of each kind waiting, and keeps its seat
/// until the last is handled: that bounds the queue.
pub(crate) struct Event {
    pub(crate) worker: usize,
    pub(crate) client: u64,
    pub(crate) what: What,
}

pub(crate) enum What {
    Connected,
    Received(Vec<u8>),
    Closed(Arc<()>),
}

/// What the logic has to say to one packet of a client, which is not received from until then.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) client: u64,
    pub(crate) answers: Vec<Vec<u8>>,
}

/// Runs the application, one event after the other.
pub(crate) struct Logic<A> {
    pub(crate) application: A,
    pub(crate) workers: Vec<Post<Answers>>,
}

impl<A: Application> Logic<A> {
    pub(crate) fn handle(&mut self, Event { worker, client, what }: Event) {
        match what {
            What::Connected => self.application.connected(client),
            What::Received(bytes) => {
                let mut answers = Vec::new();
                self.application.received(client, &bytes, &mut answers);
                let posted = self.workers[worker].post(Answers { client, answers });
                posted.expect("room for one packet of each client");
            }
            What::Closed(seat) => {
                self.application.closed(client);
                drop(seat);
            }
        }
    }
}

/// For each client: it has connected, sent something, is closed.
pub(crate) const EVENTS_MAX: usize = 3 * CLIENTS_MAX;
