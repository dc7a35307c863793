//! Model checking: each event is tried in each state of the machine. The states are those of the shipped machine, not
//! of a simplified model.
//!
//! A [`Setting`] is a small world: a policy whose durations are a few milliseconds, and the moves to try. [`search`]
//! visits every state of such a world, breadth first, and checks each step and each state by the laws.
//!
//! | | |
//! |---|---|
//! | `check/setting.rs` | small worlds |
//! | `check/world_state.rs` | a state (machine and world), its possible moves, and its key: equal keys are one state |
//! | `check/search.rs` | breadth-first search |
//! | `check/broken.rs` | machines that break a rule |
//! | `check/fleets.rs` | a fleet of three, its moves and its search |
//! | `check/broken_fleets.rs` | fleets that break a rule |
//!
//! An existing model checker would save about a hundred lines: layers, threads, and the path to a state. The key of a
//! state and the laws of a single state are particular to this machine, and would have to be written anyway.

pub mod broken;
pub mod broken_fleets;
mod fleets;
mod search;
mod setting;
mod world_state;

pub use fleets::{FleetMove, FleetSetting, fleet_moves, fleet_settings, search_fleets};
pub use search::{Counterexample, Explored, check_keys, search};
pub use setting::{Flavour, Move, Setting, TemplateChoice, settings};
