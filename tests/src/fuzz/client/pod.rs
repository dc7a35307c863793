//! Fuzzes requests for the certificates of pods with a server that sends any bytes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use perennial::{Failure, Template};
use perennial_kubernetes::client::{DesiredPodCertificate, Issuance, Limits, pod_certificate_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::{
    Condition, ObjectMeta, PodCertificateRequest, PodCertificateSpec, PodCertificateStatus,
};
use perennial_pki::{Chain, Roots, Usage, certificate_request};
use perennial_rotation::{Identity, Issued, SignError};
use rustls::ServerConfig;
use serde_json::{Value, json};

use super::super::pki::{DAY, HOST, Pki};
use super::world::{Reply, World};
use super::{REQUESTS, check_portions, server};

/// The configuration and the request that every run of the target shares.
struct Scene {
    cluster: Arc<Cluster>,
    server: Arc<ServerConfig>,
    desired: DesiredPodCertificate,
    /// The words that replace the stand-ins in the input.
    words: Vec<Vec<u8>>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

/// The longest lifetime that the request allows: that of the certificates in the words, which is a day and an hour.
const LONGEST: i32 = 25 * 3600;

/// Checks a submission to a server that answers with any bytes, possibly late or incomplete. The submission must end
/// within its limits, and may accept only a certificate whose lifetime the request allows. The same bytes in smaller
/// portions must lead to the same outcome.
pub fn pod_client(bytes: &[u8]) {
    let scene = &*SCENE;
    check_portions(bytes, &scene.words, |replies, portion| scene.submit(replies, portion));
}

impl Scene {
    fn new() -> Self {
        let pki = Pki::new();
        let roots = Roots::from_pem(pki.issuer.credential().chain().pem().as_bytes()).expect("an authority");
        let spec = PodCertificateSpec {
            signer_name: "example.com/mesh".into(),
            pod_name: "web-0".into(),
            pod_uid: "p".into(),
            service_account_name: "web".into(),
            service_account_uid: "s".into(),
            node_name: "node-1".into(),
            node_uid: "n".into(),
            max_expiration_seconds: Some(LONGEST),
            stub_pkcs10_request: certificate_request(&Template::default(), &pki.ours).expect("a request").der,
            ..PodCertificateSpec::default()
        };
        let name = pod_certificate_name(pki.ours.public_key_der(), &spec);
        let skew = Duration::from_secs(300);
        let desired = DesiredPodCertificate { name, namespace: "shop".into(), spec, skew };
        let cluster = Cluster::from_url(&format!("https://{HOST}")).expect("a URL").with_roots(roots);
        Self { cluster: Arc::new(cluster), server: server(&pki), words: words(&pki, &desired), desired }
    }

    /// Submits the request to a server that sends `replies`. The client gets at most `portion` bytes in one read.
    /// Returns three facts: the outcome (the number of HTTP requests, or the failure), the request lines that arrived
    /// at the server, and the time that passed.
    fn submit(&self, replies: &[Reply], portion: usize) -> (Result<u32, Failure>, Vec<String>, Duration) {
        let mut limits = Limits::default();
        limits.requests = REQUESTS;
        let mut issuance =
            Issuance::of_pod(self.desired.clone(), Arc::clone(&self.cluster), Identity::Anonymous, limits, 7);
        let mut world = World::new(&self.server, replies, portion);
        let outcome = world.run(&mut issuance);
        assert!(issuance.requests() <= REQUESTS && world.requests.len() <= issuance.requests() as usize);
        let outcome = match outcome {
            Ok(Issued { chain, requests, .. }) => {
                let validity = chain.certificate().validity;
                let lifetime = validity.not_after().since(validity.not_before());
                assert!(lifetime.as_secs() <= LONGEST as u64, "{lifetime:?}");
                Ok(requests)
            }
            // The message may depend on portions: either a write or a read may notice first that a connection ended.
            Err(SignError { failure, message, accepted_key, .. }) => {
                assert!(!message.contains(char::is_control) && message.len() < 4096, "{message:?}");
                assert!(accepted_key.is_none() || failure == Failure::Denied, "{message}");
                Err(failure)
            }
        };
        (outcome, world.requests, world.elapsed)
    }
}

/// Words for the server's answers. The request object in each of its states, and in states that contradict themselves:
/// each object alone, then in a watch event, then in a list. Then parts of the object: name, CSR and certificate.
fn words(pki: &Pki, desired: &DesiredPodCertificate) -> Vec<Vec<u8>> {
    let object = |conditions: &[&str], certificate: Option<&Chain>| {
        let condition = |type_: &&str| Condition {
            type_: (*type_).to_owned(),
            status: "True".to_owned(),
            reason: if *type_ == "Denied" { "UnsupportedKeyType" } else { "Reason" }.to_owned(),
            message: "ED25519 is not supported, use ECDSAP384".to_owned(),
            ..Condition::default()
        };
        let mut status =
            PodCertificateStatus { conditions: conditions.iter().map(condition).collect(), ..Default::default() };
        if let Some(certificate) = certificate {
            let validity = certificate.certificate().validity;
            status.certificate_chain = certificate.pem().to_string();
            status.not_before = Some(validity.not_before().to_string());
            status.begin_refresh_at = Some(validity.not_before().after(DAY / 2).to_string());
            status.not_after = Some(validity.not_after().to_string());
        }
        let metadata = ObjectMeta {
            name: desired.name.clone(),
            namespace: desired.namespace.clone(),
            uid: "u".to_owned(),
            resource_version: "7".to_owned(),
            ..ObjectMeta::default()
        };
        let object = PodCertificateRequest { metadata, spec: desired.spec.clone(), status, ..Default::default() };
        serde_json::to_value(object).expect("JSON")
    };
    let good = pki.issue(&Template::new("web"), &pki.ours, Usage::ClientAuth);
    // The authority's own certificate lives for two years.
    let long = pki.issuer.credential().chain().clone();
    let mut untimely = object(&["Issued"], Some(&good));
    untimely["status"]["notAfter"] = "2026-01-01T00:00:00Z".into();
    let objects = [
        object(&[], None),
        object(&["Issued"], Some(&good)),
        object(&["Denied"], None),
        object(&["Failed"], None),
        object(&["Issued", "Denied"], Some(&good)),
        object(&["Denied"], Some(&good)),
        object(&[], Some(&good)),
        object(&["Issued"], None),
        object(&["Issued"], Some(&long)),
        untimely,
    ];
    let event = |object: &Value| json!({ "type": "MODIFIED", "object": object });
    let list = |object: &Value| json!({ "metadata": { "resourceVersion": "9" }, "items": [object] });
    let bodies = objects.iter().cloned().chain(objects.iter().map(event)).chain(objects.iter().map(list));
    let stub = objects[0]["spec"]["stubPKCS10Request"].as_str().unwrap_or_default().to_owned();
    let parts = [desired.name.clone(), stub, good.pem().to_string()];
    bodies.map(|body| body.to_string().into_bytes()).chain(parts.map(String::into_bytes)).collect()
}
