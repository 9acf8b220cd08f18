//! Dropping a port: nothing is freed on hope (P8).
//!
//! Closing a ring ends its operations some time later; until each has reported its end the kernel
//! may write to what it owns. So they are cancelled and waited for first.

use std::{mem, mem::MaybeUninit, rc::Rc, time::Duration};

use io_uring::{opcode, types::CancelBuilder};

use super::{
    UringPort, Wake,
    complete::Completion,
    record::{Key, Kind, Place},
};
use crate::clock;

impl Drop for UringPort {
    fn drop(&mut self) {
        self.cancel_everything();
        if self.in_kernel == 0 {
            self.wake.free();
            if let Err(error) = self.ring.unregister_buffers() {
                tracing::error!(%error, "the ring of buffers stays registered: its memory is leaked");
                mem::forget(Rc::clone(&self.pool));
            }
            return;
        }
        tracing::error!(
            operations = self.in_kernel,
            "operations are still in flight after the deadline: their memory is leaked"
        );
        self.leak();
    }
}

impl UringPort {
    /// Cancels whatever the kernel has and takes in what it says, until it has nothing any more or
    /// the deadline passes.
    fn cancel_everything(&mut self) {
        let deadline = clock::now() + self.settings.drop_deadline;
        while self.in_kernel > 0 {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all())
                .build()
                .user_data(Key::without_socket(Kind::Cancel).user_data());
            // SAFETY: the entry points to nothing.
            unsafe { self.ring.push(&entry) };
            let left = deadline.since(clock::now());
            if let Err(error) = self.ring.enter(1, Some(left.min(CANCEL_AGAIN_AFTER))) {
                tracing::error!(%error, "a port's ring is broken");
                return;
            }
            self.reap_and_consume();
            if left.is_zero() {
                return;
            }
        }
    }

    fn reap_and_consume(&mut self) {
        loop {
            let mut batch = [const { MaybeUninit::uninit() }; 64];
            let reaped = self.ring.reap(&mut batch);
            if reaped.is_empty() {
                return;
            }
            for entry in reaped {
                let completion = Completion::read(entry);
                self.consume(completion);
                if let Some(key) = Key::from_user_data(completion.user_data)
                    && !completion.more
                    && self.is_current(key.kind, key.socket)
                {
                    self.forget_operation(key);
                }
            }
        }
    }

    /// The kernel is done with this operation: what it owns may be freed.
    fn forget_operation(&mut self, key: Key) {
        match key.kind {
            Kind::Cancel | Kind::Probe => return,
            Kind::Wake => {}
            Kind::Receive | Kind::ReceiveOnce | Kind::Accept | Kind::Send | Kind::Connect => {
                let record = self.records.get_mut(key.socket).expect("current");
                match key.kind {
                    Kind::Send => drop(record.outbound.take()),
                    Kind::Connect => drop(record.connecting.take()),
                    _ => {
                        let inbound = record.inbound.as_mut().expect("current");
                        inbound.place = Place::Ended;
                    }
                }
            }
        }
        self.in_kernel -= 1;
    }

    /// Leaks what the kernel may still touch: buffers, and the sockets' records with frames, headers
    /// and addresses. What the
    /// eventfd is read into is leaked by not freeing it.
    fn leak(&mut self) {
        mem::forget(Rc::clone(&self.pool));
        mem::forget(self.buffers.clone());
        let busy: Vec<_> = self
            .records
            .iter()
            .filter(|(_, record)| record.is_in_kernel())
            .map(|(socket, _)| socket)
            .collect();
        for socket in busy {
            mem::forget(self.records.remove(socket));
        }
    }
}

impl Wake {
    /// Frees what the kernel reads into; called once, with no read in flight.
    fn free(&mut self) {
        // SAFETY: boxed in `Wake::new`; no read is in flight and none will be again (I3).
        drop(unsafe { Box::from_raw(self.value.as_ptr()) });
    }
}

/// How long a cancel is given before another is tried.
const CANCEL_AGAIN_AFTER: Duration = Duration::from_millis(100);
