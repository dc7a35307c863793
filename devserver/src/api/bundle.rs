//! ClusterTrustBundles: the CA certificates that verify what a signer issues (`ValidateClusterTrustBundle` in
//! `pkg/apis/certificates/validation`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::parse_x509_certificate;

use super::message::Response;
use super::object::Plain;
use super::resource::Key;
use super::validation::{self, invalid, subdomain_error};
use super::{metadata, status};
use perennial_kubernetes::objects::StatusCause;

const SIGNER_NAME: &str = "spec.signerName";
const TRUST_BUNDLE: &str = "spec.trustBundle";

/// Checks a new bundle.
pub(super) fn check(bundle: &Plain, key: &Key) -> Result<(), Response> {
    let mut causes = check_names(bundle);
    check_certificates(bundle.text(TRUST_BUNDLE), &mut causes);
    if causes.is_empty() { Ok(()) } else { Err(status::invalid(key, causes)) }
}

/// Changes `bundle` as an update to `new` does: everything but the signer name may change.
pub(super) fn update(bundle: &mut Plain, new: Plain, key: &Key) -> Result<(), Response> {
    let (old_signer, old_pem) = (bundle.text(SIGNER_NAME).to_owned(), bundle.text(TRUST_BUNDLE).to_owned());
    bundle.metadata.labels = new.metadata.labels;
    bundle.metadata.annotations = new.metadata.annotations;
    bundle.fields = new.fields;
    let mut causes = check_names(bundle);
    if bundle.text(TRUST_BUNDLE) != old_pem {
        check_certificates(bundle.text(TRUST_BUNDLE), &mut causes);
    }
    let signer = bundle.text(SIGNER_NAME);
    if signer != old_signer {
        causes.push(invalid(SIGNER_NAME, &format!("{signer:?}"), "field is immutable"));
    }
    if causes.is_empty() { Ok(()) } else { Err(status::invalid(key, causes)) }
}

fn check_names(bundle: &Plain) -> Vec<StatusCause> {
    let signer = bundle.text(SIGNER_NAME);
    let mut causes = metadata::check(&bundle.metadata, |name| name_error(name, signer));
    if !signer.is_empty() {
        validation::signer_name(signer, &mut causes);
    }
    for field in ["signerName", "trustBundle"] {
        let value = bundle.fields.get("spec").and_then(|spec| spec.get(field));
        if let Some(value) = value.filter(|value| !value.is_string()) {
            causes.push(invalid(format!("spec.{field}"), &value.to_string(), "must be a string"));
        }
    }
    causes
}

/// Why a bundle for the signer `signer` cannot have this name (`ValidateClusterTrustBundleName`): the name begins with
/// the signer name, with `:` in place of `/`, and a further `:`. The name of a bundle for no signer has no `:`.
fn name_error(name: &str, signer: &str) -> Option<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return Some("ClusterTrustBundle without signer name must not have \":\" in its name".into());
        }
        return subdomain_error(name);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => subdomain_error(rest),
        None => Some(format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")),
    }
}

/// Checks that `pem` has one CA certificate or more, each once, and no other blocks. Text between blocks is allowed.
fn check_certificates(pem: &str, causes: &mut Vec<StatusCause>) {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut why = Vec::new();
    for (index, block) in blocks(pem).into_iter().enumerate() {
        let parsed = parse_x509_certificate(&block.der).ok().filter(|(rest, _)| rest.is_empty());
        let is_ca = parsed.as_ref().map(|(_, certificate)| certificate.is_ca());
        match is_ca {
            _ if block.label != "CERTIFICATE" => why.push(format!("entry {index} has bad block type: {}", block.label)),
            _ if block.has_headers => why.push(format!("entry {index} has PEM block headers")),
            None => why.push(format!("entry {index} does not parse as X.509")),
            Some(false) => why.push(format!("entry {index} does not have the CA bit set")),
            Some(true) => seen.push(block.der),
        }
    }
    if why.is_empty() {
        if seen.is_empty() {
            why.push("at least one trust anchor must be provided".into());
        }
        let first = |der: &Vec<u8>| seen.iter().position(|other| other == der).unwrap_or_default();
        let repeated = seen.iter().enumerate().map(|(index, der)| (first(der), index));
        why.extend(
            repeated
                .filter(|(first, index)| first != index)
                .map(|(first, index)| format!("duplicate trust anchor (indices [{first} {index}])")),
        );
    }
    causes.extend(why.iter().map(|why| invalid(TRUST_BUNDLE, "<value omitted>", why)));
}

struct PemBlock<'a> {
    label: &'a str,
    has_headers: bool,
    der: Vec<u8>,
}

/// The blocks of a PEM text. As by Go's `encoding/pem`, text between blocks and malformed blocks are skipped.
fn blocks(pem: &str) -> Vec<PemBlock<'_>> {
    let lines: Vec<&str> = pem.lines().map(str::trim_end).collect();
    let mut blocks = Vec::new();
    let mut next = 0;
    while let Some(line) = lines.get(next) {
        next += 1;
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let Some(length) = lines[next..].iter().position(|line| *line == end) else { continue };
        let body = &lines[next..next + length];
        let headers = body.iter().filter(|line| line.contains(':')).count();
        let text: String = body[headers..].iter().flat_map(|line| line.split_whitespace()).collect();
        if let Ok(der) = STANDARD.decode(text) {
            blocks.push(PemBlock { label, has_headers: headers > 0, der });
            next += length + 1;
        }
    }
    blocks
}
