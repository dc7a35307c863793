//! Describes a line of a journal in an operator's words.

use std::fmt;

use perennial::{
    Action, Certificate, Event, Key, Now, Outcome, RequestId, RotationMachine, SignerStatus, State, Template,
};
use perennial_rotation::Transition;
use perennial_rotation::journal::Replayed;

use crate::report::all_names;
use crate::spans::words;

/// Description of a step: the event, the actions that followed, and the state after them. Does not list the action that
/// sets the timer, since `leaves` names the time for which the timer is set.
pub(super) struct Story {
    /// The event of the step; for a snapshot, how the journal begins or continues there.
    pub(super) happened: String,
    /// The actions that followed, in order.
    pub(super) followed: Vec<String>,
    /// The state of the machine after the step.
    pub(super) leaves: String,
}

impl Story {
    /// Describes a replayed line: a step or a snapshot.
    pub(super) fn of(replayed: &Replayed) -> Self {
        let leaves = leaves(&replayed.machine, replayed.at);
        let (happened, followed) = match replayed.step() {
            Some(step) => (happened(step), followed(step)),
            None if replayed.continues() => ("the journal continues in this file".into(), Vec::new()),
            None if replayed.missing > 0 => {
                (format!("the journal begins again; steps missing before this line: {}", replayed.missing), Vec::new())
            }
            // Names the version if it is another one, whose machine may decide otherwise.
            None => match replayed.perennial.as_deref() {
                Some(version) if version != env!("CARGO_PKG_VERSION") => {
                    (format!("the journal begins, written by perennial {version}"), Vec::new())
                }
                _ => ("the journal begins".into(), Vec::new()),
            },
        };
        Self { happened, followed, leaves }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { happened, followed, leaves } = self;
        let arrow = if followed.is_empty() { "" } else { " -> " };
        write!(f, "{happened}{arrow}{} | {leaves}", followed.join(", "))
    }
}

fn happened(step: &Transition) -> String {
    let sentence = match &step.event {
        Event::Tick => match timed_out(step) {
            Some(id) => format!("request {id} timed out"),
            None => "clock check".into(),
        },
        Event::TurnGranted => "turn to submit a request".into(),
        Event::TemplateChanged(Some(template)) => format!("names to request: {}", requested(template)),
        Event::TemplateChanged(None) => "no names to request any more".into(),
        Event::SignerChanged(SignerStatus::Ready) => "signer ready".into(),
        Event::SignerChanged(SignerStatus::Shared) => "signer ready, shared with other certificates".into(),
        Event::SignerChanged(SignerStatus::NotReady) => {
            "signer configured; no identity to authenticate with yet".into()
        }
        Event::SignerChanged(SignerStatus::Absent) => "signer removed".into(),
        Event::PolicyChanged(policy) => format!("timing changed to {policy}"),
        Event::CsrIssued { id, certificate } => {
            let but = step.failure().map(|failure| format!(", but {}", failure.describe()));
            format!("request {id} returned {}{}", facts(certificate), but.unwrap_or_default())
        }
        Event::CsrFailed { id, failure, retry_after } => {
            let retry = retry_after.map(|span| format!(", retry in {} at the earliest", words(span)));
            format!("request {id} failed: {}{}", failure.describe(), retry.unwrap_or_default())
        }
        Event::RenewalHinted { fingerprint, hint } => {
            let but = step.actions.outcomes().iter().find_map(|outcome| match outcome {
                Outcome::HintDisregarded { fault } => {
                    Some(format!(", disregarded, since the hint {}", fault.describe()))
                }
                _ => None,
            });
            format!("the signer's hint: rotate certificate {fingerprint} {hint}{}", but.unwrap_or_default())
        }
        Event::CertWritten { id } => format!("the certificate of request {id} is on disk"),
        Event::WriteFailed { id } => format!("the certificate of request {id} could not be written"),
        Event::CertReplaced(Some(found)) => format!("the directory holds {} now", facts(found)),
        Event::CertReplaced(None) => "the directory holds no certificate any more".into(),
        Event::CertRefused { fingerprint } => format!("a server refused the certificate {fingerprint}"),
        Event::RotateNow => "rotation on demand".into(),
        Event::ServerDated { unix } => format!("the API server's clock shows {unix}"),
        other => other.to_string(),
    };
    sentence + if step.actions.outcomes().is_ignored() { ", which changes nothing" } else { "" }
}

fn timed_out(step: &Transition) -> Option<RequestId> {
    step.actions.outcomes().iter().find_map(|outcome| match outcome {
        Outcome::TimedOut { id } => Some(*id),
        _ => None,
    })
}

fn followed(step: &Transition) -> Vec<String> {
    let mut outcomes = step.actions.outcomes().iter();
    // Without such an outcome, a write repeats a write that failed.
    let is_new = outcomes.any(|outcome| matches!(outcome, Outcome::Accepted { .. } | Outcome::TookTurn { .. }));
    let duties = step.actions.clone().filter_map(|action| match action {
        Action::CancelRequest { id } => Some(format!("cancels request {id}")),
        Action::WriteCert { certificate, serve, .. } => Some(match (is_new, serve) {
            (true, true) => format!("serves and writes certificate {}", certificate.fingerprint),
            (true, false) => format!("writes certificate {}, to be served once it is valid", certificate.fingerprint),
            (false, _) => format!("writes certificate {} again", certificate.fingerprint),
        }),
        Action::SubmitCsr { id, template, key } => {
            let key = match key {
                Key::New => "a new key",
                Key::Pending => "the same key",
            };
            let because = match step.after.state() {
                State::Requesting { reason, .. } => format!(", because {reason}"),
                _ => String::new(),
            };
            Some(format!("submits request {id} with {key} for {}{because}", requested(&template)))
        }
        Action::SetTimer(_) => None,
    });
    duties.collect()
}

fn leaves(machine: &RotationMachine, now: Now) -> String {
    let left = |until: perennial::Instant| match until.since(now.instant) {
        span if span.is_zero() => "at once".to_owned(),
        span => format!("in {}", words(span)),
    };
    let state = match machine.state() {
        State::NotEnabled => "rotation is not enabled: there is no signer".into(),
        State::NoTemplate => "no names to request yet".into(),
        State::NoIdentity { .. } => "a certificate is due; waiting for an identity to authenticate with".into(),
        State::Scheduled { rotate_at } => {
            format!("next rotation in {}, at {rotate_at}", words(rotate_at.since(now.unix)))
        }
        State::Requesting { id, until, .. } => format!("request {id} in flight, times out {}", left(until)),
        State::BackingOff { until, failures, .. } => {
            format!("next attempt {}, failures in a row: {failures}", left(until))
        }
        State::Waiting { until, .. } => format!("next attempt {}", left(until)),
        State::Queued { .. } => "a certificate is due; waiting for its turn at the shared signer".into(),
    };
    state + if machine.is_unwritten() { "; the certificate is not on disk yet" } else { "" }
}

/// The names of a request. An empty template leaves them to the signer.
fn requested(template: &Template) -> String {
    all_names(template).unwrap_or_else(|| "the names that the signer chooses".into())
}

fn facts(certificate: &Certificate) -> String {
    let provisional = if certificate.provisional { " (provisional)" } else { "" };
    let (fingerprint, validity) = (certificate.fingerprint, certificate.validity);
    let name = match certificate.common_name() {
        "" => all_names(&certificate.names).unwrap_or_else(|| "no name".into()),
        common_name => common_name.to_owned(),
    };
    format!("certificate {fingerprint} for {name}, valid until {}{provisional}", validity.not_after())
}
