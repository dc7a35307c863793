//! Field and label selectors of LIST and WATCH.

use super::message::{Query, Response};
use super::object::Object;
use super::resource::{Key, Resource};
use super::status;

/// A selection of objects: those of a resource, in a namespace or in all, that meet all requirements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    resource: Resource,
    /// The namespace; empty to select objects of all namespaces.
    namespace: String,
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    of: Operand,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    /// A field that [`Object::field`] reads.
    Field(String),
    Label(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    /// The field or label is present and has one of these values.
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Selector {
    /// Selects the object `scope`, or, if the name of `scope` is empty, the objects in `scope` that meet `fieldSelector`
    /// and `labelSelector` of the query.
    pub(super) fn new(scope: &Key, query: &Query) -> Result<Self, Response> {
        let Key { resource, namespace, name } = scope.clone();
        if !name.is_empty() {
            let named = Requirement { of: Operand::Field(NAME.into()), test: Test::In(vec![name]) };
            return Ok(Self { resource, namespace, requirements: vec![named] });
        }
        let mut requirements = Vec::new();
        for term in terms(query.get("fieldSelector").unwrap_or_default()) {
            let (field, test) = parse(term)
                // Field selectors have no sets and no existence tests.
                .filter(|(_, test)| !term.contains('(') && matches!(test, Test::In(_) | Test::NotIn(_)))
                .ok_or_else(|| {
                    status::bad_request(format!("invalid field selector {term:?}; want name=value or name!=value"))
                })?;
            if !resource.selectable_fields().contains(&field) {
                return Err(status::bad_request(format!("field label not supported: {field}")));
            }
            requirements.push(Requirement { of: Operand::Field(field.into()), test });
        }
        for term in terms(query.get("labelSelector").unwrap_or_default()) {
            let (label, test) = parse(term).ok_or_else(|| {
                status::bad_request(format!(
                    "unable to parse requirement {term:?}; want label, !label, label=value, label!=value, \
                     label in (value,...) or label notin (value,...)"
                ))
            })?;
            requirements.push(Requirement { of: Operand::Label(label.into()), test });
        }
        Ok(Self { resource, namespace, requirements })
    }

    pub(super) fn resource(&self) -> Resource {
        self.resource
    }

    /// True if there are requirements besides resource and namespace.
    pub(super) fn is_restricted(&self) -> bool {
        !self.requirements.is_empty()
    }

    pub(super) fn matches(&self, object: &Object) -> bool {
        object.resource() == self.resource
            && (self.namespace.is_empty() || object.metadata().namespace == self.namespace)
            && self.requirements.iter().all(|requirement| requirement.matches(object))
    }

    /// True if the selector requires this value of the field.
    pub(super) fn requires(&self, field: &str, value: &str) -> bool {
        self.requirements.iter().any(|requirement| {
            matches!((&requirement.of, &requirement.test), (Operand::Field(path), Test::In(values))
                if path == field && values.iter().all(|one| one == value))
        })
    }

    /// The key that an object must have to match; `None` if the selector does not require one key.
    pub(super) fn key(&self) -> Option<Key> {
        if self.resource.is_namespaced() && self.namespace.is_empty() {
            return None;
        }
        self.requirements.iter().find_map(|requirement| match (&requirement.of, &requirement.test) {
            (Operand::Field(field), Test::In(names)) if field == NAME => {
                Some(Key::new(self.resource, &self.namespace, names.first()?))
            }
            (Operand::Field(_) | Operand::Label(_), _) => None,
        })
    }
}

/// The field that contains the name of an object.
const NAME: &str = "metadata.name";

impl Requirement {
    fn matches(&self, object: &Object) -> bool {
        let value = match &self.of {
            Operand::Field(path) => object.field(path),
            Operand::Label(label) => object.metadata().labels.get(label).map(String::as_str),
        };
        let is_in = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match &self.test {
            Test::In(wanted) => is_in(wanted),
            // As in a cluster, `!=` and `notin` also match objects without the label.
            Test::NotIn(unwanted) => !is_in(unwanted),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }
}

/// Splits a selector at commas outside parentheses.
fn terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let split = selector.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    split.map(str::trim).filter(|term| !term.is_empty())
}

fn parse(term: &str) -> Option<(&str, Test)> {
    let (key, test) = if let Some((key, set)) = term.split_once('(') {
        let values = set.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        match key.trim().rsplit_once(char::is_whitespace)? {
            (key, "in") => (key, Test::In(values)),
            (key, "notin") => (key, Test::NotIn(values)),
            _ => return None,
        }
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(vec![value.trim().into()]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(vec![value.trim().into()]))
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Test::Missing)
    } else {
        (term, Test::Exists)
    };
    let key = key.trim();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_name)).then_some((key, test))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::message::ApiRequest;
    use super::*;
    use crate::Method;

    fn selector(query: &str) -> Result<Selector, Response> {
        Selector::new(&Key::csr(""), &ApiRequest::new(Method::GET, format!("/?{query}")).query())
    }

    #[test]
    fn selectors_match_objects_by_fields_and_labels() {
        let object = json!({ "metadata": { "name": "a" }, "spec": { "signerName": "example.com/s" } });
        let mut object = Object::read(Resource::CertificateSigningRequests, object).unwrap();
        object.metadata_mut().labels.insert("tier".into(), "one".into());
        for (query, matches) in [
            ("", true),
            ("fieldSelector=metadata.name%3Da", true),
            ("fieldSelector=metadata.name==a,spec.signerName!=x", true),
            ("fieldSelector=metadata.name=b", false),
            ("fieldSelector=spec.signerName=example.com/s&labelSelector=tier", true),
            ("labelSelector=tier=two", false),
            ("labelSelector=tier!=two", true),
            ("labelSelector=!tier", false),
            ("labelSelector=tier in (one, two),!absent", true),
            ("labelSelector=tier in (two)", false),
            ("labelSelector=tier notin (two,three)", true),
            ("labelSelector=tier notin (one)", false),
            ("labelSelector=absent notin (one)", true),
            ("labelSelector=absent in (one)", false),
        ] {
            assert_eq!(selector(query).unwrap().matches(&object), matches, "{query}");
        }
    }

    #[test]
    fn malformed_or_unsupported_selectors_are_refused() {
        for query in [
            "labelSelector=tier in (a",
            "labelSelector=in (a)",
            "labelSelector=a>1",
            "fieldSelector=spec.username=x",
            "fieldSelector=metadata.name",
            "labelSelector=tier of (a)",
        ] {
            assert_eq!(selector(query).unwrap_err().status, 400, "{query}");
        }
    }
}
