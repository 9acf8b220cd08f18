//! The completion port.
