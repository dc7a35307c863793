//! YAML documents in which every value keeps its line, column and field name for messages.

use std::collections::HashSet;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::{KubeconfigError, Place, shown};
use super::spelling;
use super::write::quote;

/// A value and the place where it begins. Equality compares the values only.
#[derive(Clone)]
pub(crate) struct Node {
    pub(super) value: Value,
    line: u64,
    column: u64,
}

#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number as it is written in YAML.
    Number(String),
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) const fn new(value: Value, line: u64, column: u64) -> Self {
        Self { value, line, column }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Bool(_) | Value::Number(_) => false,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }

    /// Writes the node as YAML on one line: as JSON, except that numbers stay as they are written.
    pub(crate) fn write_flow(&self, out: &mut String) {
        match &self.value {
            Value::Null => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => out.push_str(number),
            Value::Text(text) => quote(text, out),
            Value::List(items) => {
                let mut before = '[';
                for item in items {
                    out.push(std::mem::replace(&mut before, ','));
                    item.write_flow(out);
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Value::Map(entries) => {
                let mut before = '{';
                for (name, value) in entries {
                    out.push(std::mem::replace(&mut before, ','));
                    quote(name, out);
                    out.push(':');
                    value.write_flow(out);
                }
                out.push_str(if entries.is_empty() { "{}" } else { "}" });
            }
        }
    }

    /// Adds the values of repeated keys to `found`, from this node and all nodes below it. If one mapping has a key
    /// several times, the first of the values is not added.
    fn repeated<'a>(&'a self, found: &mut Vec<&'a Self>) {
        match &self.value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
            Value::List(items) => items.iter().for_each(|item| item.repeated(found)),
            Value::Map(entries) => {
                let mut seen = HashSet::new();
                for (name, node) in entries {
                    if !seen.insert(name) {
                        found.push(node);
                    }
                    node.repeated(found);
                }
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

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A node and its path in the document: `clusters[0].cluster.server`.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    file: &'a Path,
    name: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    pub(crate) fn root(file: &'a Path, node: &'a Node) -> Self {
        Self { file, name: String::new(), node }
    }

    pub(crate) fn place(&self) -> Box<Place> {
        Place::new(self.file, self.node.line, self.node.column, &self.name)
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> KubeconfigError {
        KubeconfigError::Invalid { at: self.place(), reason: reason.into() }
    }

    fn expected(&self, kind: &str, advice: &str) -> KubeconfigError {
        self.invalid(format!("expected {kind}, found {}{advice}", self.node.kind()))
    }

    /// The field `key` of a mapping. A null or empty value counts as absent, as in Kubernetes.
    ///
    /// # Errors
    /// [`KubeconfigError::Invalid`] if the node is not a mapping, or has `key` twice with different values: Go would
    /// take the last value, although the author may have meant the first.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Self>, KubeconfigError> {
        let Value::Map(entries) = &self.node.value else {
            return if self.node.is_empty() { Ok(None) } else { Err(self.expected("a mapping", "")) };
        };
        let mut found = entries.iter().filter(|(name, node)| name == key && !node.is_empty()).map(|(_, node)| node);
        let Some(first) = found.next() else { return Ok(None) };
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        match found.find(|again| *again != first) {
            None => Ok(Some(Field { file: self.file, name, node: first })),
            Some(node) => {
                let again = Field { file: self.file, name, node };
                Err(again.invalid(format!("this key has another value in line {}; keep one of them", first.line)))
            }
        }
    }

    /// Warns about each key that is repeated in a mapping of this node or below it. The warnings do not show the key:
    /// in a text with a missing colon, half a token may be taken for a key.
    pub(crate) fn repetitions(&self) -> Vec<String> {
        let mut repeated = Vec::new();
        self.node.repeated(&mut repeated);
        let warn = |node: &Node| {
            let at = Place::new(self.file, node.line, node.column, "");
            format!("{at}: the key of this value is repeated in its mapping; remove one of the two")
        };
        repeated.into_iter().map(warn).collect()
    }

    /// Warns about each key of this mapping that is not in `known` but looks like one of them.
    pub(crate) fn misspellings(&self, known: &[&str]) -> Vec<String> {
        let Value::Map(entries) = &self.node.value else { return Vec::new() };
        let unknown = entries.iter().filter_map(|(key, node)| Some((key, node, spelling::meant(key, known)?)));
        let warn = |(key, node, meant): (&String, &Node, &str)| {
            let at = Place::new(self.file, node.line, node.column, &self.name);
            format!("{at}: ignoring the unknown key {}; did you mean {meant}?", shown(key))
        };
        unknown.map(warn).collect()
    }

    /// The field `key` if it is present but empty; [`get`](Self::get) returns `None` for such a field.
    pub(crate) fn empty(&self, key: &str) -> Option<Self> {
        let Value::Map(entries) = &self.node.value else { return None };
        let (_, node) = entries.iter().find(|(name, node)| name == key && node.is_empty())?;
        Some(Field { file: self.file, name: format!("{}.{key}", self.name), node })
    }

    /// The field `key`, or an error if it is absent.
    pub(crate) fn require(&self, key: &str) -> Result<Self, KubeconfigError> {
        self.get(key)?.ok_or_else(|| self.invalid(format!("`{key}` is missing")))
    }

    /// The text of the field `key`; `None` if the field is absent. Any other value than text is an error.
    pub(crate) fn text_of(&self, key: &str) -> Result<Option<&'a str>, KubeconfigError> {
        self.get(key)?.map(|field| field.text()).transpose()
    }

    /// The boolean of the field `key`; `None` if the field is absent. Any other value than a boolean is an error.
    pub(crate) fn flag_of(&self, key: &str) -> Result<Option<bool>, KubeconfigError> {
        self.get(key)?.map(|field| field.flag()).transpose()
    }

    /// The items of the list `key`; empty if there is no such list.
    pub(crate) fn items(&self, key: &str) -> Result<Vec<Self>, KubeconfigError> {
        let Some(list) = self.get(key)? else { return Ok(Vec::new()) };
        let Value::List(items) = &list.node.value else { return Err(list.expected("a list", "")) };
        let named = |(index, node)| Field { file: list.file, name: format!("{}[{index}]", list.name), node };
        Ok(items.iter().enumerate().map(named).collect())
    }

    pub(crate) const fn node(&self) -> &'a Node {
        self.node
    }

    pub(crate) fn text(&self) -> Result<&'a str, KubeconfigError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            Value::Number(_) | Value::Bool(_) => Err(self.expected("text", "; put it in quotes")),
            Value::Null | Value::List(_) | Value::Map(_) => Err(self.expected("text", "")),
        }
    }

    pub(crate) fn flag(&self) -> Result<bool, KubeconfigError> {
        match &self.node.value {
            Value::Bool(flag) => Ok(*flag),
            Value::Null | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                Err(self.expected("true or false", ""))
            }
        }
    }
}
