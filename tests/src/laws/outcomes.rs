//! Laws of outcomes: the outcomes that the machine reports agree with its changes, so that an observer needs nothing
//! else.

use perennial::{Event, Failure, Outcome, Outcomes, RotationMachine, Slot};

use super::{Step, Verdict, ensure};
use crate::trace::{in_flight, newest};

/// The outcomes of a step report every change of the machine, and no change that did not happen.
pub(super) fn outcomes_report_every_change(step: &Step<'_>) -> Verdict {
    let Step { now, before, event, after, .. } = *step;
    let (outcomes, cancels) = (&step.duties.outcomes, step.duties.cancel.is_some());
    let step = || format!("{event} at {now} has outcomes {outcomes:?}, from {before} to {after}");
    ensure!(
        !outcomes.is_ignored() || (before == after && outcomes.iter().count() == 1),
        "the event is reported as ignored, but something changed: {}",
        step()
    );
    ensure!(answers(before, event, outcomes), "the first outcome does not fit the event: {}", step());
    ensure!(
        request_ends(before, event, outcomes, cancels, after),
        "outcomes do not report the end of a request: {}",
        step()
    );
    ensure!(
        certificate_changes(before, event, outcomes, after),
        "outcomes do not report the certificates that changed: {}",
        step()
    );
    let due = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::BecameDue(reason) => Some(Some(*reason)),
        Outcome::NoLongerDue => Some(None),
        _ => None,
    });
    let (was, is) = (before.checkpoint().due, after.checkpoint().due);
    ensure!(
        due == (was != is).then_some(is),
        "outcomes do not report that the reason changed from {was:?} to {is:?}: {}",
        step()
    );
    // A refusal for a template that is no longer wanted is forgotten at once.
    let failure = outcomes.failure();
    let forgotten = after.last_failure().is_none() && failure.is_some_and(Failure::is_refusal);
    ensure!(
        failure.is_none() || after.last_failure() == failure || forgotten,
        "the reported failure is not the machine's last failure: {}",
        step()
    );
    Ok(())
}

/// Whether the outcomes of a step fit the event: the first one must be a possible decision on the event, and each
/// further one must be of a kind that may follow any event.
fn answers(before: &RotationMachine, event: &Event, outcomes: &Outcomes) -> bool {
    let mut outcomes = outcomes.iter();
    let (request, write) = (in_flight(before), before.writes().map(|(id, serve)| (id, slot(serve))));
    let answers = match (event, outcomes.next()) {
        (Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. }, Some(Outcome::Ignored)) => request != Some(*id),
        (
            Event::CsrIssued { id, .. },
            Some(Outcome::Accepted { id: to, .. } | Outcome::Rejected { id: to, .. } | Outcome::Unwanted { id: to }),
        ) => id == to && request == Some(*id),
        (Event::CsrFailed { id, failure, .. }, Some(Outcome::Failed { id: to, failure: why })) => {
            id == to && failure == why && request == Some(*id)
        }
        (Event::CertWritten { id }, Some(Outcome::Ignored)) => write.is_none_or(|(write, _)| write != *id),
        (Event::CertWritten { id }, Some(Outcome::Written { id: to, slot })) => id == to && write == Some((*id, *slot)),
        (Event::WriteFailed { .. }, Some(Outcome::Ignored)) => true,
        (Event::WriteFailed { id }, Some(Outcome::WriteFailed { id: to, slot })) => {
            id == to && write == Some((*id, *slot))
        }
        // The certificate that is found may be the one whose write is owed.
        (Event::CertReplaced(Some(_)), Some(Outcome::Written { id, slot: Slot::Served })) => {
            write == Some((*id, Slot::Served))
        }
        (Event::CertReplaced(Some(_)), Some(Outcome::TakenOver { .. })) => true,
        (Event::CertReplaced(_), Some(Outcome::Ignored | Outcome::Reinstated)) => true,
        (Event::RenewalHinted { fingerprint, .. }, Some(outcome)) => {
            let is_newest = newest(before).is_some_and(|newest| newest.fingerprint == *fingerprint);
            matches!(outcome, Outcome::Hinted { .. } | Outcome::HintDisregarded { .. }) == is_newest
        }
        (Event::Tick | Event::TurnGranted | Event::RotateNow, Some(outcome)) => *outcome == Outcome::Noted,
        (
            Event::TemplateChanged(_)
            | Event::SignerChanged(_)
            | Event::PolicyChanged(_)
            | Event::CertRefused { .. }
            | Event::ServerDated { .. },
            Some(Outcome::Noted | Outcome::Ignored),
        ) => true,
        _ => false,
    };
    let follows = |outcome: &Outcome| {
        matches!(
            outcome,
            Outcome::TimedOut { .. }
                | Outcome::Superseded { .. }
                | Outcome::Withdrawn { .. }
                | Outcome::TookTurn { .. }
                | Outcome::Dropped
                | Outcome::BecameDue(_)
                | Outcome::NoLongerDue
        )
    };
    answers && outcomes.all(follows)
}

/// Whether the end of a request is reported once. If the request in flight has ended, exactly one outcome must end it.
/// The driver must get a `CancelRequest` for it if the event is no reply to it, and no `CancelRequest` otherwise.
fn request_ends(
    before: &RotationMachine,
    event: &Event,
    outcomes: &Outcomes,
    cancels: bool,
    after: &RotationMachine,
) -> bool {
    let (was, is) = (in_flight(before), in_flight(after));
    let ended: Vec<_> = outcomes.iter().filter_map(Outcome::ended).collect();
    let answered = matches!(event, Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. } if was == Some(*id));
    let superseded = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Superseded { .. }));
    ended.as_slice() == was.filter(|_| was != is).as_slice()
        && cancels == (!answered && !ended.is_empty())
        && (!superseded || is > was)
        && outcomes.iter().filter(|outcome| outcome.failure().is_some()).count() <= 1
}

/// Whether the outcomes explain the served and the waiting certificate after the step. Each change must have an
/// outcome, and an outcome that replaces the served certificate must name the replaced one.
fn certificate_changes(before: &RotationMachine, event: &Event, outcomes: &Outcomes, after: &RotationMachine) -> bool {
    let new = match event {
        Event::CsrIssued { certificate, .. } => Some(certificate),
        Event::CertReplaced(found) => found.as_ref(),
        _ => None,
    };
    let (mut served, mut waits) = (before.certificate(), before.waiting());
    for outcome in outcomes.iter() {
        match outcome {
            Outcome::Accepted { slot: Slot::Served, replaced, .. }
            | Outcome::TakenOver { slot: Slot::Served, replaced } => {
                if replaced.as_ref() != served {
                    return false;
                }
                (served, waits) = (new, None);
            }
            Outcome::Accepted { slot: Slot::Waiting, replaced: None, .. }
            | Outcome::TakenOver { slot: Slot::Waiting, replaced: None } => waits = new,
            Outcome::TookTurn { replaced } => {
                if replaced.as_ref() != served || waits.is_none() {
                    return false;
                }
                (served, waits) = (waits, None);
            }
            Outcome::Dropped => waits = None,
            Outcome::Accepted { replaced: Some(_), .. } | Outcome::TakenOver { replaced: Some(_), .. } => return false,
            _ => {}
        }
    }
    (served, waits) == (after.certificate(), after.waiting())
}

const fn slot(serve: bool) -> Slot {
    if serve { Slot::Served } else { Slot::Waiting }
}
