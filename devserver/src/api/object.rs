//! [`Object`]: an object of any resource that the server stores.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::resource::{Key, Resource};
use perennial_kubernetes::objects::{CertificateSigningRequest, ObjectMeta, PodCertificateRequest};

/// An object of any resource that the server stores.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Object {
    Csr(Box<CertificateSigningRequest>),
    PodRequest(Box<PodCertificateRequest>),
    TrustBundle(Box<Plain>),
    Node(Box<Plain>),
    Pod(Box<Plain>),
    ServiceAccount(Box<Plain>),
}

/// An object of which the server interprets the metadata and few other fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Plain {
    kind: String,
    api_version: String,
    pub(super) metadata: ObjectMeta,
    #[serde(flatten)]
    pub(super) fields: Map<String, Value>,
}

impl Plain {
    /// The text at a path of field names, such as `spec.signerName`; empty if there is none.
    pub(super) fn text(&self, path: &str) -> &str {
        let mut names = path.split('.');
        let first = names.next().and_then(|name| self.fields.get(name));
        let found = names.fold(first, |value, name| value?.get(name));
        found.and_then(Value::as_str).unwrap_or_default()
    }
}

impl Object {
    /// Reads an object of `resource`. Ignores `kind` and `apiVersion` in `value`, which the caller has checked.
    pub(super) fn read(resource: Resource, value: Value) -> Result<Self, serde_json::Error> {
        let (kind, api_version) = (resource.kind().into(), resource.api_version());
        let plain: fn(Box<Plain>) -> Self = match resource {
            Resource::CertificateSigningRequests => {
                let csr = serde_json::from_value(value)?;
                return Ok(Self::Csr(Box::new(CertificateSigningRequest { kind, api_version, ..csr })));
            }
            Resource::PodCertificateRequests => {
                let request = serde_json::from_value(value)?;
                return Ok(Self::PodRequest(Box::new(PodCertificateRequest { kind, api_version, ..request })));
            }
            Resource::ClusterTrustBundles => Self::TrustBundle,
            Resource::Nodes => Self::Node,
            Resource::Pods => Self::Pod,
            Resource::ServiceAccounts => Self::ServiceAccount,
        };
        Ok(plain(Box::new(Plain { kind, api_version, ..serde_json::from_value(value)? })))
    }

    /// An object of `resource` without any content, as in a bookmark.
    pub(super) fn empty(resource: Resource) -> Self {
        let content = match resource {
            Resource::CertificateSigningRequests => json!({ "spec": {} }),
            Resource::PodCertificateRequests => json!({ "spec": {} }),
            Resource::ClusterTrustBundles => json!({ "spec": { "trustBundle": "" } }),
            Resource::Nodes | Resource::Pods => json!({ "spec": {}, "status": {} }),
            Resource::ServiceAccounts => json!({}),
        };
        Self::read(resource, content).expect("the content has the required fields, tests read it")
    }

    pub(super) fn resource(&self) -> Resource {
        match self {
            Self::Csr(_) => Resource::CertificateSigningRequests,
            Self::PodRequest(_) => Resource::PodCertificateRequests,
            Self::TrustBundle(_) => Resource::ClusterTrustBundles,
            Self::Node(_) => Resource::Nodes,
            Self::Pod(_) => Resource::Pods,
            Self::ServiceAccount(_) => Resource::ServiceAccounts,
        }
    }

    pub(super) fn key(&self) -> Key {
        let metadata = self.metadata();
        Key::new(self.resource(), &metadata.namespace, &metadata.name)
    }

    pub(super) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Csr(csr) => &csr.metadata,
            Self::PodRequest(request) => &request.metadata,
            Self::TrustBundle(plain) | Self::Node(plain) | Self::Pod(plain) | Self::ServiceAccount(plain) => {
                &plain.metadata
            }
        }
    }

    pub(super) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Csr(csr) => &mut csr.metadata,
            Self::PodRequest(request) => &mut request.metadata,
            Self::TrustBundle(plain) | Self::Node(plain) | Self::Pod(plain) | Self::ServiceAccount(plain) => {
                &mut plain.metadata
            }
        }
    }

    /// The certificate signing request; `None` for an object of another resource.
    pub(super) fn csr(&self) -> Option<&CertificateSigningRequest> {
        match self {
            Self::Csr(csr) => Some(csr),
            _ => None,
        }
    }

    /// The fields of an object of which the server interprets few; `None` for other objects.
    pub(super) fn plain(&self) -> Option<&Plain> {
        match self {
            Self::TrustBundle(plain) | Self::Node(plain) | Self::Pod(plain) | Self::ServiceAccount(plain) => {
                Some(plain)
            }
            Self::Csr(_) | Self::PodRequest(_) => None,
        }
    }

    /// The value of a field that field selectors may name, such as `spec.signerName`; `None` for any other field.
    pub(super) fn field(&self, path: &str) -> Option<&str> {
        match (path, self) {
            ("metadata.name", _) => Some(&self.metadata().name),
            ("metadata.namespace", _) => Some(&self.metadata().namespace),
            ("spec.signerName", Self::Csr(csr)) => Some(&csr.spec.signer_name),
            (_, Self::Csr(_)) => None,
            ("spec.signerName", Self::PodRequest(request)) => Some(&request.spec.signer_name),
            ("spec.podName", Self::PodRequest(request)) => Some(&request.spec.pod_name),
            ("spec.nodeName", Self::PodRequest(request)) => Some(&request.spec.node_name),
            (path, other) => other.plain().map(|plain| plain.text(path)),
        }
    }

    /// The object as a JSON value, for patches and tables.
    pub(super) fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("our objects have string keys and infallible fields")
    }
}
