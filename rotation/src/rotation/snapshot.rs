//! [`Snapshot`]: the state of a rotation at one time, as handles and observers see it.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now, Reason, State, UnixTime};
use perennial_pki::Credential;

use super::clock::ClockOffset;
use crate::{Health, Progress};

const BACKDATING: Duration = Duration::from_secs(600);

/// State of a rotation at one moment. The key and the chain of each credential in it belong together.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The current credential. It may have expired.
    pub credential: Option<Arc<Credential>>,
    /// The waiting successor of `credential`: not valid yet, and served from its notBefore on.
    pub waiting: Option<Arc<Credential>>,
    /// The machine's activity, such as requesting or backing off.
    pub state: State,
    /// Why a new certificate is due; `None` while none is.
    pub due: Option<Reason>,
    /// The rotation point of `credential`, from which it is due; `None` without a credential.
    pub rotation_point: Option<UnixTime>,
    /// Kind of the failure of the last request. `None` after a success, and after a change that makes the failure
    /// irrelevant, such as another signer.
    pub last_failure: Option<Failure>,
    /// True if the credential is not durable yet: it is served from memory.
    pub unwritten: bool,
    /// Progress of the request in flight, if there is one.
    pub progress: Option<Progress>,
    /// Health of the server behind the signer, by its last answer to an exchange.
    pub health: Option<Health>,
    /// The gravest standing error, for people. The gravest is the error of the last request; then come a foreign
    /// certificate in the store, a failed write, an identity that is not available yet, and a pending record that was
    /// not saved. `None` if there is none of these errors.
    pub last_error: Option<Arc<str>>,
    /// Number of certificates that were issued and accepted since the start.
    pub issued: u64,
    /// The requested lifetime; `None`: the signer decides.
    pub requested_lifetime: Option<Duration>,
    /// The warning, for people, if the issued lifetime is too short for the policy to replace the certificate in time;
    /// `None` once a certificate that lives longer is issued.
    pub short_lived: Option<Arc<str>>,
    /// True if the last request authenticated with the bootstrap credential, not with the current certificate.
    pub bootstrapping: bool,
    /// How far the signer's clock is ahead of the local one, by the last three answers in a row that agreed.
    pub clock_offset: Option<ClockOffset>,
    /// The time at which the rotation was in this state. In the snapshots of a [`Handle`](crate::Handle), the time of
    /// the last change.
    pub at: Now,
}

impl Snapshot {
    /// When the rotation submits the next request, if a certificate is due and no request is in flight.
    pub const fn next_attempt(&self) -> Option<Instant> {
        match self.state {
            State::BackingOff { until, .. } | State::Waiting { until, .. } => Some(until),
            State::NotEnabled
            | State::NoTemplate
            | State::NoIdentity { .. }
            | State::Scheduled { .. }
            | State::Queued { .. }
            | State::Requesting { .. } => None,
        }
    }

    /// True if this snapshot equals `other` in all but [`at`](Self::at).
    pub(crate) fn differs_only_in_time(&self, other: &Self) -> bool {
        // All fields are named, so that a new field cannot be forgotten.
        let Self {
            credential,
            waiting,
            state,
            due,
            rotation_point,
            last_failure,
            unwritten,
            progress,
            health,
            last_error,
            issued,
            requested_lifetime,
            short_lived,
            bootstrapping,
            clock_offset,
            at: _,
        } = self;
        *credential == other.credential
            && *waiting == other.waiting
            && *state == other.state
            && *due == other.due
            && *rotation_point == other.rotation_point
            && *last_failure == other.last_failure
            && *unwritten == other.unwritten
            && *progress == other.progress
            && *health == other.health
            && *last_error == other.last_error
            && *issued == other.issued
            && *requested_lifetime == other.requested_lifetime
            && *short_lived == other.short_lived
            && *bootstrapping == other.bootstrapping
            && *clock_offset == other.clock_offset
    }

    /// The lifetime of the current certificate, if that differs from the requested lifetime by more than a tenth;
    /// `None` if it does not. Beyond the tenth, a lifetime may be ten minutes longer, since signers backdate
    /// certificates. Signers may ignore the requested lifetime, as API servers before Kubernetes 1.22 do, or cap it.
    pub fn differing_lifetime(&self) -> Option<Duration> {
        let lifetime = self.credential.as_ref()?.chain().certificate().validity.lifetime();
        let requested = self.requested_lifetime?;
        // Signers backdate certificates: kube-controller-manager by five minutes.
        let granted = requested - requested / 10..=requested.saturating_add(requested / 10).saturating_add(BACKDATING);
        (!granted.contains(&lifetime)).then_some(lifetime)
    }
}

/// Number of reminders ([`News::Expired`](crate::News::Expired)) due by `at`, for a certificate that is valid until
/// `not_after`: one at expiry, further ones after one, two, four … minutes, then one each hour.
pub(super) fn reminders_at(not_after: UnixTime, at: UnixTime) -> u64 {
    if at <= not_after {
        return 0;
    }
    let minutes = minutes_between(not_after, at);
    1 + if minutes < 60 { u64::from(minutes.checked_ilog2().map_or(0, |power| power + 1)) } else { 6 + minutes / 60 }
}

/// When the first reminder after `at` is due, for a certificate that expired at `not_after`.
pub(super) fn reminder_after(not_after: UnixTime, at: UnixTime) -> UnixTime {
    let passed = minutes_between(not_after, at);
    let next = match passed {
        0..60 => (passed + 1).next_power_of_two().min(60),
        _ => (passed / 60).saturating_add(1).saturating_mul(60),
    };
    not_after.after(Duration::from_secs(next.saturating_mul(60)))
}

fn minutes_between(from: UnixTime, to: UnixTime) -> u64 {
    to.since(from).as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_become_rarer() {
        let expiry = UnixTime::from_secs(1_800_000_000);
        let reminders = |minutes: u64| {
            let passed = Duration::from_secs(60) * u32::try_from(minutes).unwrap();
            reminders_at(expiry, expiry.after(passed + Duration::from_millis(1)))
        };
        let due = (0..=200).filter(|minute| *minute == 0 || reminders(*minute) > reminders(minute - 1));
        assert_eq!(due.collect::<Vec<_>>(), [0, 1, 2, 4, 8, 16, 32, 60, 120, 180]);
        assert_eq!((reminders_at(expiry, expiry), reminders(0), reminders(200)), (0, 1, 10));
    }

    #[test]
    fn reminder_after_is_when_the_number_of_reminders_grows() {
        let expiry = UnixTime::from_secs(1_800_000_000);
        let minute = Duration::from_secs(60);
        for minutes in 0..300 {
            let at = expiry.after(minute * minutes + Duration::from_millis(1));
            let next = reminder_after(expiry, at);
            assert_eq!(reminders_at(expiry, next), reminders_at(expiry, at) + 1, "after {minutes} min");
            assert_eq!(reminders_at(expiry, next.before(Duration::from_millis(1))), reminders_at(expiry, at));
        }
    }
}
