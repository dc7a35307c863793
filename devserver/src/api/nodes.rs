//! Node objects, and the rights of a node on the objects of its pods.

use serde::Deserialize;

use super::Api;
use super::message::Query;
use super::object::Plain;
use super::resource::{Key, Resource};
use super::selector::Selector;
use super::user::User;
use perennial_kubernetes::addresses::NodeAddress;

impl Api {
    /// The addresses of the Node object of this name; empty if there is no such object.
    pub(super) fn node_addresses(&self, name: &str) -> Vec<NodeAddress> {
        let stored = self.store.get(&Key::new(Resource::Nodes, "", name));
        stored.and_then(|stored| stored.object.plain()).map(addresses).unwrap_or_default()
    }

    /// True if `user` is a node, and may read what a request for `key` with this verb selects: the Node object of its
    /// own name, the pods that are bound to the node, and their service accounts (the node authorizer).
    pub(super) fn node_may_read(&self, user: &User, verb: &str, key: &Key, query: &Query) -> bool {
        let Some(node) = user.node().filter(|_| matches!(verb, "get" | "list" | "watch")) else { return false };
        let Ok(selector) = Selector::new(key, query) else { return false };
        let named = selector.key().unwrap_or_else(|| key.clone());
        match key.resource {
            Resource::Nodes => named.name == node,
            Resource::Pods => selector.requires(NODE_NAME, node) || self.is_bound(&named, node),
            Resource::ServiceAccounts => self.store.iter(Resource::Pods).any(|pod| {
                pod.key.namespace == named.namespace
                    && pod.object.field(NODE_NAME) == Some(node)
                    && pod.object.field("spec.serviceAccountName") == Some(&named.name)
            }),
            Resource::CertificateSigningRequests | Resource::ClusterTrustBundles => false,
        }
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
