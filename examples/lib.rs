//! Parts that several examples use. `cargo run -p perennial-examples --example NAME` runs an example.

pub mod greeting;
pub mod local_signer;
pub mod process;
pub mod review;
pub mod tokio_loop;
pub mod witness;
