//! The machine to plain data, and back.

use super::{RotationMachine, Write};
use crate::checkpoint::{Checkpoint, Unwritten};
use crate::pace::Pace;
use crate::server_clock::ServerClock;

impl RotationMachine {
    /// All that this machine is.
    pub fn checkpoint(&self) -> Checkpoint {
        // All of them by name: a new field must not be forgotten here.
        let Self {
            policy,
            seed,
            signer,
            template,
            certificate,
            waiting,
            refused,
            rotate_now,
            due,
            unwritten,
            next_id,
            live,
            asked,
            reusable,
            pace,
            server_clock,
            deadline,
        } = self.clone();
        let ServerClock { origin: server_origin, agreeing: server_agreeing } = server_clock;
        let Pace { failures, last: last_failure, retry_at, spaced_at, whole_at: budget_whole_at } = pace;
        let unwritten = unwritten.map(|Write { id, again_at, failures, out, serve }| Unwritten {
            id,
            again_at,
            failures,
            out,
            serve,
        });
        Checkpoint {
            policy,
            seed,
            signer,
            template,
            certificate,
            waiting,
            refused,
            rotate_now,
            due,
            unwritten,
            next_id,
            live,
            asked,
            reusable,
            failures,
            last_failure,
            retry_at,
            spaced_at,
            budget_whole_at,
            server_origin,
            server_agreeing,
            deadline,
        }
    }

    /// The machine this was taken of.
    pub fn restore(checkpoint: Checkpoint) -> Self {
        let Checkpoint {
            policy,
            seed,
            signer,
            template,
            certificate,
            waiting,
            refused,
            rotate_now,
            due,
            unwritten,
            next_id,
            live,
            asked,
            reusable,
            failures,
            last_failure: last,
            retry_at,
            spaced_at,
            budget_whole_at: whole_at,
            server_origin: origin,
            server_agreeing: agreeing,
            deadline,
        } = checkpoint;
        let unwritten = unwritten.map(|Unwritten { id, again_at, failures, out, serve }| Write {
            id,
            again_at,
            failures,
            out,
            serve,
        });
        let pace = Pace { failures, last, retry_at, spaced_at, whole_at };
        Self {
            policy,
            seed,
            signer,
            template,
            certificate,
            waiting,
            refused,
            rotate_now,
            due,
            unwritten,
            next_id,
            live,
            asked,
            reusable,
            pace,
            server_clock: ServerClock { origin, agreeing },
            deadline,
        }
    }
}
