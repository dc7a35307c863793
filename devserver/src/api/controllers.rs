//! The controllers of a cluster's controller manager: approver, signer, cleaner of requests.

use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use perennial_pki::{Chain, read_request};

use super::access::{Attributes, allowed};
use super::object::Object;
use super::resource::{Key, Resource};
use super::store::Stored;
use super::user::User;
use super::{Api, Approval, Options};
use super::{rfc3339, signer};
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, CsrSpec};

/// Lower bound of [`Options::cleaning_interval`].
const CLEANING: Duration = Duration::from_secs(1);
/// Time until the signer tries again to sign a request after a failure, for example because the CA has expired.
const RETRY: Duration = Duration::from_secs(60);

impl Api {
    /// Runs the controllers that are due: approves, signs and removes requests.
    pub fn tick(&mut self, now: UnixTime) {
        while let Some((_, key)) = self.work.first().filter(|(due, _)| *due <= now).cloned() {
            // Before `reconcile`, which may schedule the request again for now, to sign what it has approved.
            self.work.pop_first();
            self.reconcile(&key, now);
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
        self.store.iter(Resource::CertificateSigningRequests).filter_map(|stored| stored.object.csr())
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
        let key = Key::csr(name);
        let stored = self.store.get(&key).map(Arc::clone).ok_or(DecisionError::NotFound)?;
        let csr = stored.object.csr().ok_or(DecisionError::NotFound)?;
        let (kind, opposite) = match decision {
            Decision::Approve => ("Approved", "Denied"),
            Decision::Deny => ("Denied", "Approved"),
        };
        if has(csr, opposite) {
            return Err(DecisionError::Decided);
        }
        if !has(csr, kind) {
            let mut csr = csr.clone();
            csr.status.conditions.push(condition(kind, "Decided", message, now));
            self.store.replace(&stored, Object::Csr(Box::new(csr)));
            self.schedule(&key, now.after(self.options.signing_delay));
        }
        self.tick(now);
        Ok(())
    }

    /// True if the server leaves the decision about this request to a person. Does not check whether the request is
    /// decided already.
    pub fn waits_for_a_person(&self, request: &CertificateSigningRequest) -> bool {
        self.options.approval == Approval::Manual || self.grounds_for_approval(&request.spec).is_none()
    }

    fn reconcile(&mut self, key: &Key, now: UnixTime) {
        let Some(stored) = self.store.get(key).map(Arc::clone) else { return };
        match &stored.object {
            Object::Csr(csr) => self.reconcile_csr(&stored, csr, now),
            // The addresses of a node may allow the approval of a pending serving certificate.
            Object::Node(_) => {
                let requests = self.store.iter(Resource::CertificateSigningRequests);
                self.work.extend(requests.map(|stored| (now, stored.key.clone())));
            }
            Object::PodRequest(request) => self.reconcile_pod_request(&stored, request, now),
            Object::TrustBundle(_) | Object::Pod(_) | Object::ServiceAccount(_) => {}
        }
    }

    fn reconcile_csr(&mut self, stored: &Arc<Stored>, csr: &CertificateSigningRequest, now: UnixTime) {
        let decided = has(csr, "Approved") || has(csr, "Denied");
        if !decided && self.options.approval == Approval::Auto {
            self.approve_if_allowed(stored, csr, now);
        } else if has(csr, "Approved") && !has(csr, "Denied") && !has(csr, "Failed") {
            self.sign(stored, csr, now);
        }
    }

    fn approve_if_allowed(&mut self, stored: &Arc<Stored>, csr: &CertificateSigningRequest, now: UnixTime) {
        let Some(message) = self.grounds_for_approval(&csr.spec) else { return };
        let mut csr = csr.clone();
        csr.status.conditions.push(condition("Approved", "AutoApproved", message, now));
        self.store.replace(stored, Object::Csr(Box::new(csr)));
        self.schedule(&stored.key, now.after(self.options.signing_delay));
    }

    /// The reason to approve a request without a person; `None` leaves the decision to a person.
    fn grounds_for_approval(&self, spec: &CsrSpec) -> Option<&'static str> {
        let request = read_request(&spec.request).ok()?;
        // As in a cluster, requests that their signer would refuse are left to a person.
        signer::check(&request, spec).ok()?;
        let user = User::new(&spec.username, spec.groups.iter().cloned());
        let may = |subresource| {
            let resource = Resource::CertificateSigningRequests;
            let (group, resource) = (resource.group(), resource.plural());
            allowed(&user, &Attributes { verb: "create", group, resource, subresource, ..Attributes::default() })
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
                let covered = self.options.approve_serving.covers(node, &self.node_addresses(node), &request);
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

    fn sign(&mut self, stored: &Arc<Stored>, csr: &CertificateSigningRequest, now: UnixTime) {
        let spec = &csr.spec;
        if !csr.status.certificate.is_empty() || !signer::serves(&spec.signer_name, self.options.other_signers) {
            return;
        }
        // Cannot fail: requests were validated at their creation.
        let Ok(request) = read_request(&spec.request) else { return };
        let mut csr = csr.clone();
        match signer::check(&request, spec) {
            Err(why) => csr.status.conditions.push(condition("Failed", "SignerValidationFailure", &why, now)),
            Ok(()) => {
                match signer::issue(&self.authority, &mut self.random, &request, spec, &self.options, now) {
                    Ok(chain) => csr.status.certificate = chain.pem().into(),
                    // As in a cluster: the client is not notified, and waits.
                    Err(_) => return self.schedule(&stored.key, now.after(RETRY)),
                }
            }
        }
        self.store.replace(stored, Object::Csr(Box::new(csr)));
    }

    /// Has the controllers handle the object `key` at the time `due`.
    pub(super) fn schedule(&mut self, key: &Key, due: UnixTime) {
        self.work.insert((due, key.clone()));
    }

    fn clean(&mut self, now: UnixTime) {
        let requests = self.store.iter(Resource::CertificateSigningRequests);
        let pod_requests = self.store.iter(Resource::PodCertificateRequests);
        let is_old = |stored: &&Arc<Stored>| is_old(stored, &self.options, now);
        let old = requests.chain(pod_requests).filter(is_old).map(|stored| stored.key.clone());
        for key in old.collect::<Vec<_>>() {
            self.store.remove(&key);
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

/// True if the cleaner removes this request. A pod certificate request: [`Options::keep_pod_requests`] is over. A
/// certificate signing request: its certificate has expired, or its time is over. That time is
/// [`Options::keep_ended`] after the latest condition of a request with a certificate, denial or failure, and
/// [`Options::keep_pending`] after the creation of any other request.
fn is_old(stored: &Stored, options: &Options, now: UnixTime) -> bool {
    let Some(csr) = stored.object.csr() else { return now.since(stored.created) >= options.keep_pod_requests };
    let status = &csr.status;
    let certificate = || Chain::from_pem(&status.certificate).ok();
    if !status.certificate.is_empty() && certificate().is_some_and(|chain| chain.certificate().validity.expired(now)) {
        return true;
    }
    let ended = !status.certificate.is_empty() || has(csr, "Denied") || has(csr, "Failed");
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
