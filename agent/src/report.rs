//! Reports events: sentences for people, or one JSON object a line for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use perennial::{Escaped, Template};
use perennial_pki::Chain;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::lines::Lines;

/// The output of events. Write errors are ignored: rotation continues without a reader.
pub(crate) enum Report {
    /// JSON objects on stdout, one a line; through a queue for `run`, which must not wait for a slow reader.
    Json(Option<Lines>),
    /// Sentences on stdout.
    Sentences,
    /// Sentences in the log.
    Log,
}

impl Report {
    /// The output of `run`: sentences in the log, or JSON on stdout through a queue.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread for the queue.
    pub(crate) fn of_service(json: bool) -> Result<Self, Failure> {
        if !json {
            return Ok(Self::Log);
        }
        let notice = |count| format!("{}\n", json!({ "event": "missed", "count": count }));
        Ok(Self::Json(Some(Lines::to(&io::stdout(), "the report on stdout", notice)?)))
    }

    /// The queue of lines to write to stdout; `None` if events go elsewhere or are written without a queue.
    pub(crate) const fn lines(&self) -> Option<&Lines> {
        if let Self::Json(lines) = self { lines.as_ref() } else { None }
    }

    /// Waits until all events are written, for at most `within`. Returns false if an event is still queued or was
    /// dropped.
    pub(crate) fn finish_within(&self, within: Duration) -> bool {
        self.lines().is_none_or(|lines| lines.finish_within(within) && lines.dropped() == 0)
    }

    /// Reports an event: `name` and `fields` as JSON, or `sentence` as text. An empty sentence is not logged.
    pub(crate) fn event(&self, name: &str, fields: Value, sentence: &str) {
        let line = || json_line(&with(json!({ "event": name }), fields));
        match self {
            Self::Json(Some(lines)) => lines.push(line().into_bytes()),
            Self::Json(None) => print(&line()),
            Self::Log if sentence.is_empty() => {}
            Self::Log => tracing::info!("{sentence}"),
            Self::Sentences => print(&format!("{sentence}\n")),
        }
    }

    /// Reports the failure of the command as JSON. With text output, `main` prints the failure on stderr.
    pub(crate) fn failed(&self, failure: &Failure) {
        if let Self::Json(_) = self {
            self.event("failed", json!({ "reason": failure.to_string() }), "");
        }
    }
}

/// Prints text on stdout. Ignores write errors, such as a closed pipe.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Formats names and values in two columns: one name and its value per line.
pub(crate) fn columns(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, value)| format!("{name:<11} {}\n", Escaped(value))).collect()
}

/// Formats a line of JSON. Control characters are escaped as JSON allows, so that parsers read the same value.
pub(crate) fn json_line(value: &Value) -> String {
    format!("{:#}\n", Escaped(&value.to_string()))
}

/// The subject of a certificate, for people: `CN=a, O=b`; `none` for an empty one.
pub(crate) fn subject(names: &Template) -> String {
    let if_any = |name: &'static str, value: &str| (!value.is_empty()).then(|| format!("{name}={value}"));
    let organizations = names.organizations().map(|name| format!("O={name}"));
    let units = names.organizational_units().map(|name| format!("OU={name}"));
    let parts = if_any("CN", names.common_name()).into_iter().chain(organizations).chain(units);
    let parts: Vec<String> = parts.chain(if_any("serialNumber", names.serial_number())).collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

/// The issuer of a certificate, for people: `CN=a`; `none` for an empty one.
pub(crate) fn issuer(chain: &Chain) -> &str {
    if chain.issuer().is_empty() { "none" } else { chain.issuer() }
}

/// All names of a request or a certificate, `CN=a,DNS=b`, without an empty common name; `None` if there is no name.
pub(crate) fn all_names(names: &Template) -> Option<String> {
    let all = names.to_string();
    match all.strip_prefix("CN=") {
        Some("") => None,
        Some(rest) if rest.starts_with(',') => Some(rest[1..].to_owned()),
        _ => Some(all),
    }
}

/// The fields of a certificate for events, `/state` and `status`, as JSON.
pub(crate) fn certificate(chain: &Chain) -> Value {
    let facts = chain.certificate();
    json!({
        "common_name": facts.common_name(),
        "organizations": facts.names.organizations().collect::<Vec<_>>(),
        "uris": facts.names.uris().collect::<Vec<_>>(),
        "serial": chain.serial(),
        "issuer": chain.issuer(),
        "not_before": facts.validity.not_before().to_string(),
        "not_after": facts.validity.not_after().to_string(),
    })
}

/// Adds `fields` to `object`. A field that `object` has already is replaced.
pub(crate) fn with(mut object: Value, fields: Value) -> Value {
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_and_names_leave_out_empty_common_name() {
        let none = Template::default();
        let uri = Template::default().with_uris(["spiffe://a"]);
        let organization = Template::default().with_organizations(["b"]);
        let node = Template::node("a");
        let shown = [&none, &uri, &organization, &node].map(|names| (subject(names), all_names(names)));
        let expected = [
            ("none", None),
            ("none", Some("URI=spiffe://a")),
            ("O=b", Some("O=b")),
            ("CN=system:node:a, O=system:nodes", Some("CN=system:node:a,O=system:nodes")),
        ];
        assert_eq!(shown, expected.map(|(subject, names)| (subject.to_owned(), names.map(str::to_owned))));
    }

    #[test]
    fn columns_separate_name_of_any_length_from_value() {
        for (name, line) in
            [("list", "list        a"), ("certificate", "certificate a"), ("a longer name", "a longer name a")]
        {
            assert_eq!(columns(&[(name, "a".into())]), format!("{line}\n"));
        }
    }
}
