//! Settling: why a certificate is due, which duties follow, and the next deadline.

use std::sync::Arc;

use perennial::{Failure, Key, Now, Reason, SignerStatus, Template, rotation_point};

use super::history::{Between, Fact, Millis};
use super::{Duties, Model, instant, is_expired, millis, unix};
use crate::laws::Verdict;
use crate::trace::Record;

impl Model {
    /// Why a new certificate is due: the first of the reasons that applies.
    pub(super) fn due(&self, now: Now) -> Option<Reason> {
        let history = &self.history;
        let Some(held) = history.relied_on() else { return Some(Reason::NoCertificate) };
        let reasons = [
            (Reason::Expired, is_expired(held, self.both_clocks(now).0)),
            (Reason::Provisional, held.provisional),
            (Reason::RotationPoint, self.is_past_rotation_point(held, now)),
            (Reason::Refused, history.refused()),
            (Reason::TemplateNotSatisfied, history.wanted().is_some_and(|wanted| !wanted.satisfied_by(held))),
            (Reason::RotateNow, history.asked_for()),
        ];
        reasons.into_iter().find(|(_, is_so)| *is_so).map(|(reason, _)| reason)
    }

    /// Adds the duties of this moment. Where jitter left a choice, follows the machine in `record`.
    pub(super) fn look(&mut self, record: &Record, due: &mut Duties) {
        let now = record.now;
        if let Some((id, _)) = self.history.out().filter(|(_, since)| since + self.timeout() <= instant(now)) {
            due.cancel = Some(id);
            self.failed(Failure::TimedOut, None, now);
        }
        self.take_turn(now);
        self.shorten_wait(now);
        if let Some((id, held, again)) = self.history.unwritten()
            && let Some(certificate) = if held { self.history.held() } else { self.history.waits() }.cloned()
            && self.has_come(again, record.written().is_some(), now, Fact::WriteAgain)
        {
            due.write = Some((id, certificate, held));
            let again = instant(now) + millis(self.policy.write.cap());
            self.history.push(now, Fact::WriteSent);
            self.history.push(now, Fact::WriteAgain((again, again)));
        }
        let signer = self.history.signer();
        let wanted = self.history.wanted().filter(|_| signer != SignerStatus::Absent).cloned();
        // A rotation in flight goes on even if the wall clock is set back before the rotation point.
        let begun = self.history.was_rotating() && self.history.out().is_some();
        let goes_on = begun.then_some(Reason::RotationPoint);
        let reason = wanted.as_ref().and_then(|_| self.due(now).or(goes_on));
        self.history.push(now, Fact::Looked(reason));
        match (self.history.out(), reason, wanted) {
            (None, Some(reason), Some(wanted)) => {
                let allowed = self.allowed(tokens(reason));
                let (earliest, latest) = self.history.retry();
                let submits = record.submitted().is_some();
                if signer == SignerStatus::Ready
                    && allowed <= instant(now)
                    && self.has_come((earliest, latest), submits, now, Fact::Retry)
                {
                    self.submit(wanted, now, due);
                }
            }
            (Some((out, _)), Some(_), Some(wanted)) => {
                let superseded = self.history.last_asked() != Some(&wanted);
                if superseded && signer == SignerStatus::Ready && self.allowed(WISH) <= instant(now) {
                    due.cancel = Some(out);
                    self.submit(wanted, now, due);
                }
            }
            (Some((out, _)), ..) => {
                due.cancel = Some(out);
                self.history.push(now, Fact::Closed);
            }
            (None, ..) => {}
        }
    }

    fn submit(&mut self, template: Arc<Template>, now: Now, due: &mut Duties) {
        let id = self.next_id();
        due.submit = Some((id, template.clone(), self.key(Some(&template))));
        self.history.push(now, Fact::Submitted { id, template });
    }

    /// The key for a request for `template`: the pending one while the last request, for the same template, has no
    /// final answer.
    pub(super) fn key(&self, template: Option<&Arc<Template>>) -> Key {
        let kept = self.history.key_is_open() && self.history.last_asked() == template;
        if kept && !self.policy.new_key_per_attempt { Key::Pending } else { Key::New }
    }

    /// When spacing and budget allow a submission that needs this many tokens.
    fn allowed(&self, tokens: u32) -> Millis {
        self.left(tokens).max(self.history.spaced(self.spacing()))
    }

    /// When a request for this reason may be submitted.
    pub(super) fn wait_for(&self, reason: Reason) -> Between {
        let (earliest, latest) = self.history.retry();
        let allowed = self.allowed(tokens(reason));
        (earliest.max(allowed), latest.max(allowed))
    }

    /// When the bucket holds this many tokens: since each submission, one token was refilled every `refill`, and one
    /// was spent by that submission and by each later one.
    pub(super) fn left(&self, tokens: u32) -> Millis {
        let (size, refill) = (Millis::from(self.policy.budget.size()), millis(self.policy.budget.refill()));
        let spent = self.history.spent(refill).zip(1..);
        spent.map(|(at, gone)| at + (gone + Millis::from(tokens) - size) * refill).max().unwrap_or(0)
    }

    /// Whether the moment that jitter chose has come. Inside the interval the machine decides (`it_has`), which narrows
    /// the interval.
    fn has_come(&mut self, (earliest, latest): Between, it_has: bool, now: Now, narrowed: fn(Between) -> Fact) -> bool {
        let at = instant(now);
        if at < earliest || at >= latest {
            return at >= latest;
        }
        self.history.push(now, narrowed(if it_has { (earliest, at) } else { (at + 1, latest) }));
        it_has
    }

    /// Checks the machine's deadline: the first moment at which time alone may lead to a duty.
    pub(super) fn next_look(&mut self, record: &Record) -> Verdict {
        let (now, looks) = (record.now, record.after.deadline().map(|at| Millis::from(at.as_millis())));
        let signer = self.history.signer();
        let asks = signer != SignerStatus::Absent && self.history.wanted().is_some();
        let known = if asks || self.history.waits().is_some() { Some(self.known_moments(now)) } else { None };
        let write = self.history.unwritten().map(|(.., again)| again);
        let due =
            self.history.last_look().filter(|_| asks && signer == SignerStatus::Ready && self.history.out().is_none());
        let (earliest, latest) = self.history.retry();
        let allowed = due.map(|reason| self.allowed(tokens(reason)));
        let retry = due.map(|reason| self.wait_for(reason));

        let moments: Vec<Between> = known.map(|at| (at, at)).into_iter().chain(write).chain(retry).collect();
        let first = (moments.iter().map(|m| m.0).min(), moments.iter().map(|m| m.1).min());
        let explained = looks.is_none_or(|at| moments.iter().any(|(from, to)| (*from..=*to).contains(&at)));
        if looks < first.0 || looks > first.1 || !explained {
            return Err(format!("looks again at {looks:?}, but has to from {:?} to {:?}", first.0, first.1));
        }
        // The machine sleeps until then, so that times that jitter chose lie no earlier.
        if let Some(looks) = looks {
            if let Some((from, to)) = write.filter(|(from, _)| *from < looks) {
                self.history.push(now, Fact::WriteAgain((from.max(looks), to)));
            }
            if allowed.is_some_and(|allowed| allowed < looks) && earliest < looks {
                self.history.push(now, Fact::Retry((looks, latest)));
            }
        }
        self.deadline = looks;
        Ok(())
    }

    /// The first moment that does not depend on jitter after failures.
    fn known_moments(&self, now: Now) -> Millis {
        let (earlier, later) = self.both_clocks(now);
        let until = |at: Millis, clock: Millis| (at > clock).then(|| instant(now) + at - clock);
        let held = self.history.held();
        let relied_on = self.history.relied_on();
        let rotates = relied_on.and_then(|held| until(unix(rotation_point(&self.policy, self.seed, held)), later));
        let begins = self.history.waits().and_then(|waits| until(unix(waits.validity.not_before()), later));
        // Expiry by the local clock comes first, since waits are shortened by it; then by both clocks.
        let ends = |clock| held.and_then(|held| until(unix(held.validity.not_after()) + 1, clock));
        let expires = ends(unix(now.unix)).or_else(|| ends(earlier));
        let times_out = self.history.out().map(|(_, since)| since + self.timeout());
        let superseded = times_out.is_some() && self.history.last_asked() != self.history.wanted();
        let supersedes = (superseded && self.history.signer() == SignerStatus::Ready).then(|| self.allowed(WISH));
        // Regular checks of the clocks lie on a grid that the seed shifts.
        let grid = millis(self.policy.max_sleep).max(1);
        let checks = instant(now) + grid - (instant(now) - Millis::from(self.seed)).rem_euclid(grid);
        [rotates, begins, expires, times_out, supersedes].into_iter().flatten().fold(checks, Millis::min)
    }

    pub(super) fn timeout(&self) -> Millis {
        millis(self.policy.request_timeout).max(1)
    }
}

const WISH: u32 = 2;

/// The number of tokens that a request for this reason needs: the last token is reserved for urgent reasons.
const fn tokens(reason: Reason) -> u32 {
    match reason {
        Reason::TemplateNotSatisfied | Reason::RotateNow => WISH,
        _ => 1,
    }
}
