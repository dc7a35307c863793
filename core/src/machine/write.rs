//! Writes: the machine orders a write until the driver confirms that the certificate is durable, independently of
//! requests.

use core::time::Duration;

use super::RotationMachine;
use crate::action::Actions;
use crate::checkpoint::Unwritten;
use crate::event::RequestId;
use crate::jitter::mix;
use crate::outcome::{Outcome, Slot};
use crate::time::{Now, at_least_a_millisecond};

impl RotationMachine {
    /// Notes that the certificate in this slot has to be written, and that the write may be ordered at once. Replaces
    /// the write that was owed before.
    pub(super) fn owe_write(&mut self, id: RequestId, slot: Slot, now: Now) {
        self.facts.unwritten = Some(Unwritten { id, slot, again_at: now.instant, failures: 0, in_flight: false });
    }

    /// The write of the served certificate; `None` if no write of that certificate is owed.
    pub(super) fn served_unwritten(&self) -> Option<Unwritten> {
        self.facts.unwritten.filter(|write| write.slot == Slot::Served)
    }

    pub(super) fn written(&mut self, id: RequestId, now: Now) -> Outcome {
        // Counts even after a `WriteFailed`: a write that reported an error may have become durable.
        let Some(Unwritten { slot, .. }) = self.facts.unwritten.take_if(|write| write.id == id) else {
            return Outcome::Ignored;
        };
        // Write the waiting certificate next: the machine does not record whether that one is durable already, and a
        // second write costs little.
        if slot == Slot::Served && self.facts.waiting.is_some() {
            let id = self.take_id();
            self.owe_write(id, Slot::Waiting, now);
        }
        Outcome::Written { id, slot }
    }

    pub(super) fn write_failed(&mut self, id: RequestId, now: Now) -> Outcome {
        // Only while the write is in flight: a repeated report must not lengthen the backoff.
        let owed = self.facts.unwritten.as_mut().filter(|write| write.id == id && write.in_flight);
        let Some(write) = owed else { return Outcome::Ignored };
        write.in_flight = false;
        write.failures = write.failures.saturating_add(1);
        let draw = mix(self.facts.seed, id.get(), write.failures.into());
        let wait = self.facts.policy.write.wait(write.failures, Duration::ZERO, draw);
        write.again_at = now.instant.after(at_least_a_millisecond(wait));
        Outcome::WriteFailed { id, slot: write.slot }
    }

    /// Orders the write that is owed, if its time has come.
    pub(super) fn write(&mut self, now: Now, actions: &mut Actions) {
        let Some(write) = &mut self.facts.unwritten else { return };
        let certificate = match write.slot {
            Slot::Served => &self.facts.certificate,
            Slot::Waiting => &self.facts.waiting,
        };
        if let Some(certificate) = certificate.as_ref().filter(|_| write.again_at <= now.instant) {
            actions.write = Some((write.id, certificate.clone(), write.slot == Slot::Served));
            write.in_flight = true;
            // Repeats the write if the driver's reply is lost: any reply moves this instant.
            write.again_at = now.instant.after(self.facts.policy.write.cap());
        }
    }
}
