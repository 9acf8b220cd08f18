//! What the server is for. Nothing in here knows of sockets.

use std::collections::HashMap;

/// What a server is for. For each client `connected` comes once, `received` any number of times,
/// `closed` once, in this order.
pub(crate) trait Application {
    fn connected(&mut self, client: u64);
    /// What is put into `answer` is sent.
    fn received(&mut self, client: u64, bytes: &[u8], answer: &mut Vec<u8>);
    fn closed(&mut self, client: u64);
}

/// Answers with what came, and says at the end how much that was.
#[derive(Default)]
pub(crate) struct Echo(HashMap<u64, usize>);

impl Application for Echo {
    fn connected(&mut self, client: u64) {
        self.0.insert(client, 0);
    }

    fn received(&mut self, client: u64, bytes: &[u8], answer: &mut Vec<u8>) {
        *self.0.get_mut(&client).expect("connected comes first") += bytes.len();
        answer.extend_from_slice(bytes);
    }

    fn closed(&mut self, client: u64) {
        let bytes = self.0.remove(&client).expect("closed comes once");
        println!("client {client} is closed after {bytes} bytes");
    }
}
