//! Laws of requests: how many are submitted, when, and with which key.

use std::sync::Arc;

use perennial::{Event, Instant, Policy, Reason, State};

use super::driver::spacing;
use super::{Step, Verdict, ensure, shown};
use crate::trace::{Run, Trace, can_submit, in_flight};

/// At most one request of a machine is in flight at a time.
pub(super) fn at_most_one_request_is_in_flight(step: &Step<'_>) -> Verdict {
    let is_in_flight =
        step.driver.in_flight.is_some() && !step.driver.is_answer(step.event) && step.duties.cancel.is_none();
    ensure!(
        !is_in_flight || step.duties.submit.is_none(),
        "a second request is submitted while one is in flight: {}",
        step.duties
    );
    Ok(())
}

/// Every request ends once: with one reply that the machine accepts, or with one `CancelRequest`. So the driver can
/// drop all state of a request at its end.
pub(super) fn every_request_ends_once(step: &Step<'_>) -> Verdict {
    let unanswered = step.driver.in_flight.as_ref().filter(|_| !step.driver.is_answer(step.event));
    if let Some(id) = step.duties.cancel {
        ensure!(unanswered.is_some_and(|request| request.id == id), "{id} is cancelled, but is not in flight");
    }
    if let Some((id, ..)) = step.duties.submit {
        let last = shown(step.driver.last_id);
        ensure!(step.driver.last_id < Some(id), "{id} is submitted, but is not greater than the last id, {last}");
    }
    let (is, expected) = (in_flight(step.after), step.driver_after.in_flight.as_ref().map(|request| request.id));
    let (in_machine, in_driver) = (shown(is), shown(expected));
    ensure!(is == expected, "the machine has {in_machine} in flight, the driver {in_driver}");
    Ok(())
}

/// The machine ignores a reply that is late or repeated, or belongs to no request, since a network may deliver any
/// reply at any time. It also ignores the refusal of a certificate that it does not serve. A write that was reported as
/// failed may still be reported as done, as long as it is owed.
pub(super) fn stale_replies_change_nothing(step: &Step<'_>) -> Verdict {
    let owed = step.driver.owed.map(|(id, _)| id);
    let stale = match step.event {
        Event::CsrIssued { .. } | Event::CsrFailed { .. } => !step.driver.is_answer(step.event),
        Event::CertWritten { id } => owed != Some(*id),
        Event::WriteFailed { id } => owed != Some(*id) || step.driver.write_in_flight != Some(*id),
        Event::CertRefused { fingerprint } => {
            step.before.certificate().is_none_or(|held| held.fingerprint != *fingerprint)
        }
        _ => false,
    };
    let ignored = step.duties.outcomes.is_ignored() && step.duties.is_empty() && step.before == step.after;
    ensure!(!stale || ignored, "{} is stale, but is not ignored: {}", step.event, step.duties);
    Ok(())
}

/// A request is submitted only while there is a template and the signer is ready. A request stays in flight only while
/// there are a template and a signer, ready or not.
pub(super) fn no_request_without_template_and_signer(step: &Step<'_>) -> Verdict {
    if let Some((_, template, _)) = &step.duties.submit {
        let wanted = can_submit(step.after) && step.after.template() == Some(template);
        ensure!(wanted, "a request for {template} is submitted without that template or without a ready signer");
    }
    // A request in flight has its identity already: the signer need not be ready any more.
    let is_enabled = step.after.template().is_some() && step.after.signer().is_configured();
    ensure!(is_enabled || in_flight(step.after).is_none(), "a request is in flight without template or signer");
    Ok(())
}

/// A retry uses the key of the last request. So the signer sees a single request, however long approval takes. A new
/// key is used after a refusal, a success, a change of the template, or an outdated request object, since the old
/// object would give the old answer.
pub(super) fn retries_reuse_the_key_until_an_answer(step: &Step<'_>) -> Verdict {
    let Some((_, template, key)) = &step.duties.submit else { return Ok(()) };
    let expected = step.driver_after_event().key_for(template);
    ensure!(*key == expected, "a request uses the {key} instead of the {expected}");
    Ok(())
}

/// Two submissions are at least the spacing apart.
pub(super) fn submissions_keep_the_spacing(step: &Step<'_>) -> Verdict {
    let least = spacing(&step.driver_after.policy);
    let spaced = step.driver.last_submitted.is_none_or(|at| step.now.instant.since(at) >= least);
    ensure!(spaced || step.duties.submit.is_none(), "a request is submitted less than {least:?} after the last one");
    Ok(())
}

/// A request of normal priority leaves one token in the submission budget. So there is a token for a certificate that
/// becomes urgently due, however often the template changes or a rotation is requested.
pub(super) fn normal_requests_leave_the_last_token_of_the_budget_to_urgent_ones(step: &Step<'_>) -> Verdict {
    if step.duties.submit.is_none() {
        return Ok(());
    }
    let tokens = step.driver_after_event().bucket.tokens(step.now.instant);
    let needed = if has_normal_priority(step) { 2 } else { 1 };
    ensure!(tokens >= needed, "a request is submitted with a budget of {tokens} tokens, but needs {needed}");
    Ok(())
}

/// Whether the step submits a request at normal priority, or supersedes a request before its timeout.
fn has_normal_priority(step: &Step<'_>) -> bool {
    let ends = |since: Instant| since.after(step.driver_after.policy.request_timeout);
    let superseded = step.driver.in_flight.as_ref().is_some_and(|request| step.now.instant < ends(request.since));
    let is_normal = matches!(
        step.after.state(),
        State::Requesting { reason: Reason::RotateNow | Reason::TemplateNotSatisfied, .. }
    );
    is_normal || (superseded && !step.driver.is_answer(step.event))
}

/// In any span of time, the machine submits no more requests than [`Policy::submissions_within`] allows, whatever
/// happens: the operator of a signer can rely on this number. The law also holds across restarts with the pending
/// record. Across changes of policy, the limit is a full bucket of the first policy, plus the tokens that each policy
/// refills while it applies.
pub(super) fn the_budget_holds(trace: &Trace) -> Verdict {
    for runs in continued_runs(trace) {
        // Each submission, with the tokens that were refilled since the one before.
        let mut submissions: Vec<(Instant, Arc<Policy>, f64)> = Vec::new();
        let mut refills = Refills::default();
        for record in runs.iter().flat_map(|run| &run.records) {
            let (now, policy) = (record.now.instant, record.after.policy());
            refills.until(now, policy);
            if record.submitted().is_some() {
                submissions.push((now, policy.clone(), refills.take()));
            }
        }
        for (i, (first, policy, _)) in submissions.iter().enumerate() {
            let mut tokens = f64::from(policy.budget.size());
            let mut is_same = true;
            for (made, (last, then, refilled)) in (1_u64..).zip(&submissions[i..]) {
                let span = last.since(*first);
                tokens += if made > 1 { *refilled } else { 0.0 };
                is_same &= then == policy;
                let most = if is_same { policy.submissions_within(span) } else { u64::MAX };
                ensure!(
                    made <= most && made as f64 <= tokens + 1e-6,
                    "{made} submissions from {first} to {last}: the policy allows {most}, the budget {tokens}"
                );
            }
        }
    }
    Ok(())
}

/// Counts the tokens that are refilled since the last submission. Each span of time counts at the rate of the policy
/// that applied in it.
#[derive(Default)]
struct Refills {
    since: Instant,
    policy: Option<Arc<Policy>>,
    tokens: f64,
}

impl Refills {
    fn until(&mut self, now: Instant, policy: &Arc<Policy>) {
        let refill = self.policy.as_ref().map(|policy| policy.budget.refill().as_millis().max(1) as f64);
        let passed = now.since(self.since).as_millis() as f64;
        self.tokens += refill.map_or(0.0, |refill| passed / refill);
        (self.since, self.policy) = (now, Some(policy.clone()));
    }

    const fn take(&mut self) -> f64 {
        std::mem::replace(&mut self.tokens, 0.0)
    }
}

/// The runs of a trace, in groups of runs that share one submission budget. Each run of a group, except the first,
/// continued from the pending record of the run before.
fn continued_runs(trace: &Trace) -> Vec<&[Run]> {
    trace.runs.chunk_by(|_, next| next.remembers).collect()
}
