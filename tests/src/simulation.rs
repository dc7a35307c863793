//! Simulations in virtual time: machines, rotations and client-go's manager, the signers and servers to which they
//! submit requests, and clocks that misbehave on demand.
//!
//! | | |
//! |---|---|
//! | [`Clocks`], [`Agenda`], [`Member`] | shared parts: clocks, a queue of timed entries, the loops of virtual time |
//! | [`world`] | one machine with a scripted signer and disk |
//! | [`fleet`] | many worlds that share the time |
//! | [`field`] | a machine, or client-go, in a simulated cluster: faults, and their costs |
//! | `simulation/server.rs` | the embedded API server, whose clients exchange bytes with it |
//! | `simulation/pods.rs` | a pod on that server, and the requests for its certificates |
//! | `simulation/node.rs` | a rotation, its connection and its disk, in a process that may crash |
//! | `simulation/in_flight.rs`, `wire.rs` | a request in flight: an exchange with a connection, or a closure |
//! | `simulation/own_ca.rs` | a CA that is a closure in the node's own process |

mod agenda;
mod clocks;
pub mod field;
pub mod fleet;
#[cfg(feature = "edge")]
mod in_flight;
mod member;
#[cfg(feature = "edge")]
mod node;
#[cfg(feature = "edge")]
mod own_ca;
#[cfg(feature = "edge")]
mod pods;
#[cfg(feature = "edge")]
mod server;
#[cfg(feature = "edge")]
mod wire;
pub mod world;

pub use agenda::{Agenda, Entry};
pub use clocks::Clocks;
#[cfg(feature = "edge")]
use in_flight::InFlight;
pub use member::Member;
#[cfg(feature = "edge")]
pub use node::{Durable, Node};
#[cfg(feature = "edge")]
pub use own_ca::OwnCa;
#[cfg(feature = "edge")]
pub use pods::{MESH, pod_requests};
#[cfg(feature = "edge")]
pub use server::*;
#[cfg(feature = "edge")]
pub use wire::Wire;
