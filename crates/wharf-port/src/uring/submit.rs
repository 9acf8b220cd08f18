//! How operations get into the ring: the first half of the hot path.

use std::{net::SocketAddr, os::fd::AsRawFd};

use io_uring::{
    opcode,
    types::{CancelBuilder, Fd},
};

use super::{
    Ready, UringPort,
    record::{Arm, Connecting, Inbound, Key, Kind, Outbound, Place, Stop},
};
use crate::{
    buffer::Gather,
    config::SecondSend,
    contract::{Socket, Token},
};

impl UringPort {
    pub(super) fn submit_inbound(
        &mut self,
        socket: Socket,
        kind: Kind,
        credit_bytes: u32,
        token: Token,
    ) {
        let record = self.record(socket);
        assert!(record.inbound.is_none(), "one receive or accept at a time on a socket (P5)");
        let (place, stop, arm) = (Place::Kernel, Stop::No, Arm::Now);
        record.inbound = Some(Inbound { token, credit_bytes, kind, place, stop, arm });
        self.in_flight += 1;
        self.arm_inbound(socket, self.polite_arm());
    }

    /// How a receive is armed that has not waited for a buffer: so that it takes none from those
    /// that have.
    #[inline]
    pub(super) fn polite_arm(&self) -> Arm {
        if self.parked_now > 0 { Arm::OnData } else { Arm::Now }
    }

    /// Hands the socket's streaming operation to the kernel.
    #[inline]
    pub(super) fn arm_inbound(&mut self, socket: Socket, arm: Arm) {
        let record = self.records.get_mut(socket).expect("armed by its owner");
        let fd = record.fd();
        let inbound = record.inbound.as_mut().expect("armed while in flight");
        inbound.place = Place::Kernel;
        inbound.arm = arm;
        let buffer_bytes = self.pool.buffer_bytes() as u32;
        let entry = inbound.entry(fd, self.settings.streaming, buffer_bytes);
        let entry = entry.user_data(Key::new(inbound.kind, socket).user_data());
        self.in_kernel += 1;
        // SAFETY: the entry points to nothing; buffers come from the registered ring, whose memory
        // the port keeps (P2).
        unsafe { self.ring.push(&entry) };
    }

    pub(super) fn submit_connect(&mut self, socket: Socket, address: SocketAddr, token: Token) {
        let record = self.record(socket);
        assert!(record.connecting.is_none(), "one connect at a time on a socket");
        let connecting = Box::new(Connecting { token, address: address.into(), cancelled: false });
        let address = &connecting.address;
        let entry = opcode::Connect::new(record.fd(), address.as_ptr().cast(), address.len())
            .build()
            .user_data(Key::new(Kind::Connect, socket).user_data());
        record.connecting = Some(connecting);
        self.in_flight += 1;
        self.in_kernel += 1;
        // SAFETY: the address lies in a box that the record keeps until the completion (P2, I2).
        unsafe { self.ring.push(&entry) };
    }

    #[inline]
    pub(super) fn submit_send(&mut self, socket: Socket, gather: Gather, token: Token) {
        assert!(!gather.is_empty(), "a send has something to send");
        if self.record(socket).outbound.is_some() {
            let refuses = self.settings.second_send == SecondSend::Refuse;
            assert!(refuses, "one send at a time on a socket (P5)");
            self.in_flight += 1;
            return self.ready.push(Ready::Refused(token, gather));
        }
        self.in_flight += 1;
        let mut outbound = self.sends.pop().unwrap_or_else(Outbound::new);
        outbound.begin(gather, token);
        self.record(socket).outbound = Some(outbound);
        self.arm_send(socket);
    }

    /// Hands what is left of the socket's send to the kernel.
    #[inline]
    pub(super) fn arm_send(&mut self, socket: Socket) {
        let record = self.records.get_mut(socket).expect("armed by its owner");
        let fd = record.fd();
        let outbound = record.outbound.as_mut().expect("armed while in flight");
        let entry = outbound.entry(fd);
        let entry = entry.user_data(Key::new(Kind::Send, socket).user_data());
        self.in_kernel += 1;
        // SAFETY: frames and header belong to the record's send, and lie outside it at fixed
        // addresses, until the final completion (P2, I2); nobody writes to a frame.
        unsafe { self.ring.push(&entry) };
    }

    /// Asks the kernel to end an operation; its final completion says how that went (U2).
    pub(super) fn push_cancel(&mut self, kind: Kind, socket: Socket) {
        let target = CancelBuilder::user_data(Key::new(kind, socket).user_data());
        let entry = opcode::AsyncCancel2::new(target)
            .build()
            .user_data(Key::new(Kind::Cancel, socket).user_data());
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(&entry) };
    }

    /// Tells the socket's streaming operation to stop.
    pub(super) fn stop_inbound(&mut self, socket: Socket, stop: Stop) {
        let record = self.records.get_mut(socket).expect("looked up by the caller");
        let Some(inbound) = &mut record.inbound else { return };
        let kind = inbound.kind;
        let told_already = inbound.stop != Stop::No;
        if !told_already || stop == Stop::Cancel {
            inbound.stop = stop;
        }
        match inbound.place {
            Place::Kernel if !told_already => self.push_cancel(kind, socket),
            Place::Parked(_) => {
                inbound.place = Place::Ended;
                self.parked_now -= 1;
                self.ready.push(Ready::Ended(socket));
            }
            Place::Kernel | Place::Ended => {}
        }
    }

    pub(super) fn arm_wake(&mut self) {
        let read = opcode::Read::new(
            Fd(self.wake.event.as_raw_fd()),
            self.wake.value.as_ptr().cast(),
            size_of::<u64>() as u32,
        );
        let entry = read.build().user_data(Key::without_socket(Kind::Wake).user_data());
        self.in_kernel += 1;
        // SAFETY: the value is boxed, nobody else looks at it, and it is freed only when this read
        // is over (P8).
        unsafe { self.ring.push(&entry) };
    }

    /// Arms receives that wait for a buffer: the longest waiting first, for a buffer each, and never
    /// more than there are free buffers. These receives happen while the entries are submitted, all
    /// others after that, so that each finds its buffer.
    pub(super) fn unpark(&mut self) {
        let mut free = self.pool.free();
        while free > 0 {
            let Some((socket, number)) = self.parked.pop_front() else { return };
            let inbound = self.records.get(socket).and_then(|record| record.inbound.as_ref());
            if inbound.is_some_and(|inbound| inbound.place == Place::Parked(number)) {
                self.parked_now -= 1;
                free -= 1;
                self.arm_inbound(socket, Arm::Once);
            }
        }
    }
}
