//! Accessors: the machine's state, certificates and settings.

use core::time::Duration;

use super::RotationMachine;
use crate::certificate::Certificate;
use crate::event::{Failure, RequestId, SignerStatus};
use crate::fleet::Schedule;
use crate::outcome::Slot;
use crate::pacing::Priority;
use crate::policy::Policy;
use crate::renewal::Renewal;
use crate::state::{Reason, State};
use crate::sync::Arc;
use crate::template::Template;
use crate::time::{Now, UnixTime};

impl RotationMachine {
    /// The state after the last event that was handled.
    pub fn state(&self) -> State {
        if let (Some((id, since)), Some(reason)) = (self.facts.in_flight, self.facts.due) {
            return State::Requesting { id, reason, until: since.after(self.request_timeout()) };
        }
        match (self.facts.due, self.newest_certificate()) {
            _ if !self.facts.signer.is_configured() => State::NotEnabled,
            _ if self.facts.template.is_none() => State::NoTemplate,
            (None, Some(_)) => State::Scheduled { rotate_at: self.facts.rotate_at },
            (reason, _) => {
                // Without a certificate, one is always due.
                let reason = reason.unwrap_or(Reason::NoCertificate);
                if !self.facts.signer.is_ready() {
                    return State::NoIdentity { reason };
                }
                if self.facts.queued {
                    return State::Queued { reason };
                }
                let until = self.facts.pacing.next_at(&self.facts.policy, Priority::of(reason));
                match self.facts.pacing.last_failure {
                    Some(last) => State::BackingOff { reason, until, failures: self.facts.pacing.failures, last },
                    None => State::Waiting { reason, until },
                }
            }
        }
    }

    /// The facts by which a [`Planner`](crate::Planner) decides when the next turn of this machine comes.
    pub fn schedule(&self, now: Now) -> Schedule {
        // A certificate that a server refused, or that is there until the first one is issued, is as good as none.
        let usable = self.certificate_at(now.unix).filter(|served| !self.facts.refused && !served.provisional);
        let left = usable.map_or(Duration::ZERO, |served| served.validity.not_after().since(now.unix));
        Schedule {
            deadline: self.deadline(),
            in_flight: self.facts.in_flight.map(|(_, since)| since),
            queued: self.facts.queued.then(|| now.instant.after(left)),
        }
    }

    /// The served certificate, unless it has expired at `unix`. Ignores the API server's clock; see
    /// [`valid_by_either_clock`](Self::valid_by_either_clock).
    pub fn certificate_at(&self, unix: UnixTime) -> Option<&Arc<Certificate>> {
        self.facts.certificate.as_ref().filter(|certificate| !certificate.validity.expired(unix))
    }

    /// The served certificate, unless it has expired by both the local wall clock and the API server's.
    pub fn valid_by_either_clock(&self, now: Now) -> Option<&Arc<Certificate>> {
        self.facts.certificate.as_ref().filter(|served| !self.judge(now).is_expired(served))
    }

    /// The API server's time at `now`, if three readings in a row ([`Event::ServerDated`](crate::Event::ServerDated))
    /// agreed and none has disagreed since.
    pub fn server_time(&self, now: Now) -> Option<UnixTime> {
        self.facts.server_clock.time(now.instant)
    }

    /// The two wall-clock times by which the machine judges certificates, the earlier first: one by the local clock,
    /// one by the API server's clock. Both are the local time if the server's time is not known, or differs from the
    /// local time by ten seconds at most.
    pub fn both_clocks(&self, now: Now) -> (UnixTime, UnixTime) {
        self.facts.server_clock.earlier_and_later(now)
    }

    /// The served certificate, expired or not. The machine keeps an expired certificate, since the wall clock may step
    /// back.
    pub const fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.facts.certificate.as_ref()
    }

    /// The waiting certificate: the successor of the served one, not valid yet. The machine serves it from its
    /// notBefore on, or earlier if the served certificate expires or is refused.
    pub const fn waiting(&self) -> Option<&Arc<Certificate>> {
        self.facts.waiting.as_ref()
    }

    /// The policy in use.
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.facts.policy
    }

    /// The status of the signer: whether requests can be submitted.
    pub const fn signer(&self) -> SignerStatus {
        self.facts.signer
    }

    /// The template of the wanted certificate. `None`: there is nothing to request.
    pub const fn template(&self) -> Option<&Arc<Template>> {
        self.facts.template.as_ref()
    }

    /// Whether a write is owed: a certificate, served or waiting, is not known to be durable, and a crash could lose
    /// it.
    pub const fn is_unwritten(&self) -> bool {
        self.facts.unwritten.is_some()
    }

    /// The write that is not confirmed yet: its id, and true for the served certificate or false for the waiting one.
    /// `None`: the driver has confirmed every write.
    pub fn writes(&self) -> Option<(RequestId, bool)> {
        self.facts.unwritten.map(|write| (write.id, write.slot == Slot::Served))
    }

    /// Why the last attempt failed. `None` after a success, and after a change that makes the failure irrelevant, such
    /// as another signer.
    pub const fn last_failure(&self) -> Option<Failure> {
        self.facts.pacing.last_failure
    }

    /// The rotation point that a hint of the signer has set for the newest certificate: the waiting one, else the served
    /// one. `None`: the policy's window decides. For [`Setup::renewal`](crate::Setup::renewal) after a restart: the driver
    /// makes the rotation point durable before it writes the certificate, since X.509 has no place for a hint.
    pub fn renewal(&self) -> Option<Renewal> {
        let newest = self.newest_certificate()?;
        self.facts.hinted.then_some(Renewal { fingerprint: newest.fingerprint, rotate_at: self.facts.rotate_at })
    }

    /// The rotation point of the served certificate. `None` without a certificate.
    pub fn rotation_point(&self) -> Option<UnixTime> {
        self.facts.certificate.as_ref().map(|certificate| self.rotation_point_of(certificate))
    }

    /// The rotation point of this certificate.
    pub(super) fn rotation_point_of(&self, certificate: &Certificate) -> UnixTime {
        self.facts.rotation_point_of(certificate)
    }
}
