//! Dropping a port: nothing is freed on hope (P8).
//!
//! Closing a completion port's handle ends no operation (W12). So they are cancelled, and their
//! packets waited for. What does not come back in time is leaked without further ado: the system
//! holds a reference count of each packet.

use windows_sys::Win32::System::IO::OVERLAPPED_ENTRY;

use super::{IocpPort, PACKETS_PER_CALL, Role, packet::Packet};
use crate::clock;

impl Drop for IocpPort {
    fn drop(&mut self) {
        for (_, entry) in self.entries.iter() {
            match &entry.role {
                Role::Listener(listener) => listener.abandon(&self.core),
                Role::Stream(stream) => stream.abandon(&self.core),
            }
        }
        let deadline = clock::now() + self.drop_deadline;
        let mut packets = [OVERLAPPED_ENTRY::default(); PACKETS_PER_CALL];
        while self.core.packets_posted.get() > 0 {
            let left = deadline.since(clock::now());
            match self.dequeue(&mut packets, Some(left)) {
                Ok(0) if left.is_zero() => break,
                Ok(count) => {
                    for packet in &packets[..count] {
                        // SAFETY: it was dequeued from this port, and is passed on once.
                        let packet = unsafe { Packet::from_entry(packet, &self.core) };
                        drop(packet.map(|packet| packet.unload()));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a completion port is broken");
                    break;
                }
            }
        }
        let operations = self.core.packets_posted.get();
        if operations > 0 {
            tracing::error!(
                operations,
                "operations are still in flight after the deadline: their memory is leaked"
            );
        }
    }
}
