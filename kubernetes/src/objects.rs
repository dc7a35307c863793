//! The Kubernetes objects that this crate sends and reads, as JSON on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod pod_certificate_request;

pub use pod_certificate_request::{
    POD_CERTIFICATE_API_VERSION, PodCertificateRequest, PodCertificateSpec, PodCertificateStatus, UNSUPPORTED_KEY_TYPE,
    key_algorithm,
};

/// The API group of certificate signing requests, with its version: `certificates.k8s.io/v1`. Since 1.22, Kubernetes
/// serves these requests in no other version.
pub const API_VERSION: &str = "certificates.k8s.io/v1";
/// The API path of all certificate signing requests.
pub const CSR_PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// The API path of the group `certificates.k8s.io`. The answer to a GET lists the served versions of the group.
pub(crate) const GROUP_PATH: &str = "/apis/certificates.k8s.io";

/// The signer of client certificates for any user (`signerName`).
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// The signer of kubelet client certificates (`signerName`).
pub const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of kubelet serving certificates (`signerName`).
pub const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// The usages that a CSR of `certificates.k8s.io/v1` may request (`spec.usages`): all values of `KeyUsage` in
/// `k8s.io/api/certificates/v1`.
pub const USAGES: [&str; 23] = [
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

/// The metadata of an object; only the fields that this crate reads or keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// The unique name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The namespace of the object; empty if objects of this kind have no namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// A prefix that the server completes to a name if `name` is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// The unique ID, which differs from that of an earlier object of the same name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The version of the object, an opaque text. A watch can begin with the changes after this version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The time of creation (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// The labels of the object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The annotations of the object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The owners of the object: once the last owner is gone, the server deletes the object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

/// The owner of an object, in the same namespace or without one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// The API group and version of the owner, such as `v1`.
    pub api_version: String,
    /// The kind of the owner, such as `Pod`.
    pub kind: String,
    /// The name of the owner.
    pub name: String,
    /// The unique ID of the owner.
    pub uid: String,
    /// True if the owner is the controller of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// True if the owner cannot be deleted in the foreground before the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// A certificate signing request, with the decisions of approvers and of the signer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSigningRequest {
    /// `certificates.k8s.io/v1`.
    #[serde(default)]
    pub api_version: String,
    /// `CertificateSigningRequest`.
    #[serde(default)]
    pub kind: String,
    /// The name, UID and version of the object.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The request: its CSR, signer and usages.
    pub spec: CsrSpec,
    /// The decisions, and the certificate once the signer has issued one.
    #[serde(default)]
    pub status: CsrStatus,
}

/// The request of a [`CertificateSigningRequest`]. The server sets the fields about the requester.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsrSpec {
    /// The PKCS#10 request as PEM.
    #[serde(with = "base64_bytes", default)]
    pub request: Vec<u8>,
    /// The signer, such as `kubernetes.io/kube-apiserver-client-kubelet`.
    #[serde(default)]
    pub signer_name: String,
    /// The requested lifetime in seconds. A signer may shorten it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expiration_seconds: Option<i32>,
    /// The requested usages by their names in Kubernetes: `digital signature`, `client auth`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub usages: Vec<String>,
    /// The user name of the requester, set by the server.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub username: String,
    /// The user ID of the requester, set by the server.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub uid: String,
    /// The groups of the requester, set by the server.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub groups: Vec<String>,
    /// Further attributes of the requester, set by the server.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The decisions about a request, and the issued certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsrStatus {
    /// The decisions: `Approved`, `Denied`, `Failed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The issued chain as PEM; empty before the signer has issued one.
    #[serde(with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub certificate: Vec<u8>,
}

/// A decision of an approver or of the signer about a request: a CSR, or a [`PodCertificateRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Approved`, `Denied` or `Failed`; of a pod certificate request `Issued`, `Denied` or `Failed`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Always `True`: the API allows no other value for these types.
    pub status: String,
    /// The reason of the decision, one word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The reason of the decision, a sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The time at which the condition last changed (RFC 3339). Conditions of pod certificate requests have no such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// The time at which `status` last changed (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// An error, as the API reports it (`metav1.Status`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `v1`.
    pub api_version: String,
    /// `Status`.
    pub kind: String,
    /// The metadata, which has the same fields as that of a list; empty in an error.
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    pub status: String,
    /// The error, a sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The error, one word for programs: `NotFound`, `AlreadyExists`, `Invalid` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The object and fields at fault, and when to retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status code; 0 if the server sent none.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The details of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// The name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The kind of the object, by the name of its resource: `certificatesigningrequests`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The fields at fault, one cause for each problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// The seconds to wait before the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One problem for which the API refused an HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    /// The problem, one word for programs: `FieldValueInvalid`, `FieldValueRequired` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The problem, a sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field at fault: `spec.request`, `spec.usages[1]` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The metadata of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The server's resource version at the time of the list. A watch can begin with the changes after this version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The token that requests the next page; empty on the last page.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_: String,
    /// The number of objects on further pages; `None` if the server does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<u64>,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

/// Bytes as standard base64 with padding, as Go encodes `[]byte`; `null` is read as no bytes.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
