//! Node objects: a node's name with its addresses. `ServingApproval::Own` approves serving certificates for these
//! addresses.

use std::collections::BTreeMap;

use serde_json::json;

use super::access::{self, Attributes};
use super::message::Response;
use super::status;
use super::user::User;
use perennial_kubernetes::addresses::NodeAddress;

/// All Node objects. [`Api::put_node`](super::Api::put_node) adds them; a kubelet cannot register itself.
#[derive(Debug, Default)]
pub(super) struct Nodes(BTreeMap<String, Vec<NodeAddress>>);

impl Nodes {
    pub(super) fn put(&mut self, name: &str, addresses: Vec<NodeAddress>) {
        self.0.insert(name.to_owned(), addresses);
    }

    /// The addresses of the Node object of this name; empty if there is no such object.
    pub(super) fn addresses(&self, name: &str) -> &[NodeAddress] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Answers GET of a Node object. A node may read its own object and no other (the rule of the node authorizer).
    pub(super) fn get(&self, user: &User, name: &str) -> Result<Response, Response> {
        let own = user.username.strip_prefix("system:node:") == Some(name);
        if !own {
            access::authorize(user, &Attributes { verb: "get", resource: "nodes", name, ..Attributes::default() })?;
        }
        let addresses = self.0.get(name).ok_or_else(|| status::no_such_node(name))?;
        let node = json!({
            "kind": "Node", "apiVersion": "v1", "metadata": { "name": name }, "status": { "addresses": addresses },
        });
        Ok(Response::json(200, &node))
    }
}
