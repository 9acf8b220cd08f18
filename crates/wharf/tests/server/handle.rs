//! The server seen from other threads.

use std::sync::{
    Arc, Barrier, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use wharf::{CloseReason, Error, SendError, SessionId, framing::LengthField};

use crate::support::*;

const FRAMING: LengthField = LengthField::u16_be();

/// What a sender says: for whom it is, who says it, and how often it has said something to them.
fn message(to: SessionId, sender: u8, count: u32) -> Vec<u8> {
    [&to.as_u64().to_be_bytes()[..], &[sender], &count.to_be_bytes()].concat()
}

const GREETER: u8 = u8::MAX;
const MESSAGE_BYTES: usize = 2 + 8 + 1 + 4;

/// Reads messages until `count` have come or the server ends the session, and checks that all are
/// for this session, and each sender's complete and in order; `greeted`: the handler's comes first.
/// What one on a logic thread sends is handed over at the end of its turn, and who learns of the
/// session before that may be earlier.
fn check_messages(client: &mut Client, count: usize, greeted: bool) {
    use std::io::Read;
    let (mut to, mut next) = (None, [0_u32; 256]);
    for _ in 0..count {
        let mut bytes = [0; MESSAGE_BYTES];
        if client.0.read_exact(&mut bytes).is_err() {
            break;
        }
        let id = u64::from_be_bytes(bytes[2..10].try_into().unwrap());
        let number = u32::from_be_bytes(bytes[11..].try_into().unwrap());
        if to.is_none() && greeted {
            assert_eq!(bytes[10], GREETER, "the greeting comes first");
        }
        assert_eq!(*to.get_or_insert(id), id, "a frame for another session");
        let expected = &mut next[usize::from(bytes[10])];
        assert_eq!(number, *expected, "order per sender");
        *expected += 1;
    }
}

/// Sessions come and go while threads send to all of them and close some: no frame goes to the
/// wrong one or out of its sender's order, also where a slot is used again at once.
#[test]
fn many_threads_send_while_sessions_come_and_go() {
    on_every_engine(|engine| {
        let ids = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&ids);
        let server = TestServer::with(engine, FRAMING, calm(), move |cx, on| {
            if let On::Open = on {
                let greeting = message(cx.id(), GREETER, 0);
                cx.send(&greeting)?;
                known.lock().unwrap().push(cx.id());
            }
            Ok(())
        });
        let (address, handle, greeted) = (server.address(), &server.handle, handlers_inline());
        let done = AtomicUsize::new(0);
        let finished = || done.load(Ordering::Relaxed) == CLIENT_THREADS;
        in_threads(CLIENT_THREADS + SENDERS, |thread| {
            if thread < CLIENT_THREADS {
                let _done = Counts(&done);
                for round in 0..60 {
                    let mut client = Client::connect(address);
                    check_messages(&mut client, 1 + round * 7 % 100, greeted);
                    if round % 3 == 0 {
                        client.reset();
                    }
                }
                return;
            }
            let mut counts: Vec<u32> = Vec::new();
            let mut step = 0_usize;
            while !finished() {
                let recent: Vec<SessionId> = {
                    let ids = ids.lock().unwrap();
                    counts.resize(ids.len(), 0);
                    let first = ids.len().saturating_sub(8);
                    ids[first..].to_vec()
                };
                let first = counts.len() - recent.len();
                for (offset, id) in recent.into_iter().enumerate() {
                    let count = &mut counts[first + offset];
                    match handle.send(id, &message(id, thread as u8, *count)) {
                        Ok(()) => *count += 1,
                        Err(SendError::Closed | SendError::WouldExceed) => {}
                        Err(error) => panic!("{error}"),
                    }
                    step += 1;
                    if step.is_multiple_of(701) {
                        // It may be over already.
                        let _ = handle.close(id);
                    }
                }
            }
        });
        wait_until(|| server.handle.count() == 0);
        for id in ids.lock().unwrap().iter() {
            assert!(!server.handle.is_open(*id));
            assert_eq!(server.handle.send(*id, b""), Err(SendError::Closed));
        }
        // `finish` also sees to it that no id was used twice.
        let stats = server.finish().stats;
        assert_eq!(stats.closed.iter().sum::<u64>(), (CLIENT_THREADS * 60) as u64);
    });
}

/// Counts when it is dropped, also by a panic: whoever waits for it does not wait for ever.
struct Counts<'a>(&'a AtomicUsize);

impl Drop for Counts<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

const CLIENT_THREADS: usize = 3;
const SENDERS: usize = 3;

#[test]
fn sessions_are_described() {
    on_every_engine(|engine| {
        let mut server = TestServer::with(engine, FRAMING, calm(), echo);
        assert_eq!(server.handle.sessions().unwrap(), []);
        let mut clients = Vec::new();
        let mut ids = Vec::new();
        for _ in 0..5 {
            clients.push(server.connect());
            ids.push(server.opened());
        }
        clients[2].echo(&FRAMING, b"four");
        let found = server.handle.sessions().unwrap();
        let mut found_ids: Vec<_> = found.iter().map(|info| info.id).collect();
        let mut expected = ids.clone();
        found_ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found_ids, expected);
        for (client, id) in clients.iter().zip(&ids) {
            let info = server.handle.session(*id).unwrap().expect("it is open");
            assert_eq!((info.id, info.peer), (*id, client.0.local_addr().unwrap()));
            assert_eq!((info.queued_bytes, info.closing), (0, false));
        }
        let stats = server.handle.stats().unwrap();
        assert_eq!((stats.sessions, stats.accepted, server.handle.count()), (5, 5, 5));
        assert_eq!((stats.frames_received, stats.bytes_received, stats.bytes_sent), (1, 6, 6));

        server.handle.close(ids[0]).unwrap();
        assert_eq!(clients[0].end(), End::OfStream);
        assert_eq!(server.closed(), (ids[0], CloseReason::Requested));
        clients.remove(0);
        wait_until(|| server.handle.count() == 4);
        assert_eq!(server.handle.session(ids[0]).unwrap(), None);
        drop(clients);
        server.finish();
    });
}

#[test]
fn what_waits_for_workers_refuses_on_a_worker() {
    on_every_engine(|engine| {
        let mut server = TestServer::with(engine, FRAMING, calm(), |cx, on| {
            if let On::Frame(_) = on {
                let handle = cx.handle().clone();
                assert!(matches!(handle.sessions(), Err(Error::OnWorker)));
                assert!(matches!(handle.session(cx.id()), Err(Error::OnWorker)));
                assert!(matches!(handle.stats(), Err(Error::OnWorker)));
                assert!(matches!(handle.join(), Err(Error::OnWorker)));
                // What does not wait is allowed.
                assert!(handle.is_open(cx.id()) && handle.count() == 1);
                handle.send(cx.id(), b"posted")?;
                cx.send(b"at once")?;
            }
            Ok(())
        });
        let mut client = server.connect();
        client.write(&wire(&FRAMING, &[b"go"]));
        // On a logic thread both go one way; on a worker one of them goes through the inbox.
        let answer = wire(&FRAMING, &[b"at once", b"posted"]);
        let mut answers = bodies(&FRAMING, &client.read(answer.len()));
        answers.sort();
        assert_eq!(answers, [&b"at once"[..], b"posted"]);
        drop(client);
        assert_eq!(
            server.closed().1,
            CloseReason::PeerClosed,
            "no assertion failed in the handler"
        );
        server.finish();
    });
}

/// There is one slot only: the next session has it too, under an id of its own.
#[test]
fn an_id_stays_closed_when_its_slot_is_used_again() {
    on_every_engine(|engine| {
        let listen = builder(engine).workers(1).max_sessions(1).limits(calm());
        let mut server =
            Events::new().with(|events| listen.listen(ANY_PORT, FRAMING, events.echo()));
        let mut old: Vec<SessionId> = Vec::new();
        for _ in 0..5 {
            wait_until(|| server.handle.count() == 0);
            let mut client = server.connect();
            let id = server.opened();
            for dead in &old {
                assert_eq!(dead.display(), id.display(), "the same slot");
                assert_eq!(server.handle.send(*dead, b"for another"), Err(SendError::Closed));
                assert_eq!(server.handle.close(*dead), Err(SendError::Closed));
                assert!(!server.handle.is_open(*dead));
            }
            assert!(server.handle.is_open(id));
            server.handle.send(id, b"for this one").unwrap();
            assert_eq!(bodies(&FRAMING, &client.read(14)), [b"for this one"]);
            drop(client);
            server.closed();
            old.push(id);
        }
        assert_eq!(server.finish().stats.sends_too_late, 0);
    });
}

/// An id of a worker that this server does not have.
#[test]
fn ids_of_another_server_are_closed_ones() {
    on_every_engine(|engine| {
        let mut large = TestServer::with(engine, FRAMING, calm(), echo);
        let small = Events::new().with(|e| {
            builder(engine).workers(1).max_sessions(1).listen(ANY_PORT, FRAMING, e.echo())
        });
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(large.connect());
            let id = large.opened();
            assert_eq!(small.handle.send(id, b"x"), Err(SendError::Closed));
            assert_eq!(small.handle.close(id), Err(SendError::Closed));
            assert_eq!(small.handle.session(id).unwrap(), None);
        }
        drop(clients);
        small.finish();
        large.finish();
    });
}

/// A worker whose inbox is full refuses orders and questions, also its own handlers'; a drain still
/// reaches it, also one from its own callback, which nobody could make room for.
#[test]
fn a_full_inbox_refuses_but_for_a_drain() {
    on_every_engine_inline(|engine| {
        let full = Arc::new(Barrier::new(2));
        let barrier = Arc::clone(&full);
        let script = move |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            if let On::Frame(_) = on {
                barrier.wait();
                barrier.wait();
                assert_eq!(cx.handle().send(cx.id(), b""), Err(SendError::WouldExceed));
                cx.handle().drain(NEVER);
            }
            Ok(())
        };
        let listen = builder(engine).workers(1).limits(calm());
        let mut server =
            Events::new().with(|events| listen.listen(ANY_PORT, FRAMING, events.script(script)));
        let mut client = server.connect();
        let id = server.opened();
        client.write(&wire(&FRAMING, &[b"go"]));
        full.wait();
        while server.handle.send(id, b"").is_ok() {}
        assert_eq!(server.handle.close(id), Err(SendError::WouldExceed));
        assert!(matches!(server.handle.stats(), Err(Error::Send(SendError::WouldExceed))));
        assert!(matches!(server.handle.sessions(), Err(Error::Send(SendError::WouldExceed))));
        full.wait();
        let (received, end) = client.read_to_end();
        assert_eq!((received.len() % 2, end), (0, End::OfStream));
        assert!(received.len() >= 1000 && received.iter().all(|byte| *byte == 0));
        drop(client);
        assert_eq!(server.closed(), (id, CloseReason::Drain));
        let report = server.join().0;
        assert_eq!(report.stats.frames_sent as usize, received.len() / 2);
    });
}

/// What a handler sends through a handle is handed over at the end of the turn, and so much of it as
/// would fit is bounded already before.
#[test]
fn a_handler_can_fill_no_inbox_beyond_its_bound() {
    on_every_engine(|engine| {
        let script = |cx: &mut wharf::Context<'_, ()>, on: On<'_>| {
            if let On::Frame(_) = on {
                let (handle, id) = (cx.handle().clone(), cx.id());
                let sent = (0..1_000_000).take_while(|_| handle.send(id, b"").is_ok()).count();
                assert_eq!(handle.send(id, b""), Err(SendError::WouldExceed));
                assert!((60_000..70_000).contains(&sent), "{sent}");
                handle.drain(NEVER);
            }
            Ok(())
        };
        let listen = builder(engine).workers(1).limits(calm());
        let server =
            Events::new().with(|events| listen.listen(ANY_PORT, FRAMING, events.script(script)));
        let mut client = server.connect();
        client.write(&wire(&FRAMING, &[b"go"]));
        let received = client.read_to_end().0;
        assert!((60_000..70_000).contains(&(received.len() / 2)), "{}", received.len());
        drop(client);
        server.join();
    });
}
