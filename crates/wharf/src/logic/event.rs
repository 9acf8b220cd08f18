//! What reaches a session from elsewhere, in order with its frames: a closure to run on its thread.

use std::any::Any;

use super::guard;
use crate::{error::Result, handler::Context};

/// Something to run on a session's thread, whatever the type of its data.
pub(crate) enum Event {
    /// A [`Call`] for sessions of one type.
    Call(Box<dyn Any + Send>),
    /// What was offloaded has panicked: there is no result.
    WorkPanicked,
}

/// A closure for sessions whose data is an `S`.
pub(crate) struct Call<S>(CallFn<S>);

pub(crate) type CallFn<S> = Box<dyn FnOnce(&mut Context<'_, S>) -> Result + Send>;

impl Event {
    pub(crate) fn call<S: 'static>(
        call: impl FnOnce(&mut Context<'_, S>) -> Result + Send + 'static,
    ) -> Self {
        Self::Call(Box::new(Call::<S>(Box::new(call))))
    }

    /// Drops it where it cannot be run; what it holds is the user's, and may panic.
    pub(crate) fn drop_guarded(self) {
        guard(|| drop(self));
    }
}

impl<S: 'static> Call<S> {
    /// The closure, if it is one for sessions of this type.
    pub(crate) fn of(call: Box<dyn Any + Send>) -> Option<CallFn<S>> {
        match call.downcast::<Self>() {
            Ok(call) => Some(call.0),
            Err(other) => {
                guard(|| drop(other));
                None
            }
        }
    }
}
