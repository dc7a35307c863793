//! The machine. Facts are absorbed, then one question is asked: is a certificate due, and what is to be done about it?

mod alike;
mod checkpoint;
mod view;
mod write;

use alloc::sync::Arc;
use core::time::Duration;

use crate::action::{Actions, Key};
use crate::certificate::{Certificate, Fingerprint};
use crate::event::{Event, Failure, RequestId};
use crate::jitter::mix;
use crate::judge::{Judge, rotation_point};
use crate::outcome::{Outcome, Outcomes, Slot};
use crate::pace::{Failed, Pace, Worth};
use crate::policy::Policy;
use crate::server_clock::ServerClock;
use crate::setup::{Pending, Setup, SignerStatus};
use crate::state::Reason;
use crate::template::Template;
use crate::time::{Instant, Now, UnixTime, millis};
use write::Write;

/// Keeps one certificate fresh. A value: clone it, hash it, snapshot it, replay it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RotationMachine {
    policy: Arc<Policy>,
    seed: u64,
    signer: SignerStatus,
    template: Option<Arc<Template>>,

    certificate: Option<Arc<Certificate>>,
    /// The successor, which is not valid yet.
    waiting: Option<Arc<Certificate>>,
    refused: bool,
    rotate_now: bool,
    /// Why a certificate was due when last looked at.
    due: Option<Reason>,
    /// A certificate that is not known to be durable.
    unwritten: Option<Write>,

    next_id: RequestId,
    /// The request that is out, and since when.
    live: Option<(RequestId, Instant)>,
    /// What the pending key was last used to ask for.
    asked: Option<Arc<Template>>,
    /// The pending key may be used once more.
    reusable: bool,

    pace: Pace,
    server_clock: ServerClock,
    deadline: Option<Instant>,
}

const _: () = assert!(size_of::<RotationMachine>() <= 192);

impl RotationMachine {
    /// A machine that wants its first Tick at `now`. With a signer, a certificate whose common name differs from the
    /// template's is dropped, unless it is provisional.
    pub fn new(setup: Setup, now: Now) -> Self {
        let Setup { policy, seed, signer, template, certificate, waiting, unwritten, rotate_now, pending } = setup;
        let mut machine = Self {
            policy,
            seed,
            signer,
            template,
            certificate,
            waiting,
            refused: false,
            rotate_now,
            due: None,
            unwritten: None,
            next_id: RequestId::FIRST,
            live: None,
            asked: None,
            reusable: false,
            pace: Pace::default(),
            server_clock: ServerClock::default(),
            deadline: Some(now.instant),
        };
        // Another party's, by a mistyped name perhaps: neither served nor used to ask with.
        let is_foreign = |held: &Arc<Certificate>| signer.is_configured() && machine.judge(now).is_foreign(held);
        let [held, waiting] =
            [&machine.certificate, &machine.waiting].map(|held| held.as_ref().is_some_and(is_foreign));
        machine.certificate.take_if(|_| held);
        machine.waiting.take_if(|_| waiting);
        machine.due = machine.due(now);
        if unwritten && machine.certificate.is_some() {
            let id = machine.take_id();
            machine.unwritten = Some(Write::of_held(id, now.instant));
        }
        if let Some(pending) = pending {
            machine.resume(pending, now);
        }
        machine
    }

    /// Takes in one fact and returns the duties that follow, and [what was decided](Actions::outcomes). Total: any event,
    /// any order, any time; never fails, never panics, never allocates. A reply to a request that is no longer live
    /// changes nothing.
    pub fn handle(&mut self, event: Event, now: Now) -> Actions {
        let due = self.due;
        let outcomes = Outcomes::of(self.absorb(event, now));
        let mut actions = Actions { outcomes, ..Actions::default() };
        if !actions.outcomes.is_ignored() {
            self.settle(due, now, &mut actions);
        }
        actions
    }

    /// When the next [`Event::Tick`] is wanted. An early one is harmless. `None`: only an event from outside can matter.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a new certificate is wanted, and why: the question everything else follows from.
    pub fn due(&self, now: Now) -> Option<Reason> {
        let Some(certificate) = self.relied_on() else { return Some(Reason::NoCertificate) };
        let refused = self.refused.then_some(Reason::Refused);
        let asked = self.rotate_now.then_some(Reason::Asked);
        [self.judge(now).due(certificate), refused, asked].into_iter().flatten().min()
    }

    /// What to hand to [`Setup::pending`] after a restart. Make it durable, with the pending key,
    /// before carrying out a [`SubmitCsr`](crate::Action::SubmitCsr), and after a refusal.
    pub fn pending(&self, now: Now) -> Option<Pending> {
        let template = self.asked.clone()?;
        let key = if self.reusable { Key::Pending } else { Key::New };
        let (submitted, budget_whole, refusal) = self.pace.remember(&self.policy, now);
        Some(Pending { template, key, submitted, budget_whole, refusal })
    }

    /// Takes up what an earlier run left: its key, its refusal, and what it spent of the budget.
    fn resume(&mut self, pending: Pending, now: Now) {
        let Pending { template, key, submitted, budget_whole, refusal } = pending;
        self.pace = Pace::resume(&self.policy, submitted, budget_whole, refusal, now);
        self.reusable = key == Key::Pending && !self.policy.new_key_per_attempt;
        self.asked = Some(template);
        self.reconsider_refusal();
    }

    /// Takes in a fact.
    fn absorb(&mut self, event: Event, now: Now) -> Outcome {
        match event {
            Event::Tick => Outcome::Noted,
            Event::TemplateChanged(template) => self.template_changed(template),
            Event::SignerChanged(status) => self.signer_changed(status),
            Event::PolicyChanged(policy) => self.policy_changed(policy, now),
            Event::CsrIssued { id, certificate } => self.issued(id, certificate, now),
            Event::CsrFailed { id, failure, retry_after } => self.csr_failed(id, failure, retry_after, now),
            Event::CertWritten { id } => self.written(id, now),
            Event::WriteFailed { id } => self.write_failed(id, now),
            Event::CertReplaced(found) => self.replaced(found, now),
            Event::CertRefused { fingerprint } => self.cert_refused(fingerprint),
            Event::RotateNow => {
                self.rotate_now = true;
                self.pace.end_backoff();
                Outcome::Noted
            }
            Event::ServerDated { unix } => noted(self.server_clock.read(unix, now.instant)),
        }
    }

    fn template_changed(&mut self, template: Option<Arc<Template>>) -> Outcome {
        if self.template == template {
            return Outcome::Ignored;
        }
        self.template = template;
        self.reconsider_refusal();
        Outcome::Noted
    }

    /// Whoever refused was not asked for what is wanted now.
    fn reconsider_refusal(&mut self) {
        if self.template.is_some() && self.template != self.asked {
            self.pace.forget_refusal();
        }
    }

    fn signer_changed(&mut self, status: SignerStatus) -> Outcome {
        if self.signer == status {
            return Outcome::Ignored;
        }
        // An identity that comes and goes is no reason to repeat at once what this signer refused.
        if self.signer.is_configured() != status.is_configured() {
            self.pace.forget_failures();
        }
        self.signer = status;
        Outcome::Noted
    }

    fn policy_changed(&mut self, policy: Arc<Policy>, now: Now) -> Outcome {
        if self.policy == policy {
            return Outcome::Ignored;
        }
        let old = core::mem::replace(&mut self.policy, policy);
        self.pace.change_policy(&old, &self.policy, now.instant);
        if let Some(write) = &mut self.unwritten {
            let longest = at_least_a_millisecond(self.policy.write.cap().max(self.policy.write.longest()));
            write.again_at = write.again_at.min(now.instant.after(longest));
        }
        self.reusable &= !self.policy.new_key_per_attempt;
        Outcome::Noted
    }

    fn issued(&mut self, id: RequestId, certificate: Arc<Certificate>, now: Now) -> Outcome {
        let Some((_, since)) = self.live.take_if(|(live, _)| *live == id) else { return Outcome::Ignored };
        let held = self.certificate_at(now.unix).map(Arc::as_ref);
        let fault = self.judge(now).verdict(&certificate, self.asked.as_deref(), held);
        let slot = self.slot(&certificate, now).filter(|_| fault != Some(Failure::BadCertificate));
        let outcome = match (slot, fault) {
            (Some(slot), shortfall) => {
                let replaced = self.accept(id, slot, certificate, now);
                Outcome::Accepted { id, slot, replaced, shortfall }
            }
            (None, Some(failure)) => Outcome::Rejected { id, failure },
            (None, None) => Outcome::Unwanted { id },
        };
        match fault {
            Some(failure) => self.failed(failure, None, since, now),
            None => self.pace.forget_failures(),
        }
        // Its certificate is there: the key has done its work.
        self.reusable = false;
        outcome
    }

    /// Puts what was issued into its slot, to be written. Returns the certificate that was served before.
    fn accept(&mut self, id: RequestId, slot: Slot, new: Arc<Certificate>, now: Now) -> Option<Arc<Certificate>> {
        match slot {
            Slot::Served => {
                self.unwritten = Some(Write::of_held(id, now.instant));
                self.hold(new)
            }
            Slot::Waiting => {
                self.wait_for(new);
                // What is held and not durable yet comes first.
                let of_held = self.unwritten.filter(|write| write.serve);
                self.unwritten = of_held.or_else(|| Some(Write::of_waiting(id, now.instant)));
                None
            }
        }
    }

    fn csr_failed(&mut self, id: RequestId, failure: Failure, retry_after: Option<Duration>, now: Now) -> Outcome {
        let Some((_, since)) = self.live.take_if(|(live, _)| *live == id) else { return Outcome::Ignored };
        self.failed(failure, retry_after, since, now);
        Outcome::Failed { id, failure }
    }

    /// The store now holds another certificate. A better one is adopted, one that is not valid yet waits, and a worse one is
    /// overwritten.
    fn replaced(&mut self, found: Option<Arc<Certificate>>, now: Now) -> Outcome {
        let same = |held: &Arc<Certificate>| found.as_ref().is_some_and(|f| f.fingerprint == held.fingerprint);
        if self.certificate.as_ref().is_some_and(same) {
            let Some(write) = self.unwritten.take_if(|write| write.serve) else { return Outcome::Ignored };
            self.write_waiting_too(write, now);
            return Outcome::Written { id: write.id, slot: Slot::Served };
        }
        let mut outcome = Outcome::Ignored;
        let slot = found.as_deref().and_then(|found| self.slot(found, now));
        match (slot, found) {
            (Some(slot @ Slot::Served), Some(found)) => {
                let replaced = self.hold(found);
                self.unwritten = None;
                if self.due(now).is_none() {
                    self.pace.forget_failures();
                }
                return Outcome::TakenOver { slot, replaced };
            }
            (Some(slot @ Slot::Waiting), Some(found)) if self.waiting.as_ref() != Some(&found) => {
                self.wait_for(found);
                outcome = Outcome::TakenOver { slot, replaced: None };
            }
            _ => {}
        }
        let ours = self.valid_by_either_clock(now).is_some_and(|held| !held.provisional);
        // Where nothing is asked for, somebody else keeps the store.
        if ours && self.signer.is_configured() && !self.unwritten.is_some_and(|write| write.serve) {
            self.unwritten = Some(Write::of_held(self.take_id(), now.instant));
            if outcome == Outcome::Ignored {
                outcome = Outcome::Reinstated;
            }
        }
        outcome
    }

    fn cert_refused(&mut self, fingerprint: Fingerprint) -> Outcome {
        let held = self.certificate.as_ref().is_some_and(|held| held.fingerprint == fingerprint);
        noted(held && !core::mem::replace(&mut self.refused, true))
    }

    /// Serves this certificate from now on. Returns the one before.
    fn hold(&mut self, certificate: Arc<Certificate>) -> Option<Arc<Certificate>> {
        self.waiting = None;
        self.due = None;
        self.refused = false;
        self.rotate_now = false;
        self.certificate.replace(certificate)
    }

    /// Puts a certificate into the waiting slot, to be served from its notBefore on.
    fn wait_for(&mut self, certificate: Arc<Certificate>) {
        self.waiting = Some(certificate);
        self.due = None;
        self.rotate_now = false;
    }

    /// The certificate whose age decides whether a new one is due: the waiting one, else the held one.
    fn relied_on(&self) -> Option<&Arc<Certificate>> {
        self.waiting.as_ref().or(self.certificate.as_ref())
    }

    /// Draws the consequences: every duty that is due now, and when to look again. `was_due`: before the event.
    fn settle(&mut self, was_due: Option<Reason>, now: Now, actions: &mut Actions) {
        self.time_out(now, actions);
        actions.outcomes.turn = self.take_turn(now);
        self.shorten_wait(now);
        self.write(now, actions);
        let wanted = self.wanted();
        self.due = wanted.as_ref().and_then(|_| self.due(now).or_else(|| self.still_rotating()));
        match (self.due, wanted) {
            (Some(_), Some(wanted)) if self.live.is_some() => self.requesting(wanted, now, actions),
            (Some(reason), Some(wanted)) => self.asking(reason, wanted, now, actions),
            _ => self.resting(actions),
        }
        if self.due != was_due {
            actions.outcomes.due = Some(self.due.map_or(Outcome::NoLongerDue, Outcome::BecameDue));
        }
        let deadline = self.next_look(now);
        if deadline != self.deadline {
            self.deadline = deadline;
            actions.timer = Some(deadline);
        }
    }

    /// A rotation that has begun is not called back because the wall clock was.
    fn still_rotating(&self) -> Option<Reason> {
        self.due.filter(|due| *due == Reason::RotationPoint && self.live.is_some())
    }

    /// What is to be asked for, if anything can be.
    fn wanted(&self) -> Option<Arc<Template>> {
        self.template.clone().filter(|_| self.signer.is_configured())
    }

    /// A request that got no answer in time is a failed one.
    fn time_out(&mut self, now: Now, actions: &mut Actions) {
        let timeout = self.request_timeout();
        if let Some((id, since)) = self.live.take_if(|(_, since)| since.after(timeout) <= now.instant) {
            actions.cancel = Some(id);
            actions.outcomes.ended = Some(Outcome::TimedOut { id });
            self.failed(Failure::TimedOut, None, since, now);
        }
    }

    /// Serves the waiting certificate from its notBefore on, or earlier if the held one has expired or was refused: our
    /// clock may be wrong. Drops a waiting certificate that has become worse than the held one, as when the template
    /// changed.
    fn take_turn(&mut self, now: Now) -> Option<Outcome> {
        let needed = self.refused || self.certificate_at(now.unix).is_none();
        let waiting = self.waiting.as_ref()?;
        if !self.is_no_worse(waiting, now) {
            self.waiting = None;
            self.unwritten.take_if(|write| !write.serve);
            Some(Outcome::Dropped)
        } else if needed || self.judge(now).has_begun(waiting) {
            // Whoever asked since wants another one.
            let rotate_now = self.rotate_now;
            let replaced = self.hold(waiting.clone());
            self.rotate_now = rotate_now;
            self.unwritten = Some(Write::of_held(self.take_id(), now.instant));
            Some(Outcome::TookTurn { replaced })
        } else {
            None
        }
    }

    /// Shortens a wait that reaches past expiry, also if the wait began under another certificate or wall-clock time.
    fn shorten_wait(&mut self, now: Now) {
        let left = self.certificate_at(now.unix).map(|held| held.validity.not_after().since(now.unix));
        self.pace.shorten(&self.policy, left, now.instant);
    }

    /// Nothing to ask for, or nobody to ask.
    fn resting(&mut self, actions: &mut Actions) {
        if let Some((id, _)) = self.live.take() {
            actions.cancel = Some(id);
            actions.outcomes.ended = Some(Outcome::Withdrawn { id });
        }
    }

    /// A request is out. Only a different wish supersedes it, and only within the budget.
    fn requesting(&mut self, wanted: Arc<Template>, now: Now, actions: &mut Actions) {
        if self.is_superseded()
            && self.signer.is_ready()
            && self.pace.allowed_at(&self.policy, Worth::Wish) <= now.instant
        {
            actions.cancel = self.live.map(|(id, _)| id);
            actions.outcomes.ended = actions.cancel.map(|id| Outcome::Superseded { id });
            self.submit(wanted, now, actions);
        }
    }

    /// A certificate is due and no request is out.
    fn asking(&mut self, reason: Reason, wanted: Arc<Template>, now: Now, actions: &mut Actions) {
        if self.signer.is_ready() && self.pace.next_at(&self.policy, worth(reason)) <= now.instant {
            self.submit(wanted, now, actions);
        }
    }

    fn submit(&mut self, wanted: Arc<Template>, now: Now, actions: &mut Actions) {
        let id = self.take_id();
        let reuse = self.reusable && self.asked.as_ref() == Some(&wanted);
        actions.submit = Some((id, wanted.clone(), if reuse { Key::Pending } else { Key::New }));
        self.live = Some((id, now.instant));
        self.asked = Some(wanted);
        self.reusable = !self.policy.new_key_per_attempt;
        self.pace.submitted(&self.policy, now.instant);
    }

    /// The last attempt came to nothing: the next one has to wait, and may need a new key.
    fn failed(&mut self, failure: Failure, retry_after: Option<Duration>, since: Instant, now: Now) {
        self.reusable &= !failure.spends_key();
        let took = now.instant.since(since);
        let is_valid = self.certificate_at(now.unix).is_some();
        let certificate = self.certificate.as_ref().map_or(0, |held| held.fingerprint.prefix());
        let draw = mix(self.seed, certificate, self.next_id.get());
        self.pace.failed(&self.policy, Failed { failure, retry_after, took, is_valid }, draw, now.instant);
        self.reconsider_refusal();
    }

    fn is_superseded(&self) -> bool {
        self.template != self.asked
    }

    /// The earliest instant at which something may have to be done.
    fn next_look(&self, now: Now) -> Option<Instant> {
        let write = self.unwritten.map(|write| write.again_at);
        let is_idle = !self.signer.is_configured() || self.template.is_none();
        if is_idle && self.waiting.is_none() {
            return write;
        }
        let request = match (self.live, self.due) {
            (Some((_, since)), _) => {
                let times_out = since.after(self.request_timeout());
                Some(if self.is_superseded() && self.signer.is_ready() {
                    times_out.min(self.pace.allowed_at(&self.policy, Worth::Wish))
                } else {
                    times_out
                })
            }
            (None, Some(reason)) if !is_idle && self.signer.is_ready() => {
                Some(self.pace.next_at(&self.policy, worth(reason)))
            }
            (None, _) => None,
        };
        let until = |at: UnixTime, clock: UnixTime| (at > clock).then(|| now.instant.after(at.since(clock)));
        let Judge { earliest, latest, .. } = self.judge(now);
        let relied_on = self.relied_on().map(|certificate| rotation_point(&self.policy, self.seed, certificate));
        let turn = self.waiting.as_ref().map(|waiting| waiting.validity.not_before());
        let [rotation, turn] = [relied_on, turn].map(|at| at.and_then(|at| until(at, latest)));
        // Waits are shortened by the local clock, and what is expired is so by both.
        let expired = |held: &Arc<Certificate>| {
            let at = held.validity.not_after().after(Duration::from_millis(1));
            until(at, now.unix).or_else(|| until(at, earliest))
        };
        let expiry = self.certificate.as_ref().and_then(expired);
        [write, request, rotation, turn, expiry].into_iter().flatten().fold(self.clock_check(now), Instant::min).into()
    }

    /// Looks at the clocks lie on a grid of their own, so that how often it ticked does not matter.
    fn clock_check(&self, now: Now) -> Instant {
        let grid = millis(self.policy.max_sleep).max(1);
        let (phase, at) = (self.seed % grid, now.instant.as_millis() % grid);
        let into = if at >= phase { at - phase } else { grid - (phase - at) };
        now.instant.after(Duration::from_millis(grid - into))
    }

    fn is_no_worse(&self, new: &Certificate, now: Now) -> bool {
        self.judge(now).is_no_worse(new, self.certificate.as_deref(), self.refused)
    }

    fn slot(&self, new: &Certificate, now: Now) -> Option<Slot> {
        self.judge(now).slot(new, self.certificate.as_deref(), self.refused)
    }

    fn judge(&self, now: Now) -> Judge<'_> {
        let (earliest, latest) = self.both_clocks(now);
        Judge { policy: &self.policy, seed: self.seed, template: self.template.as_deref(), earliest, latest }
    }

    fn request_timeout(&self) -> Duration {
        at_least_a_millisecond(self.policy.request_timeout)
    }

    fn take_id(&mut self) -> RequestId {
        let id = self.next_id;
        self.next_id = id.next();
        id
    }
}

/// A wish can wait: the last token is kept for when the certificate itself is in danger.
const fn worth(reason: Reason) -> Worth {
    match reason {
        Reason::TemplateNotSatisfied | Reason::Asked => Worth::Wish,
        Reason::NoCertificate | Reason::Expired | Reason::Provisional | Reason::Refused | Reason::RotationPoint => {
            Worth::Need
        }
    }
}

/// For events that lead to something only by what follows from them.
const fn noted(is_news: bool) -> Outcome {
    if is_news { Outcome::Noted } else { Outcome::Ignored }
}

fn at_least_a_millisecond(span: Duration) -> Duration {
    span.max(Duration::from_millis(1))
}
