//! Reads the fields of a mapping, and collects every error of the file instead of stopping at the first.

use std::cell::RefCell;
use std::fmt;

use super::variables::{self, Variables};
use super::yaml::{Entry, Node, Place, Value};

/// An error of a certificate list. `Display` is `LINE:COLUMN: MEMBER: FIELD: what is wrong and what to do`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(super) at: Place,
    /// The member with the error, such as `certificate kube-proxy`; empty for errors outside of members.
    pub(super) member: String,
    /// The field with the error, such as `store.bundle`; may be empty.
    pub(super) field: String,
    pub(super) why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.at.line, self.at.column)?;
        let parts = [&self.member, &self.field].into_iter().filter(|part| !part.is_empty());
        parts.into_iter().try_for_each(|part| write!(f, "{part}: "))?;
        f.write_str(&self.why)
    }
}

/// The errors found so far, and the variables that replace `${NAME}` in values.
pub(super) struct Context<'a> {
    pub(super) faults: RefCell<Vec<Fault>>,
    pub(super) variables: &'a Variables<'a>,
}

impl<'a> Context<'a> {
    pub(super) fn new(variables: &'a Variables<'a>) -> Self {
        Self { faults: RefCell::default(), variables }
    }

    pub(super) fn fault(&self, at: Place, member: &str, field: &str, why: impl Into<String>) {
        let fault = Fault { at, member: member.into(), field: field.into(), why: why.into() };
        self.faults.borrow_mut().push(fault);
    }
}

/// A mapping of the file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    context: &'a Context<'a>,
    /// The member that the mapping belongs to, for messages.
    member: String,
    /// The path of the mapping in the member: `store.linked`; empty for the member itself.
    path: String,
    pub(super) at: Place,
    entries: &'a [Entry],
    /// Entries that apply for the keys that `entries` lacks: those of `defaults`.
    defaults: &'a [Entry],
}

/// A value and the path of its field.
pub(super) struct Field<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
}

impl<'a> Section<'a> {
    /// Makes a section of `node`. An empty value is an empty section. `None`, with an error in `context`, for any other
    /// value than a mapping.
    pub(super) fn new(context: &'a Context<'a>, node: &'a Node, member: &str, path: String) -> Option<Self> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Empty => &[],
            Value::Text(_) | Value::List(_) => {
                context.fault(
                    node.at,
                    member,
                    &path,
                    format!("expected keys and values (`key: value`), found {}", node.value.kind()),
                );
                return None;
            }
        };
        Some(Self { context, member: member.into(), path, at: node.at, entries, defaults: &[] })
    }

    /// Returns this mapping with the entries of `defaults` for the keys that it lacks.
    pub(super) fn with_defaults(self, defaults: Option<&Self>) -> Self {
        Self { defaults: defaults.map_or(&[], |section| section.entries), ..self }
    }

    pub(super) fn named(self, member: String) -> Self {
        Self { member, ..self }
    }

    /// Reports the keys that are not in `known`, each with the known key that it resembles, and repeated keys.
    pub(super) fn allow(&self, known: &[&str]) {
        for (index, entry) in self.entries.iter().enumerate() {
            let field = self.path_of(&entry.key);
            if !known.contains(&entry.key.as_str()) {
                let why = match nearest(&entry.key, known) {
                    Some(meant) => format!("unknown key; did you mean {meant}?"),
                    None => format!("unknown key; expected one of {}", known.join(", ")),
                };
                self.context.fault(entry.at, &self.member, &field, why);
            } else if self.entries[..index].iter().any(|before| before.key == entry.key) {
                self.context.fault(entry.at, &self.member, &field, "given twice; remove one");
            }
        }
    }

    /// True if the mapping itself, not `defaults`, has a value for `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        find(self.entries, key).is_some()
    }

    /// The value of `key`, which may be in `defaults`; `None` if it is absent or empty.
    pub(super) fn field(&self, key: &str) -> Option<Field<'a>> {
        let entry = find(self.entries, key).or_else(|| find(self.defaults, key))?;
        Some(Field { node: &entry.node, path: self.path_of(key) })
    }

    /// The place of the value of `key`, or of the mapping if there is none.
    pub(super) fn place(&self, key: &str) -> Place {
        self.field(key).map_or(self.at, |field| field.node.at)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The number of errors found in the file so far.
    pub(super) fn errors(&self) -> usize {
        self.context.faults.borrow().len()
    }

    /// Reports an error of the field `key`.
    pub(super) fn fault(&self, key: &str, why: impl Into<String>) {
        self.context.fault(self.place(key), &self.member, &self.path_of(key), why);
    }

    /// Reports an error of the mapping itself.
    pub(super) fn fault_here(&self, why: impl Into<String>) {
        self.context.fault(self.at, &self.member, &self.path, why);
    }

    /// Reports that `key` is missing, unless it has a value, or is misspelt in `defaults`, which is reported there.
    /// `example` is a value.
    pub(super) fn require(&self, key: &str, example: &str) {
        let is_misspelt = |entry: &Entry| entry.key != key && nearest(&entry.key, &[key]).is_some();
        if self.field(key).is_none() && !self.defaults.iter().any(is_misspelt) {
            self.fault_here(format!("`{key}` is missing; add it, for example `{key}: {example}`"));
        }
    }

    /// The text of a value, with its variables replaced. `None`, with an error, if it is no text.
    fn text_of(&self, node: &Node, path: &str) -> Option<String> {
        let Value::Text(text) = &node.value else {
            let why = format!("expected text, found {}", node.value.kind());
            self.context.fault(node.at, &self.member, path, why);
            return None;
        };
        let replaced = variables::replace(text, self.context.variables);
        replaced.map_err(|why| self.context.fault(node.at, &self.member, path, why)).ok()
    }

    /// The text of the field `key`; `None` if it is absent, or no text, which is reported.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let field = self.field(key)?;
        self.text_of(field.node, &field.path)
    }

    /// The text of the field `key`, without a report; `None` if it is absent, no text, or has an unknown variable.
    pub(super) fn known_text(&self, key: &str) -> Option<String> {
        let Value::Text(text) = &self.field(key)?.node.value else { return None };
        variables::replace(text, self.context.variables).ok()
    }

    /// Parses the text of the field `key`, and reports an error.
    pub(super) fn parse<T, E: fmt::Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|why| self.fault(key, why.to_string())).ok()
    }

    /// Parses each text of the list `key`; `None` if there is no list. Items with errors are reported and left out.
    pub(super) fn parse_all<T, E: fmt::Display>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let field = self.field(key)?;
        let Value::List(items) = &field.node.value else {
            let why = format!("expected a list, for example [a, b], found {}", field.node.value.kind());
            self.fault(key, why);
            return None;
        };
        let mut parsed = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", field.path);
            let Some(text) = self.text_of(item, &path) else { continue };
            match parse(&text) {
                Ok(item) => parsed.push(item),
                Err(why) => self.context.fault(item.at, &self.member, &path, why.to_string()),
            }
        }
        Some(parsed)
    }

    /// All keys of this mapping with their texts. Texts with errors are reported and left out, and so are repeated keys.
    pub(super) fn texts(&self) -> Vec<(String, String)> {
        let keys: Vec<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        self.allow(&keys);
        let text = |entry: &Entry| Some((entry.key.clone(), self.text_of(&entry.node, &self.path_of(&entry.key))?));
        self.entries.iter().filter_map(text).collect()
    }

    /// The value of the variable `name`; `None` if it is not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.context.variables)(name)
    }

    /// The mapping at `key`; `None` if it is absent, or no mapping, which is reported.
    pub(super) fn section(&self, key: &str) -> Option<Self> {
        let field = self.field(key)?;
        Self::new(self.context, field.node, &self.member, field.path)
    }

    /// The one key of this mapping, which is a choice between the keys in `choices`. `None`, with an error, if the
    /// mapping has none or several of them.
    pub(super) fn choice(&self, choices: &[&'static str]) -> Option<&'static str> {
        self.allow(choices);
        let chosen: Vec<_> = choices.iter().copied().filter(|key| self.field(key).is_some()).collect();
        match chosen[..] {
            [one] => return Some(one),
            [] => self.fault_here(format!("has none of the keys {}; add one of them", choices.join(", "))),
            [..] => self.fault_here(format!("{} exclude each other; keep one", chosen.join(" and "))),
        }
        None
    }
}

fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key == key && !matches!(entry.node.value, Value::Empty))
}

/// The word in `known` that resembles `word` most; `None` if no word resembles it.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['-', '_', ' '], "").to_ascii_lowercase();
    let word = plain(word);
    let distance = |known: &&&str| strsim::osa_distance(&plain(known), &word);
    let (near, far) = known.iter().map(|known| (known, distance(&known))).min_by_key(|(_, far)| *far)?;
    // The distance allowed grows with the length: most pairs of short words differ in only two letters.
    (far <= near.len().div_ceil(4)).then_some(near)
}
