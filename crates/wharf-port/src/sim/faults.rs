//! What may go wrong, how likely each of it is, and how often it did.

use std::time::Duration;

/// How likely each fault is: 0 never, 1 always. Each draws from a random stream of its own, so that
/// switching one on changes nothing about when the others strike.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// A send takes only a part of what would fit; the rest follows later.
    pub short_send: f64,
    /// A receive buffer is filled only in part: the stream is cut at any byte.
    pub short_receive: f64,
    /// A completion comes up to [`delay_max`](Self::delay_max) late.
    pub late_completion: f64,
    /// An operation does nothing until it is cancelled or paused.
    pub silent_until_cancel: f64,
    /// An operation succeeds although it has been cancelled or paused: of a receive what has
    /// arrived comes first, of an accept one connection, a send or connect that can, does.
    pub success_after_cancel: f64,
    /// A receive finds no buffer, and for a while no receive of its port finds one.
    pub no_buffer: f64,
    /// An accept ends because there is no descriptor (`EMFILE`); the connection goes on waiting.
    pub descriptors_exhausted: f64,
    /// An accept ends because the connection was reset while it waited (`ECONNABORTED`).
    pub accept_aborted: f64,
    /// A connection is reset on both sides: drawn once for each side when it is made and again for
    /// each segment that arrives, and up to [`delay_max`](Self::delay_max) later.
    pub reset: f64,
    /// One side's stream ends early, without what is on its way; drawn as [`reset`](Self::reset) is.
    /// To that side it is as if it had ended its stream itself.
    pub early_end: f64,
    /// A connect is refused.
    pub connect_refused: f64,
    /// Nobody answers a connect, which fails after [`CONNECT_TIMEOUT`](super::CONNECT_TIMEOUT).
    pub connect_timed_out: f64,
    /// The next ready completion is not that of the socket whose turn it is.
    pub reorder: f64,
    /// A receive goes on beyond its credit with what has arrived by then (P9).
    pub credit_overrun: f64,
    /// `wait` returns before its time with nothing.
    pub early_return: f64,
    /// A connection is established but reaches its listener up to [`delay_max`](Self::delay_max)
    /// later.
    pub listener_delay: f64,
    /// A reset destroys also what has arrived and has not been read, as TCP may (RFC 9293, 3.10.7.4)
    /// and Windows does.
    pub unread_lost: f64,
    /// The longest of the delays above.
    pub delay_max: Duration,
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self {
            short_send: 0.0,
            short_receive: 0.0,
            late_completion: 0.0,
            silent_until_cancel: 0.0,
            success_after_cancel: 0.0,
            no_buffer: 0.0,
            descriptors_exhausted: 0.0,
            accept_aborted: 0.0,
            reset: 0.0,
            early_end: 0.0,
            connect_refused: 0.0,
            connect_timed_out: 0.0,
            reorder: 0.0,
            credit_overrun: 0.0,
            early_return: 0.0,
            listener_delay: 0.0,
            unread_lost: 0.0,
            delay_max: Duration::from_millis(5),
        }
    }

    /// Everything goes wrong now and then, much more often than in any real network.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            short_send: 0.3,
            short_receive: 0.3,
            late_completion: 0.1,
            silent_until_cancel: 0.01,
            success_after_cancel: 0.5,
            no_buffer: 0.05,
            descriptors_exhausted: 0.05,
            accept_aborted: 0.05,
            reset: 0.005,
            early_end: 0.005,
            connect_refused: 0.05,
            connect_timed_out: 0.02,
            reorder: 0.5,
            credit_overrun: 0.2,
            early_return: 0.1,
            listener_delay: 0.2,
            unread_lost: 0.5,
            delay_max: Duration::from_millis(5),
        }
    }

    /// The probability of one fault.
    #[must_use]
    pub fn probability(&self, fault: Fault) -> f64 {
        match fault {
            Fault::ShortSend => self.short_send,
            Fault::ShortReceive => self.short_receive,
            Fault::LateCompletion => self.late_completion,
            Fault::SilentUntilCancel => self.silent_until_cancel,
            Fault::SuccessAfterCancel => self.success_after_cancel,
            Fault::NoBuffer => self.no_buffer,
            Fault::DescriptorsExhausted => self.descriptors_exhausted,
            Fault::AcceptAborted => self.accept_aborted,
            Fault::Reset => self.reset,
            Fault::EarlyEnd => self.early_end,
            Fault::ConnectRefused => self.connect_refused,
            Fault::ConnectTimedOut => self.connect_timed_out,
            Fault::Reorder => self.reorder,
            Fault::CreditOverrun => self.credit_overrun,
            Fault::EarlyReturn => self.early_return,
            Fault::ListenerDelay => self.listener_delay,
            Fault::UnreadLost => self.unread_lost,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// The faults by name; each is described at its probability in [`Faults`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// [`Faults::short_send`]
    ShortSend,
    /// [`Faults::short_receive`]
    ShortReceive,
    /// [`Faults::late_completion`]
    LateCompletion,
    /// [`Faults::silent_until_cancel`]
    SilentUntilCancel,
    /// [`Faults::success_after_cancel`]
    SuccessAfterCancel,
    /// [`Faults::no_buffer`]
    NoBuffer,
    /// [`Faults::descriptors_exhausted`]
    DescriptorsExhausted,
    /// [`Faults::accept_aborted`]
    AcceptAborted,
    /// [`Faults::reset`]
    Reset,
    /// [`Faults::early_end`]
    EarlyEnd,
    /// [`Faults::connect_refused`]
    ConnectRefused,
    /// [`Faults::connect_timed_out`]
    ConnectTimedOut,
    /// [`Faults::reorder`]
    Reorder,
    /// [`Faults::credit_overrun`]
    CreditOverrun,
    /// [`Faults::early_return`]
    EarlyReturn,
    /// [`Faults::listener_delay`]
    ListenerDelay,
    /// [`Faults::unread_lost`]
    UnreadLost,
}

impl Fault {
    /// All of them, in the order of their declaration.
    pub const ALL: [Fault; 17] = [
        Fault::ShortSend,
        Fault::ShortReceive,
        Fault::LateCompletion,
        Fault::SilentUntilCancel,
        Fault::SuccessAfterCancel,
        Fault::NoBuffer,
        Fault::DescriptorsExhausted,
        Fault::AcceptAborted,
        Fault::Reset,
        Fault::EarlyEnd,
        Fault::ConnectRefused,
        Fault::ConnectTimedOut,
        Fault::Reorder,
        Fault::CreditOverrun,
        Fault::EarlyReturn,
        Fault::ListenerDelay,
        Fault::UnreadLost,
    ];
}

/// All randomness of a world: a stream for each fault and one for the network itself.
pub(super) struct Chance {
    pub(super) faults: Faults,
    streams: [fastrand::Rng; Fault::ALL.len()],
    network: fastrand::Rng,
    applied: [u64; Fault::ALL.len()],
}

impl Chance {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let mut seeds = fastrand::Rng::with_seed(seed);
        let network = seeds.fork();
        Self {
            faults,
            streams: std::array::from_fn(|_| seeds.fork()),
            network,
            applied: [0; Fault::ALL.len()],
        }
    }

    /// Whether the fault strikes now; counts it if so.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let probability = self.faults.probability(fault);
        let strikes = probability > 0.0 && self.streams[fault as usize].f64() < probability;
        self.applied[fault as usize] += u64::from(strikes);
        strikes
    }

    /// A number in `1..=max` from the fault's stream.
    pub(super) fn up_to(&mut self, fault: Fault, max: usize) -> usize {
        self.streams[fault as usize].usize(1..=max)
    }

    /// A delay for this fault.
    pub(super) fn delay(&mut self, fault: Fault) -> Duration {
        let max = u64::try_from(self.faults.delay_max.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.streams[fault as usize].u64(1..=max))
    }

    /// How long a segment travels.
    pub(super) fn latency(&mut self) -> Duration {
        Duration::from_nanos(self.network.u64(20_000..=35_000))
    }

    /// One of `count` listeners.
    pub(super) fn listener(&mut self, count: usize) -> usize {
        self.network.usize(0..count)
    }

    pub(super) fn applied(&self, fault: Fault) -> u64 {
        self.applied[fault as usize]
    }
}
