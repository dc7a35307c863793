//! Updates of stored objects.

use std::sync::Arc;

use super::Api;
use super::body::Preconditions;
use super::message::Response;
use super::object::Object;
use super::requests::Call;
use super::resource::Resource;
use super::store::Stored;
use super::validation::Subresource;
use super::{bundle, csr, plain, pod_request, status};

impl Api {
    /// Updates the stored object from `new`: changes the parts of the object that an update may change.
    pub(super) fn update(&mut self, new: Object, call: &Call<'_>) -> Result<Arc<Stored>, Response> {
        let &Call { key, subresource, dry_run, now, .. } = call;
        let metadata = new.metadata();
        if metadata.name != key.name {
            let (given, name) = (&metadata.name, &key.name);
            let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(status::bad_request(message));
        }
        let old = Arc::clone(self.find(key)?);
        // Optional preconditions, as in a cluster: an update without a version overwrites other changes.
        let (uid, version) = (&metadata.uid, &metadata.resource_version);
        if !uid.is_empty() {
            Preconditions { uid: Some(uid.clone()), resource_version: None }.check(&old.object)?;
        }
        if !version.is_empty() && *version != old.object.metadata().resource_version {
            return Err(status::conflict(key, status::STALE));
        }

        let mut object = old.object.clone();
        match (&mut object, new) {
            (Object::Csr(object), Object::Csr(new)) => csr::update(object, *new, call)?,
            (Object::PodRequest(object), Object::PodRequest(new)) => pod_request::update(object, *new, call)?,
            (Object::TrustBundle(object), Object::TrustBundle(new)) => bundle::update(object, *new, key)?,
            (Object::Pod(object), Object::Pod(new)) => plain::update_pod(object, *new, key)?,
            (Object::Node(object), Object::Node(new))
            | (Object::ServiceAccount(object), Object::ServiceAccount(new)) => {
                plain::update(object, *new, key)?;
            }
            // Not reached: the new object was read as one of the resource in `key`.
            _ => {}
        }
        // Before the dry run, which fails whenever the write would.
        if !self.store.has_room(Some(&old), &object) {
            return Err(status::store_full(key, &self.options));
        }
        if dry_run {
            return Ok(Arc::new(Stored::new(object, old.version, old.created)));
        }
        let stored = self.store.replace(&old, object);
        match subresource {
            // The signer acts on approvals only, after its configured delay.
            Some(Subresource::Approval) => self.schedule(key, now.after(self.options.signing_delay)),
            None if key.resource == Resource::Nodes => self.schedule(key, now),
            None | Some(Subresource::Status) => {}
        }
        Ok(stored)
    }
}
