//! What each event means by itself: the facts that follow from it. What follows from the facts is settled afterwards.

use alloc::sync::Arc;
use core::mem;
use core::time::Duration;

use super::{RotationMachine, at_least_a_millisecond};
use crate::certificate::{Certificate, Fingerprint};
use crate::event::{Event, Failure, RequestId, SignerStatus};
use crate::outcome::{Outcome, Slot};
use crate::policy::Policy;
use crate::template::Template;
use crate::time::{Instant, Now};

impl RotationMachine {
    /// Takes in a fact.
    pub(super) fn absorb(&mut self, event: Event, now: Now) -> Outcome {
        match event {
            Event::Tick => Outcome::Noted,
            Event::TemplateChanged(template) => self.template_changed(template),
            Event::SignerChanged(status) => self.signer_changed(status),
            Event::PolicyChanged(policy) => self.policy_changed(policy, now),
            Event::CsrIssued { id, certificate } => self.issued(id, certificate, now),
            Event::CsrFailed { id, failure, retry_after } => self.csr_failed(id, failure, retry_after, now),
            Event::CertWritten { id } => self.written(id, now),
            Event::WriteFailed { id } => self.write_failed(id, now),
            Event::CertReplaced(found) => self.replaced(found, now),
            Event::CertRefused { fingerprint } => self.cert_refused(fingerprint),
            Event::RotateNow => {
                self.facts.rotate_now = true;
                self.facts.pacing.end_backoff();
                Outcome::Noted
            }
            Event::ServerDated { unix } => noted(self.facts.server_clock.read(unix, now.instant)),
        }
    }

    fn template_changed(&mut self, template: Option<Arc<Template>>) -> Outcome {
        if self.facts.template == template {
            return Outcome::Ignored;
        }
        self.facts.template = template;
        self.reconsider_refusal();
        Outcome::Noted
    }

    fn signer_changed(&mut self, status: SignerStatus) -> Outcome {
        if self.facts.signer == status {
            return Outcome::Ignored;
        }
        // An identity that comes and goes is no reason to repeat at once what this signer refused.
        if self.facts.signer.is_configured() != status.is_configured() {
            self.facts.pacing.forget_failures();
        }
        self.facts.signer = status;
        Outcome::Noted
    }

    fn policy_changed(&mut self, policy: Arc<Policy>, now: Now) -> Outcome {
        if self.facts.policy == policy {
            return Outcome::Ignored;
        }
        let old = mem::replace(&mut self.facts.policy, policy);
        let new = &self.facts.policy;
        self.facts.pacing.change_policy(&old, new, now.instant);
        // As for a backoff under way: the next write comes no later than the new policy would have it from now on.
        if let Some(write) = &mut self.facts.unwritten {
            let longest = at_least_a_millisecond(new.write.cap().max(new.write.longest()));
            write.again_at = write.again_at.min(now.instant.after(longest));
        }
        if new.new_key_per_attempt {
            self.facts.pending_key.spend();
        }
        Outcome::Noted
    }

    /// The order matters: the new certificate is judged beside the one that is served so far, so before it takes a slot;
    /// and it takes its slot before the failure is counted, since how long to back off depends on whether a valid
    /// certificate is served by then.
    fn issued(&mut self, id: RequestId, certificate: Arc<Certificate>, now: Now) -> Outcome {
        let Some(since) = self.answered(id) else { return Outcome::Ignored };
        let valid = self.certificate_at(now.unix).map(Arc::as_ref);
        // By what was requested, which need not be what is wanted by now: the signer is not to blame for the difference.
        let requested = self.facts.pending_key.template().map(Arc::as_ref);
        let fault = self.judge(now).fault(&certificate, requested, valid);
        // By what is wanted now. A certificate that falls short may still be better than what is served.
        let slot = self.judge(now).slot(&certificate).filter(|_| fault != Some(Failure::BadCertificate));
        let outcome = match (slot, fault) {
            (Some(slot), shortfall) => {
                let replaced = self.take(certificate, slot);
                // A write of the served certificate comes first; once it is done, the waiting one is written, too.
                if slot == Slot::Served || self.served_unwritten().is_none() {
                    self.owe_write(id, slot, now);
                }
                Outcome::Accepted { id, slot, replaced, shortfall }
            }
            (None, Some(failure)) => Outcome::Rejected { id, failure },
            (None, None) => Outcome::Unwanted { id },
        };
        match fault {
            Some(failure) => self.failed(failure, None, since, now),
            None => self.facts.pacing.forget_failures(),
        }
        // The request object has its certificate: another request with this key would only find that one again.
        self.facts.pending_key.spend();
        outcome
    }

    /// Ends the request in flight if it is this one. Returns when it was submitted.
    fn answered(&mut self, id: RequestId) -> Option<Instant> {
        self.facts.in_flight.take_if(|(current, _)| *current == id).map(|(_, since)| since)
    }

    fn csr_failed(&mut self, id: RequestId, failure: Failure, retry_after: Option<Duration>, now: Now) -> Outcome {
        let Some(since) = self.answered(id) else { return Outcome::Ignored };
        self.failed(failure, retry_after, since, now);
        Outcome::Failed { id, failure }
    }

    /// The store now holds another certificate. A better one is adopted, one that is not valid yet waits, and a worse one is
    /// overwritten.
    fn replaced(&mut self, found: Option<Arc<Certificate>>, now: Now) -> Outcome {
        if found.as_ref().is_some_and(|found| self.serves(found.fingerprint)) {
            // News only if a write of it was owed, which is done by this.
            return self.served_unwritten().map_or(Outcome::Ignored, |write| self.written(write.id, now));
        }
        let mut outcome = Outcome::Ignored;
        let slot = found.as_deref().and_then(|found| self.judge(now).slot(found));
        let is_news = |(slot, found): &(Slot, Arc<Certificate>)| match slot {
            Slot::Served => true,
            Slot::Waiting => self.facts.waiting.as_ref() != Some(found),
        };
        if let Some((slot, found)) = slot.zip(found).filter(is_news) {
            outcome = Outcome::TakenOver { slot, replaced: self.take(found, slot) };
            if slot == Slot::Served {
                // The store holds it already.
                self.facts.unwritten = None;
                if self.due(now).is_none() {
                    self.facts.pacing.forget_failures();
                }
                return outcome;
            }
        }
        let is_ours = self.valid_by_either_clock(now).is_some_and(|served| !served.provisional);
        // Without a signer the store is another program's.
        if is_ours && self.facts.signer.is_configured() && self.served_unwritten().is_none() {
            let id = self.take_id();
            self.owe_write(id, Slot::Served, now);
            if outcome == Outcome::Ignored {
                outcome = Outcome::Reinstated;
            }
        }
        outcome
    }

    fn cert_refused(&mut self, fingerprint: Fingerprint) -> Outcome {
        noted(self.serves(fingerprint) && !mem::replace(&mut self.facts.refused, true))
    }

    fn serves(&self, fingerprint: Fingerprint) -> bool {
        self.facts.certificate.as_ref().is_some_and(|served| served.fingerprint == fingerprint)
    }
}

/// For events that lead to something only by what follows from them.
const fn noted(is_news: bool) -> Outcome {
    if is_news { Outcome::Noted } else { Outcome::Ignored }
}
