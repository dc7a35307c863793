//! Field and label selectors of LIST and WATCH.

use super::message::{Query, Response};
use super::status;
use perennial_kubernetes::objects::CertificateSigningRequest;

/// A selection of objects: those that meet all requirements. The default has no requirements, and selects all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    of: Operand,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Name,
    SignerName,
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
    /// Reads `fieldSelector` and `labelSelector`.
    pub(super) fn from_query(query: &Query) -> Result<Self, Response> {
        let mut requirements = Vec::new();
        for term in terms(query.get("fieldSelector").unwrap_or_default()) {
            let (field, test) = parse(term)
                // Field selectors have no sets and no existence tests.
                .filter(|(_, test)| !term.contains('(') && matches!(test, Test::In(_) | Test::NotIn(_)))
                .ok_or_else(|| {
                    status::bad_request(format!("invalid field selector {term:?}; want name=value or name!=value"))
                })?;
            let of = match field {
                "metadata.name" => Operand::Name,
                "spec.signerName" => Operand::SignerName,
                other => return Err(status::bad_request(format!("field label not supported: {other}"))),
            };
            requirements.push(Requirement { of, test });
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
        Ok(Self { requirements })
    }

    /// Selects the object named `name`.
    pub(super) fn named(name: &str) -> Self {
        Self { requirements: vec![Requirement { of: Operand::Name, test: Test::In(vec![name.into()]) }] }
    }

    pub(super) fn matches(&self, object: &CertificateSigningRequest) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(object))
    }

    /// The name that an object must have to match; `None` if the selector does not require one name.
    pub(super) fn name(&self) -> Option<&str> {
        self.requirements.iter().find_map(|requirement| match (&requirement.of, &requirement.test) {
            (Operand::Name, Test::In(names)) => names.first().map(String::as_str),
            (Operand::Name | Operand::SignerName | Operand::Label(_), _) => None,
        })
    }
}

impl Requirement {
    fn matches(&self, object: &CertificateSigningRequest) -> bool {
        let value = match &self.of {
            Operand::Name => Some(&object.metadata.name),
            Operand::SignerName => Some(&object.spec.signer_name),
            Operand::Label(label) => object.metadata.labels.get(label),
        };
        match &self.test {
            Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            // As in a cluster, `!=` and `notin` also match objects without the label.
            Test::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
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
    use super::super::message::ApiRequest;
    use super::*;
    use crate::Method;

    fn selector(query: &str) -> Result<Selector, Response> {
        Selector::from_query(&ApiRequest::new(Method::GET, format!("/?{query}")).query())
    }

    #[test]
    fn selectors_match_objects_by_fields_and_labels() {
        let mut object = CertificateSigningRequest::default();
        object.metadata.name = "a".into();
        object.spec.signer_name = "example.com/s".into();
        object.metadata.labels.insert("tier".into(), "one".into());
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
