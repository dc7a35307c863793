//! The few Kubernetes objects this crate speaks of, as they are on the wire (JSON).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `certificates.k8s.io/v1`, the only version served since Kubernetes 1.22.
pub const API_VERSION: &str = "certificates.k8s.io/v1";
/// Where certificate signing requests live.
pub const CSR_PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Where the versions of their API are named.
pub(crate) const GROUP_PATH: &str = "/apis/certificates.k8s.io";

/// Signs client certificates for anybody (`signerName`).
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Signs kubelets' client certificates (`signerName`).
pub const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs kubelets' serving certificates (`signerName`).
pub const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Metadata every object carries; only the fields this crate reads or keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Unique name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Prefix of a name the server is to complete.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Tells this object from an earlier one of the same name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Opaque version: where a watch goes on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A certificate signing request and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSigningRequest {
    /// `certificates.k8s.io/v1`.
    #[serde(default)]
    pub api_version: String,
    /// `CertificateSigningRequest`.
    #[serde(default)]
    pub kind: String,
    /// Name, UID, version.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: CsrSpec,
    /// What became of it.
    #[serde(default)]
    pub status: CsrStatus,
}

/// What is asked for. The server fills in who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsrSpec {
    /// The PKCS#10 request, PEM.
    #[serde(with = "base64_bytes", default)]
    pub request: Vec<u8>,
    /// Who is to sign, for example `kubernetes.io/kube-apiserver-client-kubelet`.
    #[serde(default)]
    pub signer_name: String,
    /// The lifetime wished for, in seconds; a signer may shorten it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expiration_seconds: Option<i32>,
    /// Key usages, in Kubernetes' words: `digital signature`, `client auth`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub usages: Vec<String>,
    /// Who asked; set by the server.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub username: String,
    /// Set by the server.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub uid: String,
    /// Set by the server.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub groups: Vec<String>,
    /// Set by the server.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsrStatus {
    /// `Approved`, `Denied`, `Failed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The chain, PEM, once it is issued.
    #[serde(with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub certificate: Vec<u8>,
}

/// A statement about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Approved`, `Denied` or `Failed`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`; nothing else is allowed for the three known types.
    pub status: String,
    /// A word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// How the API reports an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `v1`.
    pub api_version: String,
    /// `Status`.
    pub kind: String,
    /// Empty but for lists.
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    pub status: String,
    /// A sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// A word for programs: `NotFound`, `AlreadyExists`, `Invalid` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Which object, which fields, when to come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// Particulars of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One for each thing wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds to wait before trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One thing wrong with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    /// `FieldValueInvalid`, `FieldValueRequired` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `spec.request`, `spec.usages[1]` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// Metadata of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// Where a watch begins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Asks for the next page; empty on the last one.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_: String,
    /// How many objects follow on further pages, where the server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<u64>,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

/// Bytes as standard base64 with padding, as Go's `[]byte`; `null` is empty.
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
