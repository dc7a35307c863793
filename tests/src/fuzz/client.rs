//! The client against a server that answers anything at all.

mod world;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Failure, Template};
use perennial_kubernetes::client::{Ask, Issuance, Limits, csr_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::KUBELET_CLIENT_SIGNER;
use perennial_pki::{Chain, Expected, Roots, Usage, certificate_request};
use perennial_rotation::{Identity, SignError};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::{Value, json};

use super::pki::{Clock, HOST, Pki};
use super::text;
use world::{Reply, World};

/// A submission makes at most so many requests.
const REQUESTS: u32 = 12;

/// What is the same in every run.
struct Scene {
    cluster: Arc<Cluster>,
    server: Arc<ServerConfig>,
    ask: Ask,
    /// What a stand-in in an answer stands for.
    words: Vec<Vec<u8>>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(Scene::new);

/// Whatever a server answers, cut up, delayed or broken off anyhow: a submission ends, within its bounds, and if it
/// ends with a certificate, that is good for our key. However the bytes arrive, it comes to the same.
pub fn csr_client(bytes: &[u8]) {
    let scene = &*SCENE;
    let (portion, answers) = text::first(bytes);
    let replies: Vec<Reply> = text::pieces(answers).map(|piece| Reply::decode(piece, &scene.words)).collect();
    let whole = scene.submit(&replies, usize::MAX);
    if portion > 0 {
        let portion = usize::from(portion);
        assert_eq!(scene.submit(&replies, portion), whole, "in portions of {portion}");
    }
}

impl Scene {
    fn new() -> Self {
        let pki = Pki::new();
        let roots = Roots::from_pem(pki.issuer.credential().chain().pem().as_bytes()).expect("an authority");
        let template = Template::node("a");
        let usages = ["digital signature", "client auth"].map(str::to_owned);
        let key = pki.ours.public_key_der();
        let ask = Ask {
            name: csr_name(key, template.common_name(), template.organizations(), &usages),
            request: certificate_request(&template, &pki.ours).expect("a request"),
            public_key_der: key.to_vec(),
            signer_name: KUBELET_CLIENT_SIGNER.to_owned(),
            usages: usages.to_vec(),
            expiration_seconds: None,
            usage: Usage::ClientAuth,
            skew: Duration::from_secs(300),
            roots: Some(roots.clone()),
        };
        Self {
            cluster: Arc::new(Cluster::from_url(&format!("https://{HOST}")).expect("a URL").with_roots(roots)),
            server: server(&pki),
            words: words(&pki, &ask),
            ask,
        }
    }

    /// What a submission comes to, what it asked and how long it took.
    fn submit(&self, replies: &[Reply], portion: usize) -> (Result<u32, Failure>, Vec<String>, Duration) {
        let mut limits = Limits::default();
        limits.requests = REQUESTS;
        let mut issuance = Issuance::new(self.ask.clone(), Arc::clone(&self.cluster), Identity::Anonymous, limits, 7);
        let mut world = World::new(&self.server, replies, portion);
        let outcome = world.run(&mut issuance);
        assert!(issuance.requests() <= REQUESTS && world.asked.len() <= issuance.requests() as usize);
        let outcome = match outcome {
            Ok(issued) => {
                self.check(&issued.chain, &world);
                assert_eq!(issued.csr_name, self.ask.name);
                Ok(issued.requests)
            }
            // The message may differ: of a connection that ended, the next write or the next read may be told first.
            Err(SignError { failure, message, .. }) => {
                assert!(!message.contains(char::is_control) && message.len() < 4096, "{message:?}");
                Err(failure)
            }
        };
        (outcome, world.asked, world.elapsed)
    }

    fn check(&self, chain: &Chain, world: &World<'_>) {
        let Ask { public_key_der, usage, skew, roots, .. } = &self.ask;
        assert_eq!(chain.public_key_der(), public_key_der);
        let expected = Expected { public_key_der, usage: *usage, skew: *skew, roots: roots.as_ref() };
        assert_eq!(expected.check(chain, world.now().unix), Ok(()));
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

/// The object as a server has it at each point of its life, and parts of it.
fn words(pki: &Pki, ask: &Ask) -> Vec<Vec<u8>> {
    let object = |condition: Option<&str>, certificate: Option<&Chain>| {
        let mut object = json!({
            "metadata": { "name": ask.name, "uid": "u", "resourceVersion": "7" },
            "spec": {
                "request": STANDARD.encode(&ask.request.pem),
                "signerName": ask.signer_name,
                "usages": ask.usages,
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
    let parts = [ask.name.clone(), STANDARD.encode(&ask.request.pem), STANDARD.encode(good.pem())];
    let bodies = objects.iter().map(|object| object.to_string().into_bytes());
    bodies.chain(objects.iter().map(event)).chain(parts.map(String::into_bytes)).collect()
}
