//! Model checking: the machine itself, as shipped, is the state; everything that can happen to it does.
//!
//! A [`Setting`] is a small world: a policy of a few milliseconds, and an alphabet of events. [`search`] goes through
//! every state of it, breadth first, and puts each step and each state to the laws.
//!
//! | | |
//! |---|---|
//! | `check/setting.rs` | small worlds |
//! | `check/life.rs` | a state: a machine and the world around it; what can happen, and when two states are one |
//! | `check/search.rs` | breadth first |
//! | `check/broken.rs` | machines that break a rule |
//!
//! Why not one of the model checkers there are? All that is needed of one is a hundred lines: layers, threads, and
//! a way back. What is peculiar here (when two states are one, what is asked of a single state) has to be written anyway.

pub mod broken;
mod life;
mod search;
mod setting;

pub use search::{Counterexample, Explored, keys_tell_all, search};
pub use setting::{Flavour, Move, Setting, Wish, settings};
