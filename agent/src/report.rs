//! Reports events: sentences for people, or one JSON object a line for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use perennial::Escaped;
use perennial_pki::Chain;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::lines::Lines;

/// Reports events. Goes on if the reader went away.
pub(crate) enum Report {
    /// For programs: one object a line, on stdout; through the queue of a service, which does not wait for its reader.
    Json(Option<Lines>),
    /// For people, on stdout.
    Sentences,
    /// For operators: sentences go where everything else is logged.
    Log,
}

impl Report {
    /// Sentences in the log, or JSON on stdout, queued for a reader that may be slow.
    pub(crate) fn of_service(json: bool) -> Result<Self, Failure> {
        if !json {
            return Ok(Self::Log);
        }
        let notice = |count| format!("{}\n", json!({ "event": "missed", "count": count }));
        Ok(Self::Json(Some(Lines::to(&io::stdout(), "the report on stdout", notice)?)))
    }

    /// The queue behind stdout, if there is one.
    pub(crate) const fn lines(&self) -> Option<&Lines> {
        if let Self::Json(lines) = self { lines.as_ref() } else { None }
    }

    /// Waits until everything reported is written, for at most `within`. False if anything is missing.
    pub(crate) fn finish_within(&self, within: Duration) -> bool {
        self.lines().is_none_or(|lines| lines.finish_within(within) && lines.dropped() == 0)
    }

    /// Reports an event: `name` and `fields` to programs, `sentence`, if there is one, to people.
    pub(crate) fn event(&mut self, name: &str, fields: Value, sentence: &str) {
        let line = || json_line(&with(json!({ "event": name }), fields));
        match self {
            Self::Json(Some(lines)) => lines.push(line().into_bytes()),
            Self::Json(None) => print(&line()),
            Self::Log if sentence.is_empty() => {}
            Self::Log => tracing::info!("{sentence}"),
            Self::Sentences => print(&format!("{sentence}\n")),
        }
    }

    /// Reports to programs that it did not work out. People read it on stderr.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        if let Self::Json(_) = self {
            self.event("failed", json!({ "reason": failure.to_string() }), "");
        }
    }
}

pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// A name and a value a line.
pub(crate) fn columns(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, value)| format!("{name:<12}{}\n", Escaped(value))).collect()
}

/// One line of JSON. What a terminal would act upon is escaped: programs read the same.
pub(crate) fn json_line(value: &Value) -> String {
    format!("{:#}\n", Escaped(&value.to_string()))
}

/// A certificate's facts, for programs.
pub(crate) fn certificate(chain: &Chain) -> Value {
    let facts = chain.certificate();
    json!({
        "common_name": facts.common_name,
        "organizations": facts.organizations,
        "serial": chain.serial(),
        "issuer": chain.issuer(),
        "not_before": facts.validity.not_before().to_string(),
        "not_after": facts.validity.not_after().to_string(),
    })
}

/// `object` with these fields added.
pub(crate) fn with(mut object: Value, fields: Value) -> Value {
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}
