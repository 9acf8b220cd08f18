//! Nothing here: see the examples in `examples/`.
