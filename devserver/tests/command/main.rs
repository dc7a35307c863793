//! The command `perennial-dev`.

mod demo;
mod signer;
mod support;
