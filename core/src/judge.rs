//! Grades certificates: why a successor is due, whether an issued certificate has a fault, and which certificate to
//! serve.

use core::time::Duration;

use crate::certificate::Certificate;
use crate::checkpoint::Checkpoint;
use crate::event::Failure;
use crate::jitter::mix;
use crate::outcome::Slot;
use crate::policy::Policy;
use crate::state::Reason;
use crate::template::Template;
use crate::time::UnixTime;

/// The time from which a certificate is due: a point in the policy's window of the certificate's lifetime, notAfter at
/// the latest. Computed from `seed` and the certificate's fingerprint, so that every start and every tool gets the same
/// point.
#[inline]
pub fn rotation_point(policy: &Policy, seed: u64, certificate: &Certificate) -> UnixTime {
    let draw = mix(seed, certificate.fingerprint.prefix(), 0);
    let validity = &certificate.validity;
    // A window that reaches beyond the lifetime must not reach beyond expiry.
    let lifetime = validity.not_after().millis_since(validity.not_before());
    validity.not_before().after_millis(policy.window.of_millis(lifetime, draw)).min(validity.not_after())
}

/// True if the certificate's common name differs from the template's. False for every provisional certificate, and if
/// there is no template.
pub(crate) fn is_foreign(certificate: &Certificate, template: Option<&Template>) -> bool {
    !certificate.provisional && template.is_some_and(|template| !template.is_named_by(certificate))
}

/// Grades certificates at one moment, by template and policy, and compares them with the served one.
pub(crate) struct Judge<'a> {
    pub(crate) facts: &'a Checkpoint,
    /// The time by the local clock or by the API server's clock, whichever is earlier. Decides expiry: a certificate
    /// has expired only if it has expired by both clocks.
    pub(crate) earliest: UnixTime,
    /// The later one of these two times. Decides notBefore and rotation point: each has passed if it has passed by one
    /// of the clocks.
    pub(crate) latest: UnixTime,
}

/// If no valid certificate is served, a certificate may be served this long before its notBefore, since the local clock
/// may be wrong by so much.
const DAY: Duration = Duration::from_secs(86_400);

/// The quality of a certificate, the worst first. How urgent its successor is ([`Priority`](crate::pacing::Priority))
/// is another matter: a certificate that lacks a name has a low grade, but its successor can wait. The successor of a
/// certificate that a server refused is urgent, even if that certificate is flawless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Expired,
    Provisional,
    /// The common name differs from the template's. The machine takes no such certificate, but keeps one that it
    /// already served when the template changed.
    Foreign,
    /// Lacks names that the template requests.
    Unsatisfying,
    /// Past its rotation point.
    Due,
    Good,
}

impl Judge<'_> {
    /// Why a successor of this certificate is due: the most urgent reason that applies; `None` if no reason does.
    /// `rotation_point` is that of the certificate.
    pub(crate) fn due(&self, certificate: &Certificate, rotation_point: UnixTime) -> Option<Reason> {
        // In the order of `Reason`: the most urgent first.
        if self.is_expired(certificate) {
            Some(Reason::Expired)
        } else if certificate.provisional {
            Some(Reason::Provisional)
        } else if self.latest >= rotation_point {
            Some(Reason::RotationPoint)
        } else if self.facts.refused {
            Some(Reason::Refused)
        } else if !self.is_satisfied_by(certificate) {
            Some(Reason::TemplateNotSatisfied)
        } else {
            self.facts.rotate_now.then_some(Reason::RotateNow)
        }
    }

    /// The fault of an issued certificate; `None` if it has no fault. `requested` is the template of the request, which
    /// decides the fault: the signer is not to blame for a later change of the template. `valid` is the served
    /// certificate, or `None` if no valid certificate is served. `rotation_point` is that of the issued one.
    pub(crate) fn fault(
        &self,
        issued: &Certificate,
        rotation_point: UnixTime,
        requested: Option<&Template>,
        valid: Option<&Certificate>,
    ) -> Option<Failure> {
        let has_another_name = requested.is_some_and(|requested| !requested.is_named_by(issued));
        // A certificate that begins before the served one ends leaves no gap. Without a valid one, a day is the limit.
        let latest_begin = valid.map_or_else(|| self.latest.after(DAY), |valid| valid.validity.not_after());
        let is_too_early = !self.has_begun(issued) && issued.validity.not_before() > latest_begin;
        if has_another_name || self.is_expired(issued) || is_too_early {
            Some(Failure::BadCertificate)
        } else if !requested.is_none_or(|requested| requested.satisfied_by(issued)) {
            Some(Failure::Unsatisfying)
        } else if issued.provisional || self.latest >= rotation_point {
            // A bootstrap credential is due at once, so it is no success for a signer to return one.
            Some(Failure::AlreadyDue)
        } else {
            None
        }
    }

    /// The slot for a new certificate; `None` if the machine must not take it. A certificate that is not valid yet
    /// never displaces a valid one, and waits only if its grade is `Good`. `rotation_point` is that of `new`.
    pub(crate) fn slot(&self, new: &Certificate, rotation_point: UnixTime) -> Option<Slot> {
        let displaces_valid = self.facts.certificate.as_ref().is_some_and(|served| !self.is_expired(served));
        if displaces_valid && !self.has_begun(new) {
            (self.grade(new, rotation_point) == Grade::Good).then_some(Slot::Waiting)
        } else {
            self.is_no_worse(new, rotation_point).then_some(Slot::Served)
        }
    }

    /// Whether `new` may take the place of the served certificate. A served certificate that a server refused counts as
    /// `Due` at best. `rotation_point` is that of `new`.
    pub(crate) fn is_no_worse(&self, new: &Certificate, rotation_point: UnixTime) -> bool {
        let served = self.facts.certificate.as_deref();
        let grade = self.grade(new, rotation_point);
        let served_grade = || {
            // A certificate that its server refused is due, however good it is.
            let at_most = if self.facts.refused { Grade::Due } else { Grade::Good };
            served
                .map_or(Grade::Expired, |served| self.grade(served, self.facts.rotation_point_of(served)).min(at_most))
        };
        match grade {
            // A server with another party's certificate speaks in that party's name, which is worse than none.
            Grade::Expired | Grade::Foreign => false,
            Grade::Good => true,
            // A certificate for this template, however imperfect, is better than no certificate, a bootstrap
            // credential, or another party's certificate.
            Grade::Unsatisfying | Grade::Due if served_grade() <= Grade::Foreign => true,
            // A certificate with a fault replaces only one that is no better and ends no later: the signer may never
            // answer again.
            Grade::Provisional | Grade::Unsatisfying | Grade::Due => {
                let lasts = |served: &Certificate| new.validity.not_after() >= served.validity.not_after();
                grade >= served_grade() && served.is_none_or(lasts)
            }
        }
    }

    fn grade(&self, certificate: &Certificate, rotation_point: UnixTime) -> Grade {
        if self.is_expired(certificate) {
            Grade::Expired
        } else if certificate.provisional {
            Grade::Provisional
        } else if is_foreign(certificate, self.facts.template.as_deref()) {
            Grade::Foreign
        } else if !self.is_satisfied_by(certificate) {
            Grade::Unsatisfying
        } else if self.latest >= rotation_point {
            Grade::Due
        } else {
            Grade::Good
        }
    }

    fn is_satisfied_by(&self, certificate: &Certificate) -> bool {
        self.facts.template.as_ref().is_none_or(|template| template.satisfied_by(certificate))
    }

    pub(crate) fn is_expired(&self, certificate: &Certificate) -> bool {
        certificate.validity.expired(self.earliest)
    }

    pub(crate) fn has_begun(&self, certificate: &Certificate) -> bool {
        certificate.validity.not_before() <= self.latest
    }
}
