//! The controllers of a cluster's controller manager: approver, signer, cleaner of requests.

use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use perennial_pki::{Chain, read_request};

use super::access::{Attributes, allowed};
use super::store::Stored;
use super::user::User;
use super::{Api, Approval, Options};
use super::{rfc3339, signer, status};
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrSpec};

/// Lower bound of [`Options::cleaning_interval`].
const CLEANING: Duration = Duration::from_secs(1);
/// Time until the signer tries again to sign a request after a failure, for example because the CA has expired.
const RETRY: Duration = Duration::from_secs(60);

impl Api {
    /// Runs the controllers that are due: approves, signs and removes requests.
    pub fn tick(&mut self, now: UnixTime) {
        while let Some((_, name)) = self.work.first().filter(|(due, _)| *due <= now).cloned() {
            // Before `reconcile`, which may schedule the request again for now, to sign what it has approved.
            self.work.pop_first();
            self.reconcile(&name, now);
        }
        if self.next_cleaning <= now {
            self.next_cleaning = now.after(self.options.cleaning_interval.max(CLEANING));
            self.clean(now);
        }
    }

    /// When to call [`Api::tick`] next.
    pub fn deadline(&self) -> UnixTime {
        self.work.first().map_or(self.next_cleaning, |(due, _)| self.next_cleaning.min(*due))
    }

    /// The stored requests, sorted by name.
    pub fn requests(&self) -> impl Iterator<Item = &CertificateSigningRequest> {
        self.store.iter().map(|stored| &stored.object)
    }

    /// Approves or denies a request, as `kubectl certificate` does, and runs the controllers. Repeating the same
    /// decision changes nothing.
    ///
    /// # Errors
    /// [`DecisionError`] if there is no such request, or the request has the opposite decision. No request changes
    /// then.
    pub fn decide(
        &mut self,
        name: &str,
        decision: Decision,
        message: &str,
        now: UnixTime,
    ) -> Result<(), DecisionError> {
        let stored = self.store.get(name).map(Arc::clone).ok_or(DecisionError::NotFound)?;
        let (kind, opposite) = match decision {
            Decision::Approve => ("Approved", "Denied"),
            Decision::Deny => ("Denied", "Approved"),
        };
        if has(&stored.object, opposite) {
            return Err(DecisionError::Decided);
        }
        if !has(&stored.object, kind) {
            let mut object = stored.object.clone();
            object.status.conditions.push(condition(kind, "Decided", message, now));
            self.store.replace(&stored, object);
            self.schedule(name, now.after(self.options.signing_delay));
        }
        self.tick(now);
        Ok(())
    }

    /// True if the server leaves the decision about this request to a person. Does not check whether the request is
    /// decided already.
    pub fn waits_for_a_person(&self, request: &CertificateSigningRequest) -> bool {
        self.options.approval == Approval::Manual || self.grounds_for_approval(&request.spec).is_none()
    }

    fn reconcile(&mut self, name: &str, now: UnixTime) {
        let Some(stored) = self.store.get(name).map(Arc::clone) else { return };
        let object = &stored.object;
        let decided = has(object, "Approved") || has(object, "Denied");
        if !decided && self.options.approval == Approval::Auto {
            self.approve_if_allowed(&stored, now);
        } else if has(object, "Approved") && !has(object, "Denied") && !has(object, "Failed") {
            self.sign(&stored, now);
        }
    }

    fn approve_if_allowed(&mut self, stored: &Arc<Stored>, now: UnixTime) {
        let Some(message) = self.grounds_for_approval(&stored.object.spec) else { return };
        let mut object = stored.object.clone();
        object.status.conditions.push(condition("Approved", "AutoApproved", message, now));
        self.store.replace(stored, object);
        self.schedule(&stored.object.metadata.name, now.after(self.options.signing_delay));
    }

    /// The reason to approve a request without a person; `None` leaves the decision to a person.
    fn grounds_for_approval(&self, spec: &CsrSpec) -> Option<&'static str> {
        let request = read_request(&spec.request).ok()?;
        // As in a cluster, requests that their signer would refuse are left to a person.
        signer::check(&request, spec).ok()?;
        let user = User::new(&spec.username, spec.groups.iter().cloned());
        let may = |subresource| {
            let (group, resource) = (status::GROUP, status::RESOURCE);
            allowed(&user, &Attributes { verb: "create", group, resource, subresource, name: "" })
        };
        let own = request.common_name == spec.username;
        match spec.signer_name.as_str() {
            signer::KUBELET_CLIENT if own && may("selfnodeclient") => {
                Some("Auto approving self kubelet client certificate after SubjectAccessReview.")
            }
            signer::KUBELET_CLIENT if may("nodeclient") => {
                Some("Auto approving kubelet client certificate after SubjectAccessReview.")
            }
            signer::KUBELET_SERVING if own => {
                let node = request.common_name.strip_prefix("system:node:")?;
                let covered = self.options.approve_serving.covers(node, &self.nodes, &request);
                covered.then_some(
                    "Auto approving kubelet serving certificate, which a cluster leaves to its administrator.",
                )
            }
            name if self.options.other_signers && !signer::is_clusters_own(name) => {
                Some("Auto approving for a signer that is not the cluster's.")
            }
            _ => None,
        }
    }

    fn sign(&mut self, stored: &Arc<Stored>, now: UnixTime) {
        let spec = &stored.object.spec;
        if !stored.object.status.certificate.is_empty()
            || !signer::serves(&spec.signer_name, self.options.other_signers)
        {
            return;
        }
        // Cannot fail: requests were validated at their creation.
        let Ok(request) = read_request(&spec.request) else { return };
        let mut object = stored.object.clone();
        match signer::check(&request, spec) {
            Err(why) => object.status.conditions.push(condition("Failed", "SignerValidationFailure", &why, now)),
            Ok(()) => {
                match signer::issue(&self.authority, &mut self.random, &request, spec, &self.options, now) {
                    Ok(chain) => object.status.certificate = chain.pem().into(),
                    // As in a cluster: the client is not notified, and waits.
                    Err(_) => return self.schedule(&stored.object.metadata.name, now.after(RETRY)),
                }
            }
        }
        self.store.replace(stored, object);
    }

    /// Has the controllers handle the request `name` at the time `due`.
    pub(super) fn schedule(&mut self, name: &str, due: UnixTime) {
        self.work.insert((due, name.to_owned()));
    }

    fn clean(&mut self, now: UnixTime) {
        let old: Vec<String> = self
            .store
            .iter()
            .filter(|stored| is_old(stored, &self.options, now))
            .map(|stored| stored.object.metadata.name.clone())
            .collect();
        for name in old {
            self.store.remove(&name);
        }
    }
}

/// An approver's decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Approves the request: the signer may issue the certificate.
    Approve,
    /// Refuses the request for good.
    Deny,
}

/// Error of [`Api::decide`]. The request is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// There is no such request.
    #[error("there is no such certificate signing request")]
    NotFound,
    /// The request has the opposite decision already, and decisions are final.
    #[error("the request has the opposite decision already, and decisions are final; create a new request")]
    Decided,
}

/// True if the cleaner removes this request: its certificate has expired, or its time is over. That time is
/// [`Options::keep_ended`] after the latest condition of a request with a certificate, denial or failure, and
/// [`Options::keep_pending`] after the creation of any other request.
fn is_old(stored: &Stored, options: &Options, now: UnixTime) -> bool {
    let status = &stored.object.status;
    let certificate = || Chain::from_pem(&status.certificate).ok();
    if !status.certificate.is_empty() && certificate().is_some_and(|chain| chain.certificate().validity.expired(now)) {
        return true;
    }
    let ended = !status.certificate.is_empty() || has(&stored.object, "Denied") || has(&stored.object, "Failed");
    let since =
        status.conditions.iter().filter_map(|condition| condition.last_update_time.as_deref()).filter_map(parse).max();
    match (ended, since) {
        (true, Some(since)) => now.since(since) > options.keep_ended,
        _ => now.since(stored.created) > options.keep_pending,
    }
}

fn parse(text: &str) -> Option<UnixTime> {
    text.parse::<jiff::Timestamp>().ok().map(|time| UnixTime::from_millis(time.as_millisecond()))
}

pub(super) fn has(object: &CertificateSigningRequest, kind: &str) -> bool {
    object.status.conditions.iter().any(|condition| condition.type_ == kind)
}

pub(super) fn condition(kind: &str, reason: &str, message: &str, now: UnixTime) -> Condition {
    Condition {
        type_: kind.into(),
        status: "True".into(),
        reason: reason.into(),
        message: message.into(),
        last_update_time: Some(rfc3339(now)),
        last_transition_time: Some(rfc3339(now)),
    }
}
