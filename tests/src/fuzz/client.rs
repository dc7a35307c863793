//! Fuzzes the CSR client with a server that sends any bytes.

pub(super) mod pod;
mod world;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Failure, Key, Now, Pending, Template};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{DesiredCsr, Issuance, Limits, csr_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::KUBELET_CLIENT_SIGNER;
use perennial_pki::{Chain, Expected, KeyPair, Roots, Usage, certificate_request};
use perennial_rotation::{
    Authentication, Command, Identity, Input, Issued, Profile, Record, Rotation, SignError, Start,
};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::{Value, json};

use super::pki::{Clock, HOST, Pki};
use super::text;
use world::{Reply, World};

/// The limit on the HTTP requests of one submission.
const REQUESTS: u32 = 12;

/// The configuration, key and signer that every run of the target shares.
struct Scene {
    cluster: Arc<Cluster>,
    server: Arc<ServerConfig>,
    desired_csr: DesiredCsr,
    /// The key of the request.
    key: Arc<KeyPair>,
    signer: Arc<CsrSigner>,
    /// The words that replace the stand-ins in the input.
    words: Vec<Vec<u8>>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

/// Checks a submission to a server that answers with any bytes, possibly late or incomplete. The submission must end
/// within its limits, and may accept a certificate only if the certificate is good for our key. The same bytes in
/// smaller portions must lead to the same outcome.
pub fn csr_client(bytes: &[u8]) {
    let scene = &*SCENE;
    check_portions(bytes, &scene.words, |replies, portion| scene.submit(replies, portion));
}

/// Decodes the replies of a server, and checks that `submit` has the same result whether the client gets them whole or in
/// portions.
fn check_portions<T: PartialEq + fmt::Debug>(bytes: &[u8], words: &[Vec<u8>], submit: impl Fn(&[Reply], usize) -> T) {
    let (portion, answers) = text::first(bytes);
    let replies: Vec<Reply> = text::pieces(answers).map(|piece| Reply::decode(piece, words)).collect();
    let whole = submit(&replies, usize::MAX);
    if portion > 0 {
        let portion = usize::from(portion);
        assert_eq!(submit(&replies, portion), whole, "in portions of {portion}");
    }
}

impl Scene {
    fn new() -> Self {
        let pki = Pki::new();
        let roots = Roots::from_pem(pki.issuer.credential().chain().pem().as_bytes()).expect("an authority");
        let template = Template::node("a");
        let usages = ["digital signature", "client auth"].map(str::to_owned);
        let key = pki.ours.public_key_der();
        let desired_csr = DesiredCsr {
            name: csr_name(key, template.common_name(), template.organizations(), &usages),
            request: certificate_request(&template, &pki.ours).expect("a request"),
            signer_name: KUBELET_CLIENT_SIGNER.to_owned(),
            usages: usages.to_vec(),
            expiration_seconds: None,
            skew: Duration::from_secs(300),
        };
        let cluster = Cluster::from_url(&format!("https://{HOST}")).expect("a URL").with_roots(roots.clone());
        let cluster = Arc::new(cluster);
        let mut signer = CsrSigner::kubelet_client(cluster.clone(), None);
        signer.authentication = Authentication::None;
        signer.profile.key_algorithm = pki.ours.algorithm();
        signer.profile.issuers = Some(roots);
        Self {
            cluster,
            key: pki.ours.clone(),
            signer: Arc::new(signer),
            server: server(&pki),
            words: words(&pki, &desired_csr),
            desired_csr,
        }
    }

    /// Submits the request to a server that sends `replies`. The client gets at most `portion` bytes in one read.
    /// Returns three facts: the outcome (the number of HTTP requests, or the failure), the request lines that arrived
    /// at the server, and the time that passed.
    fn submit(&self, replies: &[Reply], portion: usize) -> (Result<u32, Failure>, Vec<String>, Duration) {
        let mut limits = Limits::default();
        limits.requests = REQUESTS;
        let mut issuance =
            Issuance::new(self.desired_csr.clone(), Arc::clone(&self.cluster), Identity::Anonymous, limits, 7);
        let mut world = World::new(&self.server, replies, portion);
        let outcome = world.run(&mut issuance);
        assert!(issuance.requests() <= REQUESTS && world.requests.len() <= issuance.requests() as usize);
        let outcome = match outcome {
            Ok(issued) => {
                let requests = issued.requests;
                self.check(issued, world.now());
                Ok(requests)
            }
            // The message may depend on portions: either a write or a read may notice first that a connection ended.
            Err(SignError { failure, message, .. }) => {
                assert!(!message.contains(char::is_control) && message.len() < 4096, "{message:?}");
                Err(failure)
            }
        };
        (outcome, world.requests, world.elapsed)
    }

    /// Checks that a rotation serves an issued certificate if the certificate passes the checks of the signer's
    /// profile, and does not serve it otherwise.
    fn check(&self, issued: Issued, now: Now) {
        let hour = Duration::from_secs(3600);
        let pending = Pending {
            template: Arc::new(Template::node("a")),
            key: Key::Pending,
            submitted: now.unix.before(hour),
            budget_whole: now.unix.before(hour),
            refusal: None,
        };
        let record = Record {
            server: None,
            signer_name: self.desired_csr.signer_name.clone(),
            request_name: self.desired_csr.name.clone(),
            renewal: None,
            request_digest: None,
            outdated: None,
            turned_down: None,
            key: Some(self.key.clone()),
            pending,
        };
        let start = Start {
            signer: Some(self.signer.clone()),
            template: Some(record.pending.template.clone()),
            pending: Some(record),
            ..Start::default()
        };
        let mut rotation = Rotation::new(start, now);
        let drive = |command| if let Command::Drive { id, .. } = command { Some(id) } else { None };
        let id = rotation.handle(Input::Tick, now).into_iter().find_map(drive).expect("a request");
        let Profile { usages, skew, issuers, .. } = &self.signer.profile;
        let (public_key_der, roots) = (self.key.public_key_der(), issuers.as_ref());
        let expected = Expected { public_key_der, usages, skew: *skew, roots };
        let is_good = expected.check(&issued.chain, now.unix).is_ok();
        rotation.handle(Input::Finished { id, result: Ok(issued) }, now);
        let served = rotation.snapshot(now).credential;
        assert_eq!(served.is_some(), is_good);
        assert!(served.is_none_or(|served| served.key().public_key_der() == public_key_der));
    }
}

fn server(pki: &Pki) -> Arc<ServerConfig> {
    let serving = pki.credential(&Template::new(HOST).with_dns_names([HOST]), Usage::ServerAuth);
    let serving = CertifiedKey::clone(&serving.certified_key());
    let config = ServerConfig::builder_with_details(perennial_pki::provider(), Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .expect("the provider has some")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(serving)));
    Arc::new(config)
}

/// Words for the server's answers. The request object in each of its states, and approved with each of three bad
/// certificates: each object alone, and again in a watch event. Then parts of the object: name, CSR and certificate.
fn words(pki: &Pki, desired_csr: &DesiredCsr) -> Vec<Vec<u8>> {
    let object = |condition: Option<&str>, certificate: Option<&Chain>| {
        let mut object = json!({
            "metadata": { "name": desired_csr.name, "uid": "u", "resourceVersion": "7" },
            "spec": {
                "request": STANDARD.encode(&desired_csr.request.pem),
                "signerName": desired_csr.signer_name,
                "usages": desired_csr.usages,
            },
            "status": {},
        });
        if let Some(condition) = condition {
            object["status"]["conditions"] = json!([{ "type": condition, "status": "True" }]);
        }
        if let Some(certificate) = certificate {
            object["status"]["certificate"] = STANDARD.encode(certificate.pem()).into();
        }
        object
    };
    let node = Template::node("a");
    let good = pki.issue(&node, &pki.ours, Usage::ClientAuth);
    let bad = [
        pki.issue(&node, &pki.another, Usage::ClientAuth),
        pki.issue(&node, &pki.ours, Usage::ServerAuth),
        pki.issuer.credential().chain().clone(),
    ];
    let objects = [
        object(None, None),
        object(Some("Approved"), None),
        object(Some("Approved"), Some(&good)),
        object(None, Some(&good)),
        object(Some("Denied"), None),
        object(Some("Failed"), None),
    ];
    let spoilt = bad.iter().map(|chain| object(Some("Approved"), Some(chain)));
    let objects = objects.into_iter().chain(spoilt).collect::<Vec<Value>>();
    let event = |object: &Value| json!({ "type": "MODIFIED", "object": object }).to_string().into_bytes();
    let parts = [desired_csr.name.clone(), STANDARD.encode(&desired_csr.request.pem), STANDARD.encode(good.pem())];
    let bodies = objects.iter().map(|object| object.to_string().into_bytes());
    bodies.chain(objects.iter().map(event)).chain(parts.map(String::into_bytes)).collect()
}
