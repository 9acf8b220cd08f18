//! Handlers that take too long, found without a clock on the threads that run them.
//!
//! Each thread with handlers writes down which call it is in: a store before each. Another thread looks
//! at that a few times within the time that a call may take, and names a call that it finds again for so
//! long, also one that never returns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use wharf_port::Time;

use crate::{handler::SessionId, log_limit::LogLimit};

/// What a thread is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    Open = 1,
    /// The framing looks for the next frame.
    Decode,
    Frame,
    Timer,
    Heartbeat,
    /// What [`Handle::call`](crate::Handle::call) or offloaded work brought.
    Call,
    Backpressure,
    Writable,
    Drain,
    Close,
    ConnectFailed,
    /// Of a key, not of a session.
    Job,
    /// The filter of a broadcast.
    Filter,
}

impl Doing {
    const ALL: [Self; 13] = [
        Self::Open,
        Self::Decode,
        Self::Frame,
        Self::Timer,
        Self::Heartbeat,
        Self::Call,
        Self::Backpressure,
        Self::Writable,
        Self::Drain,
        Self::Close,
        Self::ConnectFailed,
        Self::Job,
        Self::Filter,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Open => "on_open",
            Self::Decode => "decode",
            Self::Frame => "on_frame",
            Self::Timer => "on_timer",
            Self::Heartbeat => "on_heartbeat",
            Self::Call => "call",
            Self::Backpressure => "on_backpressure",
            Self::Writable => "on_writable",
            Self::Drain => "on_drain",
            Self::Close => "on_close",
            Self::ConnectFailed => "on_connect_failed",
            Self::Job => "job",
            Self::Filter => "filter",
        }
    }
}

/// Which call a thread is in. Only that thread writes. On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Watch {
    /// The call's number, for a frame its packet id, and what it is (0: none): 28, 32 and 4 bits.
    call: AtomicU64,
    /// The session, or the key of a job. It changes only while `call` says that there is none, so that
    /// who reads the same `call` before and after this has read what belongs to it.
    whom: AtomicU64,
}

/// A call as somebody else sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    call: u64,
    whom: u64,
}

impl Watch {
    /// A call begins, of this session or key.
    #[inline]
    pub(crate) fn begin(&self, doing: Doing, whom: u64) {
        debug_assert_eq!(self.call.load(Ordering::Relaxed) & DOING_MASK, 0, "calls do not nest");
        self.whom.store(whom, Ordering::Release);
        self.next(doing, 0);
    }

    /// The next call of the same session begins.
    #[inline]
    pub(crate) fn next(&self, doing: Doing, packet_id: u32) {
        let number = (self.call.load(Ordering::Relaxed) >> NUMBER_SHIFT) + 1;
        let call = number << NUMBER_SHIFT | u64::from(packet_id) << ID_SHIFT | doing as u64;
        self.call.store(call, Ordering::Release);
    }

    /// The handler has had its frame, and the framing looks for the next one. One instruction, as this
    /// comes with each frame: what is being done is one less.
    #[inline]
    pub(crate) fn decode_on(&self) {
        let call = self.call.load(Ordering::Relaxed);
        debug_assert_eq!(call & DOING_MASK, Doing::Frame as u64);
        self.call.store(call - (Doing::Frame as u64 - Doing::Decode as u64), Ordering::Release);
    }

    /// No call any more.
    #[inline]
    pub(crate) fn end(&self) {
        let call = self.call.load(Ordering::Relaxed);
        self.call.store(call & NUMBER_MASK, Ordering::Release);
    }

    /// What is being called; `None` between calls.
    fn look(&self) -> Option<Seen> {
        let call = self.call.load(Ordering::Acquire);
        let whom = self.whom.load(Ordering::Acquire);
        let same = self.call.load(Ordering::Acquire) == call;
        (same && call & DOING_MASK != 0).then_some(Seen { call, whom })
    }
}

impl Seen {
    fn doing(self) -> Doing {
        Doing::ALL[(self.call & DOING_MASK) as usize - 1]
    }

    fn packet_id(self) -> u32 {
        (self.call >> ID_SHIFT) as u32
    }
}

/// Looks at the threads of a server.
pub(crate) struct Watchdog {
    /// How long a call may take.
    limit: Duration,
    threads: Vec<Watched>,
    logged: LogLimit,
}

struct Watched {
    name: String,
    watch: Arc<Watch>,
    /// The call that was there at the last look, and since when.
    seen: Option<(Seen, Time)>,
    /// It is named when it has taken this.
    named_at: Duration,
}

impl Watchdog {
    pub(crate) fn new(
        limit: Duration,
        threads: impl Iterator<Item = (String, Arc<Watch>)>,
    ) -> Self {
        let watched = |(name, watch)| Watched { name, watch, seen: None, named_at: limit };
        Self { limit, threads: threads.map(watched).collect(), logged: LogLimit::default() }
    }

    /// After which time to look again.
    pub(crate) fn period(&self) -> Duration {
        self.limit / LOOKS
    }

    /// Looks at all of them. How many calls were found to take too long, each of them once.
    pub(crate) fn look(&mut self, now: Time) -> u64 {
        let mut slow = 0;
        for thread in &mut self.threads {
            let found = thread.watch.look();
            match (found, thread.seen) {
                (Some(found), Some((seen, since))) if found == seen => {
                    let took = now.since(since);
                    if took >= thread.named_at {
                        slow += u64::from(thread.named_at == self.limit);
                        // Then when it has taken twice as long, and so on.
                        thread.named_at = took * 2;
                        warn(&mut self.logged, &thread.name, found, took, now);
                    }
                }
                _ => {
                    thread.seen = found.map(|found| (found, now));
                    thread.named_at = self.limit;
                }
            }
        }
        slow
    }
}

#[cold]
fn warn(logged: &mut LogLimit, thread: &str, seen: Seen, took: Duration, now: Time) {
    let Some(left_out) = logged.admit(now) else { return };
    let (call, at_least_ms) = (seen.doing().name(), took.as_millis() as u64);
    let what = "a call of a handler takes too long, and all other sessions of its thread wait";
    let id = SessionId::from_u64(seen.whom);
    match seen.doing() {
        Doing::Frame => {
            let packet = seen.packet_id();
            tracing::warn!(thread, call, packet, session = %id, at_least_ms, left_out, "{what}");
        }
        Doing::Job => {
            tracing::warn!(thread, call, key = seen.whom, at_least_ms, left_out, "{what}");
        }
        Doing::ConnectFailed | Doing::Filter => {
            tracing::warn!(thread, call, at_least_ms, left_out, "{what}");
        }
        _ => tracing::warn!(thread, call, session = %id, at_least_ms, left_out, "{what}"),
    }
}

/// How often it is looked within the time that a call may take: one that takes a quarter more is found
/// for certain.
const LOOKS: u32 = 4;

const ID_SHIFT: u32 = 4;
const NUMBER_SHIFT: u32 = 36;
const DOING_MASK: u64 = 0xf;
const NUMBER_MASK: u64 = u64::MAX << NUMBER_SHIFT;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Dog {
        dog: Watchdog,
        watch: Arc<Watch>,
        now: Time,
    }

    impl Dog {
        fn new() -> Self {
            let watch = Arc::new(Watch::default());
            let threads = [("one".to_owned(), Arc::clone(&watch))].into_iter();
            Self { dog: Watchdog::new(100 * MS, threads), watch, now: Time::ZERO }
        }

        /// Looks as often as it should for so many looks.
        fn look(&mut self, looks: u32) -> u64 {
            (0..looks)
                .map(|_| {
                    self.now = self.now + self.dog.period();
                    self.dog.look(self.now)
                })
                .sum()
        }
    }

    #[test]
    fn what_is_written_is_what_is_seen() {
        let (watch, id) = (Watch::default(), SessionId::new(3, 70_000, 9));
        assert_eq!(watch.look(), None);
        for (doing, packet_id) in Doing::ALL.into_iter().zip([0, 1, 206, u32::MAX].repeat(4)) {
            watch.begin(Doing::Decode, id.as_u64());
            let mut before = watch.look();
            for doing in [doing, Doing::Frame] {
                watch.next(doing, packet_id);
                let seen = watch.look().unwrap();
                assert_eq!((seen.doing(), seen.packet_id()), (doing, packet_id));
                assert_eq!(seen.whom, id.as_u64());
                assert!(before.is_some() && before != Some(seen), "each has a number of its own");
                before = Some(seen);
            }
            watch.decode_on();
            let seen = watch.look().unwrap();
            assert_eq!((seen.doing(), seen.whom), (Doing::Decode, id.as_u64()));
            assert_ne!(before, Some(seen));
            watch.end();
            assert_eq!(watch.look(), None);
        }
    }

    /// Writes down what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl tracing::Subscriber for Log {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            unreachable!("no span")
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = String::new();
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                line.push_str(&format!("{field}={value:?} "));
            });
            self.0.lock().unwrap().push(line);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    /// With the time growing, and twice as long from line to line.
    #[test]
    fn the_log_names_packet_session_and_time() {
        let log = Log::default();
        tracing::subscriber::with_default(log.clone(), || {
            let mut dog = Dog::new();
            dog.watch.begin(Doing::Decode, SessionId::new(1, 17, 4).as_u64());
            dog.watch.next(Doing::Frame, 206);
            dog.look(1 + 4 * 7);
            dog.watch.end();
            dog.watch.begin(Doing::Job, 99);
            dog.look(5);
        });
        let lines = log.0.lock().unwrap();
        let expected = [
            ["call=\"on_frame\"", "packet=206", "session=1.17.4", "at_least_ms=100"],
            ["call=\"on_frame\"", "packet=206", "session=1.17.4", "at_least_ms=200"],
            ["call=\"on_frame\"", "packet=206", "session=1.17.4", "at_least_ms=400"],
            ["call=\"job\"", "key=99", "thread=\"one\"", "at_least_ms=100"],
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, parts) in lines.iter().zip(expected) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    }

    /// One that never returns is counted once, one that comes behind it again.
    #[test]
    fn a_call_that_takes_too_long_is_found_once() {
        let mut dog = Dog::new();
        dog.watch.begin(Doing::Frame, 7);
        assert_eq!(dog.look(4), 0, "it was first seen after a quarter of its time");
        assert_eq!(dog.look(1), 1);
        assert_eq!(dog.look(1000), 0);
        dog.watch.next(Doing::Frame, 0);
        assert_eq!(dog.look(4), 0);
        assert_eq!(dog.look(100), 1);
        dog.watch.end();
        assert_eq!(dog.look(100), 0);
        dog.watch.begin(Doing::Job, 7);
        assert_eq!(dog.look(100), 1);
    }

    /// The same packet of the same session again and again is not one long call, nor is a thread that
    /// does nothing.
    #[test]
    fn many_short_calls_are_not_a_long_one() {
        let mut dog = Dog::new();
        assert_eq!(dog.look(100), 0);
        for round in 0..100 {
            if round % 3 == 0 {
                dog.watch.begin(Doing::Decode, 7);
            }
            dog.watch.next(Doing::Frame, 206);
            assert_eq!(dog.look(1), 0);
            if round % 3 == 2 {
                dog.watch.end();
            }
        }
    }

    /// What a handler's own thread has written down when it is called.
    #[cfg(any(unix, windows))]
    #[test]
    fn each_call_is_written_down_before_it() {
        use crate::{
            Context, Dispatch, Frame, Handler, Result, Server,
            framing::LengthField,
            testing::{Faults, for_seeds},
        };

        type Noted = Arc<Mutex<Vec<(Doing, u32)>>>;

        struct Looks(Noted);

        impl Looks {
            fn note(&self, cx: &Context<'_, ()>) {
                let seen = cx.shared.watch.look().expect("this is a call");
                assert_eq!(seen.whom, cx.id().as_u64());
                self.0.lock().unwrap().push((seen.doing(), seen.packet_id()));
            }
        }

        impl Handler for Looks {
            type Session = ();

            fn on_open(&mut self, cx: &mut Context<'_, ()>) -> Result {
                self.note(cx);
                Ok(())
            }

            fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
                self.note(cx);
                if frame.id() == 3 {
                    cx.set_timer(MS, 0);
                }
                Ok(())
            }

            fn on_timer(&mut self, cx: &mut Context<'_, ()>, _: u64) -> Result {
                self.note(cx);
                Ok(())
            }

            fn on_close(&mut self, cx: &mut Context<'_, ()>, _: crate::CloseReason) {
                self.note(cx);
            }
        }

        for_seeds(0..12, |seed| {
            let noted = Noted::default();
            let theirs = Arc::clone(&noted);
            let dispatch = if seed % 2 == 0 { Dispatch::Inline } else { Dispatch::Threads(1) };
            let mut sim = Server::builder()
                .dispatch(dispatch)
                .listen("10.0.0.1:1", LengthField::STUDY, move || Looks(Arc::clone(&theirs)))
                .simulate(seed, Faults::none())
                .unwrap();
            let client = sim.connect("10.0.0.1:1", LengthField::STUDY);
            (1..=3).for_each(|id| client.send_packet(id, b"body"));
            sim.run_for(Duration::from_secs(1));
            sim.finish();
            let frames = (1..=3).map(|id| (Doing::Frame, id));
            let expected: Vec<_> = std::iter::once((Doing::Open, 0))
                .chain(frames)
                .chain([(Doing::Timer, 0), (Doing::Close, 0)])
                .collect();
            assert_eq!(*noted.lock().unwrap(), expected);
        });
    }

    /// What it takes to find a frame is not laid at the door of the packet before it.
    #[cfg(any(unix, windows))]
    #[test]
    fn the_time_of_a_framing_is_its_own() {
        use std::sync::OnceLock;

        use crate::{
            Context, Frame, Handler, Result, Server,
            framing::{Decoded, Framing, FramingError, LengthField, Packet},
            testing::Faults,
        };

        /// Looks what its own thread has written down.
        #[derive(Clone, Default)]
        struct Looks {
            watch: Arc<OnceLock<Arc<Watch>>>,
            seen: Arc<Mutex<Vec<Doing>>>,
        }

        type Found<T> = std::result::Result<T, FramingError>;

        impl Framing for Looks {
            fn decode(&self, unread: &[u8], seen: usize) -> Found<Decoded> {
                let doing = self.watch.get().expect("set before").look().map(Seen::doing);
                self.seen.lock().unwrap().push(doing.expect("this is a call"));
                LengthField::STUDY.decode(unread, seen)
            }

            fn encoded_len(&self, body_len: usize) -> usize {
                LengthField::STUDY.encoded_len(body_len)
            }

            fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Found<usize> {
                LengthField::STUDY.encode(packet, out)
            }
        }

        struct Quiet;

        impl Handler for Quiet {
            type Session = ();

            fn on_frame(&mut self, _: &mut Context<'_, ()>, _: Frame<'_>) -> Result {
                Ok(())
            }
        }

        let looks = Looks::default();
        let server = Server::builder().workers(1).listen("10.0.0.1:1", looks.clone(), || Quiet);
        let mut sim = server.simulate(7, Faults::none()).unwrap();
        looks.watch.set(Arc::clone(&sim.handle().0.workers[0].watch)).expect("set once");
        let client = sim.connect("10.0.0.1:1", LengthField::STUDY);
        (1..100).for_each(|id| client.send_packet(id, b"body"));
        sim.run();
        sim.finish();
        let seen = looks.seen.lock().unwrap();
        assert!(seen.len() >= 99 && seen.iter().all(|doing| *doing == Doing::Decode), "{seen:?}");
    }
}
