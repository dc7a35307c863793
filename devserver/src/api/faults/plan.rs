//! Plans of faults: rules in YAML or JSON.

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de};

use super::fault::Fault;

/// Rules that apply faults to requests and connections. Of several rules that apply, the first determines the fault.
///
/// ```yaml
/// rules:
/// - match: { method: POST, path: /apis/certificates.k8s.io/*, until: 2m }
///   times: 3
///   fault: { answer: { status: 503, body: html, retryAfter: 5 } }
/// - fault: { certificate: expired }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The rules. Of several rules that apply to a request or connection, the first determines the fault.
    pub rules: Vec<Rule>,
}

/// One rule of a plan: a fault, and the requests or connections to apply the fault to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRule")]
pub struct Rule {
    /// The requests or connections to apply the fault to.
    pub matches: Match,
    /// Largest number of requests or connections to apply the fault to; `None` is no limit.
    pub times: Option<u32>,
    /// The fault to apply.
    pub fault: Fault,
}

/// The requests or connections that a rule matches: those that all fields match. A field that is `None` matches every
/// request and connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// HTTP method in capitals, for example `POST`.
    pub method: Option<String>,
    /// Path without the query; a final `*` stands for any ending.
    pub path: Option<String>,
    /// Last segment of the path, for example `approval`.
    pub subresource: Option<String>,
    /// Name of the user, for example `system:node:worker-1`.
    pub user: Option<String>,
    /// Number of the first request or connection that gets the fault. Only requests or connections that all other
    /// fields match are numbered, from 1. `None` is 1.
    pub nth: Option<u32>,
    /// The rule applies only after this time has passed since the plan was set, for example `90s`.
    #[serde(deserialize_with = "optional_span")]
    pub after: Option<Duration>,
    /// The rule applies only until this time has passed since the plan was set, for example `2m`.
    #[serde(deserialize_with = "optional_span")]
    pub until: Option<Duration>,
}

impl Match {
    fn is_about_requests(&self) -> bool {
        self.method.is_some() || self.path.is_some() || self.subresource.is_some() || self.user.is_some()
    }
}

impl From<Fault> for Plan {
    /// A plan with one rule. The rule applies `fault` to every request or, if it is a [`Fault::Connection`], to every
    /// connection.
    fn from(fault: Fault) -> Self {
        Self { rules: vec![Rule { matches: Match::default(), times: None, fault }] }
    }
}

/// A rule as it stands in the text of a plan, before validation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(rename = "match", default)]
    matches: Match,
    times: Option<u32>,
    fault: Fault,
}

impl TryFrom<RawRule> for Rule {
    type Error = &'static str;

    fn try_from(raw: RawRule) -> Result<Self, Self::Error> {
        let RawRule { matches, times, fault } = raw;
        if matches!(fault, Fault::Connection(_)) && matches.is_about_requests() {
            return Err("match: a connection fault happens before the request: use only nth, after and until");
        }
        if matches.nth == Some(0) {
            return Err("match.nth: the first request is 1");
        }
        match &fault {
            Fault::Answer(canned) if !(200..600).contains(&canned.status) => {
                return Err("fault.answer.status: expected a status from 200 to 599");
            }
            Fault::ContentType(media) if media.len() > 200 || !media.bytes().all(|b| matches!(b, b' '..=b'~')) => {
                return Err("fault.contentType: at most 200 printable ASCII characters");
            }
            _ => {}
        }
        Ok(Self { matches, times, fault })
    }
}

impl Plan {
    /// Reads a plan, YAML or JSON.
    ///
    /// # Errors
    /// [`PlanError`] if the text is not valid YAML, a field is unknown, or a value is not allowed.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let location = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
            let (line, column) = (location.line().max(1), location.column().max(1));
            let message = error.without_snippet().to_string();
            // `line` and `column` are fields of their own.
            let message = message.strip_suffix(&format!(" at line {line}, column {column}")).unwrap_or(&message);
            let reason = key_before(text, line, column).map(|key| format!("{key}: {message}"));
            PlanError { line, column, reason: reason.unwrap_or_else(|| message.to_owned()) }
        })
    }
}

/// The key whose value begins at this line and column of the plan, for error messages. `None` if no key precedes that
/// place.
fn key_before(text: &str, line: u64, column: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line - 1).ok()?)?;
    let end = line.char_indices().nth(usize::try_from(column - 1).ok()?)?.0;
    let key = line[..end].trim_end().strip_suffix(':')?.trim_end_matches('"');
    let start = key.rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
    Some(&key[start..]).filter(|key| !key.is_empty())
}

/// Error of a plan that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
#[non_exhaustive]
pub struct PlanError {
    /// Line of the problem, from 1.
    pub line: u64,
    /// Column of the problem, from 1.
    pub column: u64,
    /// The problem, preceded by the name of the field if that is known.
    pub reason: String,
}

fn optional_span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    span(deserializer).map(Some)
}

/// Reads a span such as `250ms`, `90s`, `15m` or `1h30m`.
pub(super) fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| {
        de::Error::custom(format_args!("{text:?} is not a duration; write for example 250ms, 90s or 2m"))
    })
}
