//! Heartbeats over real sockets, through a handler and through a router.

use std::time::Duration;

use wharf::{
    CloseReason, Context, Frame, Handler, Limits, Result, Router,
    framing::{self, LengthField, Packet},
};

use crate::support::*;

const FRAMING: LengthField = LengthField::TUTORIAL;
const HEARTBEAT: u32 = 9;

fn asks<S>(cx: &mut Context<'_, S>) -> Result<bool> {
    cx.send_packet(HEARTBEAT, b"")?;
    Ok(true)
}

struct Asks;

impl Handler for Asks {
    type Session = ();

    fn on_heartbeat(&mut self, cx: &mut Context<'_, ()>) -> Result<bool> {
        asks(cx)
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        if frame.id() == HEARTBEAT {
            cx.heartbeat_answered();
        }
        Ok(())
    }
}

fn heartbeat() -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet = Packet { id: HEARTBEAT, session: 0, body: b"" };
    framing::append(&FRAMING, packet, &mut bytes).unwrap();
    bytes
}

/// Measured where it answers, and cut off where it does not.
#[test]
fn a_peer_is_measured_and_cut_off_when_it_does_not_answer() {
    on_every_engine(|engine| {
        let limits = |timeout| Limits {
            heartbeat_interval: Some(Duration::from_millis(20)),
            heartbeat_timeout: Some(timeout),
            ..calm()
        };
        let router = Router::<(), ()>::builder()
            .on_raw(HEARTBEAT, |_, cx, _| {
                cx.heartbeat_answered();
                Ok(())
            })
            .on_heartbeat(|_, cx| asks(cx))
            .build();
        let handle = builder(engine)
            .limits(limits(NEVER))
            .listen(ANY_PORT, FRAMING, || Asks)
            .listen(ANY_PORT, FRAMING, move || router.handler(()))
            .limits(limits(Duration::from_millis(20)))
            .listen(ANY_PORT, FRAMING, || Asks)
            .start()
            .unwrap();
        let [patient @ .., hasty] = handle.local_addrs() else { unreachable!("three listeners") };
        let question = heartbeat();
        for address in patient {
            let mut client = Client::connect(*address);
            while handle.sessions().unwrap().iter().all(|session| session.round_trip.is_none()) {
                assert_eq!(client.read(question.len()), question);
                client.write(&question);
            }
            client.reset();
            wait_until(|| handle.count() == 0);
        }
        let mut silent = Client::connect(*hasty);
        silent.end().assert_reset();
        handle.drain(NEVER);
        let stats = finish(&handle).stats;
        assert_eq!(stats.closed_for(CloseReason::HeartbeatTimeout), 1);
    });
}
