//! Nothing: the examples of this package are its files. `cargo run -p perennial-examples --example NAME` runs one.
