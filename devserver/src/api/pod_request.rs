//! Pod certificate requests: checks of new requests, and what updates may change
//! (`pkg/apis/certificates/validation`, `pkg/registry/certificates/podcertificaterequest`).

mod status;

use perennial_pki::read_request_der;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::message::Response;
use super::requests::Call;
use super::resource::Key;
use super::validation::{self, Subresource, forbidden, invalid, required, subdomain_error};
use super::{metadata, status as answers};
use perennial_kubernetes::objects::{PodCertificateRequest, PodCertificateSpec, PodCertificateStatus, StatusCause};

/// `maxExpirationSeconds` of a request that has none: 24 hours. Also the largest value for signers of Kubernetes.
pub(super) const DEFAULT_LIFETIME: i32 = 86_400;
/// Least lifetime of a certificate: one hour.
pub(super) const SHORTEST: i32 = 3600;
/// Largest `maxExpirationSeconds`: 91 days.
const LONGEST: i32 = 91 * 86_400;
/// Largest length of a UID.
const UID: usize = 128;

/// Checks a new request, and sets its defaults.
pub(super) fn prepare(request: &mut PodCertificateRequest, key: &Key) -> Result<(), Response> {
    request.status = PodCertificateStatus::default();
    request.spec.max_expiration_seconds.get_or_insert(DEFAULT_LIFETIME);
    let mut causes = metadata::check(&request.metadata, subdomain_error);
    check_spec(&request.spec, &mut causes);
    if causes.is_empty() { Ok(()) } else { Err(answers::invalid(key, causes)) }
}

fn check_spec(spec: &PodCertificateSpec, causes: &mut Vec<StatusCause>) {
    validation::signer_name(&spec.signer_name, causes);
    causes.extend(spec.unverified_user_annotations.keys().filter_map(|annotation| {
        let why = metadata::domain_key_error(&annotation.to_lowercase())?;
        Some(invalid("spec.unverifiedUserAnnotations", &format!("{annotation:?}"), &why))
    }));
    for (field, name) in [
        ("spec.podName", &spec.pod_name),
        ("spec.serviceAccountName", &spec.service_account_name),
        ("spec.nodeName", &spec.node_name),
    ] {
        causes.extend(subdomain_error(name).map(|why| invalid(field, &format!("{name:?}"), &why)));
    }
    for (field, uid) in [
        ("spec.podUID", &spec.pod_uid),
        ("spec.serviceAccountUID", &spec.service_account_uid),
        ("spec.nodeUID", &spec.node_uid),
    ] {
        match uid.len() {
            0 => causes.push(invalid(field, "\"\"", "must not be empty")),
            1..=UID => {}
            _ => causes.push(invalid(field, &format!("{uid:?}"), &format!("must be no more than {UID} bytes"))),
        }
    }
    let longest = if is_kubernetes_signer(&spec.signer_name) { DEFAULT_LIFETIME } else { LONGEST };
    let seconds = spec.max_expiration_seconds.unwrap_or(DEFAULT_LIFETIME);
    if !(SHORTEST..=longest).contains(&seconds) {
        let why = format!("must be in the range [{SHORTEST}, {longest}]");
        causes.push(invalid("spec.maxExpirationSeconds", &seconds.to_string(), &why));
    }
    for (field, bytes) in
        [("spec.pkixPublicKey", &spec.pkix_public_key), ("spec.proofOfPossession", &spec.proof_of_possession)]
    {
        if !bytes.is_empty() {
            causes.push(forbidden(field, "must not be set beside spec.stubPKCS10Request, which replaces it"));
        }
    }
    check_stub(&spec.stub_pkcs10_request, causes);
}

/// Checks the CSR: its self-signature proves that the requester has the key. Signers take nothing but the key from it.
fn check_stub(der: &[u8], causes: &mut Vec<StatusCause>) {
    const FIELD: &str = "spec.stubPKCS10Request";
    if der.is_empty() {
        return causes.push(required(FIELD, ""));
    }
    match read_request_der(der) {
        Err(error) => causes.push(invalid(FIELD, "<value omitted>", &error.to_string())),
        Ok(facts) if facts.key_algorithm.is_rsa() => {
            let bits = rsa_bits(&facts.public_key_der);
            if !matches!(bits, 3072 | 4096) {
                let why = "RSA keys must have modulus size 3072 or 4096";
                causes.push(invalid(FIELD, &format!("{bits}-bit modulus"), why));
            }
        }
        Ok(_) => {}
    }
}

/// Size of the modulus in a DER SubjectPublicKeyInfo; 0 if the key is no RSA key.
fn rsa_bits(public_key_der: &[u8]) -> usize {
    match SubjectPublicKeyInfo::from_der(public_key_der).ok().map(|(_, key)| key) {
        Some(key) => match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => rsa.key_size(),
            _ => 0,
        },
        None => 0,
    }
}

/// True for the signer names of Kubernetes itself (`IsKubernetesSignerName`).
fn is_kubernetes_signer(signer_name: &str) -> bool {
    let domain = signer_name.split('/').next().unwrap_or_default();
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// Changes `request` as an update to `new` does. An update of `/status` decides about the request; an update of the
/// object itself changes only labels and annotations.
pub(super) fn update(
    request: &mut PodCertificateRequest,
    new: PodCertificateRequest,
    &Call { key, subresource, now, .. }: &Call<'_>,
) -> Result<(), Response> {
    let mut causes = Vec::new();
    // Unlike other objects (`AllowUnconditionalUpdate`).
    if new.metadata.resource_version.is_empty() {
        causes.push(invalid("metadata.resourceVersion", "0x0", "must be specified for an update"));
    }
    if subresource == Some(Subresource::Status) {
        status::check(&new.status, request, now, &mut causes);
        request.status = new.status;
    } else {
        if new.spec != request.spec {
            causes.push(invalid("spec", "<value omitted>", "field is immutable"));
        }
        request.metadata.labels = new.metadata.labels;
        request.metadata.annotations = new.metadata.annotations;
        causes.extend(metadata::check(&request.metadata, subdomain_error));
    }
    if causes.is_empty() { Ok(()) } else { Err(answers::invalid(key, causes)) }
}
