//! Tests that run the command `perennial-dev`.

mod demo;
mod signer;
mod simulate;
mod support;
