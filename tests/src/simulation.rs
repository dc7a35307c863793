//! Virtual time: what has a certificate to keep, the other side that it asks, and clocks that misbehave on demand.
//!
//! | | |
//! |---|---|
//! | [`world`] | one machine, a signer and a disk that do as a script says |
//! | [`fleet`] | many worlds that share the time |
//! | [`field`] | a machine, or client-go, and a cluster of objects and decisions: what goes wrong, and what it costs |
//! | `simulation/server.rs` | the embedded API server, byte for byte |
//! | `simulation/node.rs` | a rotation, its connection, its disk; it may crash |
//! | `simulation/wire.rs` | an exchange and its connection |

pub mod field;
pub mod fleet;
#[cfg(feature = "edge")]
mod node;
#[cfg(feature = "edge")]
mod server;
#[cfg(feature = "edge")]
mod wire;
pub mod world;

#[cfg(feature = "edge")]
pub use node::{Disk, Node};
#[cfg(feature = "edge")]
pub use server::*;
#[cfg(feature = "edge")]
pub use wire::Wire;
