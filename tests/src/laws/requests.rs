//! Requests, and what they cost the signer.

use std::sync::Arc;

use perennial::{Event, Failure, Instant, Key, Policy, Reason, RequestId, State, Template};

use super::{Verdict, ensure};
use crate::trace::{Record, Run, Trace, can_ask, live};

/// A signer never has to deal with two requests of one holder at a time.
pub fn at_most_one_request_is_out(trace: &Trace) -> Verdict {
    for run in &trace.runs {
        let mut out: Option<RequestId> = None;
        for record in &run.records {
            let closes = |id: RequestId| record.replies_to() == Some(id) || record.cancelled() == Some(id);
            out = out.filter(|id| !closes(*id));
            let submitted = record.submitted().map(|(id, ..)| id);
            ensure!(out.is_none() || submitted.is_none(), "a second request at {}", record.now);
            out = out.or(submitted);
        }
    }
    Ok(())
}

/// Every request ends in one accepted reply or one `CancelRequest`: a driver can keep its books by them, and leaks nothing.
pub fn every_request_is_closed_once(trace: &Trace) -> Verdict {
    for run in &trace.runs {
        let mut out: Option<RequestId> = None;
        let mut last = None;
        for record in &run.records {
            if record.replies_to().is_some_and(|id| out == Some(id)) {
                out = None;
            }
            if let Some(id) = record.cancelled() {
                ensure!(out.take() == Some(id), "{id} is cancelled at {}, but is not out", record.now);
            }
            if let Some((id, ..)) = record.submitted() {
                ensure!(last < Some(id), "{id} at {} does not follow {last:?}", record.now);
                (out, last) = (Some(id), Some(id));
            }
            ensure!(live(&record.after) == out, "at {} {out:?} should be out: {}", record.now, record.after);
        }
    }
    Ok(())
}

/// A late, repeated or foreign reply changes nothing and asks for nothing: a network may deliver what it likes, when it
/// likes. (That the certificate is durable after all is news as long as the machine does not know.)
pub fn stale_replies_change_nothing(trace: &Trace) -> Verdict {
    for run in &trace.runs {
        let (mut writing, mut written) = (None, None);
        for (before, record) in run.steps() {
            let stale = record.replies_to().is_some_and(|id| live(before) != Some(id))
                || match record.event {
                    Event::CertWritten { id } => written != Some(id) || !before.is_unwritten(),
                    Event::WriteFailed { id } => writing != Some(id) || !before.is_unwritten(),
                    _ => false,
                };
            ensure!(
                !stale
                    || (record.actions.outcomes().is_ignored() && record.actions.is_empty() && *before == record.after),
                "{} at {} is stale, but led to {}",
                record.event,
                record.now,
                record.actions
            );
            if record.reports_on().is_some_and(|id| writing == Some(id)) {
                writing = None;
            }
            if let Some((id, ..)) = record.written() {
                (writing, written) = (Some(id), Some(id));
            }
        }
    }
    Ok(())
}

/// Nothing is asked for, and nothing stays out, while there is no template or nobody to ask.
pub fn nothing_is_asked_without_a_template_and_a_signer(trace: &Trace) -> Verdict {
    for (_, record) in trace.steps() {
        let submits = record.submitted().is_some();
        ensure!(!submits || can_ask(&record.after), "a request at {}: {}", record.now, record.after);
        // What is out has its identity, and needs none that may be gone.
        let may_be_out = record.after.template().is_some() && record.after.signer().is_configured();
        ensure!(may_be_out || live(&record.after).is_none(), "a request is out at {}: {}", record.now, record.after);
        let template = record.submitted().map(|(_, template, _)| template);
        ensure!(
            template.is_none() || template.as_ref() == record.after.template(),
            "at {} something else is asked for than is wanted",
            record.now
        );
    }
    Ok(())
}

/// A retry keeps its key, so that the signer sees one request however long nobody approves; after a refusal,
/// a success, a change of mind or an old request found again the key is a new one, because the old request would only give the old answer.
pub fn keys_are_kept_or_changed(trace: &Trace) -> Verdict {
    for run in &trace.runs {
        let left = run.pending.as_ref().filter(|pending| pending.key == Key::Pending);
        let mut kept: Option<Arc<Template>> = left.map(|pending| pending.template.clone());
        for (before, record) in run.steps() {
            let accepted = record.replies_to().is_some_and(|id| live(before) == Some(id));
            if accepted && ends_its_key(&record.event) || record.after.policy().new_key_per_attempt {
                kept = None;
            }
            if let Some((id, template, key)) = record.submitted() {
                let keeps = kept.as_ref() == Some(&template);
                let expected = if keeps { Key::Pending } else { Key::New };
                ensure!(key == expected, "{id} at {} is asked with the {key}, not the {expected}", record.now);
                kept = Some(template).filter(|_| !record.after.policy().new_key_per_attempt);
            }
        }
    }
    Ok(())
}

/// Whether, after this reply, asking with the same key again could only give the same answer again.
pub(crate) fn ends_its_key(reply: &Event) -> bool {
    match reply {
        Event::CsrIssued { .. } => true,
        Event::CsrFailed { failure, .. } => failure.is_refusal() || *failure == Failure::Outdated,
        _ => false,
    }
}

/// No script makes the machine submit more than [`Policy::submissions_within`] allows, in any span,
/// across restarts that hand back the pending record: a signer's operator can rely on it. Nor does a change of policy: a
/// full bucket of the first one, and what comes back at the rate of each, is all there is.
pub fn the_budget_holds(trace: &Trace) -> Verdict {
    for chain in chains(trace) {
        // Each submission, with the tokens that have come back since the one before.
        let mut submissions: Vec<(Instant, Arc<Policy>, f64)> = Vec::new();
        let mut refills = Refills::default();
        for record in chain.iter().flat_map(|run| &run.records) {
            let (now, policy) = (record.now.instant, record.after.policy());
            refills.until(now, policy);
            if record.submitted().is_some() {
                // Clocks count whole milliseconds.
                let spacing = policy.spacing.as_millis().max(1);
                let last = submissions.last().map(|(at, ..)| *at);
                ensure!(
                    last.is_none_or(|last| now.since(last).as_millis() >= spacing),
                    "{now} is too soon after {last:?}"
                );
                submissions.push((now, policy.clone(), refills.take()));
            }
        }
        for (i, (first, policy, _)) in submissions.iter().enumerate() {
            let mut tokens = f64::from(policy.budget.size());
            let mut is_same = true;
            for (made, (last, then, came_back)) in (1_u64..).zip(&submissions[i..]) {
                let span = last.since(*first);
                tokens += if made > 1 { *came_back } else { 0.0 };
                is_same &= then == policy;
                let most = if is_same { policy.submissions_within(span) } else { u64::MAX };
                ensure!(
                    made <= most && made as f64 <= tokens + 1e-6,
                    "{made} submissions from {first} to {last}, at most {most} are allowed, and {tokens} by the budget"
                );
            }
        }
    }
    Ok(())
}

/// Tokens that come back while time passes, by the policy of each moment.
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

/// However often somebody changes their mind, a token is left for a certificate that is in danger itself.
pub fn churn_never_spends_the_last_token(trace: &Trace) -> Verdict {
    for chain in chains(trace) {
        let mut bucket = Bucket::full(chain[0].first.policy());
        for record in chain.iter().flat_map(|run| &run.records) {
            bucket.change(&record.event, record.now.instant);
            if record.submitted().is_none() {
                continue;
            }
            let tokens = bucket.take(record.now.instant);
            let needed = if is_churn(record) { 2 } else { 1 };
            ensure!(tokens >= needed, "at {} only {tokens} tokens were left, {needed} are needed", record.now);
        }
    }
    Ok(())
}

/// A wish, or a request superseded before its time.
fn is_churn(record: &Record) -> bool {
    if let State::Requesting { reason, .. } = record.after.state() {
        matches!(reason, Reason::Asked | Reason::TemplateNotSatisfied)
    } else {
        false
    }
}

/// A token bucket, counted plainly.
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

    /// If this is a change of policy, the tokens there are stay, as far as there is room for them.
    pub(crate) fn change(&mut self, event: &Event, now: Instant) {
        if let Event::PolicyChanged(policy) = event {
            let (full, level) = (Self::full(policy), self.level(now));
            let level = (level * full.refill / self.refill).min(full.level);
            *self = Self { level, at: now, ..full };
        }
    }

    /// Milliseconds' worth of tokens.
    pub(crate) fn level(&self, now: Instant) -> u128 {
        (self.level + now.since(self.at).as_millis()).min(self.size * self.refill)
    }

    /// How many whole tokens there are, one of which is taken.
    pub(crate) fn take(&mut self, now: Instant) -> u128 {
        self.level = self.level(now);
        self.at = now;
        let tokens = self.level / self.refill;
        self.level = self.level.saturating_sub(self.refill);
        tokens
    }
}

/// Runs that know of each other's submissions.
fn chains(trace: &Trace) -> Vec<&[Run]> {
    trace.runs.chunk_by(|_, next| next.remembers).collect()
}
