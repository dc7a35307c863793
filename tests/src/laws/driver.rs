//! The state of a driver: requests, writes, budget and timer as the driver sees them. The state is updated at every
//! step. A law that compares the machine with this state needs only one step, not the steps before.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Failure, Instant, Key, Pending, Policy, RequestId, RotationMachine, Template};

use crate::subject::Duties;

/// Requests, writes, budget and timer, as the driver sees them from events and actions.
#[derive(Clone, Debug)]
pub(crate) struct DriverState {
    pub(crate) policy: Arc<Policy>,
    pub(crate) in_flight: Option<InFlight>,
    /// The last id of a request or a write.
    pub(crate) last_id: Option<RequestId>,
    /// The template for which the next request must use the pending key again. `None` if the next request needs a new
    /// key.
    pub(crate) reusable_key_for: Option<Arc<Template>>,
    /// The owed write, and whether its certificate is served (true) or waits (false); `None` if no write is owed.
    pub(crate) owed: Option<(RequestId, bool)>,
    /// The write that the driver has begun, and has not yet reported as done or failed.
    pub(crate) write_in_flight: Option<RequestId>,
    pub(crate) bucket: Bucket,
    /// When the last request was submitted.
    pub(crate) last_submitted: Option<Instant>,
    pub(crate) timer: Option<Instant>,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) id: RequestId,
    pub(crate) template: Arc<Template>,
    pub(crate) since: Instant,
}

impl DriverState {
    /// The driver's state when a machine starts at this time, from this pending record if there is one.
    pub(crate) fn start(policy: Arc<Policy>, first: &RotationMachine, pending: Option<&Pending>, at: Instant) -> Self {
        let reusable_key_for =
            pending.filter(|pending| pending.key == Key::Pending).map(|pending| pending.template.clone());
        let bucket = Bucket::full(&policy);
        let timer = Some(at);
        let (in_flight, last_id, write_in_flight, last_submitted) = Default::default();
        Self {
            policy,
            in_flight,
            last_id,
            reusable_key_for,
            owed: first.writes(),
            write_in_flight,
            bucket,
            last_submitted,
            timer,
        }
    }

    /// The driver's state after a restart. Keeps the bucket and the time of the last submission if the submission
    /// budget survived the restart (`remembers`).
    pub(crate) fn restart(
        &self,
        first: &RotationMachine,
        pending: Option<&Pending>,
        remembers: bool,
        at: Instant,
    ) -> Self {
        let next = Self::start(self.policy.clone(), first, pending, at);
        if remembers { Self { bucket: self.bucket.clone(), last_submitted: self.last_submitted, ..next } } else { next }
    }

    /// The key that a request for this template must use.
    pub(crate) fn key_for(&self, template: &Arc<Template>) -> Key {
        if self.reusable_key_for.as_ref() == Some(template) { Key::Pending } else { Key::New }
    }

    /// Whether the event is the answer to the request in flight.
    pub(crate) fn is_answer(&self, event: &Event) -> bool {
        let (Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. }) = event else { return false };
        self.in_flight.as_ref().is_some_and(|request| request.id == *id)
    }

    /// Updates the driver's state by a step that led to the machine `after`.
    pub(crate) fn update(&mut self, event: &Event, duties: &Duties, after: &RotationMachine, now: Instant) {
        if let Event::PolicyChanged(policy) = event {
            self.bucket.change(policy, now);
            self.policy.clone_from(policy);
        }
        let keeps_keys = !self.policy.new_key_per_attempt;
        self.reusable_key_for.take_if(|_| !keeps_keys);
        if self.is_answer(event) {
            self.in_flight = None;
            self.reusable_key_for.take_if(|_| spends_key(event));
        }
        match event {
            Event::CertWritten { id } | Event::WriteFailed { id } => {
                self.write_in_flight.take_if(|write_in_flight| write_in_flight == id);
                let durable = matches!(event, Event::CertWritten { .. });
                self.owed.take_if(|(owed, _)| durable && owed == id);
            }
            Event::CertReplaced(Some(found)) if after.certificate() == Some(found) => {
                self.owed.take_if(|(_, serve)| *serve);
            }
            _ => {}
        }
        if duties.cancel.is_some() {
            self.in_flight = None;
        }
        // A certificate that no longer waits need not be written.
        if after.waiting().is_none() {
            self.owed.take_if(|(_, serve)| !*serve);
        }
        if let Some((id, _, serve)) = duties.write {
            self.last_id = self.last_id.max(Some(id));
            (self.owed, self.write_in_flight) = (Some((id, serve)), Some(id));
        }
        if let Some((id, template, _)) = &duties.submit {
            self.reusable_key_for = Some(template.clone()).filter(|_| keeps_keys);
            self.in_flight = Some(InFlight { id: *id, template: template.clone(), since: now });
            self.last_id = Some(*id);
            self.bucket.take(now);
            self.last_submitted = Some(now);
        }
        self.timer = duties.timer.unwrap_or(self.timer);
    }
}

/// Whether the pending key must not be used again after this reply: a new request with the same key would get the same
/// reply.
pub(crate) fn spends_key(reply: &Event) -> bool {
    match reply {
        Event::CsrIssued { .. } => true,
        Event::CsrFailed { failure, .. } => {
            failure.is_refusal() || matches!(failure, Failure::Outdated | Failure::UnsupportedKey)
        }
        _ => false,
    }
}

/// A token bucket that stores its level at one time, unlike the machine's bucket, which stores the time at which it
/// will be full.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    size: u128,
    refill: u128,
    level: u128,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(policy: &Policy) -> Self {
        let (size, refill) = (u128::from(policy.budget.size()), policy.budget.refill().as_millis().max(1));
        Self { size, refill, level: size * refill, at: Instant::from_millis(0) }
    }

    /// Takes the size and the refill of a new policy. Keeps the tokens in the bucket, but no more than the new size.
    fn change(&mut self, policy: &Policy, now: Instant) {
        let (full, level) = (Self::full(policy), self.level(now));
        let level = (level * full.refill / self.refill).min(full.level);
        *self = Self { level, at: now, ..full };
    }

    /// The level of the bucket in milliseconds. Each token counts as the time in which one token is refilled.
    pub(crate) fn level(&self, now: Instant) -> u128 {
        (self.level + now.since(self.at).as_millis()).min(self.size * self.refill)
    }

    /// The number of whole tokens in the bucket.
    pub(super) fn tokens(&self, now: Instant) -> u128 {
        self.level(now) / self.refill
    }

    fn take(&mut self, now: Instant) {
        (self.level, self.at) = (self.level(now).saturating_sub(self.refill), now);
    }
}

/// The least time between two submissions: the policy's spacing, at least a millisecond.
pub(crate) fn spacing(policy: &Policy) -> Duration {
    let millis = u64::try_from(policy.spacing.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.max(1))
}
