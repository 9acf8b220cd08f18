//! From bytes to frames: what a framing finds in what has arrived, in order and within limits.
//!
//! Hot path: [`frames`] once per buffer.

use crate::{
    error::Result,
    framing::{Decoded, Frame, Framing, FramingError, Need},
    handler::CloseReason,
    session::{Session, Shared},
};

/// Who gets the frames of a session.
pub(super) trait Receiver {
    /// The session, and what it shares with others.
    fn parts(&mut self) -> (&mut Session, &mut Shared);

    /// A whole frame.
    fn on_frame(&mut self, frame: Frame<'_>) -> Result;
}

/// Hands every whole frame to `receiver`, in order, and keeps the start of the next one. What breaks the
/// framing or a limit becomes a request to end the session.
///
/// # Errors
/// What `receiver` answers; nothing is delivered behind that.
#[inline]
pub(super) fn frames<F: Framing, R: Receiver>(
    framing: &F,
    receiver: &mut R,
    input: &[u8],
) -> Result {
    let (session, shared) = receiver.parts();
    if session.is_held() {
        session.keep_back(&shared.pool, input);
        return Ok(());
    }
    let frame_max = framing.encoded_len(session.limits.frame_bytes_max);
    let mut input = match session.unread {
        Some(_) => finish_unread(framing, receiver, input, frame_max)?,
        None => input,
    };
    while !input.is_empty() {
        let (session, shared) = receiver.parts();
        if session.is_held() {
            session.keep_back(&shared.pool, input);
            break;
        }
        if !session.is_open() {
            break;
        }
        let window = &input[..input.len().min(frame_max)];
        match framing.decode(window, 0) {
            Ok(Decoded::Frame { len, body, id }) => {
                input = &input[len.min(input.len())..];
                checked(receiver, Frame::new(window, len, body, id))?;
            }
            Ok(Decoded::Incomplete { need }) => {
                if may_come(session, shared, need, window.len(), frame_max) {
                    session.keep_unread(shared, window, need);
                }
                break;
            }
            Err(error) => broken(session, shared, error),
        }
    }
    Ok(())
}

/// Adds to the frame that is split over buffers what it lacks; returns the rest of the input.
fn finish_unread<'a, F: Framing, R: Receiver>(
    framing: &F,
    receiver: &mut R,
    mut input: &'a [u8],
    frame_max: usize,
) -> Result<&'a [u8]> {
    let (session, shared) = receiver.parts();
    while let Some(unread) = &session.unread {
        let seen = unread.len();
        let lacking = match unread.need {
            // A framing that asks for no more than there is gets a byte at a time.
            need @ Need::AtLeast(_) => need.frame_bytes_min(seen) - seen,
            Need::More => frame_max - seen,
        };
        let taken = lacking.min(input.len());
        let known = unread.need;
        session.keep_unread(shared, &input[..taken], known);
        if taken == 0 || (taken < lacking && known != Need::More) {
            return Ok(&[]);
        }
        let (unread, since) = session.take_unread(shared).expect("kept above");
        match framing.decode(&unread, seen) {
            Ok(Decoded::Frame { len, body, id }) => {
                // What was seen before was no whole frame, so that the frame ends in the input.
                let from_input = len.saturating_sub(seen).min(input.len());
                checked(receiver, Frame::new(&unread, len, body, id))?;
                return Ok(&input[from_input..]);
            }
            Ok(Decoded::Incomplete { need }) => {
                if !may_come(session, shared, need, unread.len(), frame_max) {
                    return Ok(&[]);
                }
                session.put_unread(shared, unread, need, since);
                input = &input[taken..];
            }
            Err(error) => {
                broken(session, shared, error);
                return Ok(&[]);
            }
        }
    }
    Ok(input)
}

#[expect(clippy::inline_always, reason = "a call costs 15 instructions of 220 for each frame")]
#[inline(always)]
fn checked<R: Receiver>(
    receiver: &mut R,
    frame: std::result::Result<Frame<'_>, FramingError>,
) -> Result {
    let (session, shared) = receiver.parts();
    match frame {
        Ok(frame) if frame.body().len() <= session.limits.frame_bytes_max => {
            session.first_frame_seen = true;
            shared.frames_found += 1;
            return receiver.on_frame(frame);
        }
        Ok(_) => {
            let body_bytes_max = session.limits.frame_bytes_max;
            broken(session, shared, FramingError::BodyTooLong { body_bytes_max });
        }
        Err(error) => broken(session, shared, error),
    }
    Ok(())
}

/// Whether the frame that `need` tells of is short enough; otherwise the session is to end.
fn may_come(
    session: &mut Session,
    shared: &mut Shared,
    need: Need,
    unread_bytes: usize,
    frame_max: usize,
) -> bool {
    let at_least = need.frame_bytes_min(unread_bytes);
    if at_least > frame_max {
        let body_bytes_max = session.limits.frame_bytes_max;
        broken(session, shared, FramingError::BodyTooLong { body_bytes_max });
    }
    at_least <= frame_max
}

#[cold]
fn broken(session: &mut Session, shared: &mut Shared, error: FramingError) {
    if let Some(left_out) = shared.protocol_logged.admit(shared.now) {
        tracing::debug!(session = %session.id, %error, left_out, "the peer broke the framing");
    }
    session.request(CloseReason::Protocol);
}
