//! A YAML document in which every value knows its line, column and name, so that every complaint can tell them.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, Spanned};
use zeroize::Zeroizing;

use super::error::{KubeconfigError, Place};
use super::write::quote;

/// A value and where it begins.
pub(super) struct Node {
    value: Value,
    line: u64,
    column: u64,
}

enum Value {
    Null,
    Bool(bool),
    /// As it is written in YAML.
    Number(String),
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Parses a text of exactly one document.
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            // Values are read recursively: a level takes some 40 KB of stack in a debug build.
            budget: serde_saphyr::budget! { max_depth: 24 },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000, max_replay_stack_depth: 8 },
            duplicate_keys: DuplicateKeyPolicy::Error,
            non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            let at = Place::new(file, location.line().max(1), location.column().max(1), "");
            KubeconfigError::Syntax { at, reason: reason(&error) }
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Bool(_) | Value::Number(_) => false,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }

    /// As JSON on one line.
    pub(super) fn write_json(&self, out: &mut String) {
        match &self.value {
            Value::Null => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => out.push_str(number),
            Value::Text(text) => quote(text, out),
            Value::List(items) => {
                let mut before = '[';
                for item in items {
                    out.push(std::mem::replace(&mut before, ','));
                    item.write_json(out);
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Value::Map(entries) => {
                let mut before = '{';
                for (name, value) in entries {
                    out.push(std::mem::replace(&mut before, ','));
                    quote(name, out);
                    out.push(':');
                    value.write_json(out);
                }
                out.push_str(if entries.is_empty() { "{}" } else { "}" });
            }
        }
    }

    fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Why a text is not YAML, in words that hold nothing of the text: what is read here may be a key or a token.
fn reason(error: &Error) -> String {
    match error {
        // The parser's messages are fixed; some end in `: ` and the offending character.
        Error::ExternalMessage { msg, .. } => msg.split(": ").next().unwrap_or_default().to_owned(),
        Error::Eof { .. } => "the text ends too early".into(),
        Error::MultipleDocuments { .. } => "a second YAML document begins; keep one".into(),
        Error::DuplicateMappingKey { .. } => "this key was already given in the same mapping".into(),
        Error::UnknownAnchor { .. } => "this alias has no anchor".into(),
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            "the document is too large or too deeply nested".into()
        }
        Error::AliasError { error, .. } => reason(error),
        Error::NullIntoString { .. } => "a key that is not text".into(),
        _ => "a tag or value that has no place in a kubeconfig".into(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { value: spanned.value, line, column })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(if number.is_nan() {
            ".nan".into()
        } else if number.is_infinite() {
            if number > 0.0 { ".inf".into() } else { "-.inf".into() }
        } else {
            // With a point or an exponent: it is to stay what it was.
            format!("{number:?}")
        }))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

/// A node together with its name: `clusters[0].cluster.server`.
#[derive(Clone)]
pub(super) struct Field<'a> {
    file: &'a Path,
    name: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    pub(super) fn root(file: &'a Path, node: &'a Node) -> Self {
        Self { file, name: String::new(), node }
    }

    pub(super) fn place(&self) -> Box<Place> {
        Place::new(self.file, self.node.line, self.node.column, &self.name)
    }

    pub(super) fn invalid(&self, reason: impl Into<String>) -> KubeconfigError {
        KubeconfigError::Invalid { at: self.place(), reason: reason.into() }
    }

    fn expected(&self, kind: &str, advice: &str) -> KubeconfigError {
        self.invalid(format!("expected {kind}, found {}{advice}", self.node.kind()))
    }

    /// The field `key` of a mapping. Null and empty values are as good as absent, as they are to Kubernetes.
    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, KubeconfigError> {
        let Value::Map(entries) = &self.node.value else {
            return if self.node.is_empty() { Ok(None) } else { Err(self.expected("a mapping", "")) };
        };
        let found = entries.iter().find(|(name, node)| name == key && !node.is_empty());
        Ok(found.map(|(_, node)| {
            let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
            Field { file: self.file, name, node }
        }))
    }

    /// The field `key`, which must be there.
    pub(super) fn require(&self, key: &str) -> Result<Self, KubeconfigError> {
        self.get(key)?.ok_or_else(|| self.invalid(format!("`{key}` is missing")))
    }

    /// The items of the list `key`; none if there is no such list.
    pub(super) fn items(&self, key: &str) -> Result<Vec<Self>, KubeconfigError> {
        let Some(list) = self.get(key)? else { return Ok(Vec::new()) };
        let Value::List(items) = &list.node.value else { return Err(list.expected("a list", "")) };
        let named = |(index, node)| Field { file: list.file, name: format!("{}[{index}]", list.name), node };
        Ok(items.iter().enumerate().map(named).collect())
    }

    pub(super) const fn node(&self) -> &'a Node {
        self.node
    }

    pub(super) fn text(&self) -> Result<&'a str, KubeconfigError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            Value::Number(_) | Value::Bool(_) => Err(self.expected("text", "; put it in quotes")),
            Value::Null | Value::List(_) | Value::Map(_) => Err(self.expected("text", "")),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, KubeconfigError> {
        match &self.node.value {
            Value::Bool(flag) => Ok(*flag),
            Value::Null | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                Err(self.expected("true or false", ""))
            }
        }
    }
}
