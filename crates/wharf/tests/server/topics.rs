//! Topics on real sockets, over several workers.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use wharf::{Class, CloseReason, SendError, Topic, framing::LengthField};

use crate::support::*;

const FRAMING: LengthField = LengthField::u16_be();
const ROOM: Topic = Topic(u64::MAX);
const MEMBERS: usize = 12;
const PUBLISHERS: usize = 3;
const EACH: u32 = 400;

fn numbered(publisher: u8, number: u32) -> Vec<u8> {
    let mut body = [&[publisher][..], &number.to_be_bytes()].concat();
    body.resize(5 + number as usize * 7 % 300, publisher);
    body
}

/// Reads one frame.
fn frame(client: &mut Client) -> Vec<u8> {
    let len = u16::from_be_bytes(client.read(2).try_into().unwrap());
    client.read(len.into())
}

/// Sets it when it is dropped, also by a panic: whoever waits for it does not wait for ever.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Threads publish through handles and members through their handlers, on two workers: each member
/// gets all of it, and of each publisher in order. Others come and go meanwhile.
#[test]
fn every_member_gets_everything_in_each_publishers_order() {
    on_every_engine(|engine| {
        let server = TestServer::with(engine, FRAMING, calm(), |cx, on| {
            match on {
                On::Frame(b"join") => {
                    cx.subscribe(ROOM)?;
                    cx.send(b"joined")?;
                }
                On::Frame(body) => cx.publish(ROOM, Class::Reliable, 0, body)?,
                _ => {}
            }
            Ok(())
        });
        let (address, handle) = (server.address(), &server.handle);
        let join = || {
            let mut client = Client::connect(address);
            client.write(&wire(&FRAMING, &[b"join"]));
            assert_eq!(frame(&mut client), b"joined");
            client
        };
        let members: Vec<_> = (0..MEMBERS).map(|_| Mutex::new(join())).collect();
        let done = AtomicBool::new(false);
        beside(
            || {
                // Those who leave with much on its way to them.
                while !done.load(Ordering::Relaxed) {
                    join().reset();
                }
            },
            || {
                let _done = Sets(&done);
                in_threads(PUBLISHERS + MEMBERS, |thread| {
                    let Some(member) = thread.checked_sub(PUBLISHERS) else {
                        for number in 0..EACH {
                            let body = numbered(thread as u8, number);
                            while let Err(error) = handle.publish(ROOM, Class::Reliable, 0, &body) {
                                assert_eq!(error, SendError::WouldExceed);
                            }
                        }
                        return;
                    };
                    let mut member = members[member].lock().unwrap();
                    if thread < PUBLISHERS + 3 {
                        let bodies: Vec<_> =
                            (0..EACH).map(|number| numbered(thread as u8, number)).collect();
                        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
                        member.write(&wire(&FRAMING, &bodies));
                    }
                    let mut next = [0; PUBLISHERS + 3];
                    while next != [EACH; PUBLISHERS + 3] {
                        let body = frame(&mut member);
                        let number = &mut next[usize::from(body[0])];
                        assert!(body == numbered(body[0], *number), "{body:?} is not {number}");
                        *number += 1;
                    }
                });
            },
        );
        drop(members);
        let stats = server.finish().stats;
        assert_eq!(stats.closed_for(CloseReason::SlowConsumer), 0);
        let delivered = (MEMBERS * (PUBLISHERS + 3)) as u64 * u64::from(EACH);
        assert!(stats.frames_sent >= delivered);
    });
}

/// One who does not read what is published ends alone, at the hard mark; what may be dropped is.
#[test]
fn a_member_that_does_not_read_ends_alone() {
    on_every_engine(|engine| {
        let mut server = TestServer::with(engine, FRAMING, calm(), |cx, on| {
            if let On::Open = on {
                cx.subscribe(ROOM)?;
                cx.send(b"subscribed")?;
            }
            Ok(())
        });
        // That a session is open is told before it has subscribed.
        let mut deaf = Client::connect_narrow(server.address());
        let slow = server.opened();
        assert_eq!(frame(&mut deaf), b"subscribed");
        let mut member = server.connect();
        assert_eq!(frame(&mut member), b"subscribed");
        let handle = server.handle.clone();
        let mut publish = |class, count: usize| {
            for _ in 0..count {
                handle.publish(ROOM, class, 0, &[7; 60_000]).unwrap();
                assert_eq!(frame(&mut member), [7; 60_000]);
            }
        };
        // Droppable ones alone fill no queue beyond its soft mark.
        publish(Class::DropOldest, 100);
        assert!(server.handle.is_open(slow));
        // Until the worker has noticed, the thread goes on.
        let mut rounds = 0;
        while server.handle.is_open(slow) {
            publish(Class::Reliable, 10);
            rounds += 1;
            assert!(rounds < 100, "10 MiB and more are queued");
        }
        assert_eq!(server.closed(), (slow, CloseReason::SlowConsumer));
        publish(Class::Reliable, 5);
        drop(member);
        drop(deaf);
        let stats = server.finish().stats;
        assert!(stats.dropped_oldest > 0, "{stats:?}");
        assert_eq!(stats.closed_for(CloseReason::SlowConsumer), 1);
    });
}

/// What cannot be said in one framing is said in the others; and a topic of nobody takes anything.
#[test]
fn one_topic_is_said_in_every_framing() {
    on_every_engine(|engine| {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&answers);
        let script = move |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            match on {
                On::Open => cx.subscribe(ROOM)?,
                On::Frame(body) => {
                    told.lock().unwrap().push(cx.publish(ROOM, Class::Reliable, 0, body));
                    cx.publish(Topic(1), Class::Reliable, 0, body)?;
                }
                _ => {}
            }
            Ok(())
        };
        let events = Events::new();
        let builder = builder(engine).workers(1).limits(calm());
        let builder = builder.listen(ANY_PORT, FRAMING, events.script(script.clone()));
        let builder = builder.listen(ANY_PORT, wharf::framing::Lines, events.script(script));
        let server = events.start(builder);
        // Who hears itself has subscribed; that the handler was called does not say so yet.
        let mut counted = server.connect();
        counted.echo(&FRAMING, b"one is here");
        let mut lines = Client::connect(server.handle.local_addrs()[1]);
        lines.write(b"two are here\n");
        assert_eq!(lines.read(13), b"two are here\n");
        assert_eq!(frame(&mut counted), b"two are here");
        answers.lock().unwrap().clear();
        counted.write(&wire(&FRAMING, &[b"a line", b"two\nlines", b"another"]));
        assert_eq!(lines.read(15), b"a line\nanother\n");
        let all = wire(&FRAMING, &[b"a line", b"two\nlines", b"another"]);
        assert_eq!(counted.read(all.len()), all);
        lines.write(b"said here\n");
        assert_eq!(frame(&mut counted), b"said here");
        assert_eq!(lines.read(10), b"said here\n");
        let answers = answers.lock().unwrap().clone();
        let refused = |answer: &Result<_, _>| matches!(answer, Err(SendError::Framing(_)));
        // A logic thread does not know who has subscribed: that is each worker's to see.
        let told = handlers_inline();
        assert_eq!(answers.iter().map(refused).collect::<Vec<_>>(), [false, told, false, false]);
        drop((counted, lines));
        server.finish();
    });
}
