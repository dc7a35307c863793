//! The rules of Kubernetes for names of objects, signers, labels and annotations.

use crate::cluster::printable;

/// The greatest length of a signer name: a domain, `/`, a namespace, `.` and the name of an object.
const SIGNER_NAME: usize = SUBDOMAIN + 1 + LABEL + 1 + SUBDOMAIN;
/// The greatest length of a DNS label, and of the name in an annotation's key.
const LABEL: usize = 63;
/// The greatest length of a DNS subdomain.
pub(crate) const SUBDOMAIN: usize = 253;

/// Checks the name of a signer (`ValidateSignerName` in `pkg/apis/core/validation/names.go`).
pub(crate) fn signer_name(name: &str) -> Result<(), String> {
    let is_valid = name.split_once('/').is_some_and(|(domain, path)| {
        let is_domain = domain.len() <= SUBDOMAIN && domain.contains('.') && domain.split('.').all(is_label);
        is_domain && path.split('.').all(is_subdomain) && name.len() <= SIGNER_NAME
    });
    if is_valid {
        return Ok(());
    }
    Err(format!("the signer name `{}` has not the form `example.com/signer-name`", printable(name)))
}

/// A DNS label (RFC 1123), in lower case.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= LABEL && is_part(text)
}

/// A DNS subdomain (RFC 1123), in lower case. As in Kubernetes, one part may be as long as the whole.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN && text.split('.').all(is_part)
}

/// A DNS label of any length.
fn is_part(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// The name in the key of a label or an annotation.
pub(crate) fn is_name(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
