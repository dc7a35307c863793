//! Model checking: the state is the machine itself, as shipped; every event is tried in every state.
//!
//! A [`Setting`] is a small world: a policy of a few milliseconds, and an alphabet of events. [`search`] visits
//! every state of it, breadth first, and checks each step and each state by the laws.
//!
//! | | |
//! |---|---|
//! | `check/setting.rs` | small worlds |
//! | `check/world_state.rs` | a state: a machine and its world, possible moves, and the key by which states are equal |
//! | `check/search.rs` | breadth-first search |
//! | `check/broken.rs` | machines that break a rule |
//!
//! An existing model checker would save about a hundred lines: layers, threads, and the path to a state. The rest (the
//! equality of states, the laws of a single state) is particular to this machine and has to be written anyway.

pub mod broken;
mod search;
mod setting;
mod world_state;

pub use search::{Counterexample, Explored, check_keys, search};
pub use setting::{Flavour, Move, Setting, TemplateChoice, settings};
