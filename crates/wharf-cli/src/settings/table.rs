//! The table of settings. A row here is all that a new setting needs: its flag, its key in a
//! file, its variable in the environment, its line in `docs/configuration.md` and its typed field
//! follow from it.

use std::time::Duration;

use super::chat::{ChatAddress, StoreLocation};
use super::choice::{DuplicateLogin, Engine, LogFormat, LogLevel, OverRate, SendPolicy};
use super::definition::settings;
use super::endpoint::{Control, Metrics};
use super::flush::Flush;
use super::slow_handler::SlowHandler;
use super::value::{Bytes, Dispatch, EchoListener, Workers};

settings! {
    /// What the server listens on, and with which threads and engine.
    server: Server {
        /// Serve echo at this address: `[FRAMING@]ADDR`. Framing is study (if not named),
        /// tutorial, u16be, u32be, u16le, u32le, lines or raw. Port 0 takes a free port.
        /// Repeatable; a list in a file, separated by commas in the environment; giving any
        /// replaces the defaults.
        echo: Vec<EchoListener> {
            default: "study@127.0.0.1:9000,lines@127.0.0.1:9001",
            unit: "",
            reason: "Only this machine can connect until another address is named. Lines can be tried with nothing but nc.",
        }
        /// Serve the chat at this address; off for none. Port 0 takes a free port.
        chat: ChatAddress {
            default: "127.0.0.1:11021",
            unit: "",
            reason: "The port of the tutorial that the protocol is from. Only this machine can connect until another address is named, because passwords cross the network as they are.",
        }
        /// Where the chat's users are: embedded:PATH (a file of its own), redis:URL (hashes under
        /// wharf:user:NAME), redis-tutorial:URL (plain passwords under the bare name), or open (any
        /// name and password; loopback only).
        store: StoreLocation {
            default: "embedded:wharf-users.redb",
            unit: "",
            reason: "Needs nothing else to run. The file is made by the first `wharf user add`, and holds argon2id hashes.",
        }
        /// Serve the chat with so many users for a try: user0, user1 ... with the password pw, and
        /// jacking75 with the password jacking75. They are in memory alone, in place of the store.
        /// Loopback only; 0 for none.
        demo: u32 {
            default: "0",
            unit: "users",
            bare: "40",
            range: 0..=100_000,
            reason: "Passwords that everybody knows are nobody's default.",
        }
        /// Let the chat's users log in from other machines, though whoever is on the way can read
        /// their passwords.
        allow_plaintext_login: bool {
            default: "false",
            unit: "",
            bare: "true",
            reason: "The protocol has no encryption: it is for one machine, a network of one's own, or a tunnel.",
        }
        /// Worker threads, each with a completion port of its own: a number, or auto for one per
        /// core.
        workers: Workers {
            default: "auto",
            unit: "threads",
            range: 1..=256,
            reason: "A worker never waits for another, so one per core uses the machine. A session id has room for 256 workers.",
        }
        /// Where handlers run: inline on the worker that has the connection, or threads:N for N
        /// threads beside the workers, each session on one of them.
        dispatch: Dispatch {
            default: "inline",
            unit: "threads",
            range: 1..=256,
            reason: "Inline copies no frame and wakes nobody. Threads are for handlers that take their time: they hold up no connection but their own thread's.",
        }
        /// The completion engine. auto takes the best that this machine allows and says which; an
        /// engine named here that cannot start is an error.
        engine: Engine {
            default: "auto",
            unit: "",
            reason: "A named engine never falls back in silence, so that a measurement measures what it says.",
        }
        /// Look for completions this many microseconds without sleeping before a worker sleeps.
        spin_us: u32 {
            default: "0",
            unit: "microseconds",
            range: 0..=1_000_000,
            reason: "Spinning buys latency with processor time that belongs to others; only the one who runs the server can tell whether it is free.",
        }
        /// The least important event that is logged.
        log_level: LogLevel {
            default: "info",
            unit: "",
            reason: "One line per start, stop and surprise; nothing per message.",
        }
        /// How log lines are written to standard error.
        log_format: LogFormat {
            default: "text",
            unit: "",
            reason: "A person reads the first run; a collector wants json.",
        }
        /// How long a stopping server lets sessions finish before it cuts them off.
        drain_timeout: Duration {
            default: "10s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "Shorter than the 30 s after which service managers commonly kill a process.",
        }
        /// How long a call of a handler may take before the log names its packet, session and thread.
        /// 0 turns it off.
        slow_handler: SlowHandler {
            default: "100ms",
            unit: "ms",
            range: 4..=3_600_000,
            reason: "What people begin to notice, and all sessions of that thread wait for as long. Found while it runs, so that one that never returns is named, too.",
        }
        /// The most sessions at a time; connections beyond it are closed at once.
        max_sessions: u32 {
            default: "50000",
            unit: "sessions",
            range: 1..=16_777_216,
            reason: "Fits below the usual hard limit of 65,536 or more descriptors with room to spare; memory for sessions is bounded by it.",
        }
        /// Memory that frames waiting to be sent may take over all sessions, and unfinished frames that
        /// have arrived. Beyond it sessions are cut off as slow consumers, the one that has been above
        /// its soft mark for longest first. Leased to workers by the MiB: one for each at least.
        send_memory_max: Bytes {
            default: "1GiB",
            unit: "bytes",
            range: 1_048_576..=1_099_511_627_776,
            reason: "A thousand sessions at their hard mark; the marks of sessions alone would let many slow ones use up any memory.",
        }
        /// When frames leave: turn is at the end of the turn in which they were sent, a time such as
        /// 50ms is at the same moments for all sessions of a worker. They leave earlier as soon as they
        /// fill a send, and when the session closes.
        flush: Flush {
            default: "turn",
            unit: "s",
            range: 1..=10_000,
            reason: "An answer leaves at once. A game's tick costs fewer and larger sends, and delays each answer by half of it on average.",
        }
        /// How frames that wait for one session become buffers of one send.
        send_policy: SendPolicy {
            default: "auto",
            unit: "",
            reason: "Copies what is cheaper copied than sent as a buffer of its own.",
        }
        /// Give each worker a listening socket of its own, where the system spreads connections over
        /// them (Linux). With false one worker accepts for all, and hands each connection to the worker
        /// with the fewest sessions.
        share_listeners: bool {
            default: "true",
            unit: "",
            reason: "No worker waits for another to accept. Where few connections live long, false is fairer.",
        }
        /// Where `wharf sessions`, `kick`, `drain` and `reload` reach the server: the path of a Unix
        /// socket (Windows: the name of a pipe), off, or auto for one in a folder of this user
        /// ($XDG_RUNTIME_DIR/wharf, or wharf-UID in the folder for temporary files; Windows: a pipe
        /// that is entered in %LOCALAPPDATA%\wharf), named by the first port.
        control: Control {
            default: "auto",
            unit: "",
            reason: "Only the same user can reach it (mode 0600), who could end the process anyway.",
        }
        /// Serve /metrics (Prometheus) and /healthz over HTTP at this address, or off.
        metrics: Metrics {
            default: "off",
            unit: "",
            reason: "Whoever can connect can read it, so that someone has to say where.",
        }
    }

    /// Options of every connection's socket.
    sockets: Sockets {
        /// Send at once (TCP_NODELAY).
        nodelay: bool {
            default: "true",
            unit: "",
            reason: "A session gathers its own messages into one send; waiting in the kernel as well only adds delay.",
        }
        /// Let the kernel probe silent connections.
        keepalive: bool {
            default: "true",
            unit: "",
            reason: "Without it a peer that lost its power holds a session for ever.",
        }
        /// Silence before the first keepalive probe.
        keepalive_idle: Duration {
            default: "60s",
            unit: "s",
            range: 1_000..=32_400_000,
            reason: "Below the idle time after which common routers and load balancers forget a connection.",
        }
        /// Time between keepalive probes.
        keepalive_interval: Duration {
            default: "10s",
            unit: "s",
            range: 1_000..=32_400_000,
            reason: "With 3 probes and no user_timeout a vanished peer is found 90 s after its last byte. On Linux user_timeout counts here, too, and ends it earlier: as soon as a probe finds that the peer has been silent for longer.",
        }
        /// Unanswered keepalive probes after which the connection is dead.
        keepalive_probes: u32 {
            default: "3",
            unit: "probes",
            range: 1..=127,
            reason: "One lost packet, or two, says nothing about the peer.",
        }
        /// How long sent bytes may stay unacknowledged before the connection is dead
        /// (TCP_USER_TIMEOUT, Linux). 0 leaves it to the system.
        user_timeout: Duration {
            default: "30s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "The system alone would send again for 15 minutes and more, with the send queue held in memory.",
        }
        /// Connections that may wait to be accepted, per listening socket. The system caps it at
        /// net.core.somaxconn.
        backlog: u32 {
            default: "4096",
            unit: "connections",
            range: 1..=65_535,
            reason: "The cap of Linux since 5.4; clients that come back all at once after a restart find room.",
        }
        /// Size of the kernel's receive buffer per connection. 0 leaves it to the system.
        receive_buffer: Bytes {
            default: "0",
            unit: "bytes",
            range: 0..=1_073_741_824,
            reason: "The system tunes it per connection; a fixed size turns that off.",
        }
        /// Size of the kernel's send buffer per connection. 0 leaves it to the system.
        send_buffer: Bytes {
            default: "0",
            unit: "bytes",
            range: 0..=1_073_741_824,
            reason: "The system tunes it per connection; a fixed size turns that off.",
        }
    }

    /// What one connection may use. At each limit something stated happens.
    limits: Limits {
        /// The most sessions that one address has at a time on a listener; further connections are
        /// closed at once. An IPv6 address counts by its /64 network; loopback does not count. 0 is
        /// any number.
        sessions_per_address: u32 {
            default: "64",
            unit: "sessions",
            range: 0..=16_777_216,
            reason: "One machine cannot take all places; an office behind one address finds room.",
        }
        /// Connections that one address makes per second on a listener, on average; it may save up one
        /// second's worth; further ones are closed at once. Counted as sessions_per_address. 0 is any
        /// number.
        accepts_per_second_per_address: u32 {
            default: "20",
            unit: "connections per second",
            range: 0..=1_000_000,
            reason: "An accept is the dearest thing that a stranger can make a server do.",
        }
        /// The longest body of a frame; a longer one closes the session before anything is
        /// allocated for it.
        frame_bytes_max: Bytes {
            default: "8KiB",
            unit: "bytes",
            range: 1..=1_073_741_824,
            reason: "Holds a game's and a chat's messages; what a stranger can make the server hold is this much per connection.",
        }
        /// How long a new connection has until its first whole frame, counted from accept;
        /// bytes that trickle do not extend it.
        first_frame_timeout: Duration {
            default: "10s",
            unit: "s",
            range: 1..=3_600_000,
            reason: "Enough for a slow mobile link; a client that only holds connections open is out after it.",
        }
        /// How long a frame may take to be whole, counted from its first byte; bytes that trickle do
        /// not extend it. 0 turns it off.
        frame_timeout: Duration {
            default: "15s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "The largest frame fits through a modem line in it; half a frame holds memory.",
        }
        /// How long a peer may send nothing before its session is closed. 0 turns it off.
        idle_read_timeout: Duration {
            default: "120s",
            unit: "s",
            range: 0..=86_400_000,
            reason: "Two missed signs of life of a client that gives one each minute, as home routers want it anyway.",
        }
        /// How long the system may take to accept one send, of at most 64 KiB or one frame, before
        /// the session is cut off. 0 turns it off.
        idle_write_timeout: Duration {
            default: "30s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "A peer that takes nothing for so long holds memory here and in the kernel; the same time as sockets.user_timeout.",
        }
        /// How long after its last answer, or after it connected, a peer is asked for a sign of life
        /// again, and its round trip measured, where a service has a frame for it: the study echo asks
        /// with packet id 2, which the peer sends back. 0 turns it off.
        heartbeat_interval: Duration {
            default: "0s",
            unit: "s",
            range: 0..=86_400_000,
            reason: "Only clients that know the frame can answer; the others would be cut off.",
        }
        /// How long a peer has to answer that before its session is cut off. 0 waits for ever.
        heartbeat_timeout: Duration {
            default: "10s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "A slow link needs a second or two; whoever says nothing for so long hangs, or is gone.",
        }
        /// Frames that a peer may send per second, on average; it may save up one second's worth.
        /// 0 is any number.
        frames_per_second: u32 {
            default: "0",
            unit: "frames per second",
            range: 0..=4_294_967_295,
            reason: "What a frame costs is the service's to know; an echo has no use for a number that suits a chat.",
        }
        /// Bytes that a peer may send per second, on average; it may save up one second's worth.
        /// 0 is any number.
        bytes_per_second: Bytes {
            default: "0",
            unit: "bytes",
            range: 0..=1_099_511_627_776,
            reason: "Off, for the same reason.",
        }
        /// What happens to a peer that sends faster than one of the two rates: delay receives nothing
        /// from it until its average is within the rate again, close ends its session.
        over_rate: OverRate {
            default: "delay",
            unit: "",
            reason: "Its own system holds the peer back then, and nothing that it said is lost.",
        }
        /// The most bytes that a peer may send before it has logged in, where a service requires that;
        /// with more, the session is cut off and none of them is handled.
        unauthenticated_receive_bytes_max: Bytes {
            default: "16KiB",
            unit: "bytes",
            range: 1..=1_073_741_824,
            reason: "A login is short; what a stranger says costs work.",
        }
        /// The most bytes that are sent to a peer before it has logged in; with more, the session is
        /// cut off.
        unauthenticated_send_bytes_max: Bytes {
            default: "4KiB",
            unit: "bytes",
            range: 0..=1_073_741_824,
            reason: "A greeting and an error; nothing here is worth asking for without a login.",
        }
        /// How long a peer has to log in, where a service requires that. 0 is for ever.
        unauthenticated_timeout: Duration {
            default: "10s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "A program logs in at once; places are for those that are known.",
        }
        /// The most bytes that wait to be sent to one session; beyond it the session is cut off as
        /// a slow consumer.
        send_queue_bytes_max: Bytes {
            default: "1MiB",
            unit: "bytes",
            range: 1_024..=1_073_741_824,
            reason: "Several seconds of a busy room; a peer that far behind does not catch up.",
        }
        /// Bytes waiting to be sent above which nothing more is received from the peer, until half of
        /// them are gone.
        send_queue_bytes_soft: Bytes {
            default: "256KiB",
            unit: "bytes",
            range: 1..=1_073_741_824,
            reason: "A peer that does not read its answers is not asked for more questions; the rest up to the hard limit is for what is sent to it unasked.",
        }
        /// How long a session may be above that without a break before it is cut off as a slow
        /// consumer. 0 turns it off.
        send_queue_soft_timeout: Duration {
            default: "10s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "A peer that reads, but always less than it is sent, would hold that memory for ever.",
        }
        /// The most bytes of control frames that wait to be sent to one session beside that; another
        /// one is refused.
        control_bytes_max: Bytes {
            default: "4KiB",
            unit: "bytes",
            range: 0..=1_073_741_824,
            reason: "They are small and few, and a session at its hard mark can still be told that it is.",
        }
        /// The most topics that one session subscribes to; another one is refused.
        topics_max: u32 {
            default: "1024",
            unit: "topics",
            range: 0..=16_777_216,
            reason: "Each costs about 40 bytes, and ending a session takes it out of all of them.",
        }
        /// Bytes of frames of one session that may wait for its logic thread before nothing more is
        /// received from it, until half of them are gone. Without server.dispatch threads:N none waits.
        logic_queue_bytes_max: Bytes {
            default: "64KiB",
            unit: "bytes",
            range: 1..=1_073_741_824,
            reason: "A handler that takes its time is not asked for more, and costs the others nothing.",
        }
        /// How long a closing session may take to send what is queued.
        close_flush_timeout: Duration {
            default: "5s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "A last message reaches a peer that reads; one that does not read cannot hold the session.",
        }
        /// How long a closing session reads and discards, so that the peer gets what was sent
        /// instead of a reset.
        linger_timeout: Duration {
            default: "2s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "Several round trips of a slow link.",
        }
        /// How many bytes a closing session discards at most.
        linger_bytes_max: Bytes {
            default: "64KiB",
            unit: "bytes",
            range: 0..=1_073_741_824,
            reason: "What a well-behaved peer has under way when it learns of the close; of more, nothing is read, and the connection is reset after linger_timeout.",
        }
    }

    /// Rooms and users of the chat.
    chat: Chat {
        /// How many rooms there are, from number 0.
        rooms: u32 {
            default: "10",
            unit: "rooms",
            range: 1..=100_000,
            reason: "As in the tutorial that the protocol is from.",
        }
        /// How many users a room takes; the next one is answered 54.
        room_seats: u32 {
            default: "4",
            unit: "users",
            range: 1..=100_000,
            reason: "As in the tutorial that the protocol is from.",
        }
        /// Tell those in a room who comes and goes (208, 217), and whoever comes who is there (209).
        room_notifications: bool {
            default: "true",
            unit: "",
            reason: "The tutorial's client shows them, though its server never sends them.",
        }
        /// In rooms with more seats nobody is told who comes and goes.
        notify_seats_max: u32 {
            default: "64",
            unit: "users",
            range: 0..=100_000,
            reason: "Each one who comes is told of all others, and they of him: in a full room of 1,000 that would be a million packets.",
        }
        /// How long a new connection has until its first packet. 0 for no limit.
        first_frame_timeout: Duration {
            default: "60s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "A person may be typing a password.",
        }
        /// How long a connection has until it is logged in, with any number of tries; then it is
        /// closed. 0 for no limit.
        login_timeout: Duration {
            default: "120s",
            unit: "s",
            range: 0..=3_600_000,
            reason: "Enough for a few tries; whoever has not logged in holds a place for nobody.",
        }
        /// Packets that a session may send each second; those beyond are answered 63, and the session
        /// is closed if it goes on.
        messages_per_second: u32 {
            default: "150",
            unit: "packets per second",
            range: 1..=1_000_000,
            reason: "Far above what a person types, and below what would hold up a room.",
        }
        /// Packets that a session may send at one time, and of which as many are refused before it is
        /// closed.
        messages_burst: u32 {
            default: "300",
            unit: "packets",
            range: 1..=1_000_000,
            reason: "Two seconds of the rate: a stall of the network is no attack.",
        }
        /// What becomes of a login under a name that is online.
        duplicate_login: DuplicateLogin {
            default: "refuse",
            unit: "",
            reason: "As in the tutorial that the protocol is from: whoever is there stays.",
        }
    }

    /// Logins of the chat.
    auth: Auth {
        /// Failed logins from one address in a minute, after which its logins are answered 63 without
        /// a look at the password. 0 for no limit; loopback is exempt.
        address_failures_per_minute: u32 {
            default: "20",
            unit: "logins per minute",
            range: 0..=100_000,
            reason: "A household's typing errors, and no guessing.",
        }
        /// Threads that check passwords, so many at one time: a number, or auto for half of the cores.
        check_threads: Workers {
            default: "auto",
            unit: "threads",
            range: 1..=256,
            reason: "A check takes a core for tens of milliseconds; the workers have the other half.",
        }
        /// Logins that may wait to be checked; those beyond are answered 63.
        queue_max: u32 {
            default: "256",
            unit: "logins",
            range: 1..=100_000,
            reason: "A check takes tens of milliseconds and 19 MiB on purpose: so many wait for seconds, and more would have given up before.",
        }
    }

    /// The completion port of each worker.
    port: Port {
        /// Receive buffers per worker, lent to whichever socket has bytes.
        receive_buffers: u32 {
            default: "512",
            unit: "buffers",
            range: 1..=32_768,
            reason: "An idle connection holds none, so this counts sockets that have bytes at the same moment: 8.5 MiB per worker, of which only what messages reach becomes resident.",
        }
        /// Size of one receive buffer.
        receive_buffer_bytes: Bytes {
            default: "17KiB",
            unit: "bytes",
            range: 64..=1_048_576,
            reason: "A message of 16 KiB fits with its header, arrives in one receive and is handled without a copy; measured: with 4 KiB it costs 1.3 times as much.",
        }
        /// Bytes that one socket may receive before the others have their turn.
        receive_credit_bytes: Bytes {
            default: "32KiB",
            unit: "bytes",
            range: 64..=16_777_216,
            reason: "Without a cap a single fast sender takes a worker's buffers; measured: 99 of 512 in one turn.",
        }
    }
}

/// Two settings that are each allowed but do not go together: the keys and why.
pub(crate) fn contradictions(settings: &Settings) -> Vec<(&'static str, &'static str, String)> {
    let limits = &settings.limits;
    let mut found = Vec::new();
    if limits.send_queue_bytes_soft > limits.send_queue_bytes_max {
        found.push((
            "limits.send_queue_bytes_soft",
            "limits.send_queue_bytes_max",
            "the soft limit must not be above the hard one".to_owned(),
        ));
    }
    if limits.frame_bytes_max > limits.send_queue_bytes_max {
        found.push((
            "limits.frame_bytes_max",
            "limits.send_queue_bytes_max",
            "a frame of the largest size must fit into the send queue".to_owned(),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_within_its_range_and_shows_as_what_it_was_read_from() {
        let defaults = Settings::default();
        for definition in DEFINITIONS {
            let mut settings = Settings::default();
            (definition.set)(&mut settings, definition.default)
                .unwrap_or_else(|error| panic!("{}: {error}", definition.key));
            assert_eq!(settings, defaults, "{}", definition.key);
        }
        assert_eq!(contradictions(&defaults), []);
    }

    #[test]
    fn names_are_unique_and_follow_the_rule() {
        let mut flags = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for definition in DEFINITIONS {
            assert!(flags.insert(definition.flag()), "{}", definition.key);
            assert!(variables.insert(definition.environment()), "{}", definition.key);
        }
        let of = |key: &str| DEFINITIONS.iter().find(|definition| definition.key == key).unwrap();
        assert_eq!(of("server.workers").flag(), "workers");
        assert_eq!(of("server.workers").environment(), "WHARF_WORKERS");
        assert_eq!(of("limits.frame_bytes_max").flag(), "limits-frame-bytes-max");
        let variable = of("limits.frame_bytes_max").environment();
        assert_eq!(variable, "WHARF_LIMITS_FRAME_BYTES_MAX");
    }

    #[test]
    fn every_row_explains_itself() {
        for definition in DEFINITIONS {
            assert!(definition.help().ends_with('.'), "{}: help", definition.key);
            assert!(definition.reason.ends_with('.'), "{}: reason", definition.key);
            assert!(
                definition.ranges.is_empty() || !definition.unit.is_empty(),
                "{}: a number without a unit",
                definition.key
            );
        }
    }

    #[test]
    fn limits_that_do_not_go_together_are_found() {
        let mut settings = Settings::default();
        settings.limits.send_queue_bytes_max = Bytes(4096);
        let keys: Vec<_> = contradictions(&settings).into_iter().map(|found| found.0).collect();
        assert_eq!(keys, ["limits.send_queue_bytes_soft", "limits.frame_bytes_max"]);
    }
}
