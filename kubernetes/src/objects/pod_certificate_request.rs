//! [`PodCertificateRequest`] of `certificates.k8s.io/v1beta1`.

use std::collections::BTreeMap;

use perennial_pki::KeyAlgorithm;
use serde::{Deserialize, Serialize};

use super::{Condition, ObjectMeta, base64_bytes};

/// The API group of pod certificate requests, with its version: `certificates.k8s.io/v1beta1`.
pub const POD_CERTIFICATE_API_VERSION: &str = "certificates.k8s.io/v1beta1";

/// The reason of a `Denied` condition if the signer does not support the type of the key. The message may suggest a
/// supported type.
pub const UNSUPPORTED_KEY_TYPE: &str = "UnsupportedKeyType";

/// The algorithm of a key type by its name in Kubernetes, as in the `keyType` of a podCertificate volume: `ECDSAP256`,
/// `ECDSAP384`, `ECDSAP521`, `ED25519`, `RSA3072`, `RSA4096`. `None` for any other name.
pub fn key_algorithm(key_type: &str) -> Option<KeyAlgorithm> {
    Some(match key_type {
        "ECDSAP256" => KeyAlgorithm::EcdsaP256,
        "ECDSAP384" => KeyAlgorithm::EcdsaP384,
        "ECDSAP521" => KeyAlgorithm::EcdsaP521,
        "ED25519" => KeyAlgorithm::Ed25519,
        "RSA3072" => KeyAlgorithm::Rsa,
        "RSA4096" => KeyAlgorithm::Rsa4096,
        _ => return None,
    })
}

/// A request for the certificate of a pod, with the decision of the signer (KEP-4317).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCertificateRequest {
    /// `certificates.k8s.io/v1beta1`.
    #[serde(default)]
    pub api_version: String,
    /// `PodCertificateRequest`.
    #[serde(default)]
    pub kind: String,
    /// The name, namespace, UID, version and owner of the object. The owner is the pod.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The request: its CSR, pod and signer.
    pub spec: PodCertificateSpec,
    /// The decision, and the certificate once the signer has issued one.
    #[serde(default)]
    pub status: PodCertificateStatus,
}

/// The request of a [`PodCertificateRequest`]. The API allows no changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCertificateSpec {
    /// The signer, such as `example.com/mesh`.
    pub signer_name: String,
    /// The name of the pod.
    pub pod_name: String,
    /// The UID of the pod.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// The name of the pod's service account.
    pub service_account_name: String,
    /// The UID of the pod's service account.
    #[serde(rename = "serviceAccountUID")]
    pub service_account_uid: String,
    /// The name of the node that the pod is bound to.
    pub node_name: String,
    /// The UID of the node that the pod is bound to.
    #[serde(rename = "nodeUID")]
    pub node_uid: String,
    /// The longest lifetime of the certificate in seconds, from 3600 (one hour) to 7862400 (91 days). The server sets
    /// 86400 (24 hours) if this field is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_expiration_seconds: Option<i32>,
    /// The PKCS#10 request as DER, without names. Its signature proves the possession of the key.
    #[serde(rename = "stubPKCS10Request", with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub stub_pkcs10_request: Vec<u8>,
    /// The public key as a DER SubjectPublicKeyInfo. Superseded by `stub_pkcs10_request` in Kubernetes 1.36, and empty
    /// beside it.
    #[serde(rename = "pkixPublicKey", with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub pkix_public_key: Vec<u8>,
    /// The signature of the pod's UID by the key. Superseded by `stub_pkcs10_request` in Kubernetes 1.36, and empty
    /// beside it.
    #[serde(with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub proof_of_possession: Vec<u8>,
    /// Information of the pod's author for the signer. Each key has a domain as its prefix: `example.com/name`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unverified_user_annotations: BTreeMap<String, String>,
}

/// The decision about a [`PodCertificateRequest`], and the issued certificate. The API allows no changes once there is a
/// condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCertificateStatus {
    /// The decision: at most one of `Issued`, `Denied` and `Failed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The issued chain as PEM, from the leaf on; empty unless the request is `Issued`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_chain: String,
    /// The notBefore of the certificate (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// The signer's hint when to begin to refresh the certificate (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_refresh_at: Option<String>,
    /// The notAfter of the certificate (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_certificate_request_has_wire_names_of_kubernetes() {
        let json = serde_json::json!({
            "apiVersion": POD_CERTIFICATE_API_VERSION,
            "kind": "PodCertificateRequest",
            "metadata": {
                "name": "req-1",
                "namespace": "shop",
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u1" }],
            },
            "spec": {
                "signerName": "example.com/mesh",
                "podName": "web-0",
                "podUID": "u1",
                "serviceAccountName": "web",
                "serviceAccountUID": "u2",
                "nodeName": "node-1",
                "nodeUID": "u3",
                "maxExpirationSeconds": 86400,
                "stubPKCS10Request": "AQID",
                "pkixPublicKey": "BA==",
                "proofOfPossession": "BQ==",
                "unverifiedUserAnnotations": { "example.com/a": "b" },
            },
            "status": {
                "conditions": [{
                    "type": "Issued",
                    "status": "True",
                    "reason": "Issued",
                    "message": "issued",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "certificateChain": "PEM",
                "notBefore": "2026-01-01T00:00:00Z",
                "beginRefreshAt": "2026-01-01T16:00:00Z",
                "notAfter": "2026-01-02T00:00:00Z",
            },
        });
        let object: PodCertificateRequest = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(object.spec.stub_pkcs10_request, [1, 2, 3]);
        // All fields: a field that was read under another name would be missing here.
        assert_eq!(serde_json::to_value(&object).unwrap(), json);
    }
}
