//! Updates of an object: which fields an update may change, and which user may make the change
//! (`pkg/registry/certificates/certificates`).

use std::sync::Arc;

use perennial::UnixTime;

use super::Api;
use super::access;
use super::body::Preconditions;
use super::message::Response;
use super::requests::Call;
use super::store::Stored;
use super::user::User;
use super::validation::{self, Subresource};
use super::{metadata, rfc3339, status};
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition};

impl Api {
    /// Updates the stored object from `new`. An update of a subresource changes only parts of the status; an update of
    /// the object itself changes only labels and annotations.
    pub(super) fn update(
        &mut self,
        new: CertificateSigningRequest,
        &Call { user, name, subresource, dry_run, now }: &Call<'_>,
    ) -> Result<Arc<Stored>, Response> {
        if new.metadata.name != name {
            let given = &new.metadata.name;
            let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(status::bad_request(message));
        }
        let old = Arc::clone(self.find(name)?);
        // Optional preconditions, as in a cluster: an update without a version overwrites other changes.
        let (uid, version) = (&new.metadata.uid, &new.metadata.resource_version);
        if !uid.is_empty() {
            Preconditions { uid: Some(uid.clone()), resource_version: None }.check(&old.object.metadata)?;
        }
        if !version.is_empty() && *version != old.object.metadata.resource_version {
            return Err(status::conflict(name, status::STALE));
        }

        let mut object = old.object.clone();
        if let Some(subresource) = subresource {
            merge_status(&mut object, new, subresource, now);
            self.authorize_status(user, &object, &old.object, subresource)?;
            validation::update(&object, &old.object, subresource).map_err(|causes| status::invalid(name, causes))?;
        } else {
            object.metadata.labels = new.metadata.labels;
            object.metadata.annotations = new.metadata.annotations;
            let causes = metadata::check(&object.metadata);
            if !causes.is_empty() {
                return Err(status::invalid(name, causes));
            }
        }
        // Before the dry run, which fails whenever the write would.
        if !self.store.has_room(Some(&old), &object) {
            return Err(status::store_full(&self.options));
        }
        if dry_run {
            return Ok(Arc::new(Stored::new(object, old.version, old.created)));
        }
        let stored = self.store.replace(&old, object);
        // The signer acts on approvals only, after its configured delay.
        if subresource == Some(Subresource::Approval) {
            self.schedule(name, now.after(self.options.signing_delay));
        }
        Ok(stored)
    }

    fn authorize_status(
        &self,
        user: &User,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
        subresource: Subresource,
    ) -> Result<(), Response> {
        let verb = match subresource {
            Subresource::Approval => "approve",
            // Admission plugin CertificateSigning checks changes only.
            Subresource::Status if new.status == old.status => return Ok(()),
            Subresource::Status => "sign",
        };
        access::authorize_signer(user, verb, &old.metadata.name, &old.spec.signer_name)
    }
}

/// Copies from `new` to `object` the status fields that an update of `subresource` may change. Fills in missing times
/// of conditions.
fn merge_status(
    object: &mut CertificateSigningRequest,
    new: CertificateSigningRequest,
    subresource: Subresource,
    now: UnixTime,
) {
    let old = object.status.conditions.clone();
    object.status.conditions = new.status.conditions;
    if subresource == Subresource::Status {
        object.status.certificate = new.status.certificate;
        // `/status` cannot change an existing decision. The validation refuses to add or remove one.
        for condition in &mut object.status.conditions {
            if matches!(condition.type_.as_str(), "Approved" | "Denied")
                && let Some(before) = old.iter().find(|before| before.type_ == condition.type_)
            {
                condition.clone_from(before);
            }
        }
    }
    for condition in &mut object.status.conditions {
        fill_times(condition, &old, now);
    }
}

fn fill_times(condition: &mut Condition, old: &[Condition], now: UnixTime) {
    let now = rfc3339(now);
    if condition.last_transition_time.is_none() {
        let same = old.iter().find(|before| before.type_ == condition.type_ && before.status == condition.status);
        condition.last_transition_time =
            same.and_then(|before| before.last_transition_time.clone()).or_else(|| Some(now.clone()));
    }
    condition.last_update_time.get_or_insert(now);
}
