//! The rules of a cluster's three signers for clients and kubelets (`pkg/apis/certificates/helpers.go`,
//! `pkg/controller/certificates/signer`).

use std::collections::BTreeSet;

use perennial::UnixTime;
use perennial_pki::{Chain, KeyUsage, RequestFacts, Usage};

use super::Options;
use super::user::MASTERS;
use crate::authority::{Authority, AuthorityError};
use crate::random::Random;
use perennial_kubernetes::objects::CsrSpec;
pub(super) use perennial_kubernetes::objects::{
    CLIENT_SIGNER as CLIENT, KUBELET_CLIENT_SIGNER as KUBELET_CLIENT, KUBELET_SERVING_SIGNER as KUBELET_SERVING,
};

/// True for the signer names that are reserved for a cluster (`kubernetes.io/…`). This server signs for three of them.
pub(super) fn is_clusters_own(signer_name: &str) -> bool {
    signer_name.starts_with("kubernetes.io/")
}

/// True if this server signs for `signer_name`: one of a cluster's three signers or, with `other_signers`, any signer
/// name that is not reserved for a cluster.
pub(super) fn serves(signer_name: &str, other_signers: bool) -> bool {
    matches!(signer_name, CLIENT | KUBELET_CLIENT | KUBELET_SERVING) || other_signers && !is_clusters_own(signer_name)
}

/// Checks a request by the rules of its signer. The error is the reason for which the signer refuses the request.
pub(super) fn check(request: &RequestFacts, spec: &CsrSpec) -> Result<(), String> {
    match spec.signer_name.as_str() {
        KUBELET_CLIENT => check_kubelet_client(request, &spec.usages),
        KUBELET_SERVING => check_kubelet_serving(request, &spec.usages),
        CLIENT => check_client(&spec.usages),
        // One CA signs for all signer names, so that `system:masters` must be refused for every one.
        _ => forbid(request.organizations.iter().any(|name| name == MASTERS), "organization system:masters"),
    }
}

fn check_kubelet_client(request: &RequestFacts, usages: &[String]) -> Result<(), String> {
    let names = &request.names;
    forbid(request.organizations != ["system:nodes"], "subject organization is not system:nodes")?;
    forbid(!names.dns_names.is_empty(), "DNS subjectAltNames are not allowed")?;
    forbid(!names.emails.is_empty(), "Email subjectAltNames are not allowed")?;
    forbid(!names.ip_addresses.is_empty(), "IP subjectAltNames are not allowed")?;
    forbid(!names.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    check_node_name(request)?;
    check_kubelet_usages(usages, "client auth")
}

fn check_kubelet_serving(request: &RequestFacts, usages: &[String]) -> Result<(), String> {
    let names = &request.names;
    forbid(request.organizations != ["system:nodes"], "subject organization is not system:nodes")?;
    forbid(names.dns_names.is_empty() && names.ip_addresses.is_empty(), "DNS or IP subjectAltName is required")?;
    forbid(!names.emails.is_empty(), "Email subjectAltNames are not allowed")?;
    forbid(!names.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    check_kubelet_usages(usages, "server auth")?;
    check_node_name(request)
}

fn check_client(usages: &[String]) -> Result<(), String> {
    const OPTIONAL: [&str; 2] = ["digital signature", "key encipherment"];
    if let Some(other) = usages.iter().find(|usage| *usage != "client auth" && !OPTIONAL.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    let missing = !usages.iter().any(|usage| usage == "client auth");
    forbid(missing, "missing required usage for client certificate: client auth")
}

fn check_node_name(request: &RequestFacts) -> Result<(), String> {
    let wrong = !request.common_name.starts_with("system:node:");
    forbid(wrong, "subject common name does not begin with system:node:")
}

fn check_kubelet_usages(usages: &[String], auth: &str) -> Result<(), String> {
    let mut given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    given.remove("key encipherment");
    let wrong = given != BTreeSet::from(["digital signature", auth]);
    let mut wanted = [auth, "digital signature", "key encipherment"];
    wanted.sort_unstable();
    forbid(wrong, &format!("usages did not match [{}]", wanted.join(" ")))
}

fn forbid(wrong: bool, message: &str) -> Result<(), String> {
    if wrong { Err(message.into()) } else { Ok(()) }
}

/// Issues the certificate for a request that has passed [`check`]: the subject, names and key are those of the CSR, the
/// usages those of `spec`.
pub(super) fn issue(
    authority: &Authority,
    random: &mut Random,
    request: &RequestFacts,
    spec: &CsrSpec,
    options: &Options,
    now: UnixTime,
) -> Result<Chain, AuthorityError> {
    let (mut key_usages, mut extended) = (Vec::new(), Vec::new());
    for usage in &spec.usages {
        match usage.as_str() {
            "signing" | "digital signature" => key_usages.push(KeyUsage::DigitalSignature),
            "key encipherment" => key_usages.push(KeyUsage::KeyEncipherment),
            "client auth" => extended.push(Usage::ClientAuth),
            "server auth" => extended.push(Usage::ServerAuth),
            // Other usages fail the check of a cluster's signers. For other signer names they are left out.
            _ => {}
        }
    }
    let validity = authority.period(now, options.lifetime(spec.expiration_seconds), options.backdate)?;
    authority.certify(request, validity, &key_usages, &extended, random)
}
