//! `RotationMachine::hash_at` returns the same hash for machines that will act alike, so that a model checker treats
//! such machines as one state.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use perennial::{Failure, Instant, Now, RotationMachine, Setup};
use perennial_tests::mint;

/// The hash of a machine after `failures` failures in a row of the kind `last`, long after its backoff has ended.
fn hash(failures: u32, last: Failure) -> u64 {
    let start = Now { instant: Instant::default(), unix: mint::EPOCH };
    let template = Some(Arc::new(perennial::Template::node("worker-1")));
    let mut checkpoint = RotationMachine::new(Setup { template, ..Setup::default() }, start).checkpoint();
    (checkpoint.pacing.failures, checkpoint.pacing.last_failure) = (failures, Some(last));
    let later = Now { instant: Instant::from_millis(1 << 40), unix: mint::EPOCH };
    let mut hasher = DefaultHasher::new();
    RotationMachine::restore(checkpoint).hash_at(later, &mut hasher);
    hasher.finish()
}

#[test]
fn failure_count_past_backoff_cap_does_not_change_machine_hash() {
    // Refusals: 5, 10, 20, 40 minutes, then an hour. Others: 1 to 64 seconds, then two minutes.
    assert_eq!(hash(6, Failure::Denied), hash(7, Failure::Denied));
    assert_ne!(hash(6, Failure::Unreachable), hash(7, Failure::Unreachable));
    assert_eq!(hash(9, Failure::Unreachable), hash(10, Failure::Unreachable));
    assert_ne!(hash(9, Failure::Denied), hash(9, Failure::Unreachable));
    assert_ne!(hash(1, Failure::Denied), hash(2, Failure::Denied));
}
