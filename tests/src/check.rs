//! Model checking: the machine itself, as shipped, is the state; everything that can happen to it does.
//!
//! A [`Setting`] is a small world: a policy of a few milliseconds, and an alphabet of events. [`search`] goes through
//! every state of it, breadth first, and puts each step and each state to the laws.
//!
//! | | |
//! |---|---|
//! | `check/setting.rs` | small worlds |
//! | `check/life.rs` | a state: a machine and the world around it; what can happen, and when two states are one |
//! | `check/obey.rs` | the laws, of one step and of one state |
//! | `check/search.rs` | breadth first |
//! | `check/subject.rs`, `check/broken.rs` | what is checked: the machine, or one that breaks a rule |
//!
//! Why not one of the model checkers there are? All that is needed of one is a hundred lines: layers, threads, and
//! a way back. What is peculiar here (when two states are one, what is asked of a single state) has to be written anyway.

pub mod broken;
mod life;
mod obey;
mod search;
mod setting;
mod subject;

pub use search::{Counterexample, Outcome, keys_tell_all, search};
pub use setting::{Flavour, Move, Setting, Wish, settings};
pub use subject::{Duties, Subject};
