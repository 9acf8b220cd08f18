//! Handlers that fail: the session that they failed on ends, and nothing else does.

use std::sync::{
    atomic::{AtomicU32, Ordering},
    mpsc,
};

use wharf::{CloseReason, Context, Dispatch, Error, Frame, Handler, Result, framing::LengthField};

use crate::support::*;

/// A callback that can be told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Open,
    Frame,
    Timer,
    Close,
}

fn place(on: &On<'_>) -> Place {
    match on {
        On::Open => Place::Open,
        On::Frame(_) => Place::Frame,
        On::Timer(_) => Place::Timer,
        On::Close(_) => Place::Close,
        On::Drain | On::Backpressure | On::Writable => unreachable!("nothing is sent here"),
    }
}

/// Fails on the second session, in `place`, as `fail` does; tells how the sessions ended.
fn fails_in(fails: Place, fail: fn() -> Result, expected: CloseReason) {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), move |cx, on| {
            let bad = matches!(on, On::Frame(b"bad"));
            if place(&on) == Place::Frame && (fails == Place::Timer || bad) {
                cx.set_timer(std::time::Duration::ZERO, 1);
            }
            // Odd peers' ports cannot be chosen: the bad client is told by what it sends, except
            // where nothing has been sent yet.
            let fails_here = match fails {
                Place::Frame => bad,
                Place::Open | Place::Timer | Place::Close => place(&on) == fails,
            };
            if fails_here {
                fail()?;
            }
            echo(cx, on)
        });
        for _ in 0..3 {
            let mut client = server.connect();
            if fails != Place::Open {
                client.write(&wire(&framing, &[b"bad", b"after"]));
            }
            if fails == Place::Close {
                client.end_stream();
            }
            let (_, reason) = server.closed();
            assert_eq!(reason, expected, "{fails:?}");
            let end = client.end();
            if fails != Place::Close {
                if reason.aborts() {
                    end.assert_reset();
                } else {
                    assert_eq!(end, End::OfStream, "{fails:?}");
                }
            }
        }
        let stats = server.finish().stats;
        assert_eq!(stats.closed_for(expected), 3, "{fails:?}");
    });
}

fn error() -> Result {
    Err(Error::handler("this is what the test wants"))
}

fn panic() -> Result {
    panic!("this is what the test wants")
}

#[test]
fn an_error_or_a_panic_ends_the_session_with_its_reason() {
    for place in [Place::Frame, Place::Timer] {
        fails_in(place, error, CloseReason::HandlerError);
        fails_in(place, panic, CloseReason::HandlerPanic);
    }
}

/// The connection may be over before a client has noticed that it was there.
#[test]
fn an_error_or_a_panic_in_on_open() {
    for (fail, expected) in
        [(error as fn() -> Result, CloseReason::HandlerError), (panic, CloseReason::HandlerPanic)]
    {
        on_every_engine(|engine| {
            let first = AtomicU32::new(0);
            let framing = LengthField::u16_be();
            let mut server = TestServer::with(engine, framing, calm(), move |cx, on| match on {
                On::Open if first.fetch_add(1, Ordering::Relaxed) == 0 => fail(),
                on => echo(cx, on),
            });
            let _ended = std::net::TcpStream::connect(server.address());
            assert_eq!(server.closed().1, expected);
            server.connect().echo(&framing, b"the next one is served");
            server.finish();
        });
    }
}

#[test]
fn a_panic_in_on_close_changes_nothing() {
    fails_in(Place::Close, panic, CloseReason::PeerClosed);
}

#[test]
fn others_on_the_same_worker_go_on_after_a_panic() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let events = Events::new();
        let script = |cx: &mut Context<'_, ()>, on: On<'_>| match on {
            On::Frame(b"bad") => panic(),
            on => echo(cx, on),
        };
        let listen = builder(engine).workers(1).limits(calm());
        let mut server = events.with(|e| listen.listen(ANY_PORT, framing, e.script(script)));
        let mut other = server.connect();
        for _ in 0..10 {
            let mut client = server.connect();
            client.write(&wire(&framing, &[b"good", b"bad", b"good"]));
            assert_eq!(server.closed().1, CloseReason::HandlerPanic);
            client.end();
            other.echo(&framing, b"still here");
        }
        server.finish();
    });
}

static MADE: AtomicU32 = AtomicU32::new(0);

/// Data whose making or dropping panics, every other time.
struct Explosive(bool);

impl Default for Explosive {
    fn default() -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        assert!(!number.is_multiple_of(3), "this is what the test wants");
        Self(number % 3 == 1)
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        assert!(!self.0, "this is what the test wants");
    }
}

#[derive(Default)]
struct Calls {
    opened: AtomicU32,
    closed: AtomicU32,
}

struct OnExplosives(std::sync::Arc<Calls>);

impl Handler for OnExplosives {
    type Session = Explosive;

    fn on_open(&mut self, _: &mut Context<'_, Explosive>) -> Result {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Explosive>, frame: Frame<'_>) -> Result {
        cx.send(frame.body())?;
        Ok(())
    }

    fn on_close(&mut self, _: &mut Context<'_, Explosive>, _: CloseReason) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A session whose data cannot be made was never open for the handler, and is not closed for it
/// either; one whose data cannot be dropped ends like any other.
#[test]
fn panics_of_the_session_data() {
    on_every_engine(|engine| {
        MADE.store(0, Ordering::Relaxed);
        let calls = std::sync::Arc::new(Calls::default());
        let framing = LengthField::u16_be();
        let factory = {
            let calls = std::sync::Arc::clone(&calls);
            move || OnExplosives(std::sync::Arc::clone(&calls))
        };
        let builder = builder(engine).limits(calm()).listen(ANY_PORT, framing, factory);
        let handle = builder.start().unwrap();
        let address = handle.local_addrs()[0];
        for number in 0..30 {
            if number % 3 == 0 {
                let _ended = std::net::TcpStream::connect(address);
                wait_until(|| {
                    let panics = handle.stats().unwrap().closed_for(CloseReason::HandlerPanic);
                    panics == number / 3 + 1
                });
            } else {
                Client::connect(address).echo(&framing, b"served");
            }
        }
        handle.drain(NEVER);
        let stats = finish(&handle).stats;
        assert_eq!(calls.opened.load(Ordering::Relaxed), 20);
        assert_eq!(calls.closed.load(Ordering::Relaxed), 20);
        assert_eq!(stats.closed_for(CloseReason::HandlerPanic), 10);
    });
}

/// Every way for a session to end at once, on many sessions: `finish` counts the callbacks.
#[test]
fn one_on_close_for_each_on_open_whatever_the_reason() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let limits = wharf::Limits {
            first_frame_timeout: Some(std::time::Duration::from_millis(50)),
            send_queue_bytes_soft: 1 << 16,
            send_queue_bytes_max: 1 << 16,
            ..calm()
        };
        let server = TestServer::with(engine, framing, limits, |cx, on| {
            let On::Frame(body) = on else { return Ok(()) };
            match body {
                b"close" => cx.close(),
                b"abort" => cx.abort(),
                b"error" => return error(),
                b"panic" => return panic(),
                b"both" => {
                    cx.close();
                    return panic();
                }
                b"flood" => assert!((0..100).any(|_| cx.send(&[0; 9000]).is_err()), "a limit"),
                b"ask" => cx.handle().close(cx.id())?,
                _ => cx.send(body)?,
            }
            Ok(())
        });
        let wishes: [&[u8]; 10] = [
            b"close", b"abort", b"error", b"panic", b"both", b"flood", b"ask", b"reset", b"",
            b"end",
        ];
        let address = server.address();
        in_threads(4, |thread| {
            for round in 0..wishes.len() * 3 {
                let Ok(stream) = std::net::TcpStream::connect(address) else { continue };
                let mut client = Client::from(stream);
                let wish = wishes[(round + thread) % wishes.len()];
                let sent = match wish {
                    b"" => vec![0],
                    // A length that is not allowed.
                    b"end" => vec![255, 255],
                    _ => wire(&framing, &[b"hello", wish, b"again"]),
                };
                let _ = client.write_if_possible(&sent);
                match wish {
                    b"reset" => client.reset(),
                    // The first frame never comes; the server ends this one.
                    b"" => drop(client.end()),
                    _ => drop(client),
                }
            }
        });
        wait_until(|| server.handle.count() == 0);
        let stats = server.finish().stats;
        // Whoever still waited in the system's queue when the drain began is refused.
        let sessions = stats.accepted - stats.accept_errors - stats.refused;
        assert_eq!(stats.closed.iter().sum::<u64>(), sessions);
        for reason in [CloseReason::Handler, CloseReason::HandlerPanic, CloseReason::Protocol] {
            assert!(stats.closed_for(reason) > 0, "{reason}");
        }
        // On a slow machine the first frame of others may come too late as well.
        assert!(stats.closed_for(CloseReason::FirstFrameTimeout) >= 12);
    });
}

/// Something of the user's that panics when it is dropped.
#[derive(Debug)]
struct Mine;

impl std::fmt::Display for Mine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mine")
    }
}

impl std::error::Error for Mine {}

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("this is what the test wants");
    }
}

/// An error, or what a panic carries, is the user's code as well: it is dropped where a panic ends
/// its session alone.
#[test]
fn an_error_or_a_payload_that_panics_when_dropped() {
    on_every_engine(|engine| {
        let framing = LengthField::u16_be();
        let mut server = TestServer::with(engine, framing, calm(), |cx, on| match on {
            On::Frame(b"error") => Err(Error::handler(Mine)),
            On::Frame(b"panic") => std::panic::panic_any(Mine),
            on => echo(cx, on),
        });
        let mut other = server.connect();
        for wish in [b"error", b"panic"] {
            let mut client = server.connect();
            client.write(&wire(&framing, &[wish]));
            assert_eq!(server.closed().1, CloseReason::HandlerPanic);
            client.end();
            other.echo(&framing, b"still here");
        }
        drop(other);
        server.finish();
    });
}

/// While a handler on a logic thread is in a call, the worker ends its session. What that call lets go
/// of, frames that were kept back, is not handled any more: the session is over.
#[test]
fn frames_that_were_kept_back_are_not_handled_when_the_session_is_over() {
    on_every_engine_inline(|engine| {
        let framing = LengthField::u16_be();
        let events = Events::new();
        let script = |cx: &mut Context<'_, ()>, on: On<'_>| {
            if let On::Frame(_) = on {
                cx.hold();
            }
            Ok(())
        };
        let builder = builder(engine).dispatch(Dispatch::Threads(1)).limits(calm());
        let mut server = events.with(|e| builder.listen(ANY_PORT, framing, e.script(script)));
        let mut client = server.connect();
        let id = server.opened();
        client.write(&wire(&framing, &[b"hold", b"kept back"]));
        assert_eq!(server.frame(), b"hold");
        let (begin, begun) = mpsc::channel();
        let (release, gate) = mpsc::channel();
        let call = move |cx: &mut Context<'_, ()>| {
            begin.send(()).expect("the test waits");
            gate.recv_timeout(PATIENCE).expect("the test says when");
            cx.release();
            Ok(())
        };
        server.handle.call(id, call).unwrap();
        begun.recv_timeout(PATIENCE).expect("it is called");
        server.handle.close(id).unwrap();
        wait_until(|| !server.handle.is_open(id));
        release.send(()).unwrap();
        assert_eq!(server.closed(), (id, CloseReason::Requested));
        client.end();
        assert_eq!(server.finish().stats.frames_received, 1);
    });
}
