//! The duty to make a certificate durable: repeated until it is done, beside everything else.

use core::time::Duration;

use super::{RotationMachine, at_least_a_millisecond};
use crate::action::Actions;
use crate::event::RequestId;
use crate::jitter::mix;
use crate::outcome::{Outcome, Slot};
use crate::time::{Instant, Now};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) id: RequestId,
    pub(super) again_at: Instant,
    pub(super) failures: u32,
    /// It has been asked for, and not been answered.
    pub(super) out: bool,
    /// True for the held certificate, false for the waiting one.
    pub(super) serve: bool,
}

impl Write {
    pub(super) const fn of_held(id: RequestId, now: Instant) -> Self {
        Self { id, again_at: now, failures: 0, out: false, serve: true }
    }

    pub(super) const fn slot(&self) -> Slot {
        if self.serve { Slot::Served } else { Slot::Waiting }
    }

    pub(super) const fn of_waiting(id: RequestId, now: Instant) -> Self {
        Self { serve: false, ..Self::of_held(id, now) }
    }
}

impl RotationMachine {
    pub(super) fn written(&mut self, id: RequestId, now: Now) -> Outcome {
        let Some(write) = self.unwritten.take_if(|write| write.id == id) else { return Outcome::Ignored };
        self.write_waiting_too(write, now);
        Outcome::Written { id, slot: write.slot() }
    }

    /// After the held certificate, writes the waiting one too: whether that is durable is not recorded, and a second write
    /// costs little.
    pub(super) fn write_waiting_too(&mut self, done: Write, now: Now) {
        if done.serve && self.waiting.is_some() {
            self.unwritten = Some(Write::of_waiting(self.take_id(), now.instant));
        }
    }

    pub(super) fn write_failed(&mut self, id: RequestId, now: Now) -> Outcome {
        let owed = self.unwritten.as_mut().filter(|write| write.id == id && write.out);
        let Some(write) = owed else { return Outcome::Ignored };
        write.out = false;
        write.failures = write.failures.saturating_add(1);
        let draw = mix(self.seed, id.get(), write.failures.into());
        let wait = self.policy.write.wait(write.failures, Duration::ZERO, draw);
        write.again_at = now.instant.after(at_least_a_millisecond(wait));
        Outcome::WriteFailed { id, slot: write.slot() }
    }

    /// A certificate that may be lost is written, again and again.
    pub(super) fn write(&mut self, now: Now, actions: &mut Actions) {
        let Some(write) = &mut self.unwritten else { return };
        let certificate = if write.serve { &self.certificate } else { &self.waiting };
        if let Some(certificate) = certificate.as_ref().filter(|_| write.again_at <= now.instant) {
            actions.write = Some((write.id, certificate.clone(), write.serve));
            write.out = true;
            // Only a lost answer lets this pass.
            write.again_at = now.instant.after(self.policy.write.cap());
        }
    }
}
