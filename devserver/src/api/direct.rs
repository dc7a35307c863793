//! Objects that a test or program writes without a client.

use std::sync::Arc;

use perennial::UnixTime;
use serde_json::json;

use super::Api;
use super::message::Response;
use super::object::Object;
use super::requests::Call;
use super::resource::Resource;
use super::store::Stored;
use super::user::{MASTERS, User};
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
