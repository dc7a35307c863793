//! The half of the model's step that settles: why a certificate is due, which actions follow, and the next deadline.

use std::sync::Arc;

use perennial::{Event, Failure, Key, Now, Reason, SignerStatus, Template};

use super::history::{Between, Fact, Millis};
use super::{Duties, Model, instant, is_expired, millis, unix};
use crate::laws::Verdict;
use crate::trace::Record;

impl Model {
    /// Why a new certificate is due: the first of the reasons that applies; `None` if none applies.
    pub(super) fn due(&self, now: Now) -> Option<Reason> {
        let history = &self.history;
        let Some(held) = history.newest_certificate() else { return Some(Reason::NoCertificate) };
        let reasons = [
            (Reason::Expired, is_expired(held, self.both_clocks(now).0)),
            (Reason::Provisional, held.provisional),
            (Reason::RotationPoint, self.is_past_rotation_point(held, now)),
            (Reason::Refused, history.refused()),
            (Reason::TemplateNotSatisfied, history.template().is_some_and(|wanted| !wanted.satisfied_by(held))),
            (Reason::RotateNow, history.rotate_now()),
        ];
        reasons.into_iter().find(|(_, is_so)| *is_so).map(|(reason, _)| reason)
    }

    /// Adds to `due` the actions that the rules demand now. Where jitter leaves the time of an action open, accepts the
    /// time that the machine chose: `record` shows whether the machine has acted in this step.
    pub(super) fn settle(&mut self, record: &Record, due: &mut Duties) {
        let now = record.now;
        if let Some((id, _)) = self.history.in_flight().filter(|(_, since)| since + self.timeout() <= instant(now)) {
            due.cancel = Some(id);
            self.failed(Failure::TimedOut, None, now);
        }
        self.take_turn(now);
        self.shorten_wait(now);
        if let Some((id, held, again)) = self.history.unwritten()
            && let Some(certificate) = if held { self.history.served() } else { self.history.waiting() }.cloned()
            && self.has_come(again, record.written().is_some(), now, Fact::WriteDue)
        {
            due.write = Some((id, certificate, held));
            let again = instant(now) + millis(self.policy.write.cap());
            self.history.push(now, Fact::WriteOrdered);
            self.history.push(now, Fact::WriteDue((again, again)));
        }
        let signer = self.history.signer();
        let wanted = self.history.template().filter(|_| signer != SignerStatus::Absent).cloned();
        // A request in flight for a rotation continues even if the wall clock is set back before the rotation point.
        let is_rotating = self.history.was_rotating() && self.history.in_flight().is_some();
        let continues = is_rotating.then_some(Reason::RotationPoint);
        let reason = wanted.as_ref().and_then(|_| self.due(now).or(continues));
        self.history.push(now, Fact::Settled(reason));
        // With a shared signer, a request waits for its turn.
        let has_turn = signer == SignerStatus::Ready || record.event == Event::TurnGranted;
        self.queued = false;
        match (self.history.in_flight(), reason, wanted) {
            (None, Some(reason), Some(wanted)) => {
                let allowed = self.allowed_at(tokens(reason));
                let (earliest, latest) = self.history.backoff_ends();
                let submits = record.submitted().is_some() || record.after.checkpoint().queued;
                if submits_requests(signer)
                    && allowed <= instant(now)
                    && self.has_come((earliest, latest), submits, now, Fact::BackoffEnds)
                {
                    self.queued = !has_turn;
                    if has_turn {
                        self.submit(wanted, now, due);
                    }
                }
            }
            (Some((in_flight, _)), Some(_), Some(wanted)) => {
                let superseded = self.history.last_requested() != Some(&wanted);
                if superseded && submits_requests(signer) && self.allowed_at(NORMAL_TOKENS) <= instant(now) {
                    self.queued = !has_turn;
                    if has_turn {
                        due.cancel = Some(in_flight);
                        self.submit(wanted, now, due);
                    }
                }
            }
            (Some((in_flight, _)), ..) => {
                due.cancel = Some(in_flight);
                self.history.push(now, Fact::Ended);
            }
            (None, ..) => {}
        }
    }

    fn submit(&mut self, template: Arc<Template>, now: Now, due: &mut Duties) {
        let id = self.next_id();
        due.submit = Some((id, template.clone(), self.key(Some(&template))));
        self.history.push(now, Fact::Submitted { id, template });
    }

    /// The key for a request for `template`: the pending key if the last request was for the same template and the
    /// pending key may be used again, or else a new key.
    pub(super) fn key(&self, template: Option<&Arc<Template>>) -> Key {
        let kept = self.history.key_is_reusable() && self.history.last_requested() == template;
        if kept && !self.policy.new_key_per_attempt { Key::Pending } else { Key::New }
    }

    /// When spacing and submission budget allow a request that needs this many tokens.
    fn allowed_at(&self, tokens: u32) -> Millis {
        self.affordable_at(tokens).max(self.history.spaced_at(self.spacing()))
    }

    /// The interval in which the next request for this reason is submitted.
    pub(super) fn next_submission(&self, reason: Reason) -> Between {
        let (earliest, latest) = self.history.backoff_ends();
        let allowed = self.allowed_at(tokens(reason));
        (earliest.max(allowed), latest.max(allowed))
    }

    /// When the submission budget has this many tokens. Each submission gives an earliest time, and the latest of these
    /// times counts. Immediately before a submission, the budget had at most `size` tokens. It lost one token to this
    /// submission and one to each later one, and gains one token every `refill`.
    pub(super) fn affordable_at(&self, tokens: u32) -> Millis {
        let (size, refill) = (Millis::from(self.policy.budget.size()), millis(self.policy.budget.refill()));
        let spent = self.history.spent(refill).zip(1..);
        spent.map(|(at, gone)| at + (gone + Millis::from(tokens) - size) * refill).max().unwrap_or(0)
    }

    /// Whether the time has come that jitter chose in this interval: not before the interval, and certainly at its end.
    /// Within the interval, the time has come if the machine acts now (`machine_acts`). The answer narrows the
    /// interval.
    fn has_come(
        &mut self,
        (earliest, latest): Between,
        machine_acts: bool,
        now: Now,
        narrowed: fn(Between) -> Fact,
    ) -> bool {
        let at = instant(now);
        if at < earliest || at >= latest {
            return at >= latest;
        }
        self.history.push(now, narrowed(if machine_acts { (earliest, at) } else { (at + 1, latest) }));
        machine_acts
    }

    /// Checks the machine's deadline against the rules. The deadline is the next time at which the machine has
    /// something to do without another event: for example, a waiting certificate reaches its notBefore, a request times
    /// out, or a write or a submission is due.
    pub(super) fn check_deadline(&mut self, record: &Record) -> Verdict {
        let (now, deadline) = (record.now, record.after.deadline().map(|at| Millis::from(at.as_millis())));
        let signer = self.history.signer();
        let is_enabled = signer != SignerStatus::Absent && self.history.template().is_some();
        let known = if is_enabled || self.history.waiting().is_some() { self.first_known_moment(now) } else { None };
        let write = self.history.unwritten().map(|(.., again)| again);
        let due = self
            .history
            .last_reason()
            .filter(|_| is_enabled && submits_requests(signer) && !self.queued && self.history.in_flight().is_none());
        let (earliest, latest) = self.history.backoff_ends();
        let allowed = due.map(|reason| self.allowed_at(tokens(reason)));
        let retry = due.map(|reason| self.next_submission(reason));

        let moments: Vec<Between> = known.map(|at| (at, at)).into_iter().chain(write).chain(retry).collect();
        let first = (moments.iter().map(|m| m.0).min(), moments.iter().map(|m| m.1).min());
        let explained = deadline.is_none_or(|at| moments.iter().any(|(from, to)| (*from..=*to).contains(&at)));
        if deadline < first.0 || deadline > first.1 || !explained {
            return Err(format!("the deadline is {deadline:?}, by the rules between {:?} and {:?}", first.0, first.1));
        }
        // The machine sleeps until then, so that times that jitter chose lie no earlier.
        if let Some(deadline) = deadline {
            if let Some((from, to)) = write.filter(|(from, _)| *from < deadline) {
                self.history.push(now, Fact::WriteDue((from.max(deadline), to)));
            }
            if allowed.is_some_and(|allowed| allowed < deadline) && earliest < deadline {
                self.history.push(now, Fact::BackoffEnds((deadline, latest)));
            }
        }
        self.deadline = deadline;
        Ok(())
    }

    /// The first time, of those on which no backoff has an influence, at which the machine has something to do: a
    /// rotation point, a notBefore, an expiry, a timeout, a request that supersedes the one in flight, or a regular
    /// check of the clocks. A machine with a shared signer has no such check.
    fn first_known_moment(&self, now: Now) -> Option<Millis> {
        let (earlier, later) = self.both_clocks(now);
        let until = |at: Millis, clock: Millis| (at > clock).then(|| instant(now) + at - clock);
        let held = self.history.served();
        let newest_certificate = self.history.newest_certificate();
        let rotates = newest_certificate.and_then(|held| until(unix(self.rotation_point(held)), later));
        let begins = self.history.waiting().and_then(|waits| until(unix(waits.validity.not_before()), later));
        // Expiry by the local clock comes first, since waits are shortened by it; then by both clocks.
        let ends = |clock| held.and_then(|held| until(unix(held.validity.not_after()) + 1, clock));
        let expires = ends(unix(now.unix)).or_else(|| ends(earlier));
        let times_out = self.history.in_flight().map(|(_, since)| since + self.timeout());
        let superseded = times_out.is_some() && self.history.last_requested() != self.history.template();
        let signer = self.history.signer();
        let submits = superseded && submits_requests(signer) && !self.queued;
        let supersedes = submits.then(|| self.allowed_at(NORMAL_TOKENS));
        // Regular checks of the clocks lie on a grid that the seed shifts.
        let grid = millis(self.policy.max_sleep).max(1);
        let checks = instant(now) + grid - (instant(now) - Millis::from(self.seed)).rem_euclid(grid);
        let checks = (signer != SignerStatus::Shared).then_some(checks);
        [rotates, begins, expires, times_out, supersedes, checks].into_iter().flatten().min()
    }

    pub(super) fn timeout(&self) -> Millis {
        millis(self.policy.request_timeout).max(1)
    }
}

const NORMAL_TOKENS: u32 = 2;

/// Whether requests are submitted with a signer of this status, at once or in turn.
const fn submits_requests(signer: SignerStatus) -> bool {
    matches!(signer, SignerStatus::Ready | SignerStatus::Shared)
}

/// The number of tokens that a request for this reason needs: the last token is reserved for urgent reasons.
const fn tokens(reason: Reason) -> u32 {
    match reason {
        Reason::TemplateNotSatisfied | Reason::RotateNow => NORMAL_TOKENS,
        _ => 1,
    }
}
