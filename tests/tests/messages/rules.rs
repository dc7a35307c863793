//! The rules for messages that a program can check, and the messages that may break them.

use super::collect::{Kind, Message};

/// A message that may break a rule, with the reason.
#[derive(Debug)]
pub(crate) struct Exception {
    /// The file, or a folder with a slash at its end.
    pub(crate) path: &'static str,
    /// Part of the message.
    pub(crate) text: &'static str,
    #[expect(dead_code, reason = "for readers")]
    reason: &'static str,
}

const fn except(path: &'static str, text: &'static str, reason: &'static str) -> Exception {
    Exception { path, text, reason }
}

const DURATION: &str = "Debug is the only text of a Duration, such as 10s";
const QUOTED: &str = "a name in quotes, with its control characters escaped";
const GO: &str = "quoted as Kubernetes quotes in messages (Go's %q)";

pub(crate) const EXCEPTIONS: &[Exception] = &[
    except("core/src/policy.rs", "{first:?}, must be at least", DURATION),
    except("core/src/policy.rs", "{refill:?}", DURATION),
    except("core/src/store.rs", "{:?} cannot begin", QUOTED),
    except("core/src/trace.rs", "{span:?}", DURATION),
    except("core/src/trace.rs", "{refill:?}", DURATION),
    except("core/src/trace.rs", "{spacing:?}", DURATION),
    except("pki/src/names.rs", "{name:?} is not ASCII", QUOTED),
    except("rotation/src/directory/error.rs", "{common_name:?}", QUOTED),
    except("rotation/src/directory/settle.rs", "{SPAN:?}", DURATION),
    except("kubernetes/src/kubelet_config.rs", "{kind:?}", QUOTED),
    except("agent/src/observers.rs", "{RETRY:?}", DURATION),
    except("agent/src/patience.rs", "{most:?}", DURATION),
    except("agent/src/run/node_name.rs", "{text:?}", QUOTED),
    except("agent/src/run/prepared.rs", "{shown:?}", QUOTED),
    except("agent/src/signals.rs", "{END:?}", DURATION),
    except("devserver/src/api/", ":?}", GO),
    except("devserver/src/bin/perennial-dev/demo/show.rs", "{:?}, not for the node", QUOTED),
];

const VAGUE: [&str; 5] = ["anybody", "nobody", "somebody", "someone", "whoever"];
/// Verbs that no message may use. Messages use the glossary's verbs instead: request, submit, log, report, return,
/// check, observe, replace, rotate.
const VERBS: [&str; 18] = [
    "ask", "asked", "asking", "asks", "look", "looked", "looking", "looks", "renew", "renewed", "renews", "said",
    "say", "saying", "says", "tell", "tells", "told",
];

/// The rules that a message breaks.
pub(crate) fn broken(message: &Message) -> Vec<&'static str> {
    let text = message.text.as_str();
    let is_sentence = matches!(message.kind, Kind::Log(_) | Kind::Error | Kind::Display);
    let first = text.split(' ').next().unwrap_or_default();
    // Names such as CSR and DNS have more than one upper-case letter.
    let is_capitalized =
        first.chars().filter(|c| c.is_uppercase()).count() == 1 && first.starts_with(char::is_uppercase);
    let words = words(text);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let rules = [
        ("shows Debug text", text.contains(":?}") || text.contains(":#?}")),
        ("name the person or the program", has(&VAGUE)),
        ("the glossary has another verb", has(&VERBS)),
        ("begins with an upper-case letter", is_sentence && is_capitalized),
        ("ends with a period", is_sentence && text.ends_with('.')),
    ];
    rules.into_iter().filter(|(_, is_broken)| *is_broken).map(|(rule, _)| rule).collect()
}

/// The words of a format string, in lower case, without the names of its arguments.
fn words(text: &str) -> Vec<String> {
    let outside = text.split('{').map(|part| part.split_once('}').map_or(part, |(_, outside)| outside));
    let words = outside.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_rule_of_a_message_is_reported() {
        let log = Kind::Log("WARN");
        for (kind, text, expected) in [
            (log, "cannot read {path:?}", "shows Debug text"),
            (Kind::Text, "{:#?} remains", "shows Debug text"),
            (log, "late  [{error:?}]", "shows Debug text"),
            (Kind::Help, "Whoever reads it", "name the person or the program"),
            (Kind::Text, "a certificate is asked for", "the glossary has another verb"),
            (Kind::Error, "Cannot read it", "begins with an upper-case letter"),
            (log, "cannot read it.", "ends with a period"),
        ] {
            assert_eq!(broken(&Message { kind, text: text.into() }), [expected], "{text}");
        }
    }

    #[test]
    fn placeholders_proper_names_and_help_sentences_break_no_rule() {
        for (kind, text) in [
            (Kind::Log("INFO"), "CSR {nobody} approved, {asked}"),
            (Kind::Display, "CancelRequest {id}"),
            (Kind::Help, "Reads it. Changes nothing."),
            (Kind::Text, "Auto approving"),
        ] {
            assert!(broken(&Message { kind, text: text.into() }).is_empty(), "{text}");
        }
    }
}
