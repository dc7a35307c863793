//! The machine. It absorbs each event into its facts, and then settles: decides whether a certificate is due, and which
//! actions follow.

mod absorb;
#[cfg(feature = "hash-at")]
mod alike;
mod deadline;
mod settle;
mod view;
mod write;

use core::time::Duration;

use crate::action::{Actions, Key};
use crate::certificate::Certificate;
use crate::checkpoint::Checkpoint;
use crate::event::{Event, RequestId};
use crate::judge::{Judge, is_foreign, rotation_point};
use crate::outcome::Slot;
use crate::pacing::RequestPacing;
use crate::pending_key::PendingKey;
use crate::setup::{Pending, Setup};
use crate::state::Reason;
use crate::sync::Arc;
use crate::time::{Now, UnixTime, at_least_a_millisecond};

/// The state machine that rotates one certificate: events in, actions out, no I/O. A plain value, which can be cloned,
/// compared, recorded and replayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RotationMachine {
    facts: Checkpoint,
}

const _: () = assert!(size_of::<RotationMachine>() <= 168);

impl RotationMachine {
    /// Makes a machine whose first deadline is `now`. If a signer is configured, drops a certificate of `setup` whose
    /// common name differs from the template's, unless the certificate is provisional.
    pub fn new(setup: Setup, now: Now) -> Self {
        let Setup { policy, seed, signer, template, certificate, waiting, rotate_now, pending, renewal } = setup;
        // Another party's certificate, after a typing error in a name perhaps, is neither served nor used to
        // authenticate.
        let may_use =
            |certificate: &Arc<Certificate>| !signer.is_configured() || !is_foreign(certificate, template.as_deref());
        let [certificate, waiting] = [certificate, waiting].map(|found| found.filter(may_use));
        let mut machine = Self::restore(Checkpoint {
            policy,
            seed,
            signer,
            template,
            certificate,
            waiting,
            rotate_now,
            deadline: Some(now.instant),
            ..Checkpoint::default()
        });
        let newest = machine.newest_certificate().zip(renewal);
        let point = newest.and_then(|(newest, renewal)| renewal.rotation_point_of(newest));
        machine.plan_rotation(point);
        if let Some(pending) = pending {
            machine.resume(pending, now);
        }
        // Computed at the start: if a certificate is due already, the first event must not report that as a change.
        machine.facts.due = machine.due(now);
        machine
    }

    /// The complete state of this machine.
    pub fn checkpoint(&self) -> Checkpoint {
        self.facts.clone()
    }

    /// Rebuilds a machine from its checkpoint.
    pub fn restore(checkpoint: Checkpoint) -> Self {
        let mut machine = Self { facts: checkpoint };
        machine.plan_rotation(machine.hinted_rotation_point());
        machine
    }

    /// Handles one event and returns the actions that follow, and the [decisions](Actions::outcomes). Total: accepts
    /// any event in any order at any time; never fails, never panics, never allocates. A reply to a request that is no
    /// longer in flight changes nothing.
    pub fn handle(&mut self, event: Event, now: Now) -> Actions {
        let due = self.facts.due;
        let has_turn = matches!(event, Event::TurnGranted);
        let mut actions = Actions::after(self.absorb(event, now));
        // A late reply must change nothing, not even by making the machine read the clocks.
        if !actions.outcomes.is_ignored() {
            self.settle(due, has_turn, now, &mut actions);
        }
        actions
    }

    /// Why a new certificate is due at `now`: the most urgent reason, or `None`. Requests are submitted only while a
    /// certificate is due.
    pub fn due(&self, now: Now) -> Option<Reason> {
        self.due_by(self.both_clocks(now))
    }

    /// [`due`](Self::due), by the earlier and the later wall clock.
    fn due_by(&self, clocks: (UnixTime, UnixTime)) -> Option<Reason> {
        match self.newest_certificate() {
            Some(certificate) => self.judge_by(clocks).due(certificate, self.facts.rotate_at),
            None => Some(Reason::NoCertificate),
        }
    }

    /// The record of the last request, for [`Setup::pending`] after a restart; `None` before the first request. The
    /// driver makes the record durable, with the pending key, before it carries out a
    /// [`SubmitCsr`](crate::Action::SubmitCsr), after a refusal, and after a change of the policy.
    pub fn pending(&self, now: Now) -> Option<Pending> {
        self.facts.pacing.remember(&self.facts.policy, &self.facts.pending_key, now)
    }

    /// Continues from the record of an earlier run: from its key, its refusal and its spent budget.
    fn resume(&mut self, pending: Pending, now: Now) {
        self.facts.pacing = RequestPacing::resume(&self.facts.policy, &pending, now);
        let is_kept = pending.key == Key::Pending && !self.facts.policy.new_key_per_attempt;
        // One allocation for both templates if they are equal, so that comparisons are those of addresses.
        let wanted = self.facts.template.clone().filter(|wanted| *wanted == pending.template);
        self.facts.pending_key = PendingKey::used_for(wanted.unwrap_or(pending.template), is_kept);
        self.reconsider_refusal();
    }

    /// Forgets a refusal if the template has changed since the refused request, since the signer may issue a
    /// certificate for the new template.
    fn reconsider_refusal(&mut self) {
        if self.facts.template.is_some() && self.is_superseded() {
            self.facts.pacing.forget_refusal();
        }
    }

    /// Whether a template and a signer, ready or not, are configured.
    const fn is_enabled(&self) -> bool {
        self.facts.template.is_some() && self.facts.signer.is_configured()
    }

    /// Whether the template differs from that of the last request.
    fn is_superseded(&self) -> bool {
        self.facts.template.as_ref() != self.facts.pending_key.template()
    }

    fn newest_certificate(&self) -> Option<&Arc<Certificate>> {
        self.facts.newest_certificate()
    }

    /// Puts a certificate into its slot: served from now on, or waiting for its notBefore. Returns the certificate that
    /// was served until now, if the new one displaces it. `rotation_point` is that of the certificate.
    fn take(
        &mut self,
        certificate: Arc<Certificate>,
        rotation_point: UnixTime,
        slot: Slot,
    ) -> Option<Arc<Certificate>> {
        // The certificate ends the rotation that was under way: `still_rotating` must not keep its request.
        self.facts.due = None;
        self.facts.rotate_now = false;
        // In either slot, the certificate is the newest one from now on.
        (self.facts.rotate_at, self.facts.hinted) = (rotation_point, false);
        match slot {
            Slot::Served => {
                self.facts.refused = false;
                self.facts.waiting = None;
                self.facts.certificate.replace(certificate)
            }
            Slot::Waiting => {
                self.facts.waiting = Some(certificate);
                None
            }
        }
    }

    fn hinted_rotation_point(&self) -> Option<UnixTime> {
        self.facts.hinted.then_some(self.facts.rotate_at)
    }

    /// Sets the rotation point of the newest certificate: to the time that a hint has set, else to the one that follows
    /// from the policy's window.
    fn plan_rotation(&mut self, hinted: Option<UnixTime>) {
        let Checkpoint { policy, seed, .. } = &self.facts;
        let by_window = || self.newest_certificate().map(|newest| rotation_point(policy, *seed, newest));
        let rotate_at = hinted.or_else(by_window).unwrap_or_default();
        (self.facts.rotate_at, self.facts.hinted) = (rotate_at, hinted.is_some());
    }

    fn judge(&self, now: Now) -> Judge<'_> {
        self.judge_by(self.both_clocks(now))
    }

    const fn judge_by(&self, (earliest, latest): (UnixTime, UnixTime)) -> Judge<'_> {
        Judge { facts: &self.facts, earliest, latest }
    }

    fn request_timeout(&self) -> Duration {
        at_least_a_millisecond(self.facts.policy.request_timeout)
    }

    fn take_id(&mut self) -> RequestId {
        let id = self.facts.next_id;
        self.facts.next_id = id.next();
        id
    }
}

/// The machine of the default [`Setup`], whose first deadline is the origin of the clocks.
impl Default for RotationMachine {
    fn default() -> Self {
        Self::new(Setup::default(), Now::default())
    }
}
