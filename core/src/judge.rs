//! How good a certificate is, for whom and when.

use core::time::Duration;

use crate::certificate::Certificate;
use crate::event::Failure;
use crate::jitter::mix;
use crate::outcome::Slot;
use crate::policy::Policy;
use crate::state::Reason;
use crate::template::Template;
use crate::time::UnixTime;

/// When a certificate is due by time: a point in the policy's window of its lifetime, drawn from `seed` and fingerprint, so
/// that every start and every tool computes the same one.
pub fn rotation_point(policy: &Policy, seed: u64, certificate: &Certificate) -> UnixTime {
    let draw = mix(seed, certificate.fingerprint.prefix(), 0);
    let validity = &certificate.validity;
    validity.not_before().after(policy.window.of(validity.lifetime(), draw)).min(validity.not_after())
}

/// Grades certificates by what is wanted at one moment.
pub(crate) struct Judge<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) seed: u64,
    pub(crate) template: Option<&'a Template>,
    /// The earlier of the local clock and the API server's: what is expired has to be so by both.
    pub(crate) earliest: UnixTime,
    /// The later one: what has begun, or is past its rotation point, is so by either.
    pub(crate) latest: UnixTime,
}

/// Longest time before its notBefore at which a certificate may be served if no valid certificate is held.
const DAY: Duration = Duration::from_secs(86_400);

/// The quality of a certificate, worst first. How urgently it has to be replaced is another question, which
/// [`Priority`](crate::pacing::Priority) answers: an expired certificate is the worst and urgent, one that lacks a name is bad
/// and can wait, one that its server refused may be flawless and is urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Expired,
    Provisional,
    /// A certificate with another common name: held since before the template changed, or never to be held.
    Foreign,
    Unsatisfying,
    Due,
    Good,
}

impl Judge<'_> {
    /// Why a certificate is due by its own facts. The first reason that applies is the most urgent one.
    pub(crate) fn due(&self, certificate: &Certificate) -> Option<Reason> {
        if self.is_expired(certificate) {
            Some(Reason::Expired)
        } else if certificate.provisional {
            Some(Reason::Provisional)
        } else if self.is_past_rotation_point(certificate) {
            Some(Reason::RotationPoint)
        } else if !self.is_satisfied_by(certificate) {
            Some(Reason::TemplateNotSatisfied)
        } else {
            None
        }
    }

    /// What is wrong with an issued certificate, by what was `requested`: if the template has changed since, the signer is
    /// not to blame. `valid` is the certificate that is served, if it is valid.
    pub(crate) fn fault(
        &self,
        issued: &Certificate,
        requested: Option<&Template>,
        valid: Option<&Certificate>,
    ) -> Option<Failure> {
        let is_foreign = requested.is_some_and(|requested| !requested.is_named_by(issued));
        // A certificate that begins before the served one ends leaves no gap. If nothing valid is served, a day is waited.
        let worth_waiting = valid.map_or_else(|| self.latest.after(DAY), |valid| valid.validity.not_after());
        let is_too_early = !self.has_begun(issued) && issued.validity.not_before() > worth_waiting;
        if is_foreign || self.is_expired(issued) || is_too_early {
            Some(Failure::BadCertificate)
        } else if !requested.is_none_or(|requested| requested.satisfied_by(issued)) {
            Some(Failure::Unsatisfying)
        } else if issued.provisional || self.is_past_rotation_point(issued) {
            Some(Failure::AlreadyDue)
        } else {
            None
        }
    }

    /// The slot for `new` beside `held`, which its server may have `refused`. A certificate that is not valid yet never
    /// displaces a valid one, and waits only if its notBefore comes early enough. `None`: `new` is not to be taken.
    pub(crate) fn slot(&self, new: &Certificate, held: Option<&Certificate>, refused: bool) -> Option<Slot> {
        let valid = held.filter(|held| !self.is_expired(held));
        let has_begun = self.has_begun(new);
        match valid {
            Some(_) if !has_begun && self.grade(new) == Grade::Good => Some(Slot::Waiting),
            Some(_) if !has_begun => None,
            _ if self.is_no_worse(new, held, refused) => Some(Slot::Served),
            _ => None,
        }
    }

    /// Whether `new` may take the place of `held`, and the server it is meant for `refused` that one or not.
    pub(crate) fn is_no_worse(&self, new: &Certificate, held: Option<&Certificate>, refused: bool) -> bool {
        let grade = self.grade(new);
        let held_grade = held.map_or(Grade::Expired, |held| self.grade(held));
        let held_grade = held_grade.min(if refused { Grade::Due } else { Grade::Good });
        match grade {
            // To serve another party's certificate is to speak in that party's name: worse than none.
            Grade::Expired | Grade::Foreign => false,
            Grade::Good => true,
            // A certificate of our own, however imperfect, beats none, a borrowed one and another party's.
            Grade::Unsatisfying | Grade::Due if held_grade <= Grade::Foreign => true,
            // A certificate with a fault replaces only one that is worse or ends earlier: the signer may never answer again.
            Grade::Provisional | Grade::Unsatisfying | Grade::Due => {
                let lasts = |held: &Certificate| new.validity.not_after() >= held.validity.not_after();
                grade >= held_grade && held.is_none_or(lasts)
            }
        }
    }

    fn grade(&self, certificate: &Certificate) -> Grade {
        if self.is_expired(certificate) {
            Grade::Expired
        } else if certificate.provisional {
            Grade::Provisional
        } else if self.is_foreign(certificate) {
            Grade::Foreign
        } else if !self.is_satisfied_by(certificate) {
            Grade::Unsatisfying
        } else if self.is_past_rotation_point(certificate) {
            Grade::Due
        } else {
            Grade::Good
        }
    }

    /// Whether the certificate's common name differs from the template's. Provisional certificates are exempt.
    pub(crate) fn is_foreign(&self, certificate: &Certificate) -> bool {
        !certificate.provisional && self.template.is_some_and(|template| !template.is_named_by(certificate))
    }

    fn is_satisfied_by(&self, certificate: &Certificate) -> bool {
        self.template.is_none_or(|template| template.satisfied_by(certificate))
    }

    pub(crate) fn is_expired(&self, certificate: &Certificate) -> bool {
        certificate.validity.expired(self.earliest)
    }

    pub(crate) fn has_begun(&self, certificate: &Certificate) -> bool {
        certificate.validity.not_before() <= self.latest
    }

    fn is_past_rotation_point(&self, certificate: &Certificate) -> bool {
        self.latest >= rotation_point(self.policy, self.seed, certificate)
    }
}
