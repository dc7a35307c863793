//! Parts of examples that tests use as well. `cargo run -p perennial-examples --example NAME` runs an example.

pub mod tokio_loop;
