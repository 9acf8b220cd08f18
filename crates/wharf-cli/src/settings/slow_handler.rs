//! How long a call of a handler may take, or that nobody looks.

use std::time::Duration;

use super::value::Value;

/// `None`, written as 0: any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlowHandler(pub(crate) Option<Duration>);

impl Value for SlowHandler {
    fn parse(text: &str, unit: &str) -> Result<Self, String> {
        let limit = Duration::parse(text, unit)?;
        Ok(Self((!limit.is_zero()).then_some(limit)))
    }

    fn toml(&self) -> String {
        self.0.unwrap_or_default().toml()
    }

    fn magnitude(&self) -> Option<u64> {
        // Rounded down, so that what is shorter than the shortest is.
        u64::try_from(self.0?.as_millis()).ok()
    }
}
