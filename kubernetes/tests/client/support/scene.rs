//! A node that requests a client certificate, and the states of its request object.

use std::sync::Arc;
use std::time::Duration;

use perennial::Template;
use perennial_kubernetes::client::{DesiredCsr, Issuance, Limits, csr_name};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request};
use perennial_rotation::{Identity, Issued, SignError};

use super::{Ca, ReceivedRequest, Reply, SIGNER, World, condition};

/// A node that requests a client certificate, and the CA that signs the certificate.
pub(crate) struct Scene {
    pub(crate) ca: Ca,
    pub(crate) desired_csr: DesiredCsr,
    /// The public key of the request.
    pub(crate) public_key_der: Vec<u8>,
    pub(crate) certificate: String,
    pub(crate) identity: Identity,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let ca = Ca::new("the test CA");
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let certificate = ca.sign(key.public_key_der(), &[], true, 3600);
        let public_key_der = key.public_key_der().to_vec();
        Self {
            desired_csr: desired_csr(&key, &Template::node("a")),
            public_key_der,
            certificate,
            ca,
            identity: Identity::Anonymous,
        }
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.ca.cluster()
    }

    pub(crate) fn issuance(&self) -> Issuance {
        Issuance::new(self.desired_csr.clone(), self.cluster(), self.identity.clone(), Limits::default(), 7)
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

    pub(crate) fn error(&self, script: impl FnMut(&ReceivedRequest) -> Reply) -> SignError {
        self.run(script).0.unwrap_err()
    }

    /// The request object with conditions of these types.
    pub(crate) fn object(&self, conditions: &[&str]) -> CertificateSigningRequest {
        let mut object: CertificateSigningRequest = serde_json::from_value(serde_json::json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": { "name": self.desired_csr.name, "uid": "uid-1", "resourceVersion": "100" },
            "spec": { "signerName": SIGNER, "usages": self.desired_csr.usages, "username": "system:bootstrap:x" },
        }))
        .unwrap();
        object.spec.request = self.desired_csr.request.pem.clone().into_bytes();
        let met = |type_: &&str| condition(type_, "TestReason", "a test said so");
        object.status.conditions = conditions.iter().map(met).collect();
        object
    }

    /// The request object, approved and with the issued certificate.
    pub(crate) fn issued(&self) -> CertificateSigningRequest {
        let mut object = self.object(&["Approved"]);
        object.status.certificate = self.certificate.clone().into_bytes();
        object
    }

    /// The script of a server that approves the request and issues the certificate while the client watches.
    pub(crate) fn well(&self) -> impl FnMut(&ReceivedRequest) -> Reply + use<> {
        let (pending, approved, issued) = (self.object(&[]), self.object(&["Approved"]), self.issued());
        let mut created = false;
        move |request| match (request.is_post(), request.is_watch()) {
            (true, _) if created => Reply::status(409, "AlreadyExists", "it is there"),
            (true, _) => {
                created = true;
                Reply::object(201, &pending)
            }
            (_, true) => Reply::stream().event("MODIFIED", &approved).event("MODIFIED", &issued),
            (_, false) if created => Reply::object(200, &pending),
            (_, false) => Reply::status(404, "NotFound", "no such thing"),
        }
    }
}

pub(crate) fn desired_csr(key: &KeyPair, template: &Template) -> DesiredCsr {
    let usages = ["digital signature", "client auth"].map(str::to_owned);
    DesiredCsr {
        name: csr_name(key.public_key_der(), template.common_name(), template.organizations(), &usages),
        request: certificate_request(template, key).unwrap(),
        signer_name: SIGNER.to_owned(),
        usages: usages.to_vec(),
        expiration_seconds: Some(3600),
        skew: Duration::from_secs(300),
    }
}
