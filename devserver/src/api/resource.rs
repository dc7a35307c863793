//! The resources whose objects the server stores.

use super::discovery;

/// A resource: the collection of all objects of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    CertificateSigningRequests,
    ClusterTrustBundles,
    Nodes,
    PodCertificateRequests,
    Pods,
    ServiceAccounts,
}

/// The names by which clients address a resource and its objects.
pub(super) struct Names {
    /// API group; empty for the core group.
    pub(super) group: &'static str,
    /// Version of the API group.
    pub(super) version: &'static str,
    /// Name of the resource in paths.
    pub(super) plural: &'static str,
    /// Kind of its objects.
    pub(super) kind: &'static str,
}

impl Resource {
    pub(super) const ALL: [Self; 6] = [
        Self::CertificateSigningRequests,
        Self::ClusterTrustBundles,
        Self::Nodes,
        Self::PodCertificateRequests,
        Self::Pods,
        Self::ServiceAccounts,
    ];

    /// The resource that a path names, the namespace, and the rest of the path after the name of the resource. `None` if
    /// the path names no resource that the server stores.
    pub(super) fn in_path<'a>(path: &'a [&'a str]) -> Option<(Self, &'a str, &'a [&'a str])> {
        let (group, version, path) = match path {
            ["api", version, path @ ..] => ("", *version, path),
            ["apis", group, version, path @ ..] => (*group, *version, path),
            _ => return None,
        };
        let (namespace, plural, rest) = match path {
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
            [plural, rest @ ..] => ("", *plural, rest),
            [] => return None,
        };
        let resource = Self::named(group, plural).filter(|resource| resource.names().version == version)?;
        // Objects with a namespace are below their namespace; all of them together are not.
        let fits =
            if namespace.is_empty() { !resource.is_namespaced() || rest.is_empty() } else { resource.is_namespaced() };
        fits.then_some((resource, namespace, rest))
    }

    /// The resource whose objects have this kind.
    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.kind() == kind)
    }

    /// The resource of this API group and plural name, in any version.
    pub(super) fn named(group: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| (resource.group(), resource.plural()) == (group, plural))
    }

    pub(super) fn names(self) -> Names {
        match self {
            Self::CertificateSigningRequests => Names {
                group: super::status::GROUP,
                version: "v1",
                plural: "certificatesigningrequests",
                kind: "CertificateSigningRequest",
            },
            Self::ClusterTrustBundles => Names {
                group: super::status::GROUP,
                version: "v1beta1",
                plural: "clustertrustbundles",
                kind: "ClusterTrustBundle",
            },
            Self::Nodes => Names { group: "", version: "v1", plural: "nodes", kind: "Node" },
            Self::PodCertificateRequests => Names {
                group: super::status::GROUP,
                version: "v1beta1",
                plural: "podcertificaterequests",
                kind: "PodCertificateRequest",
            },
            Self::Pods => Names { group: "", version: "v1", plural: "pods", kind: "Pod" },
            Self::ServiceAccounts => {
                Names { group: "", version: "v1", plural: "serviceaccounts", kind: "ServiceAccount" }
            }
        }
    }

    pub(super) fn group(self) -> &'static str {
        self.names().group
    }

    pub(super) fn plural(self) -> &'static str {
        self.names().plural
    }

    pub(super) fn kind(self) -> &'static str {
        self.names().kind
    }

    pub(super) fn is_namespaced(self) -> bool {
        match self {
            Self::CertificateSigningRequests | Self::ClusterTrustBundles | Self::Nodes => false,
            Self::PodCertificateRequests | Self::Pods | Self::ServiceAccounts => true,
        }
    }

    /// Minor version of the Kubernetes 1.x release that first serves the resource in this version.
    pub(super) fn since(self) -> u32 {
        match self {
            Self::CertificateSigningRequests => discovery::V1_SINCE,
            Self::ClusterTrustBundles => 33,
            // The first release with `spec.stubPKCS10Request`.
            Self::PodCertificateRequests => 36,
            Self::Nodes | Self::Pods | Self::ServiceAccounts => 0,
        }
    }

    /// The short names by which `kubectl` accepts the resource.
    pub(super) fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::CertificateSigningRequests => &["csr"],
            Self::Nodes => &["no"],
            Self::Pods => &["po"],
            Self::ServiceAccounts => &["sa"],
            Self::ClusterTrustBundles | Self::PodCertificateRequests => &[],
        }
    }

    /// The fields by which a field selector may select objects.
    pub(super) fn selectable_fields(self) -> &'static [&'static str] {
        match self {
            Self::CertificateSigningRequests | Self::ClusterTrustBundles => &["metadata.name", "spec.signerName"],
            Self::Nodes => &["metadata.name"],
            Self::PodCertificateRequests => {
                &["metadata.name", "metadata.namespace", "spec.nodeName", "spec.podName", "spec.signerName"]
            }
            Self::Pods => &[
                "metadata.name",
                "metadata.namespace",
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "status.phase",
            ],
            Self::ServiceAccounts => &["metadata.name", "metadata.namespace"],
        }
    }

    /// `apiVersion` of the objects, such as `certificates.k8s.io/v1` or `v1`.
    pub(super) fn api_version(self) -> String {
        let Names { group, version, .. } = self.names();
        if group.is_empty() { version.into() } else { format!("{group}/{version}") }
    }

    /// Name of the resource in messages, such as `certificatesigningrequests.certificates.k8s.io` or `pods`.
    pub(super) fn qualified(self) -> String {
        let Names { group, plural, .. } = self.names();
        if group.is_empty() { plural.into() } else { format!("{plural}.{group}") }
    }
}

/// The identity of a stored object: no two objects share a key. Keys are sorted by resource, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) resource: Resource,
    /// The namespace; empty for a resource without namespaces.
    pub(super) namespace: String,
    /// The name of the object; empty for the whole collection.
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }

    /// The key of a certificate signing request.
    pub(super) fn csr(name: &str) -> Self {
        Self::new(Resource::CertificateSigningRequests, "", name)
    }
    /// `namespace/name`, or the name alone for a resource without namespaces.
    pub(super) fn path(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}
