//! Absorbing events: how each event changes the machine's facts. Settling decides afterwards which actions follow.

use core::mem;
use core::time::Duration;

use super::RotationMachine;
use crate::certificate::{Certificate, Fingerprint};
use crate::event::{Event, Failure, RequestId, SignerStatus};
use crate::outcome::{Outcome, Slot};
use crate::policy::Policy;
use crate::renewal::RenewalHint;
use crate::sync::Arc;
use crate::template::Template;
use crate::time::{Instant, Now, at_least_a_millisecond};

impl RotationMachine {
    /// Updates the facts by one event and returns the event's own outcome.
    pub(super) fn absorb(&mut self, event: Event, now: Now) -> Outcome {
        match event {
            Event::Tick | Event::TurnGranted => Outcome::Noted,
            Event::TemplateChanged(template) => self.template_changed(template),
            Event::SignerChanged(status) => self.signer_changed(status),
            Event::PolicyChanged(policy) => self.policy_changed(policy, now),
            Event::CsrIssued { id, certificate } => self.issued(id, certificate, now),
            Event::RenewalHinted { fingerprint, hint } => self.hinted(fingerprint, hint, now),
            Event::CsrFailed { id, failure, retry_after } => self.csr_failed(id, failure, retry_after, now),
            Event::CertWritten { id } => self.written(id, now),
            Event::WriteFailed { id } => self.write_failed(id, now),
            Event::CertReplaced(found) => self.replaced(found, now),
            Event::CertRefused { fingerprint } => self.cert_refused(fingerprint),
            // Noted even if repeated, since each one ends a backoff.
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
        // A request in flight for the old template continues until the budget allows its successor.
        self.facts.template = template;
        self.reconsider_refusal();
        Outcome::Noted
    }

    fn signer_changed(&mut self, status: SignerStatus) -> Outcome {
        if self.facts.signer == status {
            return Outcome::Ignored;
        }
        // Failures are forgotten only with their signer: an identity that comes and goes must not cut a backoff short.
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
        // Like a backoff under way, the wait for the next write is shortened to the longest wait of the new policy.
        if let Some(write) = &mut self.facts.unwritten {
            let longest = at_least_a_millisecond(new.write.cap().max(new.write.longest()));
            write.again_at = write.again_at.min(now.instant.after(longest));
        }
        if new.new_key_per_attempt {
            self.facts.pending_key.spend();
        }
        self.plan_rotation(self.hinted_rotation_point());
        Outcome::Noted
    }

    /// Judges an issued certificate, and takes it if it is no worse than the served one. The order matters. First, the
    /// machine compares the two certificates. Then the new one takes its slot. Last, the machine counts a failure,
    /// since the backoff depends on whether a valid certificate is served now.
    fn issued(&mut self, id: RequestId, certificate: Arc<Certificate>, now: Now) -> Outcome {
        let Some(since) = self.answered(id) else { return Outcome::Ignored };
        let valid = self.certificate_at(now.unix).map(Arc::as_ref);
        // The fault is judged by the template of the request: the signer is not to blame if the template changed since.
        let requested = self.facts.pending_key.template().map(Arc::as_ref);
        let (judge, rotation_point) = (self.judge(now), self.rotation_point_of(&certificate));
        let fault = judge.fault(&certificate, rotation_point, requested, valid);
        // The slot is judged by the template wanted now. A certificate with a fault may be better than the served one.
        let slot = judge.slot(&certificate, rotation_point).filter(|_| fault != Some(Failure::BadCertificate));
        let outcome = match (slot, fault) {
            (Some(slot), shortfall) => {
                let replaced = self.take(certificate, rotation_point, slot);
                // Only one write is owed at a time. A write of the served certificate comes first, and the write of the
                // waiting certificate follows it.
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
        // The next request with this key would find this request object, and its certificate, again.
        self.facts.pending_key.spend();
        outcome
    }

    /// Plans the rotation of the newest certificate by the signer's hint. A hint with a fault leaves the policy's window.
    fn hinted(&mut self, fingerprint: Fingerprint, hint: RenewalHint, now: Now) -> Outcome {
        let newest = self.newest_certificate().filter(|newest| newest.fingerprint == fingerprint);
        let Some(newest) = newest else { return Outcome::Ignored };
        let (_, latest) = self.both_clocks(now);
        let found = hint.rotation_point(self.facts.seed, newest, latest);
        self.plan_rotation(found.ok());
        found.map_or_else(|fault| Outcome::HintDisregarded { fault }, |rotate_at| Outcome::Hinted { rotate_at })
    }

    /// Ends the request in flight if it has this id, and returns when that request was submitted. `None`: no request in
    /// flight has this id.
    fn answered(&mut self, id: RequestId) -> Option<Instant> {
        self.facts.in_flight.take_if(|(current, _)| *current == id).map(|(_, since)| since)
    }

    fn csr_failed(&mut self, id: RequestId, failure: Failure, retry_after: Option<Duration>, now: Now) -> Outcome {
        let Some(since) = self.answered(id) else { return Outcome::Ignored };
        self.failed(failure, retry_after, since, now);
        Outcome::Failed { id, failure }
    }

    /// The store now holds the certificate `found` (`None`: no certificate). The machine takes over a certificate that
    /// is no worse than the served one. If `found` is good but not valid yet, it becomes the waiting certificate.
    /// Unless `found` is served from now on, a machine with a signer writes the served certificate again.
    fn replaced(&mut self, found: Option<Arc<Certificate>>, now: Now) -> Outcome {
        if found.as_ref().is_some_and(|found| self.serves(found.fingerprint)) {
            // The store holds the served certificate: a write of it that was owed is done.
            return self.served_unwritten().map_or(Outcome::Ignored, |write| self.written(write.id, now));
        }
        let mut outcome = Outcome::Ignored;
        let rotation_point = found.as_deref().map(|found| self.rotation_point_of(found)).unwrap_or_default();
        let slot = found.as_deref().and_then(|found| self.judge(now).slot(found, rotation_point));
        let is_news = |(slot, found): &(Slot, Arc<Certificate>)| match slot {
            Slot::Served => true,
            Slot::Waiting => self.facts.waiting.as_ref() != Some(found),
        };
        if let Some((slot, found)) = slot.zip(found).filter(is_news) {
            outcome = Outcome::TakenOver { slot, replaced: self.take(found, rotation_point, slot) };
            if slot == Slot::Served {
                // The store holds the certificate already: no write is owed.
                self.facts.unwritten = None;
                // If the found certificate is due, too, the next request is for a successor, which the signer may
                // refuse as before.
                if self.due(now).is_none() {
                    self.facts.pacing.forget_failures();
                }
                return outcome;
            }
        }
        // A bootstrap credential is never written: after a restart it would pass for an issued certificate.
        let is_ours = self.valid_by_either_clock(now).is_some_and(|served| !served.provisional);
        // Without a signer another program owns the store, and nothing is written back.
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

/// The outcome of an event that decides nothing by itself: `Noted` if it changed a fact (`is_news`), otherwise
/// `Ignored`.
const fn noted(is_news: bool) -> Outcome {
    if is_news { Outcome::Noted } else { Outcome::Ignored }
}
