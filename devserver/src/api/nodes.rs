//! Node objects, and the rights of a node on the objects of its pods.

use serde::Deserialize;

use super::Api;
use super::message::{Query, Response};
use super::object::Plain;
use super::resource::{Key, Resource};
use super::selector::Selector;
use super::status;
use super::user::User;
use perennial_kubernetes::addresses::NodeAddress;
use perennial_kubernetes::objects::PodCertificateSpec;

impl Api {
    /// The addresses of the Node object of this name; empty if there is no such object.
    pub(super) fn node_addresses(&self, name: &str) -> Vec<NodeAddress> {
        let stored = self.store.get(&Key::new(Resource::Nodes, "", name));
        stored.and_then(|stored| stored.object.plain()).map(addresses).unwrap_or_default()
    }

    /// True if `user` is a node, and may read what a request for `key` with this verb selects: the Node object of its
    /// own name, the pods that are bound to the node, their certificate requests and their service accounts (the node
    /// authorizer).
    pub(super) fn node_may_read(&self, user: &User, verb: &str, key: &Key, query: &Query) -> bool {
        let Some(node) = user.node().filter(|_| matches!(verb, "get" | "list" | "watch")) else { return false };
        let Ok(selector) = Selector::new(key, query) else { return false };
        let named = selector.key().unwrap_or_else(|| key.clone());
        match key.resource {
            Resource::Nodes => named.name == node,
            Resource::Pods | Resource::PodCertificateRequests => {
                selector.requires(NODE_NAME, node) || self.is_bound(&named, node)
            }
            Resource::ServiceAccounts => self.store.iter(Resource::Pods).any(|pod| {
                pod.key.namespace == named.namespace
                    && pod.object.field(NODE_NAME) == Some(node)
                    && pod.object.field("spec.serviceAccountName") == Some(&named.name)
            }),
            Resource::CertificateSigningRequests | Resource::ClusterTrustBundles => false,
        }
    }

    /// Admission plugin NodeRestriction: refuses a node's request for a certificate of a pod that is not bound to the
    /// node, or of objects with other UIDs (`admitPodCertificateRequest`).
    pub(super) fn restrict_pod_request(
        &self,
        user: &User,
        key: &Key,
        spec: &PodCertificateSpec,
    ) -> Result<(), Response> {
        let Some(node) = user.node() else { return Ok(()) };
        let forbid = |why: String| Err(status::forbidden(key, why));
        let PodCertificateSpec { pod_name, pod_uid, node_name, service_account_name, .. } = spec;
        if node_name != node {
            return forbid(format!(
                "PodCertificateRequest.Spec.NodeName={node_name:?}, which is not the requesting node {node:?}"
            ));
        }
        let find = |resource, namespace: &str, kind, name: &str, uid: &str| {
            let found = self.store.get(&Key::new(resource, namespace, name)).map(|stored| &stored.object);
            let uid_found = found.map_or("", |object| &object.metadata().uid);
            match found {
                // Not forbidden: in a cluster, the admission plugin may not have seen the newest objects yet.
                None => Err(status::internal(format!(
                    "while retrieving {kind} {name:?} named in the PodCertificateRequest: {kind} {name:?} not found"
                ))),
                Some(_) if uid_found != uid => Err(status::internal(format!(
                    "PodCertificateRequest for pod {pod_name:?} names {kind} UID {uid:?}, which differs from that of the \
                     {kind} ({uid_found:?})"
                ))),
                Some(object) => Ok(object),
            }
        };
        find(Resource::Nodes, "", "node", node, &spec.node_uid)?;
        let pod = find(Resource::Pods, &key.namespace, "pod", pod_name, pod_uid)?;
        if pod.field(NODE_NAME) != Some(node) {
            return forbid(format!(
                "pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest"
            ));
        }
        if pod.metadata().annotations.contains_key("kubernetes.io/config.mirror") {
            return forbid(format!("pod {pod_name:?} is a mirror pod"));
        }
        let account = pod.field("spec.serviceAccountName").unwrap_or_default();
        if account != service_account_name {
            return forbid(format!(
                "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({service_account_name:?}) that \
                 differs from running pod ({account:?})"
            ));
        }
        let uid = &spec.service_account_uid;
        find(Resource::ServiceAccounts, &key.namespace, "service account", account, uid).map(drop)
    }

    fn is_bound(&self, key: &Key, node: &str) -> bool {
        self.store.get(key).is_some_and(|stored| stored.object.field(NODE_NAME) == Some(node))
    }
}

/// The field with the name of the node that a pod is bound to.
const NODE_NAME: &str = "spec.nodeName";

/// The addresses of a Node object; empty if the object has none that can be read.
pub(super) fn addresses(node: &Plain) -> Vec<NodeAddress> {
    let addresses = node.fields.get("status").and_then(|status| status.get("addresses"));
    addresses.and_then(|addresses| Vec::deserialize(addresses).ok()).unwrap_or_default()
}
