//! Validation of names, labels and annotations (apimachinery `pkg/api/validation`).

use super::validation::{invalid, required};
use perennial_kubernetes::objects::{ObjectMeta, StatusCause};

/// Checks the name of an object by the rule `name_error` of its resource, and the labels and annotations. Returns the
/// errors; none if all are valid.
pub(super) fn check(metadata: &ObjectMeta, name_error: impl Fn(&str) -> Option<String>) -> Vec<StatusCause> {
    let mut causes = Vec::new();
    match metadata.name.as_str() {
        "" => causes.push(required("metadata.name", "name or generateName is required")),
        name => causes.extend(name_error(name).map(|why| invalid("metadata.name", &format!("{name:?}"), &why))),
    }
    for (key, value) in &metadata.labels {
        causes.extend(key_error(key).map(|why| invalid("metadata.labels", &format!("{key:?}"), &why)));
        causes.extend(label_value_error(value).map(|why| invalid("metadata.labels", &format!("{value:?}"), &why)));
    }
    for key in metadata.annotations.keys() {
        // Unlike those of labels, prefixes of annotation keys may be in upper case.
        let why = key_error(&key.to_lowercase());
        causes.extend(why.map(|why| invalid("metadata.annotations", &format!("{key:?}"), &why)));
    }
    causes
}

/// The reason why `name` cannot be a segment of a path (apimachinery `path.ValidatePathSegmentName`); `None` if it can.
/// This is the only rule for names of requests, apart from their presence.
pub(super) fn path_segment_error(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("may not be {name:?}")),
        _ => name.find(['/', '%']).map(|at| format!("may not contain {:?}", &name[at..=at])),
    }
}

/// The reason why `key` is no qualified name of the form `domain/name`; `None` if it is one (`IsDomainPrefixedKey`).
pub(super) fn domain_key_error(key: &str) -> Option<String> {
    let without_domain =
        || (!key.contains('/')).then(|| "must be a domain-prefixed key (such as \"acme.io/foo\")".into());
    key_error(key).or_else(without_domain)
}

const LONGEST: usize = 63;
const LONGEST_PREFIX: usize = 253;

/// The reason why `key` is no qualified name of the form `name` or `domain/name`; `None` if it is one.
fn key_error(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let form = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    if name.contains('/') {
        let example = "(e.g. 'example.com/MyName')";
        return Some(format!("a qualified name {form} with an optional DNS subdomain prefix and '/' {example}"));
    }
    if let Some(prefix) = prefix {
        let is_domain = |prefix: &str| {
            let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            prefix.bytes().all(lower) && prefix.split('.').all(is_name)
        };
        match prefix.len() {
            0 => return Some("prefix part must be non-empty".into()),
            1..=LONGEST_PREFIX if is_domain(prefix) => {}
            1..=LONGEST_PREFIX => {
                return Some(
                    "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
                     '-' or '.', and must start and end with an alphanumeric character"
                        .into(),
                );
            }
            _ => return Some(format!("prefix part must be no more than {LONGEST_PREFIX} bytes")),
        }
    }
    match name.len() {
        0 => Some("name part must be non-empty".into()),
        1..=LONGEST if is_name(name) => None,
        1..=LONGEST => Some(format!("name part {form}")),
        _ => Some(format!("name part must be no more than {LONGEST} bytes")),
    }
}

fn label_value_error(value: &str) -> Option<String> {
    if value.len() > LONGEST {
        return Some(format!("must be no more than {LONGEST} bytes"));
    }
    (!value.is_empty() && !is_name(value)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
         and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
         validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            .into()
    })
}

/// True if the name has the form `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`.
fn is_name(name: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    alphanumeric(name.bytes().next())
        && alphanumeric(name.bytes().next_back())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_and_annotation_keys_must_be_qualified_names() {
        for key in ["a", "A.b_c-9", "example.com/A", "a-b.c/x"] {
            assert_eq!(key_error(key), None, "{key}");
        }
        let long = "a".repeat(64);
        for key in ["", "/a", "a/", "-a", "a b", "A.com/x", "a..b/x", "a/b/c", "é", long.as_str()] {
            assert!(key_error(key).is_some(), "{key}");
        }
    }

    #[test]
    fn label_values_may_be_empty_but_not_malformed() {
        for (value, good) in [("", true), ("a.B_c-1", true), ("-", false), ("a b", false), ("a/b", false)] {
            assert_eq!(label_value_error(value).is_none(), good, "{value}");
        }
        assert!(label_value_error(&"a".repeat(64)).is_some());
    }
}
