//! The `wharf` program.
#![forbid(unsafe_code)]
fn main() {}
