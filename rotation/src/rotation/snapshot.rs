//! What can be seen of a rotation.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now, Reason, State};
use perennial_pki::Credential;

use super::clock::ClockOffset;
use crate::{Health, Progress};

const BACKDATING: Duration = Duration::from_secs(600);

/// State of a rotation at one moment. A credential in it is always a pair that belongs together.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The credential held. It may have expired.
    pub credential: Option<Arc<Credential>>,
    /// The successor of the credential, not valid yet: served from its notBefore on.
    pub waiting: Option<Arc<Credential>>,
    /// What the machine is doing.
    pub state: State,
    /// Why a new certificate is wanted, if one is.
    pub due: Option<Reason>,
    /// The credential could not be written yet: it is served from memory.
    pub unwritten: bool,
    /// How far the exchange has come, if one runs.
    pub progress: Option<Progress>,
    /// Health of the server behind the signer by its last answer, to whichever request.
    pub health: Option<Health>,
    /// What went wrong last, until it goes right.
    pub last_error: Option<Arc<str>>,
    /// How many certificates were issued and accepted since the start.
    pub issued: u64,
    /// The lifetime that requests ask for; `None`: the signer decides.
    pub requested_lifetime: Option<Duration>,
    /// Why the certificate held lives too short for the policy to replace it in time, for people; `None` once a longer one
    /// is issued.
    pub short_lived: Option<Arc<str>>,
    /// The last request showed the bootstrap credential, not the certificate held.
    pub bootstrapping: bool,
    /// How far the signer's clock is ahead of ours, by the last three answers in a row that agreed.
    pub clock_offset: Option<ClockOffset>,
    /// When this was so.
    pub at: Now,
}

impl Snapshot {
    /// When the next attempt to obtain a certificate is made, if one is due and none is being made.
    pub const fn next_attempt(&self) -> Option<Instant> {
        match self.state {
            State::BackingOff { until, .. } | State::Waiting { until, .. } => Some(until),
            State::NotEnabled
            | State::NoTemplate
            | State::NoIdentity { .. }
            | State::Scheduled { .. }
            | State::Requesting { .. } => None,
        }
    }

    /// The lifetime of the certificate held, if another was requested: signers may ignore the request, as API servers before
    /// Kubernetes 1.22 do, or cap the lifetime.
    pub fn differing_lifetime(&self) -> Option<Duration> {
        let lifetime = self.credential.as_ref()?.chain().certificate().validity.lifetime();
        let requested = self.requested_lifetime?;
        // Signers let certificates begin a few minutes ago.
        let granted = requested - requested / 10..=requested.saturating_add(requested / 10).saturating_add(BACKDATING);
        (!granted.contains(&lifetime)).then_some(lifetime)
    }

    /// Number of reminders of an expired certificate due by [`at`](Self::at): one at expiry, further ones after one, two,
    /// four … minutes, then one each hour. Zero while the certificate is valid, before the first certificate, and without a
    /// signer, since another program replaces the certificate then.
    pub fn expiry_reminders(&self) -> u64 {
        const MINUTE: u64 = 60_000;
        let Some(held) = self.credential.as_ref().filter(|_| self.state != State::NotEnabled) else { return 0 };
        let validity = held.chain().certificate().validity;
        if !validity.expired(self.at.unix) {
            return 0;
        }
        let minutes = u64::try_from(self.at.unix.since(validity.not_after()).as_millis()).unwrap_or(u64::MAX) / MINUTE;
        1 + if minutes < 60 {
            u64::from(minutes.checked_ilog2().map_or(0, |power| power + 1))
        } else {
            6 + minutes / 60
        }
    }
}
