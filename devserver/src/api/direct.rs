//! Objects that a test or program writes without a client.

use std::sync::Arc;

use perennial::UnixTime;
use serde_json::json;

use super::Api;
use super::message::Response;
use super::object::Object;
use super::requests::Call;
use super::resource::{Key, Resource};
use super::store::Stored;
use super::user::{MASTERS, User};
use perennial_kubernetes::PodIdentity;
use perennial_kubernetes::addresses::NodeAddress;
use perennial_kubernetes::objects::Status;

/// Error of an object that the server refuses, with the message that an administrator's client gets. Nothing is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ObjectError {
    message: String,
}

impl ObjectError {
    fn new(response: &Response) -> Self {
        let status: Option<Status> = serde_json::from_slice(&response.body).ok();
        let text = || String::from_utf8_lossy(&response.body).into_owned();
        Self { message: status.map_or_else(text, |status| status.message) }
    }
}

impl Api {
    /// Creates the ClusterTrustBundle `name` with the CA certificates in `pem`, or replaces its certificates.
    /// `signer_name` is the signer whose certificates the bundle verifies; empty for a bundle of no signer. The name of
    /// a signer's bundle begins with the signer name, with `:` in place of `/`, and a further `:`, for example
    /// `example.com:mesh:roots`.
    ///
    /// # Errors
    /// [`ObjectError`] if a cluster would refuse the bundle, or the store is full.
    pub fn put_trust_bundle(
        &mut self,
        name: &str,
        signer_name: &str,
        pem: &str,
        now: UnixTime,
    ) -> Result<(), ObjectError> {
        let mut spec = json!({ "trustBundle": pem });
        if !signer_name.is_empty() {
            spec["signerName"] = signer_name.into();
        }
        let bundle = json!({ "metadata": { "name": name }, "spec": spec });
        self.put(Resource::ClusterTrustBundles, bundle, now).map(drop)
    }

    /// Creates the Node object of this name, or replaces its addresses. With [`Approval::Auto`](crate::Approval::Auto) and
    /// [`ServingApproval::Own`](crate::ServingApproval::Own), approves pending serving certificates for these addresses.
    ///
    /// # Errors
    /// [`ObjectError`] if the name is no name of a node, or the store is full.
    pub fn put_node(&mut self, name: &str, addresses: &[NodeAddress], now: UnixTime) -> Result<(), ObjectError> {
        let node = json!({ "metadata": { "name": name }, "spec": {}, "status": { "addresses": addresses } });
        self.put(Resource::Nodes, node, now).map(drop)
    }

    /// Creates a pod that is bound to the node `node_name`. Also creates the pod's service account and the Node object,
    /// unless they exist. If the pod exists already with this service account and node, changes nothing. Returns the
    /// names and UIDs, which a request for the pod's certificate contains.
    ///
    /// # Errors
    /// [`ObjectError`] if a cluster would refuse an object, the pod exists with another service account or on another
    /// node, or the store is full. The service account and the Node object may have been created.
    pub fn put_pod(
        &mut self,
        namespace: &str,
        name: &str,
        service_account_name: &str,
        node_name: &str,
        now: UnixTime,
    ) -> Result<PodIdentity, ObjectError> {
        let node = match self.store.get(&Key::new(Resource::Nodes, "", node_name)) {
            Some(stored) => Arc::clone(stored),
            None => self.put(Resource::Nodes, json!({ "metadata": { "name": node_name } }), now)?,
        };
        let account = json!({ "metadata": { "namespace": namespace, "name": service_account_name } });
        let account = match self.store.get(&Key::new(Resource::ServiceAccounts, namespace, service_account_name)) {
            Some(stored) => Arc::clone(stored),
            None => self.put(Resource::ServiceAccounts, account, now)?,
        };
        let containers = json!([{ "name": "main", "image": "example.com/main" }]);
        let pod = json!({
            "metadata": { "namespace": namespace, "name": name },
            "spec": { "serviceAccountName": service_account_name, "nodeName": node_name, "containers": containers },
        });
        let pod = self.put(Resource::Pods, pod, now)?;
        let uid = |stored: &Stored| stored.object.metadata().uid.clone();
        Ok(PodIdentity {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid(&pod),
            service_account_name: service_account_name.into(),
            service_account_uid: uid(&account),
            node_name: node_name.into(),
            node_uid: uid(&node),
        })
    }

    /// Deletes a pod and the certificate requests that it owns. Returns false if there is no such pod.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> bool {
        self.remove(&Key::new(Resource::Pods, namespace, name))
    }

    /// Creates or replaces an object, as an administrator does, and runs the controllers.
    fn put(
        &mut self,
        resource: Resource,
        object: serde_json::Value,
        now: UnixTime,
    ) -> Result<Arc<Stored>, ObjectError> {
        let object = Object::read(resource, object).expect("the callers pass objects of the resource");
        let (user, key) = (&User::new("system:admin", [MASTERS]), &object.key());
        let call = Call { user, key, subresource: None, dry_run: false, now };
        let written = match self.store.get(key) {
            Some(_) => self.update(object, &call),
            None => self.create(object, &call),
        };
        self.tick(now);
        written.map_err(|response| ObjectError::new(&response))
    }
}
