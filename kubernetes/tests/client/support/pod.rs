//! A node that requests the certificate of a pod, and the states of its request object.

use std::time::Duration;

use perennial::Template;
use perennial_kubernetes::client::{DesiredPodCertificate, Issuance, Limits, pod_certificate_name};
use perennial_kubernetes::objects::{Condition, PodCertificateRequest, PodCertificateSpec};
use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request};
use perennial_rotation::{Identity, Issued, SignError};

use super::{Ca, EPOCH, ReceivedRequest, Reply, World};

pub(crate) const PODS: &str = "/apis/certificates.k8s.io/v1beta1/namespaces/shop/podcertificaterequests";

/// A node that requests the certificate of a pod, and the CA that signs the certificate.
pub(crate) struct PodScene {
    pub(crate) ca: Ca,
    pub(crate) key: KeyPair,
    pub(crate) desired: DesiredPodCertificate,
    /// A certificate for an hour, which began a minute before [`EPOCH`].
    pub(crate) certificate: String,
}

impl PodScene {
    pub(crate) fn new() -> Self {
        let (ca, key) = (Ca::new("the test CA"), KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let certificate = ca.sign(key.public_key_der(), &["web-0.shop"], true, 3600);
        Self { desired: desired(&key), certificate, ca, key }
    }

    pub(crate) fn issuance(&self) -> Issuance {
        Issuance::of_pod(self.desired.clone(), self.ca.cluster(), Identity::Anonymous, Limits::default(), 7)
    }

    pub(crate) fn world<'a>(&self, script: impl FnMut(&ReceivedRequest) -> Reply + 'a) -> World<'a> {
        World::new(&self.ca, script)
    }

    /// Runs a submission against a server that answers by `script`. Returns the outcome, and the lines of the HTTP
    /// requests.
    pub(crate) fn run(
        &self,
        script: impl FnMut(&ReceivedRequest) -> Reply,
    ) -> (Result<Issued, SignError>, Vec<String>) {
        let mut world = self.world(script);
        let outcome = world.run(&mut self.issuance());
        (outcome, world.lines())
    }

    /// The outcome of a submission to a server that has decided at once, as `change` makes of an issued request.
    pub(crate) fn answered(&self, change: impl FnOnce(&mut PodCertificateRequest)) -> Result<Issued, SignError> {
        let mut object = self.issued();
        change(&mut object);
        self.run(|_| Reply::object(201, &object)).0
    }

    /// The request object, undecided.
    pub(crate) fn pending(&self) -> PodCertificateRequest {
        let mut object: PodCertificateRequest = serde_json::from_value(serde_json::json!({
            "apiVersion": "certificates.k8s.io/v1beta1",
            "kind": "PodCertificateRequest",
            "metadata": { "name": self.desired.name, "namespace": "shop", "uid": "uid-1", "resourceVersion": "100" },
            "spec": {},
        }))
        .unwrap();
        object.spec = self.desired.spec.clone();
        object
    }

    /// The request object with its certificate. The signer wants the certificate to be refreshed after half an hour.
    pub(crate) fn issued(&self) -> PodCertificateRequest {
        let mut object = self.pending();
        object.status.conditions = vec![condition("Issued", "Issued", "the certificate is issued")];
        object.status.certificate_chain = self.certificate.clone();
        object.status.not_before = Some(rfc3339(-60));
        object.status.begin_refresh_at = Some(rfc3339(1800));
        object.status.not_after = Some(rfc3339(3540));
        object
    }

    /// The request object that the signer has denied or failed.
    pub(crate) fn refused(&self, type_: &str, reason: &str, message: &str) -> PodCertificateRequest {
        let mut object = self.pending();
        object.status.conditions = vec![condition(type_, reason, message)];
        object
    }

    /// The script of a server whose signer issues the certificate while the client watches.
    pub(crate) fn well(&self) -> impl FnMut(&ReceivedRequest) -> Reply + use<> {
        let (pending, issued) = (self.pending(), self.issued());
        let mut created = false;
        move |request| match (request.is_post(), request.is_watch()) {
            (true, _) if created => Reply::status(409, "AlreadyExists", "it is there"),
            (true, _) => {
                created = true;
                Reply::object(201, &pending)
            }
            (_, true) => Reply::stream().event("MODIFIED", &pending).event("MODIFIED", &issued),
            (_, false) => Reply::list("120", std::slice::from_ref(&pending)),
        }
    }
}

/// The request of the pod `web-0` for this key, signed anew by each call.
pub(crate) fn desired(key: &KeyPair) -> DesiredPodCertificate {
    let spec = PodCertificateSpec {
        signer_name: "example.com/mesh".into(),
        pod_name: "web-0".into(),
        pod_uid: "pod-uid".into(),
        service_account_name: "web".into(),
        service_account_uid: "account-uid".into(),
        node_name: "node-1".into(),
        node_uid: "node-uid".into(),
        max_expiration_seconds: Some(7200),
        stub_pkcs10_request: certificate_request(&Template::default(), key).unwrap().der,
        unverified_user_annotations: [("example.com/role".into(), "web".into())].into(),
        ..PodCertificateSpec::default()
    };
    DesiredPodCertificate {
        name: pod_certificate_name(key.public_key_der(), &spec),
        namespace: "shop".into(),
        spec,
        skew: Duration::from_secs(300),
    }
}

pub(crate) fn condition(type_: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: "True".into(),
        reason: reason.into(),
        message: message.into(),
        ..Condition::default()
    }
}

/// The time `seconds` after [`EPOCH`], as the API shows it.
pub(crate) fn rfc3339(seconds: i64) -> String {
    perennial::UnixTime::from_secs(EPOCH + seconds).to_string()
}
