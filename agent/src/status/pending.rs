//! The last request, if it has no certificate yet or was refused.

use std::fmt;

use perennial::{Failure, Refusal, UnixTime};
use perennial_pki::Chain;
use perennial_rotation::{Directory, Record, Store};
use serde_json::{Value, json};

use crate::spans::words;

/// A request to show, from the pending record.
pub(super) enum Pending {
    /// No request waits for a certificate, and none was refused.
    Nothing,
    /// The record exists and cannot be read.
    Unreadable(String),
    Request(Box<Record>),
}

/// Reads the pending record; `None` if the file does not exist.
pub(super) fn read(directory: &Directory) -> Result<Option<Record>, String> {
    read_from(directory, directory.record().display())
}

/// Reads the pending record of a store; `None` if there is none. `at` names the record in errors.
pub(super) fn read_from(store: &dyn Store, at: impl fmt::Display) -> Result<Option<Record>, String> {
    let contents = store.recall().map_err(|error| error.to_string())?;
    let record = contents.map(|contents| Record::decode(&contents)).transpose();
    record.map_err(|error| format!("{at}: {error}"))
}

impl Pending {
    /// Chooses the request to show: a request that was refused, or one that has no certificate yet. The latter is a
    /// request whose key is in the record, and is not the key of `current`, the chain in use.
    ///
    /// The command does not fail if the record cannot be read, since the verdict on the certificate does not depend on
    /// the record.
    pub(super) fn of(record: Result<Option<Record>, String>, current: Option<&Chain>) -> Self {
        let record = match record {
            Ok(Some(record)) => record,
            Ok(None) => return Self::Nothing,
            Err(why) => return Self::Unreadable(why),
        };
        let certified =
            |chain: &Chain| record.key.as_ref().is_some_and(|key| key.public_key_der() == chain.public_key_der());
        let waits = record.key.is_some() && !current.is_some_and(certified);
        if waits || record.pending.refusal.is_some() { Self::Request(Box::new(record)) } else { Self::Nothing }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Unreadable(why) => json!({ "error": why }),
            Self::Request(record) => json!({
                "state": state(record).name(),
                "csr": record.request_name,
                "signer": record.signer_name,
                "common_name": record.pending.template.common_name(),
                "submitted": record.pending.submitted.to_string(),
                "turned_down": record.turned_down.map(Failure::name),
                "refusal": record.pending.refusal.map(|refusal| json!({
                    "failure": refusal.failure.name(),
                    "reason": refusal.failure.describe(),
                    "failures": refusal.failures,
                    "retry_at": refusal.retry_at.to_string(),
                })),
            }),
        }
    }

    /// The clause about the request that is added to the verdict on the certificate; `None` if there is no request to
    /// show.
    pub(super) fn phrase(&self, now: UnixTime) -> Option<String> {
        let Self::Request(record) = self else { return None };
        let ago = words(now.since(record.pending.submitted));
        Some(match state(record) {
            State::Waiting => format!("a request submitted {ago} ago has no certificate yet"),
            State::TurnedDown(failure) => format!("the request {ago} ago failed: {}", failure.describe()),
            State::Refused(Refusal { failure, retry_at, .. }) => {
                format!("the request {ago} ago failed: {}; next {}", failure.describe(), at(retry_at, now))
            }
        })
    }

    pub(super) fn to_text(&self, now: UnixTime) -> Vec<(&'static str, String)> {
        let record = match self {
            Self::Nothing => return Vec::new(),
            Self::Unreadable(why) => {
                let remedy = "nothing: `perennial run` submits a new request, whose record replaces this one";
                return vec![("pending", format!("unreadable: {why}")), ("  to do", remedy.into())];
            }
            Self::Request(record) => record,
        };
        let (head, more) = match (state(record), record.pending.refusal) {
            (State::Refused(Refusal { failure, retry_at, .. }), _) => {
                ("refused", vec![("  reason", failure.describe().to_owned()), ("  next", at(retry_at, now))])
            }
            (State::TurnedDown(failure), _) => ("failed", vec![("  reason", failure.describe().to_owned())]),
            (State::Waiting, Some(before)) => ("pending", vec![("  earlier", before.failure.describe().to_owned())]),
            (State::Waiting, None) => ("pending", Vec::new()),
        };
        let submitted = record.pending.submitted;
        let at = format!("{submitted}, {} ago", words(now.since(submitted)));
        [vec![(head, record.request_name.clone()), ("submitted", at)], more].concat()
    }
}

/// The state of the last request, by the pending record.
enum State {
    /// The record states no answer to the request.
    Waiting,
    /// The API server rejected the credential (401), or did not allow the request (403): there may be no CSR object.
    TurnedDown(Failure),
    /// The request was refused, and the next request waits for the backoff after refusals.
    Refused(Refusal),
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::TurnedDown(_) => "turned_down",
            Self::Refused(_) => "refused",
        }
    }
}

fn state(record: &Record) -> State {
    match (record.turned_down, record.pending.refusal) {
        (Some(failure), _) => State::TurnedDown(failure),
        // With a key, the record is of the request after the refusal.
        (None, Some(refusal)) if record.key.is_none() => State::Refused(refusal),
        (None, _) => State::Waiting,
    }
}

fn at(retry_at: UnixTime, now: UnixTime) -> String {
    if retry_at > now { format!("at {retry_at}, in {}", words(retry_at.since(now))) } else { "at once".into() }
}
