//! Certificate signing requests: checks of new requests, and the parts that updates may change
//! (`pkg/registry/certificates/certificates`).

use perennial::UnixTime;

use super::Api;
use super::access;
use super::message::Response;
use super::requests::Call;
use super::resource::Key;
use super::user::User;
use super::validation::{self, Subresource};
use super::{metadata, rfc3339, status};
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrStatus};

impl Api {
    /// Checks a new request, and sets the fields about the requester.
    pub(super) fn prepare_csr(&self, csr: &mut CertificateSigningRequest, user: &User) -> Result<(), Response> {
        if self.options.minor < 22 {
            // Servers before 1.22 drop this unknown field.
            csr.spec.expiration_seconds = None;
        }
        let key = &Key::csr(&csr.metadata.name);
        // In a cluster, NodeRestriction is mutating admission, which comes before validation.
        access::restrict_node(user, key, &csr.spec)?;
        let mut causes = metadata::check(&csr.metadata, metadata::path_segment_error);
        let request = validation::create(&csr.spec, self.options.allow_short, &mut causes)
            .filter(|_| causes.is_empty())
            .ok_or_else(|| status::invalid(key, causes))?;
        // CertificateSubjectRestriction is validating admission, which comes after validation.
        access::restrict_subject(&request, key, &csr.spec)?;

        csr.spec.username.clone_from(&user.username);
        csr.spec.uid = String::new();
        csr.spec.groups.clone_from(&user.groups);
        csr.spec.extra.clone_from(&user.extra);
        csr.status = CsrStatus::default();
        Ok(())
    }
}

/// Changes `csr` as an update to `new` does. An update of a subresource changes only parts of the status; an update of
/// the object itself changes only labels and annotations.
pub(super) fn update(
    csr: &mut CertificateSigningRequest,
    new: CertificateSigningRequest,
    &Call { user, key, subresource, now, .. }: &Call<'_>,
) -> Result<(), Response> {
    let Some(subresource) = subresource else {
        csr.metadata.labels = new.metadata.labels;
        csr.metadata.annotations = new.metadata.annotations;
        let causes = metadata::check(&csr.metadata, metadata::path_segment_error);
        return if causes.is_empty() { Ok(()) } else { Err(status::invalid(key, causes)) };
    };
    let old = csr.clone();
    merge_status(csr, new, subresource, now);
    authorize_status(user, csr, &old, key, subresource)?;
    validation::update(csr, &old, subresource).map_err(|causes| status::invalid(key, causes))
}

fn authorize_status(
    user: &User,
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    key: &Key,
    subresource: Subresource,
) -> Result<(), Response> {
    let verb = match subresource {
        Subresource::Approval => "approve",
        // Admission plugin CertificateSigning checks changes only.
        Subresource::Status if new.status == old.status => return Ok(()),
        Subresource::Status => "sign",
    };
    access::authorize_signer(user, verb, key, &old.spec.signer_name)
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
