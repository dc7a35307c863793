//! The request that has not led to a certificate yet.

use perennial::UnixTime;
use perennial_kubernetes::rotation::Record;
use perennial_pki::Chain;
use perennial_std::Directory;
use serde_json::{Value, json};

use crate::spans::words;

pub(super) enum Pending {
    Nothing,
    /// There is a record that tells nothing.
    Unreadable(String),
    Request(Box<Record>),
}

/// The record of what was asked last.
pub(super) fn read(directory: &Directory) -> Result<Option<Record>, String> {
    let contents = directory.recall().map_err(|error| error.to_string())?;
    let record = contents.map(|contents| Record::decode(&contents)).transpose();
    record.map_err(|error| format!("{}: {error}", directory.record().display()))
}

impl Pending {
    /// Never a failure: what is said about the certificate holds all the same.
    pub(super) fn of(record: Result<Option<Record>, String>, held: Option<&Chain>) -> Self {
        let record = match record {
            Ok(Some(record)) => record,
            Ok(None) => return Self::Nothing,
            Err(why) => return Self::Unreadable(why),
        };
        let certified =
            |chain: &Chain| record.key.as_ref().is_some_and(|key| key.public_key_der() == chain.public_key_der());
        let waits = record.key.is_some() && !held.is_some_and(certified);
        if waits || record.pending.refusal.is_some() { Self::Request(Box::new(record)) } else { Self::Nothing }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Unreadable(why) => json!({ "error": why }),
            Self::Request(record) => json!({
                "csr": record.csr_name,
                "signer": record.signer_name,
                "common_name": record.pending.template.common_name(),
                "submitted": record.pending.submitted.to_string(),
                "refusal": record.pending.refusal.map(|refusal| json!({
                    "reason": refusal.failure.describe(),
                    "failures": refusal.failures,
                    "retry_at": refusal.retry_at.to_string(),
                })),
            }),
        }
    }

    pub(super) fn to_text(&self, now: UnixTime) -> Vec<(&'static str, String)> {
        let record = match self {
            Self::Nothing => return Vec::new(),
            Self::Unreadable(why) => {
                let remedy = "none: `perennial run` submits a new request, and replaces the record";
                return vec![("pending", format!("unreadable: {why}")), ("  to do", remedy.into())];
            }
            Self::Request(record) => record,
        };
        let submitted = record.pending.submitted;
        let asked = format!("{submitted}, {} ago", words(now.since(submitted)));
        let mut lines = vec![("pending", record.csr_name.clone()), ("asked at", asked)];
        if let Some(refusal) = record.pending.refusal {
            let next = match refusal.retry_at {
                _ if record.key.is_some() => "this is the next attempt".to_owned(),
                at if at > now => format!("to be asked again at {at}, in {}", words(at.since(now))),
                _ => "to be asked again at once".to_owned(),
            };
            lines.push(("refused", format!("{}; {next}", refusal.failure.describe())));
        }
        lines
    }
}
