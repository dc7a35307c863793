//! Validation of objects (`pkg/apis/certificates/validation`).

use std::fmt::Display;

use perennial_pki::{Chain, RequestFacts, read_request};

use super::resource::Resource;
use super::status::cause;
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrSpec, StatusCause, USAGES};

/// Least `expirationSeconds` that a cluster accepts.
const SHORTEST: i32 = 600;

pub(super) fn invalid(field: impl Into<String>, value: &str, why: &str) -> StatusCause {
    cause("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"))
}

pub(super) fn required(field: impl Into<String>, why: &str) -> StatusCause {
    let colon = if why.is_empty() { "" } else { ": " };
    cause("FieldValueRequired", field, format!("Required value{colon}{why}"))
}

pub(super) fn forbidden(field: impl Into<String>, why: impl Display) -> StatusCause {
    cause("FieldValueForbidden", field, format!("Forbidden: {why}"))
}

pub(super) fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> StatusCause {
    let mut supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
    supported.sort_unstable();
    let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
    cause("FieldValueNotSupported", field, message)
}

pub(super) fn duplicate(field: impl Into<String>, value: &str) -> StatusCause {
    cause("FieldValueDuplicate", field, format!("Duplicate value: {value:?}"))
}

/// Checks the spec of a new object, and adds the errors to `causes`. Returns the facts of the CSR; `None` if the CSR
/// cannot be read.
pub(super) fn create(spec: &CsrSpec, allow_short: bool, causes: &mut Vec<StatusCause>) -> Option<RequestFacts> {
    let request = read_request(&spec.request)
        .map_err(|error| {
            causes.push(invalid("spec.request", &format!("{} bytes", spec.request.len()), &error.to_string()))
        })
        .ok();
    usages(&spec.usages, causes);
    signer_name(&spec.signer_name, causes);
    if spec.signer_name == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        causes.push(invalid(SIGNER_NAME, &format!("{:?}", spec.signer_name), why));
    }
    let shortest = if allow_short { 1 } else { SHORTEST };
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < shortest) {
        let why = if allow_short {
            "may not specify a duration less than 1 second".into()
        } else {
            format!("may not specify a duration less than {SHORTEST} seconds ({} minutes)", SHORTEST / 60)
        };
        causes.push(invalid("spec.expirationSeconds", &seconds.to_string(), &why));
    }
    request
}

fn usages(usages: &[String], causes: &mut Vec<StatusCause>) {
    if usages.is_empty() {
        causes.push(required("spec.usages", "usages must be provided"));
    }
    for (index, usage) in usages.iter().enumerate() {
        let field = format!("spec.usages[{index}]");
        if !USAGES.contains(&usage.as_str()) {
            causes.push(not_supported(field, usage, &USAGES));
        } else if usages[..index].contains(usage) {
            causes.push(duplicate(field, usage));
        }
    }
}

const SIGNER_NAME: &str = "spec.signerName";

/// Checks `spec.signerName` (`ValidateSignerName` in `pkg/apis/core/validation`), and adds the errors to `causes`.
pub(super) fn signer_name(name: &str, causes: &mut Vec<StatusCause>) {
    if name.is_empty() {
        return causes.push(required(SIGNER_NAME, ""));
    }
    let mut complain = |why: &str| causes.push(invalid(SIGNER_NAME, &format!("{name:?}"), why));
    let mut segments = name.split('/');
    let (Some(domain), Some(path), None) = (segments.next(), segments.next(), segments.next()) else {
        return complain("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    // A domain (253), a slash, and `namespace.name` (63 + 1 + 253).
    if name.len() > 571 {
        complain("must be no more than 571 characters");
    }
    if domain.len() > 253 || domain.split('.').count() < 2 || !domain.split('.').all(is_label) {
        complain("should be a domain with at least two segments separated by dots");
    }
    if !path.split('.').all(is_label) {
        complain(NO_SUBDOMAIN);
    }
}

/// Why `name` is no DNS-1123 subdomain; `None` if it is one. Most names of objects must be subdomains.
pub(super) fn subdomain_error(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some("must be no more than 253 bytes".into());
    }
    (!name.split('.').all(is_label)).then(|| NO_SUBDOMAIN.into())
}

const NO_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                            and must start and end with an alphanumeric character";

/// True for a DNS-1123 label.
fn is_label(label: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A subresource: the part of the status that an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subresource {
    /// `/approval`: the conditions `Approved` and `Denied`.
    Approval,
    /// `/status`: the certificate and the condition `Failed`; of a pod certificate request the whole status.
    Status,
}

impl Subresource {
    /// The subresource of this name; `None` if the resource has no such subresource.
    pub(super) fn find(resource: Resource, name: &str) -> Option<Self> {
        match (resource, name) {
            (Resource::CertificateSigningRequests, "approval") => Some(Self::Approval),
            (Resource::CertificateSigningRequests | Resource::PodCertificateRequests, "status") => Some(Self::Status),
            _ => None,
        }
    }
}

/// Checks the status of `new`, and whether an update of `subresource` may change the status of `old` into it. `old` is
/// the object before the update.
pub(super) fn update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    subresource: Subresource,
) -> Result<(), Vec<StatusCause>> {
    let mut causes = Vec::new();
    conditions(&new.status.conditions, &mut causes);
    check_kept(&new.status.conditions, &old.status.conditions, subresource, &mut causes);
    let (certificate, before) = (&new.status.certificate, &old.status.certificate);
    if certificate != before {
        const FIELD: &str = "status.certificate";
        if subresource == Subresource::Approval {
            causes.push(forbidden(FIELD, "updates may not set certificate content"));
        } else if !before.is_empty() {
            causes.push(forbidden(FIELD, "updates may not modify existing certificate content"));
        } else if let Err(why) = Chain::from_issued(certificate).map_err(|error| error.to_string()) {
            causes.push(invalid(FIELD, &format!("{} bytes", certificate.len()), &why));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

fn conditions(conditions: &[Condition], causes: &mut Vec<StatusCause>) {
    const FIELD: &str = "status.conditions";
    for (index, condition) in conditions.iter().enumerate() {
        let known = matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed");
        if condition.type_.is_empty() {
            causes.push(required(format!("{FIELD}[{index}].type"), ""));
        }
        if condition.status.is_empty() {
            causes.push(required(format!("{FIELD}[{index}].status"), ""));
        } else if known && condition.status != "True" {
            causes.push(not_supported(format!("{FIELD}[{index}].status"), &condition.status, &["True"]));
        }
        if conditions[..index].iter().any(|earlier| earlier.type_ == condition.type_) {
            causes.push(duplicate(format!("{FIELD}[{index}].type"), &condition.type_));
        }
        let excluded = match condition.type_.as_str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => continue,
        };
        if conditions[..index].iter().any(|earlier| earlier.type_ == excluded) {
            let why = "Approved and Denied conditions are mutually exclusive";
            causes.push(invalid(format!("{FIELD}[{index}].type"), &format!("{:?}", condition.type_), why));
        }
    }
}

/// Checks that an update removes none of the conditions `Approved`, `Denied` and `Failed`, and that an update of
/// `/status` adds neither `Approved` nor `Denied`.
fn check_kept(new: &[Condition], old: &[Condition], subresource: Subresource, causes: &mut Vec<StatusCause>) {
    for kind in ["Approved", "Denied", "Failed"] {
        let find = |conditions: &[Condition]| conditions.iter().find(|condition| condition.type_ == kind).cloned();
        let why = match (find(old), find(new)) {
            (Some(_), None) => "updates may not remove a condition of type",
            (None, Some(_)) if subresource == Subresource::Status && kind != "Failed" => {
                "updates may not add a condition of type"
            }
            _ => continue,
        };
        causes.push(forbidden("status.conditions", format!("{why} {kind:?}")));
    }
}
