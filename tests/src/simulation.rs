//! Virtual time: what has a certificate to keep, the other side that it asks, and clocks that misbehave on demand.
//!
//! | | |
//! |---|---|
//! | [`world`] | one machine, a signer and a disk that do as a script says |
//! | [`fleet`] | many worlds that share the time |
//! | [`field`] | a machine, or client-go, and a cluster of objects and decisions: what goes wrong, and what it costs |
//! | `simulation/server.rs` | the embedded API server, byte for byte |
//! | `simulation/node.rs` | a rotation, its connection, its disk; it may crash |
//! | `simulation/in_flight.rs`, `wire.rs` | a request in flight: an exchange and its connection, or the result of a closure |
//! | `simulation/own_ca.rs` | a CA that is a closure in the node's own process |

pub mod field;
pub mod fleet;
#[cfg(feature = "edge")]
mod in_flight;
#[cfg(feature = "edge")]
mod node;
#[cfg(feature = "edge")]
mod own_ca;
#[cfg(feature = "edge")]
mod server;
#[cfg(feature = "edge")]
mod wire;
pub mod world;

#[cfg(feature = "edge")]
use in_flight::InFlight;
#[cfg(feature = "edge")]
pub use node::{Disk, Node};
#[cfg(feature = "edge")]
pub use own_ca::OwnCa;
#[cfg(feature = "edge")]
pub use server::*;
#[cfg(feature = "edge")]
pub use wire::Wire;
