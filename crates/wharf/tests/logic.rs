//! Jobs, offloaded work, held frames and calls, on simulated servers: a seed decides who turns next,
//! also which piece of offloaded work is done when.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use wharf::{
    Builder, CloseReason, Context, Dispatch, Frame, Handler, Job, Limits, Result, SendError,
    Server, SessionId,
    framing::LengthField,
    testing::{Client, Faults, Simulation, for_seeds},
};

const FRAMING: LengthField = LengthField::u16_be();
const ADDRESS: &str = "10.0.0.1:9000";

/// How sessions ended.
type Ended = Arc<Mutex<Vec<(SessionId, CloseReason)>>>;

type Script<S> = Arc<dyn Fn(&mut Context<'_, S>, &[u8]) -> Result + Send + Sync>;

/// Does with each frame as the script says, and notes how sessions ended.
struct Scripted<S> {
    script: Script<S>,
    ended: Ended,
}

impl<S: Default + 'static> Handler for Scripted<S> {
    type Session = S;

    fn on_frame(&mut self, cx: &mut Context<'_, S>, frame: Frame<'_>) -> Result {
        (self.script)(cx, frame.body())
    }

    fn on_close(&mut self, cx: &mut Context<'_, S>, reason: CloseReason) {
        self.ended.lock().unwrap().push((cx.id(), reason));
    }
}

/// A server with this script, and how its sessions ended.
fn server<S: Default + 'static>(
    script: impl Fn(&mut Context<'_, S>, &[u8]) -> Result + Send + Sync + 'static,
) -> (Builder, Ended) {
    let (script, ended): (Script<S>, Ended) = (Arc::new(script), Arc::default());
    let seen = Arc::clone(&ended);
    let handler = move || Scripted { script: Arc::clone(&script), ended: Arc::clone(&seen) };
    (Server::builder().workers(2).listen(ADDRESS, FRAMING, handler), ended)
}

fn faults(seed: u64) -> Faults {
    if seed.is_multiple_of(2) { Faults::rough() } else { Faults::none() }
}

/// Every third seed has its handlers on the workers, the others on one logic thread, or two.
fn dispatch(seed: u64) -> Dispatch {
    match seed % 3 {
        0 => Dispatch::Inline,
        threads => Dispatch::Threads(threads as usize),
    }
}

fn clients(sim: &mut Simulation, count: usize) -> Vec<Client<LengthField>> {
    (0..count).map(|_| sim.connect(ADDRESS, FRAMING)).collect()
}

// ---- the end -----------------------------------------------------------------------------------

/// What came in one piece with the frame at which a handler asks for the end is not handled.
#[test]
fn nothing_is_handled_behind_the_end_that_a_handler_asks_for() {
    for_seeds(0..60, |seed| {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let (server, ended) = server::<()>(move |cx, body| {
            count.fetch_add(1, Ordering::Relaxed);
            if body == b"the end" {
                cx.close();
            }
            Ok(())
        });
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, faults(seed)).unwrap();
        let client = sim.connect(ADDRESS, FRAMING);
        [&b"one"[..], b"the end", b"two", b"three"].iter().for_each(|body| client.send(body));
        sim.run_for(Duration::from_secs(5));
        sim.finish();
        let reasons: Vec<_> = ended.lock().unwrap().iter().map(|(_, reason)| *reason).collect();
        let handled = handled.load(Ordering::Relaxed);
        assert!(handled <= 2, "{handled} frames are handled");
        let lossless = faults(seed) == Faults::none();
        assert!(!lossless || (handled == 2 && reasons == [CloseReason::Handler]), "{reasons:?}");
    });
}

// ---- jobs --------------------------------------------------------------------------------------

/// What a key's jobs have seen: the last number of each poster.
#[derive(Default)]
struct Seen(BTreeMap<u64, u32>);

/// Posted by many sessions and by one another: each poster's jobs run in its order, all of them run
/// once, and all jobs of a key on one state.
#[test]
fn jobs_of_a_key_share_its_state_and_keep_each_posters_order() {
    const KEYS: u64 = 5;
    for_seeds(0..150, |seed| {
        let (ran, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (all, wrong) = (Arc::clone(&ran), Arc::clone(&bad));
        let (server, _) = server::<u32>(move |cx, body| {
            *cx.data() += 1;
            let (poster, number) = (cx.id().as_u64(), *cx.data());
            // Each comes to one key of five, and to one of two, in turn.
            let (five, two) = (u64::from(body[0]) % KEYS, u64::from(body[0]) % 2);
            for (key, turn) in [(five, KEYS as u32), (KEYS + two, 2)] {
                let (ran, bad) = (Arc::clone(&all), Arc::clone(&wrong));
                let before = number.checked_sub(turn).filter(|before| *before > 0);
                cx.post(key, move |job| {
                    assert_eq!(job.key(), key);
                    ran.fetch_add(1, Ordering::Relaxed);
                    let last = job.state::<Seen>().0.insert(poster, number);
                    bad.fetch_add(usize::from(last != before), Ordering::Relaxed);
                    if key < KEYS {
                        // To its own thread or another's.
                        let ran = Arc::clone(&ran);
                        job.post(key + 100, move |_| _ = ran.fetch_add(1, Ordering::Relaxed))
                            .unwrap();
                    }
                })?;
            }
            Ok(())
        });
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, faults(seed)).unwrap();
        let clients = clients(&mut sim, 4);
        for n in 0..10 {
            clients.iter().for_each(|client| client.send(&[n, 1, 2]));
        }
        sim.run_for(Duration::from_secs(5));
        let stats = sim.finish().stats;
        assert_eq!(bad.load(Ordering::Relaxed), 0, "a poster's jobs out of order, or state lost");
        assert_eq!(ran.load(Ordering::Relaxed) as u64, 3 * stats.frames_received);
        assert_eq!(stats.jobs, 3 * stats.frames_received);
    });
}

/// What a job sends reaches each session in the order in which it was sent, and a job that panics
/// costs nobody anything, not even the state of its key.
#[test]
fn what_jobs_send_arrives_in_order_and_a_panic_costs_one_job() {
    #[derive(Default)]
    struct Room {
        members: Vec<SessionId>,
        said: u32,
    }
    for_seeds(1000..1100, |seed| {
        let (server, _) = server::<bool>(|cx, body| {
            let id = cx.id();
            if !std::mem::replace(cx.data(), true) {
                cx.post(7, move |job: &mut Job<'_>| job.state::<Room>().members.push(id))?;
            }
            let panics = body == b"panic";
            cx.post(7, move |job| {
                let (room, handle) = job.split::<Room>();
                room.said += 1;
                assert!(!panics, "this is what the test wants");
                for member in &room.members {
                    let said = handle.send(*member, &room.said.to_be_bytes());
                    assert!(matches!(said, Ok(()) | Err(SendError::Closed)));
                }
            })?;
            Ok(())
        });
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, Faults::none()).unwrap();
        let clients = clients(&mut sim, 4);
        for n in 0..8 {
            let body: &[u8] = if n == 3 { b"panic" } else { b"say" };
            clients.iter().for_each(|client| client.send(body));
        }
        sim.run();
        for client in &clients {
            let received = client.received();
            let number = |body: &Vec<u8>| u32::from_be_bytes(body[..].try_into().unwrap());
            assert!(received.is_sorted_by_key(number), "{received:?}");
            assert!(received.len() >= 7, "its own at the least");
            assert_eq!(received.last().map(number), clients[0].received().last().map(number));
        }
        let stats = sim.finish().stats;
        assert_eq!((stats.job_panics, stats.closed_for(CloseReason::HandlerPanic)), (4, 0));
    });
}

#[test]
fn a_key_that_was_cleared_begins_again() {
    let (server, _) = server::<()>(|cx, body| {
        let (id, clears) = (cx.id(), body == b"clear");
        cx.post(1, move |job| {
            *job.state::<u8>() += 1;
            let count = *job.state::<u8>();
            job.handle().send(id, &[count]).unwrap();
            if clears {
                job.clear();
            }
        })?;
        Ok(())
    });
    let mut sim = server.simulate(1, Faults::none()).unwrap();
    let client = sim.connect(ADDRESS, FRAMING);
    ["a", "clear", "b", "c"].iter().for_each(|body| client.send(body.as_bytes()));
    sim.run();
    assert_eq!(client.received(), [[1], [2], [1], [2]]);
    sim.finish();
}

// ---- offloaded work ----------------------------------------------------------------------------

/// Results come back to sessions that are there, one for each piece of work, in an order that the
/// seed decides; those of sessions that are over are dropped and counted, and no place is lost.
#[test]
fn results_come_once_to_the_session_that_asked_or_are_dropped() {
    for_seeds(2000..2200, |seed| {
        let (done, refused) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (came, full, places) = (Arc::clone(&done), Arc::clone(&refused), Arc::new(()));
        let (server, _) = server::<u64>(move |cx, body| {
            *cx.data() = cx.id().as_u64();
            let (number, came) = (body[0], Arc::clone(&came));
            let place = Arc::clone(&places);
            let asked = cx.offload(
                move || number,
                move |cx, number| {
                    drop(place);
                    let id = cx.id().as_u64();
                    assert_eq!(*cx.data(), id, "another session's result");
                    came.fetch_add(1, Ordering::Relaxed);
                    cx.send(&[number])?;
                    Ok(())
                },
            );
            match asked {
                Err(SendError::WouldExceed) => _ = full.fetch_add(1, Ordering::Relaxed),
                asked => asked?,
            }
            assert!(Arc::strong_count(&places) <= 1 + 8, "more is outstanding than may be");
            Ok(())
        });
        let server = server.offload_threads(1).offload_queue(7);
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, faults(seed)).unwrap();
        let clients = clients(&mut sim, 5);
        for (index, client) in clients.iter().enumerate() {
            (0..6).for_each(|n| client.send(&[n]));
            match index {
                0 => client.reset(),
                1 => client.end(),
                _ => {}
            }
        }
        sim.run_for(Duration::from_secs(5));
        let (done, refused) = (done.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        if !seed.is_multiple_of(2) {
            let answers: usize = clients[2..].iter().map(|client| client.received().len()).sum();
            let asked = 18;
            assert!(answers + refused as usize >= asked, "{answers} {refused}");
        }
        let stats = sim.finish().stats;
        let (frames, all) = (stats.frames_received, u64::from(done + refused));
        assert_eq!(frames, all + stats.events_dropped, "{done} {refused}");
    });
}

/// Nobody waits for ever for work that panicked: the session goes on, unless it is held.
#[test]
fn work_that_panics_costs_its_result_and_a_held_session() {
    for_seeds(3000..3050, |seed| {
        let (server, ended) = server::<()>(|cx, body| {
            if body == b"hold" {
                cx.hold();
            }
            cx.offload(
                || panic!("this is what the test wants"),
                |cx, ()| {
                    cx.send(b"a result")?;
                    Ok(())
                },
            )?;
            cx.send(body)?;
            Ok(())
        });
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, Faults::none()).unwrap();
        let (held, other) = (sim.connect(ADDRESS, FRAMING), sim.connect(ADDRESS, FRAMING));
        held.send(b"hold");
        other.send(b"one");
        sim.expect_panics();
        sim.run();
        other.send(b"two");
        sim.run();
        assert_eq!(other.received(), [b"one", b"two"]);
        assert!(held.is_closed() && !other.is_closed());
        assert_eq!(ended.lock().unwrap()[0].1, CloseReason::HandlerPanic);
        assert_eq!(sim.finish().stats.offload_panics, 3);
    });
}

/// A place is taken until the result is consumed, and is free again whatever becomes of it.
#[test]
fn a_full_pool_refuses_and_has_room_again() {
    let (server, _) = server::<()>(|cx, body| {
        let asked = cx.offload(|| (), |cx, ()| Ok(cx.send(b"done")?));
        if body == b"more" {
            assert_eq!(asked, Err(SendError::WouldExceed));
            cx.send(b"full")?;
        }
        Ok(())
    });
    // Three pieces of work in one segment: nothing of the pool runs in between.
    let mut sim = server.offload_threads(1).offload_queue(1).simulate(1, Faults::none()).unwrap();
    let client = sim.connect(ADDRESS, FRAMING);
    for _ in 0..3 {
        client.send_bytes(b"\0\x03one\0\x03two\0\x04more");
        sim.run();
    }
    let count = |body: &[u8]| client.received().iter().filter(|got| *got == body).count();
    assert!(count(b"done") == 6 && count(b"full") == 3, "{:?}", client.received());
    sim.finish();
}

// ---- hold and release --------------------------------------------------------------------------

/// While a session is held no frame of it comes, whatever arrives and however it is cut; afterwards
/// all come, in order, and the end of the stream behind them.
#[test]
fn frames_of_a_held_session_wait_and_come_in_order() {
    for_seeds(4000..4150, |seed| {
        let (server, ended) = server::<bool>(|cx, body| {
            assert!(!*cx.data(), "a frame came while they were held");
            if body[0].is_multiple_of(3) {
                *cx.data() = true;
                cx.hold();
                cx.offload(
                    || (),
                    |cx, ()| {
                        *cx.data() = false;
                        cx.release();
                        Ok(())
                    },
                )?;
            }
            cx.send(body)?;
            Ok(())
        });
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, faults(seed)).unwrap();
        let clients = clients(&mut sim, 3);
        let sent: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 1 + 100 * usize::from(n)]).collect();
        for client in &clients {
            sent.iter().for_each(|body| client.send(body));
            client.end();
        }
        sim.run_for(Duration::from_secs(5));
        for client in &clients {
            assert!(sent.starts_with(&client.received()), "in order");
            assert!(faults(seed) != Faults::none() || client.received() == sent, "all of them");
        }
        let reasons = ended.lock().unwrap().clone();
        sim.finish();
        let all = reasons.iter().all(|(_, reason)| *reason == CloseReason::PeerClosed);
        assert!(faults(seed) != Faults::none() || (all && reasons.len() == 3), "{reasons:?}");
    });
}

/// A peer that goes on sending to a held session is stopped by its own system: nothing is received
/// beyond what was on its way.
#[test]
fn a_held_session_is_not_received_from() {
    // What is read and thrown away when the session ends is not what this is about.
    let limits = Limits { linger_bytes_max: 0, ..Limits::default() };
    let handler = || Scripted {
        script: Arc::new(|cx: &mut Context<'_, ()>, _: &[u8]| {
            cx.hold();
            Ok(())
        }),
        ended: Arc::default(),
    };
    let server = Server::builder().limits(limits).listen(ADDRESS, FRAMING, handler);
    let mut sim = server.workers(1).simulate(1, Faults::none()).unwrap();
    let client = sim.connect(ADDRESS, FRAMING);
    client.send(b"hold");
    sim.run();
    (0..200).for_each(|_| client.send(&[0; 5000]));
    sim.run();
    let stats = sim.finish().stats;
    assert_eq!(stats.frames_received, 1);
    assert!(stats.bytes_received < 20_000, "{} bytes of a megabyte", stats.bytes_received);
}

// ---- logic threads -----------------------------------------------------------------------------

/// While a logic thread takes its time, its sessions are received from up to their bound and one
/// receive's credit; then everything comes, in order, and so does the end of the stream.
#[test]
fn a_slow_logic_thread_is_not_sent_more_than_its_bound() {
    for_seeds(6000..6050, |seed| {
        let limits = Limits { logic_queue_bytes_max: 10_000, ..Limits::default() };
        let ended = Ended::default();
        let seen = Arc::clone(&ended);
        let handler = move || Scripted {
            script: Arc::new(|cx: &mut Context<'_, ()>, body: &[u8]| Ok(cx.send(&body[..2])?)),
            ended: Arc::clone(&seen),
        };
        let server = Server::builder().workers(2).limits(limits).listen(ADDRESS, FRAMING, handler);
        let server = server.dispatch(Dispatch::Threads(2));
        let mut sim = server.simulate(seed, Faults::none()).unwrap();
        sim.set_logic_running(false);
        let clients = clients(&mut sim, 3);
        for n in 0..100_u8 {
            clients.iter().for_each(|client| client.send(&[n; 1000]));
        }
        clients.iter().for_each(|client| client.end());
        sim.run();
        let received = sim.stats().bytes_received;
        assert!(received <= 3 * (10_000 + 2 * 32 * 1024), "{received} of 300,000 bytes");
        assert!(received >= 3 * 10_000, "{received}");
        sim.set_logic_running(true);
        sim.run();
        for client in &clients {
            assert!(client.received().iter().map(|body| body[1]).eq(0..100));
            assert!(client.is_closed());
        }
        assert!(ended.lock().unwrap().iter().all(|(_, why)| *why == CloseReason::PeerClosed));
        sim.finish();
    });
}

/// A drain finds frames on their way to logic: they are handled, and their answers leave.
#[test]
fn a_drain_lets_logic_finish_first() {
    for_seeds(7000..7050, |seed| {
        let (server, ended) = server::<()>(|cx, body| Ok(cx.send(body)?));
        let mut sim = server.dispatch(Dispatch::Threads(2)).simulate(seed, Faults::none()).unwrap();
        let clients = clients(&mut sim, 3);
        clients.iter().for_each(|client| client.send(b"first"));
        sim.run();
        sim.set_logic_running(false);
        clients.iter().for_each(|client| client.send(b"second"));
        sim.run();
        sim.handle().drain(Duration::from_secs(10));
        sim.run();
        sim.set_logic_running(true);
        sim.run();
        assert!(clients.iter().all(|client| client.received() == [&b"first"[..], b"second"]));
        assert!(ended.lock().unwrap().iter().all(|(_, why)| *why == CloseReason::Drain));
        sim.finish();
    });
}

// ---- calls -------------------------------------------------------------------------------------

/// Calls by one thread run in its order, on the session's data; those for a session that is over are
/// refused or dropped, and those for another type of session are dropped.
#[test]
fn calls_run_in_order_on_the_sessions_data() {
    for_seeds(5000..5050, |seed| {
        let opened: Arc<Mutex<HashMap<u8, SessionId, _>>> =
            Arc::new(Mutex::new(HashMap::with_hasher(std::hash::BuildHasherDefault::<
                std::hash::DefaultHasher,
            >::default())));
        let names = Arc::clone(&opened);
        let (server, _) = server::<Vec<u32>>(move |cx, body| {
            names.lock().unwrap().insert(body[0], cx.id());
            Ok(())
        });
        let mut sim = server.dispatch(dispatch(seed)).simulate(seed, Faults::none()).unwrap();
        let clients = clients(&mut sim, 2);
        (0..2).for_each(|n| clients[n as usize].send(&[n]));
        sim.run();
        let ids: Vec<SessionId> = (0..2).map(|n| opened.lock().unwrap()[&n]).collect();
        for number in 0..20_u32 {
            for id in &ids {
                let add = move |cx: &mut Context<'_, Vec<u32>>| {
                    assert_eq!(cx.data().len(), number as usize);
                    cx.data().push(number);
                    cx.send(&number.to_be_bytes())?;
                    Ok(())
                };
                sim.handle().call(*id, add).unwrap();
            }
            if sim.random(2) == 0 {
                sim.step();
            }
        }
        sim.handle().call::<String>(ids[0], |_| panic!("of another type")).unwrap();
        sim.run();
        for client in &clients {
            assert!(client.received().iter().map(|body| body[3]).eq(0..20));
        }
        clients[0].end();
        sim.handle().close(ids[1]).unwrap();
        sim.handle().call::<Vec<u32>>(ids[1], |_| panic!("it is over by then")).unwrap();
        sim.run();
        let late = sim.handle().call::<Vec<u32>>(ids[0], |_| Ok(()));
        assert_eq!(late, Err(SendError::Closed));
        let stats = sim.finish().stats;
        assert_eq!(stats.events_dropped, 2);
    });
}
