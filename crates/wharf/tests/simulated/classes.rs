//! What becomes of frames of each class while a peer does not read, with the answers given and the
//! counters: the table in docs/guarantees.md.

use std::sync::{Arc, Mutex};

use wharf::{
    Class, Context, Frame, Handler, Limits, Report, Result, SendError, Sent, Server,
    framing::LengthField,
    testing::{Client, Faults, Simulation},
};

use crate::support::*;

type Answer = std::result::Result<Sent, SendError>;

/// Sends what a frame says: a class, or `T` for `try_send`, a length, and a mark that the frame begins
/// with.
#[derive(Clone, Default)]
struct Sends(Arc<Mutex<Vec<Answer>>>);

impl Handler for Sends {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> Result {
        let text = String::from_utf8_lossy(frame.body());
        for order in text.split(';') {
            let words: Vec<_> = order.split(' ').collect();
            let [class, len, mark] = words[..] else { panic!("three words: {order}") };
            let mut body = mark.as_bytes().to_vec();
            body.resize(len.parse().expect("a length"), b'.');
            let class = match class.split_at(1) {
                ("T", _) => {
                    let tried = cx.try_send(&body).map(|()| Sent::Queued);
                    self.0.lock().unwrap().push(tried);
                    continue;
                }
                ("R", _) => Class::Reliable,
                ("N", _) => Class::DropNewest,
                ("O", _) => Class::DropOldest,
                ("L", key) => Class::Latest(key.parse().expect("a key")),
                ("C", _) => Class::Control,
                _ => panic!("no class: {class}"),
            };
            self.0.lock().unwrap().push(cx.send_as(class, 0, &body));
        }
        Ok(())
    }
}

/// A client that does not read, for which a gather is in flight: what is queued now stays queued.
struct Deaf {
    sim: Simulation,
    client: Client<LengthField>,
    sends: Sends,
}

/// The mark of what is in flight.
const FIRST: &str = "first";
/// As much as the simulated network takes for one who does not read.
const FIRST_BYTES: usize = 65_000;
const SOFT: usize = 100_000;
const MAX: usize = 200_000;

impl Deaf {
    fn new() -> Self {
        let sends = Sends::default();
        let told = sends.clone();
        let limits = Limits {
            send_queue_bytes_soft: SOFT,
            send_queue_bytes_max: MAX,
            idle_write_timeout: None,
            ..Limits::default()
        };
        let server = Server::builder().workers(1).limits(limits);
        let server = server.listen(ADDRESS, FRAMING, move || told.clone());
        let mut sim = server.simulate(3, Faults::none()).unwrap();
        let client = sim.connect(ADDRESS, FRAMING);
        client.set_reading(false);
        let mut deaf = Self { sim, client, sends };
        // The network takes the first of these, and some of the second.
        for _ in 0..2 {
            assert_eq!(deaf.order(&format!("R {FIRST_BYTES} {FIRST}")), [Ok(Sent::Queued)]);
        }
        deaf
    }

    /// What is answered to each of these.
    fn order(&mut self, orders: &str) -> Vec<Answer> {
        self.client.send(orders.as_bytes());
        self.sim.run();
        std::mem::take(&mut *self.sends.0.lock().unwrap())
    }

    /// Reads all of it: the marks in the order in which they come, and the report.
    fn read(mut self) -> (Vec<String>, Report) {
        self.client.set_reading(true);
        self.sim.run();
        let mark =
            |body: Vec<u8>| String::from_utf8(body).unwrap().trim_end_matches('.').to_owned();
        let mut marks: Vec<_> = self.client.received().into_iter().map(mark).collect();
        let firsts = marks.iter().take_while(|mark| *mark == FIRST).count();
        assert!((1..=2).contains(&firsts), "{marks:?}");
        marks.drain(..firsts);
        (marks, self.sim.finish())
    }
}

const QUEUED: Answer = Ok(Sent::Queued);
const DROPPED: Answer = Ok(Sent::Dropped);

#[test]
fn control_goes_next_and_has_its_own_reserve() {
    let mut deaf = Deaf::new();
    let answers = deaf.order("R 10 a;C 10 b;R 10 c;C 10 d;L1 10 e");
    assert_eq!(answers, [QUEUED; 5]);
    // Up to the hard mark with reliable frames; there is still the reserve of 4 KiB.
    let filling = (0..8).map(|_| "R 16000 fill").collect::<Vec<_>>().join(";");
    assert!(deaf.order(&filling).iter().all(|answer| *answer == QUEUED));
    let answers = deaf.order("N 16000 n;C 2000 f;C 2000 g;C 100 h;R 100 i");
    assert_eq!(answers, [DROPPED, QUEUED, QUEUED, Err(SendError::WouldExceed), QUEUED]);
    let (marks, report) = deaf.read();
    let expected = [&["b", "d", "f", "g", "a", "c", "e"][..], &["fill"; 8], &["i"]].concat();
    assert_eq!(marks, expected);
    assert_eq!(report.stats.dropped_newest, 1);
}

#[test]
fn the_newest_is_dropped_above_the_soft_mark() {
    let mut deaf = Deaf::new();
    // 65,002 bytes are in flight: 34,998 are left up to the soft mark.
    let answers = deaf.order("N 20000 a;N 14000 b;N 3000 c;R 10 d;N 900 e;N 100 f");
    assert_eq!(answers, [QUEUED, QUEUED, DROPPED, QUEUED, QUEUED, DROPPED]);
    let (marks, report) = deaf.read();
    assert_eq!(marks, ["a", "b", "d", "e"]);
    assert_eq!(report.stats.dropped_newest, 2);
}

#[test]
fn the_oldest_make_room_for_the_newest_of_their_class_alone() {
    let mut deaf = Deaf::new();
    // First a for e, then c and d for f.
    deaf.order("O 10000 a;R 5000 b;O 10000 c;O 9000 d;O 9000 e;O 19500 f");
    assert_eq!(deaf.read().0, ["b", "e", "f"], "the oldest go first");

    let mut deaf = Deaf::new();
    let answers = deaf.order("O 10000 a;R 5000 b;O 10000 c;O 9000 d;O 9000 e");
    assert_eq!(answers, [QUEUED; 5]);
    // Two must go for this one; then it does not fit with none of its class left.
    assert_eq!(deaf.order("O 19500 f;R 10 g"), [QUEUED, QUEUED]);
    assert_eq!(deaf.order("R 25000 h;O 6000 i"), [QUEUED, DROPPED]);
    let (marks, report) = deaf.read();
    assert_eq!(marks, ["b", "g", "h"]);
    assert_eq!(report.stats.dropped_oldest, 6, "a, c, d, e, f, and i itself");
}

#[test]
fn the_latest_of_a_key_takes_the_place_in_line() {
    let mut deaf = Deaf::new();
    let answers = deaf.order("L1 10 a;R 10 b;L2 10 c;R 10 d;L1 5000 e;L2 3 f;L1 10 g");
    assert_eq!(answers, [QUEUED; 7]);
    let (marks, report) = deaf.read();
    assert_eq!(marks, ["g", "b", "f", "d"]);
    assert_eq!((report.stats.replaced_latest, report.stats.dropped_latest), (3, 0));
}

/// Its send has started: the next of that key is another frame.
#[test]
fn what_is_in_flight_is_not_replaced() {
    let mut deaf = Deaf::new();
    deaf.order("L1 10 a;R 65000 b;L1 10 c");
    deaf.client.set_reading(true);
    deaf.sim.run();
    assert_eq!(deaf.order("L1 10 d"), [QUEUED]);
    let (marks, report) = deaf.read();
    assert_eq!(marks, ["c", "b", "d"]);
    assert_eq!(report.stats.replaced_latest, 1);
}

#[test]
fn there_are_64_keys_at_most_and_room_up_to_the_hard_mark() {
    let mut deaf = Deaf::new();
    let keys = (0..64).map(|key| format!("L{key} 10 k{key}")).collect::<Vec<_>>().join(";");
    assert!(deaf.order(&keys).iter().all(|answer| *answer == QUEUED));
    assert_eq!(deaf.order("L64 10 x;L3 10 y"), [Err(SendError::WouldExceed), QUEUED]);
    // 134,998 bytes are left up to the hard mark, less 64 frames of 12 bytes.
    let answers = deaf.order("R 65000 a;R 65000 b;L5 4500 z;L7 4500 no;R 100 c");
    assert_eq!(answers, [QUEUED, QUEUED, DROPPED, DROPPED, QUEUED]);
    let (marks, report) = deaf.read();
    let mut expected: Vec<_> = (0..64).map(|key| format!("k{key}")).collect();
    expected[3] = "y".to_owned();
    expected.extend(["a", "b", "c"].map(str::to_owned));
    assert_eq!(marks, expected);
    assert_eq!((report.stats.replaced_latest, report.stats.dropped_latest), (1, 2));
}

/// Only what is sent as reliable ends a session that has no room for it, and everything is closed then. What
/// is refused or dropped does not count as sent.
#[test]
fn at_the_hard_mark_reliable_aborts_and_the_others_do_not() {
    let mut deaf = Deaf::new();
    let fill = (0..2).map(|_| "R 65000 fill").collect::<Vec<_>>().join(";");
    deaf.order(&fill);
    let answers = deaf.order("N 9000 a;O 9000 b;L1 9000 c;C 9000 d");
    assert_eq!(answers, [DROPPED, DROPPED, DROPPED, Err(SendError::WouldExceed)]);
    // What no queue would have room for is refused in every class.
    let answers = deaf.order("T 9000 k;N 200000 l;O 200000 m;L1 200000 n;C 200000 o");
    assert_eq!(answers, [Err(SendError::WouldExceed); 5]);
    let answers = deaf.order("R 9000 e;R 1 f;T 1 p;N 1 g;O 1 h;L1 1 i;C 1 j");
    let mut expected = vec![Err(SendError::WouldExceed)];
    expected.resize(7, Err(SendError::Closed));
    assert_eq!(answers, expected);
    let (_, report) = deaf.read();
    assert_eq!(report.stats.closed_for(wharf::CloseReason::SlowConsumer), 1);
    assert!(report.stats.bytes_lost > 130_000, "{}", report.stats.bytes_lost);
    assert_eq!((report.stats.hard_marks_reached, report.stats.frames_sent), (2, 4));
}
