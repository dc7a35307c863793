//! When two machines will do the same.

use core::hash::{Hash, Hasher};

use super::{RotationMachine, Write};
use crate::time::Now;

impl RotationMachine {
    /// Hashes all that decides what this machine will do from `now` on, except the certificates it
    /// [holds](Self::certificate) and [waits for](Self::waiting). Times count from `now`, what is past is merely past, ids are only names.
    ///
    /// Two machines of one policy and seed that hold and wait for like certificates and hash alike will do the same,
    /// each by its own clocks. (But for jitter: it is drawn from ids and fingerprints.) So a model checker need
    /// not take the mere passing of time for a new state.
    pub fn hash_at<H: Hasher>(&self, now: Now, state: &mut H) {
        // All of them by name: a new field must not be forgotten here.
        let Self {
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
            live,
            asked,
            reusable,
            pace,
            server_clock,
            deadline,
        } = self;
        (signer, template, refused, rotate_now, due, asked, reusable).hash(state);
        let write = unwritten.map(|Write { id: _, again_at, failures, out, serve }| {
            (again_at.since(now.instant), policy.write.no_longer_after(failures), out, serve)
        });
        write.hash(state);
        live.map(|(_, since)| now.instant.since(since)).hash(state);
        pace.hash_at(policy, now.instant, state);
        let shows = server_clock.shows(now.instant);
        let ahead = shows.map(|shows| (shows.since(now.unix), now.unix.since(shows)));
        (ahead, server_clock.agreeing).hash(state);
        deadline.map(|at| at.since(now.instant)).hash(state);
        self.clock_check(now).since(now.instant).hash(state);
    }
}
