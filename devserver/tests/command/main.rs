//! Tests that run the command `perennial-dev`.

mod demo;
mod forecast;
mod signer;
mod simulate;
mod support;
