//! The facts that an event adds to the model's history, before the model settles.

use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Certificate, Event, Failure, Fingerprint, Now, Pending, Policy, RenewalHint, SignerStatus, UnixTime, rotation_point,
};

use super::history::{Fact, Millis, NO_WAIT};
use super::{Model, instant, is_expired, millis, unix, wait};

impl Model {
    /// Continues from the pending record of an earlier run. Limits each time of the record to the longest wait that the
    /// policy allows, counted from now, since the wall clock may have been wrong.
    pub(super) fn resume(&mut self, pending: &Pending, now: Now) {
        let later = |at: Millis, most: Millis| instant(now) + (at - unix(now.unix)).clamp(0, most);
        let budget = self.policy.budget;
        let spaced = later(unix(pending.submitted) + self.spacing(), self.spacing());
        let whole = later(unix(pending.budget_whole), millis(budget.refill()) * Millis::from(budget.size()));
        let (template, key) = (pending.template.clone(), pending.key);
        self.history.push(now, Fact::Resumed { template, key });
        self.history.push(now, Fact::Paced { spaced, whole });
        if let Some(refusal) = pending.refusal {
            let at = later(unix(refusal.retry_at), 2 * millis(self.policy.refused.cap()));
            self.history.push(now, Fact::Failed(refusal.failure, refusal.failures));
            self.history.push(now, Fact::BackoffEnds((at, at)));
        }
        self.forget_refusal_of_other_template(now);
    }

    /// Adds the facts of an event to the history. Returns false if the machine must ignore the event.
    pub(super) fn learn(&mut self, event: &Event, now: Now) -> bool {
        let history = &mut self.history;
        match event {
            Event::Tick | Event::TurnGranted => {}
            Event::TemplateChanged(template) if history.template() == template.as_ref() => return false,
            Event::TemplateChanged(template) => {
                history.push(now, Fact::Template(template.clone()));
                self.forget_refusal_of_other_template(now);
            }
            Event::SignerChanged(status) if history.signer() == *status => return false,
            Event::SignerChanged(status) => {
                let is_another = (history.signer() == SignerStatus::Absent) != (*status == SignerStatus::Absent);
                history.push(now, Fact::Signer(*status));
                if is_another {
                    history.push(now, Fact::FailuresForgotten);
                }
            }
            Event::PolicyChanged(policy) if self.policy == *policy => return false,
            Event::PolicyChanged(policy) => self.policy_changed(policy, now),
            Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. }
                if history.in_flight().is_none_or(|(in_flight, _)| in_flight != id.get()) =>
            {
                return false;
            }
            Event::CsrIssued { id, certificate } => self.issued(id.get(), certificate, now),
            Event::CsrFailed { failure, retry_after, .. } => self.failed(*failure, *retry_after, now),
            Event::CertWritten { id } | Event::WriteFailed { id }
                if history.unwritten().is_none_or(|(unwritten, ..)| unwritten != id.get()) =>
            {
                return false;
            }
            Event::CertWritten { .. } => self.durable(now),
            Event::WriteFailed { .. } if !history.write_is_in_flight() => return false,
            Event::WriteFailed { .. } => self.write_failed(now),
            Event::CertReplaced(found) => return self.replaced(found.as_ref(), now),
            Event::CertRefused { fingerprint }
                if history.refused() || history.served().is_none_or(|held| held.fingerprint != *fingerprint) =>
            {
                return false;
            }
            Event::RenewalHinted { fingerprint, .. }
                if history.newest_certificate().is_none_or(|newest| newest.fingerprint != *fingerprint) =>
            {
                return false;
            }
            Event::RenewalHinted { fingerprint, hint } => self.hinted(*fingerprint, *hint, now),
            Event::CertRefused { .. } => history.push(now, Fact::RefusedByServer),
            Event::RotateNow => {
                history.push(now, Fact::RotateNow);
                history.push(now, Fact::BackoffEnds(NO_WAIT));
            }
            Event::ServerDated { unix: shows } => {
                let before = history.server_clock();
                history.push(now, Fact::ServerDated(unix(*shows) - instant(now)));
                // Readings beyond the third change nothing.
                let after = history.server_clock();
                return before.map(|(at, n)| (at, n.min(3))) != after.map(|(at, n)| (at, n.min(3)));
            }
            _ => unreachable!("every event is above"),
        }
        true
    }

    /// Adds the facts of a change of policy. The submission budget keeps its tokens, up to the new size, and the
    /// spacing still counts from the last submission. The backoff and the wait for the next write become no longer than
    /// the new policy allows.
    fn policy_changed(&mut self, policy: &Arc<Policy>, now: Now) {
        let at = instant(now);
        let (spaced, old_spacing) = (self.history.spaced_at(self.spacing()), self.spacing());
        let (size, refill) = (Millis::from(self.policy.budget.size()), millis(self.policy.budget.refill()));
        let missing = (self.affordable_at(self.policy.budget.size()) - at).max(0);
        // A retry may use the key again only if both policies allow it.
        if policy.new_key_per_attempt || self.policy.new_key_per_attempt {
            self.history.push(now, Fact::KeySpent);
        }
        self.policy = policy.clone();
        // A spacing that was over before the boot ends at zero, the first instant there is.
        let spaced = if spaced > 0 { (spaced - old_spacing + self.spacing()).max(0) } else { 0 };
        let (new_size, new_refill) = (Millis::from(policy.budget.size()), millis(policy.budget.refill()));
        // The level in milliseconds of the new refill, rounded down.
        let level = ((size * refill - missing) * new_refill / refill).min(new_size * new_refill);
        self.history.push(now, Fact::Paced { spaced, whole: at + new_size * new_refill - level });
        let refused = self.history.failures().is_some_and(|(failure, _)| failure.is_refusal());
        let backoff = if refused { policy.refused } else { policy.transient };
        let latest = self.affordable_at(1).max(at) + millis(backoff.longest()) + millis(policy.refused.cap());
        let (earliest, longest) = self.history.backoff_ends();
        self.history.push(now, Fact::BackoffEnds((earliest.min(latest), longest.min(latest))));
        if let Some((.., (earliest, longest))) = self.history.unwritten() {
            let latest = at + millis(policy.write.cap()).max(millis(policy.write.longest())).max(1);
            self.history.push(now, Fact::WriteDue((earliest.min(latest), longest.min(latest))));
        }
    }

    /// Plans the rotation of the newest certificate by a hint, unless the hint has a fault.
    fn hinted(&mut self, fingerprint: Fingerprint, hint: RenewalHint, now: Now) {
        let Some(newest) = self.history.newest_certificate() else { return };
        let later = self.both_clocks(now).1.clamp(i64::MIN.into(), i64::MAX.into());
        let later = UnixTime::from_millis(i64::try_from(later).expect("clamped"));
        let point = hint.rotation_point(self.seed, newest, later).ok();
        self.history.push(now, Fact::Hinted(fingerprint, point));
    }

    /// Serves an issued certificate if it is no worse than the served one. If it is not valid yet, lets it wait for its
    /// notBefore instead. Counts a failure if the certificate is unusable, not as requested, or already due.
    fn issued(&mut self, id: u64, issued: &Arc<Certificate>, now: Now) {
        let requested = self.history.last_requested();
        let fits = requested.is_none_or(|requested| requested.satisfied_by(issued));
        let another = requested.is_some_and(|requested| requested.common_name() != issued.common_name());
        let (earlier, later) = self.both_clocks(now);
        let latest = match self.history.served().filter(|held| !is_expired(held, unix(now.unix))) {
            Some(held) => unix(held.validity.not_after()),
            None => later + 86_400_000,
        };
        let too_early = unix(issued.validity.not_before()) > latest.max(later);
        let wrong = match () {
            () if is_expired(issued, earlier) || another || too_early => Some(Failure::BadCertificate),
            () if !fits => Some(Failure::Unsatisfying),
            () if issued.provisional || self.is_past_rotation_point(issued, now) => Some(Failure::AlreadyDue),
            () => None,
        };
        if wrong != Some(Failure::BadCertificate) {
            if self.must_wait(issued, now) {
                self.history.push(now, Fact::Waiting(Some(issued.clone())));
                if !self.history.unwritten().is_some_and(|(_, held, _)| held) {
                    self.owe_write(id, false, now);
                }
            } else if self.is_no_worse(issued, now) && !self.is_early_while_another_is_valid(issued, now) {
                self.history.push(now, Fact::Served(issued.clone()));
                self.owe_write(id, true, now);
            }
        }
        match wrong {
            Some(failure) => self.failed(failure, None, now),
            None => {
                self.history.push(now, Fact::FailuresForgotten);
                self.history.push(now, Fact::Ended);
            }
        }
        self.history.push(now, Fact::KeySpent);
    }

    /// The served certificate, if it is valid by either clock.
    fn valid_certificate(&self, now: Now) -> Option<&Arc<Certificate>> {
        self.history.served().filter(|held| !is_expired(held, self.both_clocks(now).0))
    }

    /// Whether `new` is not valid yet while a valid certificate is served: then `new` must not displace the served one.
    fn is_early_while_another_is_valid(&self, new: &Certificate, now: Now) -> bool {
        unix(new.validity.not_before()) > self.both_clocks(now).1 && self.valid_certificate(now).is_some()
    }

    /// Whether the machine must let `new` wait for its notBefore. It must if `new` is flawless but not valid yet, and a
    /// valid certificate is served.
    fn must_wait(&self, new: &Certificate, now: Now) -> bool {
        self.is_early_while_another_is_valid(new, now)
            && !is_expired(new, self.both_clocks(now).0)
            && self.rank(new, now) == 4
    }

    /// Lets the waiting certificate take its turn at its notBefore, or earlier if the served certificate is not valid
    /// or was refused by a server. Drops the waiting certificate instead if it has become worse than the served one.
    pub(super) fn take_turn(&mut self, now: Now) {
        let needed = self.history.refused() || self.has_no_valid_certificate(now);
        let Some(waits) = self.history.waiting().cloned() else { return };
        if !self.is_no_worse(&waits, now) {
            self.history.push(now, Fact::Waiting(None));
            if self.history.unwritten().is_some_and(|(_, held, _)| !held) {
                self.history.push(now, Fact::Written);
            }
        } else if needed || unix(waits.validity.not_before()) <= self.both_clocks(now).1 {
            let was_requested = self.history.rotate_now();
            self.history.push(now, Fact::Served(waits));
            if was_requested {
                self.history.push(now, Fact::RotateNow);
            }
            let id = self.next_id();
            self.owe_write(id, true, now);
        }
    }

    /// Notes that the owed write is done, and its certificate durable. If that is the served certificate and another
    /// one waits, a write of the waiting one is owed next.
    fn durable(&mut self, now: Now) {
        let of_held = self.history.unwritten().is_some_and(|(_, held, _)| held);
        self.history.push(now, Fact::Written);
        if of_held && self.history.waiting().is_some() {
            let id = self.next_id();
            self.owe_write(id, false, now);
        }
    }

    /// Records that the request in flight has failed. The backoff begins when the submission budget has a token for the
    /// next request.
    pub(super) fn failed(&mut self, failure: Failure, retry_after: Option<Duration>, now: Now) {
        let began = self.history.in_flight().map_or_else(|| instant(now), |(_, since)| since);
        self.history.push(now, Fact::Ended);
        self.history.push(now, Fact::Failed(failure, 1));
        // A request with the same key would get the same answer.
        if failure.is_refusal() || matches!(failure, Failure::Outdated | Failure::UnsupportedKey) {
            self.history.push(now, Fact::KeySpent);
        }
        let backoff = if failure.is_refusal() { self.policy.refused } else { self.policy.transient };
        let in_a_row = self.history.failures().map_or(1, |(_, n)| n);
        let longest = millis(self.policy.refused.cap());
        let most =
            if self.has_no_valid_certificate(now) { longest.min(millis(self.policy.transient.cap())) } else { longest };
        let honoured = millis(retry_after.unwrap_or_default()).min(most);
        let from = self.affordable_at(1).max(instant(now));
        let at = |wait: Millis| from + wait + honoured;
        let (shortest, longest) = wait(&backoff, in_a_row, instant(now) - began);
        self.history.push(now, Fact::BackoffEnds((at(shortest), at(longest))));
        self.forget_refusal_of_other_template(now);
    }

    /// True if no certificate is served, or the served one has expired by the local clock. The server's clock does not
    /// count here, since it must lengthen no wait.
    fn has_no_valid_certificate(&self, now: Now) -> bool {
        self.history.served().is_none_or(|held| is_expired(held, unix(now.unix)))
    }

    /// Shortens the backoff to half of the time until the served certificate expires. Without a valid certificate, the
    /// backoff lasts at most the longest transient backoff plus the cap of that backoff, except after a refusal, which
    /// is not shortened.
    pub(super) fn shorten_wait(&mut self, now: Now) {
        let refused = self.history.failures().is_some_and(|(failure, _)| failure.is_refusal());
        let latest = match self.history.served().filter(|held| !is_expired(held, unix(now.unix))) {
            Some(held) => instant(now) + (unix(held.validity.not_after()) - unix(now.unix)) / 2,
            None if refused => return,
            None => {
                let transient = self.policy.transient;
                self.affordable_at(1).max(instant(now)) + millis(transient.cap()) + millis(transient.longest())
            }
        };
        let (earliest, longest) = self.history.backoff_ends();
        self.history.push(now, Fact::BackoffEnds((earliest.min(latest), longest.min(latest))));
    }

    /// Forgets a refusal if the refused request had another template than the current one.
    fn forget_refusal_of_other_template(&mut self, now: Now) {
        let wanted = self.history.template();
        let refused = self.history.failures().is_some_and(|(failure, _)| failure.is_refusal());
        if refused && wanted.is_some() && wanted != self.history.last_requested() {
            self.history.push(now, Fact::FailuresForgotten);
        }
    }

    fn owe_write(&mut self, id: u64, held: bool, now: Now) {
        self.history.push(now, Fact::OwesWrite(id, held));
        self.history.push(now, Fact::WriteDue((instant(now), instant(now))));
    }

    fn write_failed(&mut self, now: Now) {
        self.history.push(now, Fact::WriteFailed);
        let (shortest, longest) = wait(&self.policy.write, self.history.failed_writes(), 0);
        let at = |wait: Millis| instant(now) + wait.max(1);
        self.history.push(now, Fact::WriteDue((at(shortest), at(longest))));
    }

    /// Adds the facts that follow when another program has changed the store. The machine takes over the found
    /// certificate if it is no worse than the served one, or lets it wait if it is not valid yet. If the store lacks
    /// the served certificate afterwards, and there is a signer, the machine writes it again. Returns false if the
    /// machine must ignore the event.
    fn replaced(&mut self, found: Option<&Arc<Certificate>>, now: Now) -> bool {
        let writes_held = self.history.unwritten().is_some_and(|(_, held, _)| held);
        let fingerprint = |certificate: &Arc<Certificate>| certificate.fingerprint;
        if found.is_some() && found.map(fingerprint) == self.history.served().map(fingerprint) {
            if writes_held {
                self.durable(now);
            }
            return writes_held;
        }
        let mut news = false;
        match found {
            Some(found) if self.history.waiting() == Some(found) => {}
            Some(found) if self.must_wait(found, now) => {
                news = true;
                self.history.push(now, Fact::Waiting(Some(found.clone())));
            }
            Some(found) if !self.is_early_while_another_is_valid(found, now) && self.is_no_worse(found, now) => {
                self.history.push(now, Fact::Served(found.clone()));
                self.history.push(now, Fact::Written);
                if self.due(now).is_none() {
                    self.history.push(now, Fact::FailuresForgotten);
                }
                return true;
            }
            _ => {}
        }
        let ours = self.valid_certificate(now).is_some_and(|held| !held.provisional);
        if self.history.signer() != SignerStatus::Absent && !writes_held && ours {
            let id = self.next_id();
            self.owe_write(id, true, now);
            news = true;
        }
        news
    }

    /// The rank of a certificate that has not expired: 0 for a bootstrap credential, 1 for a foreign certificate, 2 for
    /// one that does not satisfy the template, 3 for one past its rotation point, 4 for a flawless one. The machine
    /// compares certificates by rank.
    fn rank(&self, certificate: &Certificate, now: Now) -> u8 {
        let satisfying = self.history.template().is_none_or(|wanted| wanted.satisfied_by(certificate));
        match () {
            () if certificate.provisional => 0,
            () if self.is_foreign(certificate) => 1,
            () if !satisfying => 2,
            () if self.is_past_rotation_point(certificate, now) => 3,
            () => 4,
        }
    }

    fn is_foreign(&self, certificate: &Certificate) -> bool {
        let another = self.history.template().is_some_and(|wanted| wanted.common_name() != certificate.common_name());
        another && !certificate.provisional
    }

    /// Whether `new` may take the place of the served certificate. An expired or foreign certificate never may. If no
    /// valid certificate is served, any other may.
    ///
    /// In place of a valid certificate, `new` must meet one of three conditions: it is flawless; it has at least the
    /// same rank and expires no earlier; or it is an own certificate that replaces a bootstrap or foreign one. A served
    /// certificate that a server refused ranks as due at best.
    fn is_no_worse(&self, new: &Certificate, now: Now) -> bool {
        let rank = self.rank(new, now);
        let lost = |held: &Arc<Certificate>| {
            let worth = self.rank(held, now).min(if self.history.refused() { 3 } else { 4 });
            let as_good = rank >= worth && new.validity.not_after() >= held.validity.not_after();
            !(rank == 4 || (rank > 1 && worth < 2) || as_good)
        };
        !is_expired(new, self.both_clocks(now).0)
            && !self.is_foreign(new)
            && !self.valid_certificate(now).is_some_and(lost)
    }

    pub(super) fn is_past_rotation_point(&self, certificate: &Certificate, now: Now) -> bool {
        self.both_clocks(now).1 >= unix(self.rotation_point(certificate))
    }

    /// The rotation point of a certificate: by the hint about it, if it is the newest one and there is a hint; else by the
    /// policy's window.
    pub(super) fn rotation_point(&self, certificate: &Certificate) -> UnixTime {
        let is_newest = |newest: &&Arc<Certificate>| newest.fingerprint == certificate.fingerprint;
        let hinted =
            self.history.newest_certificate().filter(is_newest).and_then(|_| self.history.hinted_rotation_point());
        hinted.unwrap_or_else(|| rotation_point(&self.policy, self.seed, certificate))
    }
}
