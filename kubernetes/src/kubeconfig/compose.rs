//! Composes nodes from the parser's events (YAML 1.2.2 §3.1.2). Aliases and merge keys become copies of the nodes that
//! they refer to, and scalars get their types.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use zeroize::Zeroizing;

use super::document::{Node, Value};
use super::error::{KubeconfigError, Place};

/// The deepest nesting of lists and mappings. Bounds the recursion that composes, compares and writes nodes.
const DEEPEST: usize = 24;
/// The greatest number of nodes that the aliases in one text may copy. A long text counts as one more node for each
/// KiB.
const MOST_COPIES: usize = 10_000;
const KIB: usize = 1024;

/// The standard tags of YAML (`tag:yaml.org,2002:…`), without the prefix. A sequence is refused if it has one of these
/// tags other than `seq`, and a mapping if it has one other than `map`.
const OWN: [&str; 11] = ["null", "bool", "int", "float", "str", "binary", "timestamp", "merge", "value", "seq", "map"];

const TOO_LARGE: &str = "the document is too large or too deeply nested";
const UNFIT: &str = "this YAML tag or value is not allowed here";

/// Composes the documents of a text up to the first error, and skips empty documents. Returns the documents, and the
/// error after them if there is one.
pub(crate) fn documents(file: &Path, text: &str) -> (Vec<Node>, Option<KubeconfigError>) {
    let (mut composer, mut documents) = (Composer::new(text), Vec::new());
    loop {
        match composer.document() {
            Ok(Some(document)) if document.is_empty() => {}
            Ok(Some(document)) => documents.push(document),
            Ok(None) => return (documents, None),
            Err(Fault { at, reason }) => {
                let (line, column) = place(at);
                let at = Place::new(file, line.max(1), column, "");
                return (documents, Some(KubeconfigError::Syntax { at, reason: reason.into_owned() }));
            }
        }
    }
}

/// The line and column of a mark, counted from 1. The parser counts columns from 0.
fn place(at: Marker) -> (u64, u64) {
    (at.line() as u64, at.col() as u64 + 1)
}

/// Composes the documents of one text.
struct Composer<'a> {
    events: Parser<'a, StrInput<'a>>,
    /// The complete nodes of the current document that have an anchor, by the number that the parser gives the anchor.
    anchors: HashMap<usize, Node>,
    copies: usize,
}

/// An error in a YAML text. The reason quotes no part of the text, since any part may be a key or a token.
struct Fault {
    at: Marker,
    reason: Cow<'static, str>,
}

impl Fault {
    const fn new(at: Marker, reason: &'static str) -> Self {
        Self { at, reason: Cow::Borrowed(reason) }
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        let reason = match error.kind() {
            ErrorKind::UnknownAnchor => "this alias has no anchor".into(),
            // Cut at `: `, since some of the parser's fixed messages end with the offending character.
            _ => error.info().split(": ").next().unwrap_or_default().to_owned().into(),
        };
        Self { at: *error.marker(), reason }
    }
}

impl<'a> Composer<'a> {
    fn new(text: &'a str) -> Self {
        // The parser would take a byte order mark for text and count it as a column.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // Another crate of the program may enable the feature that makes the parser report comments.
        let options = granit_parser::options! { emit_comments: false };
        let events = Parser::new_from_str_with_options(text, options);
        Self { events, anchors: HashMap::new(), copies: 0 }
    }

    /// Composes the next document. `None` at the end of the text.
    fn document(&mut self) -> Result<Option<Node>, Fault> {
        while let Some(event) = self.events.next_event() {
            match event? {
                (Event::DocumentStart(..), _) => self.anchors.clear(),
                (Event::StreamStart | Event::DocumentEnd | Event::StreamEnd, _) => {}
                (event, span) => return self.node(event, &span, 0).map(Some),
            }
        }
        Ok(None)
    }

    fn next(&mut self, before: &Span) -> Result<(Event<'a>, Span), Fault> {
        let event = self.events.next_event().ok_or_else(|| Fault::new(before.end, "the text ends too early"))?;
        Ok(event?)
    }

    /// Composes the node that begins with `event`, inside of `depth` lists and mappings.
    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let at = span.start;
        let kind = match event {
            Event::SequenceStart(..) => Some("seq"),
            Event::MappingStart(..) => Some("map"),
            _ => None,
        };
        if kind.is_some() && depth == DEEPEST {
            return Err(Fault::new(at, TOO_LARGE));
        }
        if kind.is_some_and(|kind| event.tag().map(name).is_some_and(|tag| tag != kind && OWN.contains(&&*tag))) {
            return Err(Fault::new(at, UNFIT));
        }
        let anchor = event.anchor_id();
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                scalar(text, style, tag.as_deref()).ok_or_else(|| Fault::new(at, UNFIT))?
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next(span)? {
                        (Event::SequenceEnd, _) => break Value::List(items),
                        (event, span) => items.push(self.node(event, &span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => Value::Map(self.entries(span, depth + 1)?),
            Event::Alias(anchor) => {
                // Unknown also if the alias stands inside of its own anchor, which is not complete yet.
                let node = self.anchors.get(&anchor).ok_or_else(|| Fault::new(at, UNFIT))?;
                return copy(node, at, depth, &mut self.copies).ok_or_else(|| Fault::new(at, TOO_LARGE));
            }
            _ => return Err(Fault::new(at, UNFIT)),
        };
        let (line, column) = place(at);
        let node = Node::new(value, line, column);
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self, span: &Span, depth: usize) -> Result<Vec<(String, Node)>, Fault> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        loop {
            let (event, key_span) = self.next(span)?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let (merges, at) = (is_merge_key(&event), key_span.start);
            let written = event.scalar().map(|(text, _)| text.to_owned());
            let name = match (self.node(event, &key_span, depth)?.value, written) {
                (Value::Null, _) => return Err(Fault::new(at, "a key that is not text")),
                // A key is text as it is written: `yes: 1` has the key "yes", not "true".
                (Value::Bool(_) | Value::Number(_) | Value::Text(_), Some(written)) => written,
                (Value::Text(text), None) => String::clone(&text),
                (Value::Number(number), None) => number,
                _ => return Err(Fault::new(at, UNFIT)),
            };
            let (event, span) = self.next(span)?;
            let value = self.node(event, &span, depth)?;
            if merges {
                merge(value.value, &mut merged).ok_or_else(|| Fault::new(span.start, UNFIT))?;
            } else {
                entries.push((name, value));
            }
        }
        if !merged.is_empty() {
            // The mapping's own keys take precedence, then those that were merged first.
            let mut seen: HashSet<String> = entries.iter().map(|(name, _)| name.clone()).collect();
            entries.extend(merged.into_iter().filter(|(name, _)| seen.insert(name.clone())));
        }
        Ok(entries)
    }
}

/// Copies a node to the place of an alias. `None` if the text has more than [`MOST_COPIES`] copied nodes, or the copy
/// would be nested deeper than [`DEEPEST`]. Without these limits, nested aliases would grow exponentially.
fn copy(node: &Node, at: Marker, depth: usize, copies: &mut usize) -> Option<Node> {
    let long = if let Value::Text(text) = &node.value { text.len() / KIB } else { 0 };
    *copies += 1 + long;
    let nested = matches!(node.value, Value::List(_) | Value::Map(_));
    if *copies > MOST_COPIES || nested && depth == DEEPEST {
        return None;
    }
    let value = match &node.value {
        Value::List(items) => {
            Value::List(items.iter().map(|item| copy(item, at, depth + 1, copies)).collect::<Option<_>>()?)
        }
        Value::Map(entries) => {
            let copied = entries.iter().map(|(name, value)| Some((name.clone(), copy(value, at, depth + 1, copies)?)));
            Value::Map(copied.collect::<Option<_>>()?)
        }
        scalar => scalar.clone(),
    };
    let (line, column) = place(at);
    Some(Node::new(value, line, column))
}

/// Adds the entries of a merge key's value to `merged`. The value is a mapping, a list of mappings, or null; `None` for
/// any other value.
fn merge(value: Value, merged: &mut Vec<(String, Node)>) -> Option<()> {
    match value {
        Value::Null => {}
        Value::Map(entries) => merged.extend(entries),
        Value::List(items) => return items.into_iter().try_for_each(|item| merge(item.value, merged)),
        Value::Bool(_) | Value::Number(_) | Value::Text(_) => return None,
    }
    Some(())
}

/// The name of a tag, without the prefix if the tag is a standard one.
fn name(tag: &Tag) -> String {
    let tag = tag.to_string();
    tag.strip_prefix("tag:yaml.org,2002:").map(str::to_owned).unwrap_or(tag)
}

fn is_merge_key(event: &Event<'_>) -> bool {
    match (event.scalar(), event.tag()) {
        (Some(("<<", style)), None) => style == ScalarStyle::Plain,
        (Some(("<<", _)), Some(tag)) => name(tag) == "merge",
        _ => false,
    }
}

/// The value of a scalar. `None` if the text does not fit the tag.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let trimmed = text.trim_matches([' ', '\t', '\r', '\n']);
    match tag.map(name).as_deref() {
        Some("null") => Some(Value::Null),
        Some("bool") => boolean(trimmed).map(Value::Bool),
        Some("int" | "float") => is_number(trimmed).then(|| Value::Number(trimmed.to_owned())),
        Some("timestamp" | "seq" | "map") => None,
        Some("binary") => {
            let base64: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
            String::from_utf8(STANDARD.decode(base64.as_bytes()).ok()?).ok().map(|text| Value::Text(text.into()))
        }
        tag => {
            let untyped = style == ScalarStyle::Plain && !matches!(tag, Some("str" | "!"));
            let typed = if untyped { plain(trimmed) } else { None };
            Some(typed.unwrap_or_else(|| Value::Text(text.into_owned().into())))
        }
    }
}

/// The null, boolean or number that a plain scalar stands for; `None` for text. Booleans are those of YAML 1.1, as in
/// Kubernetes.
fn plain(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        _ if is_number(text) => Some(Value::Number(text.to_owned())),
        _ => boolean(text).map(Value::Bool),
    }
}

fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["true", "yes", "y", "on"]) {
        return Some(true);
    }
    is(["false", "no", "n", "off"]).then_some(false)
}

/// True if Kubernetes' YAML library takes `text` for a number.
///
/// Source: `resolve` in `sigs.k8s.io/yaml/goyaml.v2`. Unlike `resolve`, this function returns true also for a number
/// that is too large for Go.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let digits = unsigned.replace('_', "").to_ascii_lowercase();
    let is_based = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().any(|(prefix, radix)| {
        let digits = digits.strip_prefix(prefix).filter(|digits| !digits.starts_with('+'));
        digits.is_some_and(|digits| u64::from_str_radix(digits, radix).is_ok())
    });
    is_based || digits.parse::<f64>().is_ok() || matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All documents of a text on one line, followed by the fault if there is one.
    fn composed(text: &str) -> String {
        let (mut composer, mut out) = (Composer::new(text), String::new());
        loop {
            match composer.document() {
                Ok(Some(document)) => document.write_flow(&mut out),
                Ok(None) => return out,
                Err(Fault { at, reason }) => return format!("{out}{}:{}: {reason}", at.line(), at.col() + 1),
            }
        }
    }

    #[test]
    fn scalar_types_follow_yaml_1_1() {
        for (text, json) in [
            ("[~, null, '', 'null', !!null x, !!str null, ! 1]", r#"[null,null,"","null",null,"null","1"]"#),
            ("[true, Yes, oFF, n, 'yes', !!bool 'no', nope]", r#"[true,true,false,false,"yes",false,"nope"]"#),
            ("[1, -0, +12, 0x1F, -0o17, 0b101, 1_000, !!int ' 7 ']", "[1,-0,+12,0x1F,-0o17,0b101,1_000,7]"),
            ("[1__0, _1, 1_, 0x, +-1, 127.0.0.1]", r#"[1__0,"_1",1_,"0x","+-1","127.0.0.1"]"#),
            ("[18446744073709551615, 18446744073709551616]", "[18446744073709551615,18446744073709551616]"),
            ("[-9223372036854775808, -9223372036854775809]", "[-9223372036854775808,-9223372036854775809]"),
            ("[1.0, .5, 1e3, 010, !!float 2]", "[1.0,.5,1e3,010,2]"),
            ("[.inf, -.INF, .NaN, -1e999, inf, nan]", r#"[.inf,-.INF,.NaN,-1e999,"inf","nan"]"#),
            ("!!binary |\n  aGVs\n  bG8=\n", r#""hello""#),
            ("!other text", r#""text""#),
            ("\u{feff}a: b", r#"{"a":"b"}"#),
        ] {
            assert_eq!(composed(text), json, "{text}");
        }
    }

    #[test]
    fn aliases_and_merge_keys_become_copies() {
        for (text, json) in [
            ("- &a [1, &b {k: v}]\n- *a\n- *b\n", r#"[[1,{"k":"v"}],[1,{"k":"v"}],{"k":"v"}]"#),
            ("&k key: &k 7\nother: *k\n", r#"{"key":7,"other":7}"#),
            ("- &a {x: 1, y: 2}\n- {<<: *a, x: own}\n", r#"[{"x":1,"y":2},{"x":"own","y":2}]"#),
            ("{<<: [{x: 1}, {x: 2, y: 2}], !!merge <<: ~}", r#"{"x":1,"y":2}"#),
            ("{'<<': 1, 12: 2, true: 3}", r#"{"<<":1,"12":2,"true":3}"#),
        ] {
            assert_eq!(composed(text), json, "{text}");
        }
    }

    #[test]
    fn yaml_fault_names_place_and_quotes_no_text() {
        for (text, fault) in [
            ("a: &a [*a]", format!("1:8: {UNFIT}")),
            ("a: 1\n<<: word", format!("2:5: {UNFIT}")),
            ("[!!int word]", format!("1:8: {UNFIT}")),
            ("!!str [a]", format!("1:7: {UNFIT}")),
            ("!!map word", format!("1:7: {UNFIT}")),
            ("? [a]\n: b", format!("1:3: {UNFIT}")),
            ("null: x", "1:1: a key that is not text".to_owned()),
            ("--- &a 1\n--- *a", "12:5: this alias has no anchor".to_owned()),
        ] {
            assert_eq!(composed(text), fault, "{text}");
        }
    }

    #[test]
    fn many_aliases_of_long_scalar_are_refused() {
        let text = format!("- &a {}\n{}", "x".repeat(1 << 20), "- *a\n".repeat(20));
        assert!(composed(&text).ends_with(TOO_LARGE));
    }
}
