//! Hashing a machine by its future behaviour, so that a model checker recognises equivalent states.

use core::hash::{Hash, Hasher};

use super::RotationMachine;
use crate::checkpoint::{Checkpoint, Unwritten};
use crate::time::Now;

impl RotationMachine {
    /// Hashes every fact that decides what this machine does from `now` on, except the [served](Self::certificate) and
    /// the [waiting](Self::waiting) certificate, and a rotation point that a [hint](Self::renewal) has set. Times are
    /// hashed relative to `now`. A wait that is over is hashed as zero. Ids are not hashed.
    ///
    /// Two machines behave alike, each by its own clocks, if they have the same policy and seed, certificates that both
    /// machines judge alike, rotation points that lie equally far ahead, and equal hashes. Only the jitter of the two may
    /// differ, since jitter is computed from ids and fingerprints. A model checker thus meets no new state while time
    /// passes, until a wait ends.
    pub fn hash_at<H: Hasher>(&self, now: Now, state: &mut H) {
        // Every field by name: a new field breaks this build and is not forgotten.
        let Checkpoint {
            policy,
            seed: _,
            signer,
            template,
            certificate: _,
            waiting: _,
            rotate_at: _,
            hinted,
            refused,
            rotate_now,
            due,
            queued,
            unwritten,
            next_id: _,
            in_flight,
            pending_key,
            pacing,
            server_clock,
            deadline,
        } = &self.facts;
        (signer, template, hinted, refused, rotate_now, due, queued, pending_key).hash(state);
        let write = unwritten.map(|Unwritten { id: _, slot, again_at, failures, in_flight }| {
            (slot, again_at.since(now.instant), policy.write.clamp_failures(failures), in_flight)
        });
        write.hash(state);
        in_flight.map(|(_, since)| now.instant.since(since)).hash(state);
        pacing.hash_at(policy, now.instant, state);
        let estimate = server_clock.estimate(now.instant);
        let ahead = estimate.map(|server| (server.since(now.unix), now.unix.since(server)));
        (ahead, server_clock.agreeing()).hash(state);
        deadline.map(|at| at.since(now.instant)).hash(state);
        // A machine with a shared signer has no regular check of the clocks.
        let check = (!signer.is_shared()).then(|| self.clock_check(now).since(now.instant));
        check.hash(state);
    }
}
