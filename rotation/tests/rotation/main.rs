//! Rotations, tasks and fleets without a runtime: the test drives the work.

mod authority;
mod changed_signer;
mod chosen_names;
mod fleet;
mod fleet_of_one;
mod hints;
mod identity;
mod kept_connections;
mod local_ca;
mod notices;
mod other_keys;
mod record;
mod shared_names;
mod silence;
mod task;
mod templates;
