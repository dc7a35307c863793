//! [`Object`]: an object of any resource that the server stores.

use serde::Serialize;
use serde_json::Value;

use super::resource::{Key, Resource};
use perennial_kubernetes::objects::{CertificateSigningRequest, ObjectMeta};

/// An object of any resource that the server stores.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Object {
    Csr(Box<CertificateSigningRequest>),
}

impl Object {
    /// Reads an object of `resource`. Ignores `kind` and `apiVersion` in `value`, which the caller has checked.
    pub(super) fn read(resource: Resource, value: Value) -> Result<Self, serde_json::Error> {
        let (kind, api_version) = (resource.kind().into(), resource.api_version());
        match resource {
            Resource::CertificateSigningRequests => {
                let csr = serde_json::from_value(value)?;
                Ok(Self::Csr(Box::new(CertificateSigningRequest { kind, api_version, ..csr })))
            }
        }
    }

    /// An object of `resource` without any content, as in a bookmark.
    pub(super) fn empty(resource: Resource) -> Self {
        let (kind, api_version) = (resource.kind().into(), resource.api_version());
        match resource {
            Resource::CertificateSigningRequests => {
                Self::Csr(Box::new(CertificateSigningRequest { kind, api_version, ..Default::default() }))
            }
        }
    }

    pub(super) fn resource(&self) -> Resource {
        match self {
            Self::Csr(_) => Resource::CertificateSigningRequests,
        }
    }

    pub(super) fn key(&self) -> Key {
        let metadata = self.metadata();
        Key::new(self.resource(), &metadata.namespace, &metadata.name)
    }

    pub(super) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Csr(csr) => &csr.metadata,
        }
    }

    pub(super) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Csr(csr) => &mut csr.metadata,
        }
    }

    /// The certificate signing request; `None` for an object of another resource.
    pub(super) fn csr(&self) -> Option<&CertificateSigningRequest> {
        match self {
            Self::Csr(csr) => Some(csr),
        }
    }

    /// The value of a field that field selectors may name, such as `spec.signerName`; `None` for any other field.
    pub(super) fn field(&self, path: &str) -> Option<&str> {
        match (path, self) {
            ("metadata.name", _) => Some(&self.metadata().name),
            ("metadata.namespace", _) => Some(&self.metadata().namespace),
            ("spec.signerName", Self::Csr(csr)) => Some(&csr.spec.signer_name),
            (_, Self::Csr(_)) => None,
        }
    }

    /// The object as a JSON value, for patches and tables.
    pub(super) fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("our objects have string keys and infallible fields")
    }
}
