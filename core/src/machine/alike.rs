//! When two machines will do the same.

use core::hash::{Hash, Hasher};

use super::RotationMachine;
use crate::checkpoint::{Checkpoint, Unwritten};
use crate::time::Now;

impl RotationMachine {
    /// Hashes all that decides what this machine will do from `now` on, except the certificates it
    /// [serves](Self::certificate) and [waits for](Self::waiting). Times count from `now`, what is past is merely past, ids are only names.
    ///
    /// Two machines of one policy and seed that serve and wait for like certificates and hash alike will do the same,
    /// each by its own clocks. (But for jitter: it is drawn from ids and fingerprints.) So a model checker need
    /// not take the mere passing of time for a new state.
    pub fn hash_at<H: Hasher>(&self, now: Now, state: &mut H) {
        // All of them by name: a new field must not be forgotten here.
        let Checkpoint {
            policy,
            seed: _,
            signer,
            template,
            certificate: _,
            waiting: _,
            refused,
            rotate_now,
            due,
            unwritten,
            next_id: _,
            in_flight,
            pending_key,
            pacing,
            server_clock,
            deadline,
        } = &self.facts;
        (signer, template, refused, rotate_now, due, pending_key).hash(state);
        let write = unwritten.map(|Unwritten { id: _, slot, again_at, failures, in_flight }| {
            (slot, again_at.since(now.instant), policy.write.no_longer_after(failures), in_flight)
        });
        write.hash(state);
        in_flight.map(|(_, since)| now.instant.since(since)).hash(state);
        pacing.hash_at(policy, now.instant, state);
        let shows = server_clock.shows(now.instant);
        let ahead = shows.map(|shows| (shows.since(now.unix), now.unix.since(shows)));
        (ahead, server_clock.agreeing).hash(state);
        deadline.map(|at| at.since(now.instant)).hash(state);
        self.clock_check(now).since(now.instant).hash(state);
    }
}
