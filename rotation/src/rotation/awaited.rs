//! Waiting for an identity that its source does not have yet, before a request is submitted.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Event, Instant, Now, State};

use super::{Rotation, Transition};
use crate::exchange::contain;
use crate::{Authentication, IdentitySource, NotYet};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// An identity that a request waits for: its source has none yet and expects one.
#[derive(Debug)]
pub(super) struct Awaited {
    reason: Arc<str>,
    pub(super) poll_at: Instant,
    wait: Duration,
}

impl Awaited {
    /// Begins the wait for an identity. The first poll of the source is due after [`FIRST`].
    pub(super) fn new(why: &NotYet, now: Now) -> Self {
        Self { reason: why.to_string().into(), poll_at: now.instant.after(FIRST), wait: FIRST }
    }
}

impl Rotation {
    /// Polls the source of the awaited identity, if the poll is due or `event` is no Tick. Returns true if the wait is
    /// over: the source has an identity, or an error that is not [coming](NotYet::is_coming).
    pub(super) fn has_awaited(&mut self, event: &Event, now: Now) -> bool {
        let Some(awaited) = &self.awaited else { return false };
        // A Tick for another reason does not poll the source before its time.
        if matches!(event, Event::Tick | Event::TurnGranted) && now.instant < awaited.poll_at {
            return false;
        }
        let wait = awaited.wait.saturating_mul(2).min(LONGEST);
        let again =
            |why: NotYet| Box::new(Awaited { poll_at: now.instant.after(wait), wait, ..Awaited::new(&why, now) });
        self.awaited = self.coming(now).map(again);
        self.awaited.is_none()
    }

    /// True if `step` submits a request that must not begin yet, since its identity is coming, or must not begin at
    /// all, since the task is ending.
    pub(super) fn must_await(&mut self, step: &Transition, now: Now) -> bool {
        let submits = step.actions.clone().any(|action| matches!(action, Action::SubmitCsr { .. }));
        if submits && !self.is_ending && self.found_identity.is_none() && self.identity_source().is_some() {
            self.awaited = self.coming(now).map(|why| Box::new(Awaited::new(&why, now)));
        }
        submits && (self.is_ending || self.awaited.is_some())
    }

    /// Reads the identity, and retains the result for the next request (`found_identity`). Returns the reason to wait
    /// if the identity is coming; `None` if the request need not wait.
    fn coming(&mut self, now: Now) -> Option<NotYet> {
        let (signer, source) = (self.signer.as_ref()?, self.identity_source()?);
        let read = || {
            let found = self.identity(signer.authentication(), now);
            match &self.identity_waker {
                // Only a rotation that waits registers: the source keeps the waker until its next change. Then reads again,
                // so that a change in between is not missed.
                Some(waker) if found.as_ref().is_err_and(NotYet::is_coming) => {
                    source.wake_on_change(waker);
                    self.identity(signer.authentication(), now)
                }
                _ => found,
            }
        };
        let found = contain(read).unwrap_or_else(|error| Err(NotYet::new(error.message)));
        let coming = found.as_ref().err().filter(|why| why.is_coming()).cloned();
        self.found_identity = Some(Box::new(found));
        coming
    }

    /// The source from which requests get their identity or their bootstrap identity; `None` if there is no such
    /// source.
    pub(super) fn identity_source(&self) -> Option<&Arc<dyn IdentitySource>> {
        match self.signer.as_ref()?.authentication() {
            Authentication::None => None,
            Authentication::Own { bootstrap } => bootstrap.as_ref(),
            Authentication::Other(source) => Some(source),
        }
    }

    /// When to poll the source of the awaited identity next; `None` while the machine waits for no identity.
    pub(super) fn polls_identity_at(&self) -> Option<Instant> {
        self.awaited.as_ref().filter(|_| self.awaits_identity()).map(|awaited| awaited.poll_at)
    }

    /// The reason that the identity source gave, while the machine waits for an identity.
    pub(super) fn awaited_reason(&self) -> Option<&Arc<str>> {
        self.awaited.as_ref().filter(|_| self.awaits_identity()).map(|awaited| &awaited.reason)
    }

    fn awaits_identity(&self) -> bool {
        matches!(self.machine.state(), State::NoIdentity { .. })
    }
}
