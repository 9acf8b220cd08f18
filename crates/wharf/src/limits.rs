//! Every limit of a session, with unit, default, reason, and what happens at the limit.

use std::time::Duration;

use crate::error::Error;

/// The limits of one listener's or connector's sessions.
///
/// # Examples
/// ```
/// use wharf::Limits;
/// let limits = Limits { frame_bytes_max: 64 * 1024, ..Limits::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that one address may have at a time on a listener (64); further connections are closed
    /// as they are accepted. One machine cannot take all places, and a household or an office behind
    /// one address finds room. An IPv6 address counts by its /64 network, and loopback does not count.
    /// `None`: any number.
    pub sessions_per_address: Option<u32>,
    /// Connections that one address may make per second on a listener, on average; it may save up one
    /// second's worth (20). Further ones are closed as they are accepted. An accept is the dearest
    /// thing that a stranger can make a server do. Counted as `sessions_per_address`. `None`: any
    /// number.
    pub accepts_per_second_per_address: Option<u32>,
    /// Longest body that a peer may send, in bytes (8 KiB). A frame that declares more, or goes on
    /// for longer, closes the session with [`Protocol`](crate::CloseReason::Protocol) before
    /// anything is allocated for it. Bounds the memory that one peer can claim.
    pub frame_bytes_max: usize,
    /// A connection's first whole frame must be there this long after it was accepted (10 s), however
    /// busily bytes trickle in; otherwise it is aborted with
    /// [`FirstFrameTimeout`](crate::CloseReason::FirstFrameTimeout). Silent connections hold a slot
    /// for nobody. `None`: no such deadline.
    pub first_frame_timeout: Option<Duration>,
    /// A frame must be whole this long after its first byte was there (15 s), however busily the
    /// others trickle in; otherwise the session is closed with
    /// [`FrameTimeout`](crate::CloseReason::FrameTimeout). Half a frame holds memory. `None`: no such
    /// deadline.
    pub frame_timeout: Option<Duration>,
    /// How long a peer may send nothing (120 s); then the session is closed with
    /// [`IdleRead`](crate::CloseReason::IdleRead). A protocol whose clients may be silent for longer
    /// has a heartbeat, or sets more. `None`: for ever.
    ///
    /// This deadline and the two before it stand still while the server itself does not receive from
    /// the session: above the soft mark of its send queue, above a rate, or after
    /// [`pause`](crate::Context::pause).
    pub idle_read_timeout: Option<Duration>,
    /// How long the system may take to accept one send, which is at most 64 KiB or one frame (30 s);
    /// then the session is aborted with [`IdleWrite`](crate::CloseReason::IdleWrite). A peer that
    /// takes nothing for so long holds memory here and in the system. `None`: no such deadline.
    pub idle_write_timeout: Option<Duration>,
    /// How long after its last answer, or after it was opened, a session's peer is asked for a sign of
    /// life again ([`Handler::on_heartbeat`](crate::Handler::on_heartbeat); `None`: never). Only a
    /// protocol that has a frame for it can answer, so that it is off. Counted on the same clock as
    /// `idle_read_timeout`: nobody is asked whom the server does not listen to.
    pub heartbeat_interval: Option<Duration>,
    /// How long the peer has to answer that (10 s), on the same clock; then the session is aborted with
    /// [`HeartbeatTimeout`](crate::CloseReason::HeartbeatTimeout). A network that has failed, or a peer
    /// that hangs, says nothing; a slow link needs a second or two. `None`: for ever, and it is not
    /// asked again before it has answered.
    pub heartbeat_timeout: Option<Duration>,
    /// Frames that a peer may send per second, on average; it may save up one second's worth
    /// (`None`: any number). What happens above it is [`over_rate`](Self::over_rate)'s to say. What
    /// a frame costs is the handler's to know, so that there is no number that suits all.
    pub frames_per_second: Option<u32>,
    /// Bytes that a peer may send per second, as [`frames_per_second`](Self::frames_per_second)
    /// (`None`: any number).
    pub bytes_per_second: Option<u64>,
    /// What happens to a peer that sends faster than one of the two rates
    /// ([`Delay`](OverRate::Delay)). What has arrived by then, at most
    /// [`receive_credit_bytes`](Self::receive_credit_bytes) and what the system completed meanwhile,
    /// is handled in either case.
    pub over_rate: OverRate,
    /// Bytes that a peer may send before it has logged in, where the handler
    /// [requires](crate::Handler::requires_login) that (16 KiB). With more, the session is aborted with
    /// [`Unauthenticated`](crate::CloseReason::Unauthenticated), and none of them is handled. A login
    /// is short; what a stranger says costs work.
    pub unauthenticated_receive_bytes_max: usize,
    /// Bytes that may be queued in all for a peer before it has logged in (4 KiB). A send of more is
    /// refused with [`WouldExceed`](crate::SendError::WouldExceed), and the session is aborted with
    /// [`Unauthenticated`](crate::CloseReason::Unauthenticated). Nothing here is worth asking for
    /// without a login.
    pub unauthenticated_send_bytes_max: usize,
    /// How long a peer has to log in (10 s), on the same clock as `idle_read_timeout`; then the
    /// session is aborted with [`Unauthenticated`](crate::CloseReason::Unauthenticated). Places are
    /// for those that are known. `None`: for ever.
    pub unauthenticated_timeout: Option<Duration>,
    /// Bytes queued for a peer above which nothing more is received from it (256 KiB); receiving
    /// goes on at half of it. A peer that does not read its answers is not asked for more
    /// questions.
    pub send_queue_bytes_soft: usize,
    /// How long a session may be above its soft mark without a break (10 s); then it is aborted with
    /// [`SlowConsumer`](crate::CloseReason::SlowConsumer). A peer that reads, but always less than it
    /// is sent, would hold that memory for ever. `None`: for ever.
    pub send_queue_soft_timeout: Option<Duration>,
    /// Bytes queued for a peer above which a send is refused (1 MiB), and
    /// [`send`](crate::Context::send) aborts the session with
    /// [`SlowConsumer`](crate::CloseReason::SlowConsumer). Bounds the memory that a peer costs which
    /// reads slower than it is sent to.
    pub send_queue_bytes_max: usize,
    /// Bytes of waiting [`Control`](crate::Class::Control) frames above which another one is refused
    /// (4 KiB). They do not count towards the two marks, so that a session at its hard mark can still
    /// be told that it is.
    pub control_bytes_max: usize,
    /// Topics that one session may subscribe to (1,024); another one is refused. Each costs about 40
    /// bytes, and ending a session takes it out of all of them.
    pub topics_max: usize,
    /// How long a closing session may take to send what is queued (5 s); then it is aborted.
    pub close_flush_timeout: Duration,
    /// How long a closed session waits for the peer to end its stream, reading and discarding (2 s).
    /// Closing with unread input would reset the connection, and the reset would destroy answers
    /// that are still on their way.
    pub linger_timeout: Duration,
    /// How much is read and discarded once a session closes (64 KiB). Beyond that nothing more is
    /// read, and the connection is closed as it is when `linger_timeout` has passed: a peer that
    /// goes on sending costs no work, and still has that long to read what it was sent.
    pub linger_bytes_max: usize,
    /// Bytes of frames of one session that may wait for its logic thread (64 KiB) before nothing more
    /// is received from it; receiving goes on at half of it. A handler that takes its time is not
    /// asked for more, and costs the others nothing. Without logic threads no frame ever waits.
    pub logic_queue_bytes_max: usize,
    /// Bytes that may arrive from one session before the others have had their turn (32 KiB), and
    /// less than a receive buffer more. Where many send as much as they can, each has its share of a round
    /// of 1.6 MB (less where the worker has fewer buffers than 512, or small ones), at least 4 KiB, so that
    /// their turn comes soon enough: of 1,000 on one worker, each has a frame handled in every 4,000
    /// completions.
    pub receive_credit_bytes: u32,
}

/// What happens to a peer that sends faster than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverRate {
    /// It is not received from until its average is within the rate again. Its system holds it back.
    #[default]
    Delay,
    /// Its session is closed with [`RateLimit`](crate::CloseReason::RateLimit).
    Close,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_per_address: Some(64),
            accepts_per_second_per_address: Some(20),
            frame_bytes_max: 8 * 1024,
            first_frame_timeout: Some(Duration::from_secs(10)),
            frame_timeout: Some(Duration::from_secs(15)),
            idle_read_timeout: Some(Duration::from_secs(120)),
            idle_write_timeout: Some(Duration::from_secs(30)),
            heartbeat_interval: None,
            heartbeat_timeout: Some(Duration::from_secs(10)),
            frames_per_second: None,
            bytes_per_second: None,
            over_rate: OverRate::Delay,
            unauthenticated_receive_bytes_max: 16 * 1024,
            unauthenticated_send_bytes_max: 4 * 1024,
            unauthenticated_timeout: Some(Duration::from_secs(10)),
            send_queue_bytes_soft: 256 * 1024,
            send_queue_soft_timeout: Some(Duration::from_secs(10)),
            send_queue_bytes_max: 1024 * 1024,
            control_bytes_max: 4 * 1024,
            topics_max: 1024,
            close_flush_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(2),
            linger_bytes_max: 64 * 1024,
            logic_queue_bytes_max: 64 * 1024,
            receive_credit_bytes: 32 * 1024,
        }
    }
}

impl Limits {
    /// Checks that the limits make sense together.
    ///
    /// # Errors
    /// [`Error::Settings`], naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Settings(what.to_owned()));
        if self.frame_bytes_max == 0 {
            return refuse("frame_bytes_max is 0: no frame with a body could ever arrive");
        }
        if self.logic_queue_bytes_max == 0 {
            return refuse("logic_queue_bytes_max is 0: each frame would stop receiving");
        }
        if self.receive_credit_bytes == 0 {
            return refuse("receive_credit_bytes is 0: nothing could ever be received");
        }
        if self.send_queue_bytes_soft == 0 || self.send_queue_bytes_soft > self.send_queue_bytes_max
        {
            return refuse("send_queue_bytes_soft must be between 1 and send_queue_bytes_max");
        }
        for (name, rate) in [
            ("frames_per_second", self.frames_per_second.map(u64::from)),
            ("bytes_per_second", self.bytes_per_second),
            ("sessions_per_address", self.sessions_per_address.map(u64::from)),
            ("accepts_per_second_per_address", self.accepts_per_second_per_address.map(u64::from)),
        ] {
            if rate == Some(0) {
                return refuse(&format!(
                    "{name} is 0: nothing could ever be received; None is off"
                ));
            }
        }
        if self.heartbeat_interval == Some(Duration::ZERO) {
            return refuse(
                "heartbeat_interval is 0: peers would be asked all the time; None is off",
            );
        }
        if self.unauthenticated_receive_bytes_max == 0 {
            return refuse("unauthenticated_receive_bytes_max is 0: nobody could log in");
        }
        for (name, timeout) in [
            ("first_frame_timeout", self.first_frame_timeout),
            ("frame_timeout", self.frame_timeout),
            ("idle_read_timeout", self.idle_read_timeout),
            ("idle_write_timeout", self.idle_write_timeout),
            ("heartbeat_timeout", self.heartbeat_timeout),
            ("send_queue_soft_timeout", self.send_queue_soft_timeout),
            ("unauthenticated_timeout", self.unauthenticated_timeout),
        ] {
            if timeout == Some(Duration::ZERO) {
                return refuse(&format!("{name} is 0, so that nobody could keep it; None is off"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_could_not_work_are_refused_by_name() {
        Limits::default().validate().unwrap();
        let zero = Some(Duration::ZERO);
        for (limits, name) in [
            (Limits { frame_bytes_max: 0, ..Limits::default() }, "frame_bytes_max"),
            (Limits { logic_queue_bytes_max: 0, ..Limits::default() }, "logic_queue_bytes_max"),
            (Limits { receive_credit_bytes: 0, ..Limits::default() }, "receive_credit_bytes"),
            (Limits { send_queue_bytes_soft: 0, ..Limits::default() }, "send_queue_bytes_soft"),
            (Limits { send_queue_bytes_max: 1, ..Limits::default() }, "send_queue_bytes_soft"),
            (Limits { first_frame_timeout: zero, ..Limits::default() }, "first_frame_timeout"),
            (Limits { frame_timeout: zero, ..Limits::default() }, "frame_timeout"),
            (Limits { idle_read_timeout: zero, ..Limits::default() }, "idle_read_timeout"),
            (Limits { idle_write_timeout: zero, ..Limits::default() }, "idle_write_timeout"),
            (Limits { heartbeat_interval: zero, ..Limits::default() }, "heartbeat_interval"),
            (Limits { heartbeat_timeout: zero, ..Limits::default() }, "heartbeat_timeout"),
            (
                Limits { send_queue_soft_timeout: zero, ..Limits::default() },
                "send_queue_soft_timeout",
            ),
            (Limits { frames_per_second: Some(0), ..Limits::default() }, "frames_per_second"),
            (Limits { bytes_per_second: Some(0), ..Limits::default() }, "bytes_per_second"),
            (Limits { sessions_per_address: Some(0), ..Limits::default() }, "sessions_per_address"),
            (
                Limits { accepts_per_second_per_address: Some(0), ..Limits::default() },
                "accepts_per_second_per_address",
            ),
            (
                Limits { unauthenticated_timeout: zero, ..Limits::default() },
                "unauthenticated_timeout",
            ),
            (
                Limits { unauthenticated_receive_bytes_max: 0, ..Limits::default() },
                "unauthenticated_receive_bytes_max",
            ),
        ] {
            let error = limits.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
