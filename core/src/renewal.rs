//! The signer's hint when to rotate a certificate, and the rotation point that follows from it.

use crate::certificate::{Certificate, Fingerprint};
use crate::jitter::mix;
use crate::time::UnixTime;

/// The hint of a signer when to rotate a certificate that it has issued: a period from which the machine chooses the
/// rotation point, such as `suggestedWindow` of ACME (RFC 9773 §4.2). The machine follows the hint instead of the
/// policy's window, unless the hint has a [fault](HintFault).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RenewalHint {
    /// The beginning of the period.
    pub from: UnixTime,
    /// The end of the period. A period that does not end after its beginning stands for a single time, as
    /// [`after`](Self::after) makes it.
    pub until: UnixTime,
}

/// Why a [`RenewalHint`] is disregarded. The policy's window then decides when the certificate is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HintFault {
    /// The time lies before the certificate's notBefore.
    BeforeValidity,
    /// The time lies after the certificate's notAfter, when the certificate has expired.
    AfterValidity,
    /// The time has passed already: the certificate would be due at once.
    Passed,
}

impl HintFault {
    /// A phrase for people, which completes "the signer's hint when to rotate the certificate …".
    pub const fn describe(self) -> &'static str {
        match self {
            Self::BeforeValidity => "lies before the certificate's notBefore",
            Self::AfterValidity => "lies after the certificate's notAfter",
            Self::Passed => "has passed already",
        }
    }

    /// The stable name in `snake_case`, for programs. Never changed once released.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeValidity => "before_validity",
            Self::AfterValidity => "after_validity",
            Self::Passed => "passed",
        }
    }
}

/// The rotation point that a [`RenewalHint`] has set for one certificate, for the record that a restart continues from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Renewal {
    /// The certificate that the hint was about.
    pub fingerprint: Fingerprint,
    /// The rotation point of this certificate.
    pub rotate_at: UnixTime,
}

impl Renewal {
    /// The rotation point, if it is that of `certificate`. `None` also if it does not lie in the validity period, as in a
    /// damaged record.
    pub fn rotation_point_of(&self, certificate: &Certificate) -> Option<UnixTime> {
        let validity = &certificate.validity;
        let is_inside = self.rotate_at >= validity.not_before() && self.rotate_at <= validity.not_after();
        (self.fingerprint == certificate.fingerprint && is_inside).then_some(self.rotate_at)
    }
}

/// Ten minutes. Kubernetes allows no `beginRefreshAt` closer to notBefore or notAfter.
const MARGIN: u64 = 10 * 60 * 1000;
/// Five minutes, over which kubelet spreads the rotations of certificates with one `beginRefreshAt`.
const SPREAD: u64 = 5 * 60 * 1000;

impl RenewalHint {
    /// A hint to rotate soon after this time, such as `status.beginRefreshAt` of a Kubernetes PodCertificateRequest. The
    /// rotation point lies in the five minutes that follow, as with kubelet, or in the twelfth part of the lifetime if that
    /// is shorter.
    pub const fn after(at: UnixTime) -> Self {
        Self { from: at, until: at }
    }

    /// The rotation point of `certificate` by this hint. Computed from `seed` and the certificate's fingerprint, as
    /// [`rotation_point`](crate::rotation_point()) is. `latest` is the current time: by the local clock or by the server's,
    /// whichever is later.
    ///
    /// The point keeps a distance from notBefore and from notAfter: ten minutes, or the sixth part of the lifetime if that
    /// is shorter. A request takes its time.
    ///
    /// # Errors
    /// [`HintFault`]: the hint lies outside of the validity period, or the chosen point has passed.
    pub fn rotation_point(self, seed: u64, certificate: &Certificate, latest: UnixTime) -> Result<UnixTime, HintFault> {
        let (begin, end) = (certificate.validity.not_before(), certificate.validity.not_after());
        let sixth = end.millis_since(begin) / 6;
        let Self { from, mut until } = self;
        if until <= from {
            until = from.after_millis(SPREAD.min(sixth / 2));
        }
        if from < begin {
            return Err(HintFault::BeforeValidity);
        }
        if from > end {
            return Err(HintFault::AfterValidity);
        }
        let margin = MARGIN.min(sixth);
        let (earliest, newest) = (begin.after_millis(margin), end.before_millis(margin));
        // Not `clamp`: its panic takes room on a microcontroller.
        let clamped = |at: UnixTime| at.max(earliest).min(newest);
        let (from, until) = (clamped(from), clamped(until));
        // The upper half of the product of two 64-bit numbers: a fraction of the span without division.
        let draw = mix(seed, certificate.fingerprint.prefix(), 0);
        let span = u128::from(until.millis_since(from)) + 1;
        let point = from.after_millis(((span * u128::from(draw)) >> 64) as u64);
        if point > latest { Ok(point) } else { Err(HintFault::Passed) }
    }
}
