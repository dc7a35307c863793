//! [`DesiredPodCertificate`]: a PodCertificateRequest to create, and the judgement of an existing one.

use std::time::Duration;

use perennial::{Failure, RenewalHint, UnixTime};
use perennial_pki::{Chain, KeyAlgorithm, read_request_der};

use super::desired::{Desired, Resource, encoded};
use super::verdict::{Judged, Refusal, Verdict, accept};
use crate::cluster::printable;
use crate::objects::{
    Condition, ObjectMeta, OwnerReference, POD_CERTIFICATE_API_VERSION, PodCertificateRequest, PodCertificateSpec,
    PodCertificateStatus, UNSUPPORTED_KEY_TYPE, key_algorithm,
};

/// A request for the certificate of a pod, for a signer of the Kubernetes API.
#[derive(Clone, Debug)]
pub struct DesiredPodCertificate {
    /// The name of the request object. Derive it with [`pod_certificate_name`](super::pod_certificate_name), so that
    /// submitting again finds the same object.
    pub name: String,
    /// The namespace of the pod and of the request object.
    pub namespace: String,
    /// The content of the request object. A certificate that lives longer than `max_expiration_seconds` is refused.
    pub spec: PodCertificateSpec,
    /// How far this host's clock may be ahead of the true time. If the object existed before this submission, its
    /// certificate may have expired in the meantime. The certificate counts as expired only once `skew` has passed
    /// since its notAfter.
    pub skew: Duration,
}

const RESOURCE: Resource = Resource {
    kind: "PodCertificateRequest",
    version: "v1beta1",
    name: "podcertificaterequests",
    since: "1.36",
    settings: ", with the feature gate PodCertificateRequest and \
               --runtime-config=certificates.k8s.io/v1beta1/podcertificaterequests=true",
    former_field: Some("spec.pkixPublicKey"),
    grant: "the credential must be allowed to create, list and watch podcertificaterequests: the client certificate of \
            a node is, for the pods of that node; bind any other user to a ClusterRole (kubectl create \
            clusterrolebinding)",
    admission: "a node may request certificates only for pods that are bound to it; check the names and UIDs of pod, \
                service account and node, and the policy of the cluster",
};

impl DesiredPodCertificate {
    /// Checks that an existing object's `spec` has the same content as this one. The bytes of the PKCS#10 request may
    /// differ (ECDSA signatures are random).
    ///
    /// # Errors
    /// The first difference, as a noun phrase.
    fn matches(&self, theirs: &PodCertificateSpec) -> Result<(), &'static str> {
        let ours = &self.spec;
        let pod = |spec: &PodCertificateSpec| (spec.pod_name.clone(), spec.pod_uid.clone());
        let account = |spec: &PodCertificateSpec| (spec.service_account_name.clone(), spec.service_account_uid.clone());
        let node = |spec: &PodCertificateSpec| (spec.node_name.clone(), spec.node_uid.clone());
        // The server completes an absent lifetime.
        let has_lifetime = ours.max_expiration_seconds.is_none_or(|ours| theirs.max_expiration_seconds == Some(ours));
        let comparisons = [
            (theirs.signer_name == ours.signer_name, "another signer"),
            (pod(theirs) == pod(ours), "a certificate for another pod"),
            (account(theirs) == account(ours), "a certificate for another service account"),
            (node(theirs) == node(ours), "a certificate for another node"),
            (has_lifetime, "another lifetime"),
            (theirs.unverified_user_annotations == ours.unverified_user_annotations, "other annotations"),
        ];
        if let Some((_, difference)) = comparisons.into_iter().find(|(is_equal, _)| !is_equal) {
            return Err(difference);
        }
        if theirs.stub_pkcs10_request == ours.stub_pkcs10_request {
            return Ok(());
        }
        let theirs = read_request_der(&theirs.stub_pkcs10_request).map_err(|_| "an unreadable CSR")?;
        let ours = read_request_der(&ours.stub_pkcs10_request)
            .map_err(|_| "a CSR that cannot be compared with this one, which is unreadable")?;
        if theirs.public_key_der != ours.public_key_der {
            return Err("another key");
        }
        if theirs.same_identity(&ours) { Ok(()) } else { Err("other names") }
    }

    /// Judges the state of the request object. `found` is true if the object existed before this submission: its
    /// certificate may have expired in the meantime.
    ///
    /// # Errors
    /// The [`Refusal`]: the object requests another certificate, is denied or failed, contradicts itself, or holds an
    /// unusable certificate.
    fn verdict(&self, object: &PodCertificateRequest, found: bool, now: UnixTime) -> Result<Verdict, Refusal> {
        // First of all: the decision about another request is none about this one.
        self.matches(&object.spec).map_err(Refusal::of_other_object)?;
        let decision = decision(&object.status)?;
        let Some(condition) = decision else { return Ok(Verdict::Undecided { approved: true }) };
        match condition.type_.as_str() {
            "Denied" => Err(self.denied(condition)),
            "Failed" => Err(Refusal::by_condition(Failure::SignerFailed, "the signer failed to issue it", condition)),
            _ => {
                let chain = accept(object.status.certificate_chain.as_bytes(), found, self.skew, now)?;
                check_times(&chain, object)?;
                // A hint that cannot be read is no reason to refuse a certificate: its rotation point then follows from
                // the policy.
                let begin = object.status.begin_refresh_at.as_deref().and_then(|text| text.parse().ok());
                Ok(Verdict::Issued { chain, renewal: begin.map(RenewalHint::after) })
            }
        }
    }

    /// The refusal of a request that the signer has denied, with the kind of keys that the signer suggests instead.
    fn denied(&self, condition: &Condition) -> Refusal {
        let refusal = Refusal::by_condition(Failure::Denied, "the signer denied it", condition);
        if condition.reason != UNSUPPORTED_KEY_TYPE {
            return refusal;
        }
        let ours = read_request_der(&self.spec.stub_pkcs10_request).ok().map(|facts| facts.key_algorithm);
        Refusal { accepted_key: suggested_key(&condition.message, ours), ..refusal }
    }
}

impl Desired for DesiredPodCertificate {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn title(&self) -> String {
        format!("{} {}/{}", RESOURCE.kind, printable(&self.namespace), printable(&self.name))
    }

    fn path(&self) -> String {
        format!("/apis/{POD_CERTIFICATE_API_VERSION}/namespaces/{}/{}", encoded(&self.namespace), RESOURCE.name)
    }

    /// With the name of the node: Kubernetes' node authorizer allows a node no other lists and watches.
    fn selector(&self) -> String {
        format!("metadata.name={},spec.nodeName={}", self.name, self.spec.node_name)
    }

    /// True: the node authorizer lets a node read a request by its name only once the graph of the authorizer knows the
    /// request, and so refuses to read a new one.
    fn is_read_in_lists(&self) -> bool {
        true
    }

    fn object(&self) -> Vec<u8> {
        let pod = OwnerReference {
            // kubelet writes `core/v1`, which names no API group: the garbage collector cannot find such an owner.
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: self.spec.pod_name.clone(),
            uid: self.spec.pod_uid.clone(),
            ..OwnerReference::default()
        };
        let object = PodCertificateRequest {
            api_version: POD_CERTIFICATE_API_VERSION.to_owned(),
            kind: RESOURCE.kind.to_owned(),
            metadata: ObjectMeta {
                name: self.name.clone(),
                namespace: self.namespace.clone(),
                owner_references: vec![pod],
                ..ObjectMeta::default()
            },
            spec: self.spec.clone(),
            ..PodCertificateRequest::default()
        };
        // Strings, numbers and lists always serialize.
        serde_json::to_vec(&object).unwrap_or_default()
    }

    fn judge(&self, object: &[u8], found: bool, now: UnixTime) -> serde_json::Result<Judged> {
        let object: PodCertificateRequest = serde_json::from_slice(object)?;
        let verdict = self.verdict(&object, found, now);
        Ok(Judged { metadata: object.metadata, verdict })
    }
}

/// The condition that ends the request: `Issued`, `Denied` or `Failed`; `None` while the signer has not decided. Other
/// conditions, which a later version of the API may have, decide nothing.
///
/// # Errors
/// The [`Refusal`] of a status that the API does not allow (`ValidatePodCertificateRequestStatusUpdate`).
fn decision(status: &PodCertificateStatus) -> Result<Option<&Condition>, Refusal> {
    let bad = |what: String| Refusal::new(Failure::BadCertificate, format!("its status contradicts itself: {what}"));
    let mut decisions =
        status.conditions.iter().filter(|condition| matches!(&*condition.type_, "Issued" | "Denied" | "Failed"));
    let first = decisions.next();
    if let (Some(first), Some(second)) = (first, decisions.next()) {
        return Err(bad(format!("it is both {} and {}", first.type_, second.type_)));
    }
    if let Some(Condition { type_, status, .. }) = first.filter(|condition| condition.status != "True") {
        return Err(bad(format!("the condition {type_} has the status `{}`, not `True`", printable(status))));
    }
    let is_issued = first.is_some_and(|condition| condition.type_ == "Issued");
    let PodCertificateStatus { certificate_chain, not_before, begin_refresh_at, not_after, .. } = status;
    let has_times = [not_before, begin_refresh_at, not_after].into_iter().any(Option::is_some);
    if !is_issued && (has_times || !certificate_chain.is_empty()) {
        let state = first.map_or("not Issued", |condition| &condition.type_);
        return Err(bad(format!("it is {state}, and has a certificate or the times of one")));
    }
    Ok(first)
}

/// Checks that the status has the times of the certificate, and that the certificate lives no longer than the request
/// allows.
fn check_times(chain: &Chain, object: &PodCertificateRequest) -> Result<(), Refusal> {
    let bad = |what: String| Refusal::new(Failure::BadCertificate, what);
    let validity = chain.certificate().validity;
    let PodCertificateStatus { not_before, not_after, .. } = &object.status;
    for (field, text, actual) in
        [("notBefore", not_before, validity.not_before()), ("notAfter", not_after, validity.not_after())]
    {
        let stated = text.as_deref().unwrap_or_default();
        // Times of the API and of certificates have whole seconds.
        if stated.parse().map(UnixTime::as_secs) != Ok(actual.as_secs()) {
            return Err(bad(format!(
                "its status contradicts itself: {field} is `{}`, and that of the certificate is {actual}",
                printable(stated)
            )));
        }
    }
    let lifetime = validity.not_after().since(validity.not_before());
    match object.spec.max_expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(longest) if lifetime.as_secs() > longest => Err(bad(format!(
            "the certificate lives {} s, longer than the {longest} s that the request allows",
            lifetime.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// The kind of keys that the message of a denial suggests: the first name of a key type, as Kubernetes writes it, that
/// is not the name of the denied kind.
fn suggested_key(message: &str, denied: Option<KeyAlgorithm>) -> Option<KeyAlgorithm> {
    let words = message.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter_map(key_algorithm).find(|suggested| Some(*suggested) != denied)
}
