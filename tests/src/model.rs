//! A second implementation of the rules of rotation: slow, since each answer is computed from the whole history.
//!
//! The machine carries a few numbers from event to event; the model derives every answer from the list of facts.
//! [`check_rules`] goes through a trace and compares each step: actions, reason, deadline, and the pending record. With
//! jitter, a rule yields an interval of times. The machine must act within the interval, and the time at which it acts
//! or does not act narrows the interval. Under a policy without jitter, every interval is a point. The model assumes
//! that the monotonic clock never goes back.
//!
//! The model uses types of core, but makes each decision of the machine anew, except one: it takes the rotation point
//! from core, since any point of the window is as good as any other. `check_rotation_points` checks that the point lies
//! in the window and does not move. The model covers every failure and every certificate found, the last millisecond of
//! every wait, and the facts that outlive a restart: an implementation easily gets these parts wrong.
//!
//! | | |
//! |---|---|
//! | `model/history.rs` | the facts, and the questions that the rules ask of them |
//! | `model/learn.rs` | the facts that an event adds to the history |
//! | `model/settle.rs` | why a certificate is due, which actions follow, and the next deadline |

mod history;
mod learn;
mod settle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Backoff, Certificate, Key, Now, Pending, Policy, Reason, Renewal, RequestId, RotationMachine, SignerStatus, State,
    Template, UnixTime,
};

use crate::laws::Verdict;
use crate::trace::{Record, Run, Trace, in_flight};
use history::{Between, Fact, History, Millis};

/// Checks every step of a trace by this second implementation of the rules: actions, certificates, state, deadline and
/// pending record.
pub fn check_rules(trace: &Trace) -> Verdict {
    check_rotation_points(trace)?;
    for run in &trace.runs {
        let mut model = Model::begin(trace, run);
        for record in &run.records {
            model.step(record).map_err(|why| format!("at {} after {}: {why}", record.now, record.event))?;
        }
    }
    Ok(())
}

/// Checks the rotation points of a trace. Under each rotation window, a certificate must have a single rotation point,
/// which lies in the window and stays the same after a restart.
fn check_rotation_points(trace: &Trace) -> Verdict {
    let mut drawn = HashMap::new();
    for (_, Record { now, after, .. }) in trace.steps() {
        let Some((held, point)) = after.certificate().zip(after.rotation_point()) else { continue };
        if after.renewal().is_some() {
            continue;
        }
        let (begin, point) = (unix(held.validity.not_before()), unix(point));
        let life = unix(held.validity.not_after()) - begin;
        let window = after.policy().window;
        let thousandths = (point - begin) * 1000;
        let (from, to) = (life * Millis::from(window.from()), life * Millis::from(window.to()));
        // Rotation points are whole milliseconds: they may miss the window by less than one.
        if thousandths <= from - 1000 || thousandths >= to + 1000 {
            return Err(format!("at {now} the rotation point of {held}, {point}, lies outside the policy's window"));
        }
        check_equal(
            "rotation point",
            drawn.entry((held.fingerprint, window.from(), window.to())).or_insert(point),
            &point,
        )?;
    }
    Ok(())
}

struct Model {
    policy: Arc<Policy>,
    seed: u64,
    history: History,
    deadline: Option<Millis>,
    ids: u64,
    /// A request may be submitted as soon as the turn of the machine comes.
    queued: bool,
}

/// The actions that the machine must return for an event, by the rules.
#[derive(Debug, Default, PartialEq)]
struct Duties {
    cancel: Option<u64>,
    write: Option<(u64, Arc<Certificate>, bool)>,
    submit: Option<(u64, Arc<Template>, Key)>,
}

impl Model {
    fn begin(trace: &Trace, run: &Run) -> Self {
        let deadline = Some(instant(run.started));
        let mut model = Self {
            policy: run.first.policy().clone(),
            seed: trace.seed,
            history: History::default(),
            deadline,
            ids: 0,
            queued: false,
        };
        let (first, now) = (&run.first, run.started);
        let mut learn = |fact| model.history.push(now, fact);
        learn(Fact::Signer(first.signer()));
        learn(Fact::Template(first.template().cloned()));
        first.certificate().into_iter().for_each(|certificate| learn(Fact::Served(certificate.clone())));
        learn(Fact::Waiting(first.waiting().cloned()));
        run.renewal.iter().for_each(|known| learn(Fact::Hinted(known.fingerprint, Some(known.rotate_at))));
        run.pending.iter().for_each(|pending| model.resume(pending, now));
        model.history.push(now, Fact::Settled(model.due(now)));
        model
    }

    fn step(&mut self, record: &Record) -> Verdict {
        let (now, mut due) = (record.now, Duties::default());
        if self.learn(&record.event, now) {
            self.settle(record, &mut due);
            self.check_deadline(record)?;
        }
        let done = Duties {
            cancel: record.cancelled().map(RequestId::get),
            write: record.written().map(|(id, certificate, serve)| (id.get(), certificate, serve)),
            submit: record.submitted().map(|(id, template, key)| (id.get(), template, key)),
        };
        check_equal("actions", &due, &done)?;
        check_equal("deadline", &self.deadline, &record.after.deadline().map(|at| at.as_millis().into()))?;
        self.compare(&record.after, now)
    }

    /// Checks that the machine's accessors return what follows from the rules.
    fn compare(&self, machine: &RotationMachine, now: Now) -> Verdict {
        check_equal("reason", &self.due(now), &machine.due(now))?;
        check_equal("certificate", &self.history.served(), &machine.certificate())?;
        check_equal("waiting", &self.history.waiting(), &machine.waiting())?;
        check_equal(
            "request in flight",
            &self.history.in_flight().map(|(id, _)| id),
            &in_flight(machine).map(RequestId::get),
        )?;
        check_equal("queued", &self.queued, &machine.checkpoint().queued)?;
        check_equal("unwritten", &self.history.unwritten().is_some(), &machine.is_unwritten())?;
        self.compare_state(machine.state())?;
        check_equal("last failure", &self.history.failures().map(|(failure, _)| failure), &machine.last_failure())?;
        let renewal = self.history.newest_certificate().zip(self.history.hinted_rotation_point());
        let renewal = renewal.map(|(newest, rotate_at)| Renewal { fingerprint: newest.fingerprint, rotate_at });
        check_equal("renewal", &renewal, &machine.renewal())?;
        let pending = machine.pending(now);
        check_equal(
            "template of the last request",
            &self.history.last_requested(),
            &pending.as_ref().map(|pending| &pending.template),
        )?;
        pending.map_or(Ok(()), |pending| self.compare_pending(&pending, now))
    }

    /// Checks that the state that the machine reports follows from the rules.
    fn compare_state(&self, state: State) -> Verdict {
        let history = &self.history;
        let reason = history.last_reason();
        let expected = match (history.in_flight(), reason, history.newest_certificate()) {
            (Some((id, since)), Some(reason), _) => {
                let State::Requesting { id: in_flight, reason: why, until } = state else {
                    return Err(format!("by the rules a request is in flight, but the state is: {state}"));
                };
                let until = Millis::from(until.as_millis());
                return check_equal("state", &(id, reason, since + self.timeout()), &(in_flight.get(), why, until));
            }
            _ if history.signer() == SignerStatus::Absent => State::NotEnabled,
            _ if history.template().is_none() => State::NoTemplate,
            (_, None, Some(held)) => State::Scheduled { rotate_at: self.rotation_point(held) },
            _ if history.signer() == SignerStatus::NotReady => {
                State::NoIdentity { reason: reason.unwrap_or(Reason::NoCertificate) }
            }
            _ if self.queued => State::Queued { reason: reason.unwrap_or(Reason::NoCertificate) },
            _ => return self.compare_wait(reason.unwrap_or(Reason::NoCertificate), state),
        };
        check_equal("state", &expected, &state)
    }

    /// Checks the state that the machine reports while a certificate is due but no request may be submitted yet: the
    /// reason, the failures and the end of the wait must follow from the rules.
    fn compare_wait(&self, reason: Reason, state: State) -> Verdict {
        let (why, until, failed) = match state {
            State::BackingOff { reason, until, failures, last } => (reason, until, Some((last, failures))),
            State::Waiting { reason, until } => (reason, until, None),
            _ => return Err(format!("by the rules a request waits because of {reason:?}, but the state is: {state}")),
        };
        check_equal("state", &(reason, self.history.failures()), &(why, failed))?;
        let (earliest, latest) = self.next_submission(reason);
        let until = Millis::from(until.as_millis());
        if (earliest..=latest).contains(&until) {
            return Ok(());
        }
        Err(format!("the wait ends at {until}, by the rules between {earliest} and {latest}"))
    }

    /// Checks that the pending record follows from the rules. The times in the record are times of the wall clock, by
    /// its reading at `now`.
    fn compare_pending(&self, pending: &Pending, now: Now) -> Verdict {
        let wall = |at: Millis| unix(now.unix) + at - instant(now);
        check_equal("key", &self.key(self.history.last_requested()), &pending.key)?;
        check_equal(
            "submitted",
            &(wall(self.history.spaced_at(self.spacing())) - self.spacing()),
            &unix(pending.submitted),
        )?;
        check_equal("budget whole", &wall(self.affordable_at(self.policy.budget.size())), &unix(pending.budget_whole))?;
        let refused = self.history.failures().filter(|(failure, _)| failure.is_refusal());
        check_equal("refusal", &refused, &pending.refusal.map(|refusal| (refusal.failure, refusal.failures)))?;
        let (earliest, latest) = self.history.backoff_ends();
        match pending.refusal.map(|refusal| unix(refusal.retry_at)) {
            Some(at) if at < wall(earliest) || at > wall(latest) => Err(format!(
                "the recorded backoff ends at {at}, by the rules between {} and {}",
                wall(earliest),
                wall(latest)
            )),
            _ => Ok(()),
        }
    }

    /// The time by the local clock and the time by the API server's clock, the earlier one first. The API server's
    /// clock counts only if at least three of its readings agree, and if it differs from the local clock by more than
    /// ten seconds. Otherwise, both times are the local one.
    fn both_clocks(&self, now: Now) -> (Millis, Millis) {
        let local = unix(now.unix);
        let known = self.history.server_clock().filter(|(_, agreeing)| *agreeing >= 3);
        let server = known.map_or(local, |(origin, _)| origin + instant(now));
        if (server - local).abs() <= 10_000 { (local, local) } else { (local.min(server), local.max(server)) }
    }

    const fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn spacing(&self) -> Millis {
        millis(self.policy.spacing).max(1)
    }
}

/// The shortest and the longest wait that may follow the `n`th failure in a row. `took` is the duration of the attempt
/// that failed: a backoff with a beat is shorter by it.
fn wait(backoff: &Backoff, n: u32, took: Millis) -> Between {
    let cap = millis(backoff.cap());
    let doubled = |n: u32| (millis(backoff.first()) << n.saturating_sub(1).min(64)).min(cap);
    let before = doubled(n.saturating_sub(1));
    if backoff.keeps_beat() && doubled(n) == cap {
        let wait = if before == cap { cap - took % cap } else { cap };
        return (wait, wait);
    }
    let part = |permille: u16| doubled(n) * Millis::from(permille) / 1000;
    (part(backoff.spread().from()), part(backoff.spread().to()))
}

fn is_expired(certificate: &Certificate, clock: Millis) -> bool {
    clock > unix(certificate.validity.not_after())
}

fn instant(now: Now) -> Millis {
    now.instant.as_millis().into()
}

fn unix(at: UnixTime) -> Millis {
    at.as_millis().into()
}

fn millis(span: Duration) -> Millis {
    span.as_millis().try_into().unwrap_or(Millis::MAX)
}

fn check_equal<T: PartialEq + std::fmt::Debug>(what: &str, rule: &T, machine: &T) -> Verdict {
    if rule == machine { Ok(()) } else { Err(format!("{what}: {rule:?} by the rules, {machine:?} by the machine")) }
}
